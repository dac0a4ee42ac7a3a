"""Multi-head self-attention, with a KV cache, rotations and a value residual."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.linen.spmd import with_logical_constraint

from maskgit_jax.arrays import Array
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.networks.rotations import Rotations, rotate

initialize = nn.initializers.truncated_normal(0.02)
"""Cut at two sigma and not rescaled (true deviation 0.0176), as in google-research/maskgit."""
Initializer = nn.initializers.Initializer
QK_NORM_EPSILON = 1e-6


class KVCache(NamedTuple):
    """Keys and values of the positions so far, [B, L, N, D/N] each; a stack adds a layer axis."""

    key: Array
    value: Array


class FirstValues(NamedTuple):
    """What the layers of a stack with a value residual pass on.

    Attributes:
        value: The values of the first layer at the positions of this call, [B, n, N, D/N].
        layer: Number of the next layer, int32 scalar; in the first one `value` has no meaning.
    """

    value: Array
    layer: Array


class Dropout(nn.Dropout):
    """Dropout whose mask is computed before it is used.

    Draws the same random bits as `nn.Dropout`. Without the barrier XLA fuses the generator into
    the softmax, and on TPUs that writes the generator's constants to memory at the size of the
    attention weights: 570 instead of 62 GB per step and device for 1025 tokens.
    """

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """Returns `x` with a share `rate` of its values zeroed and the rest scaled up."""
        if deterministic or self.rate == 0:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, x.shape)
        keep = jax.lax.optimization_barrier(keep)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))


class SelfAttention(nn.Module):
    """Multi-head self-attention, bidirectional or causal.

    Attributes:
        num_heads: N; must divide D.
        dropout_rate: Dropout rate of the attention weights.
        causal: Whether a position attends only to itself and earlier positions.
        implementation: "xla", or "cudnn": the fused kernel of NVIDIA GPUs, for bfloat16 and
            without dropout of the attention weights. With a KV cache it is always "xla".
        kernel_init: Initializer of all kernels.
        dtype: Type of the activations; the softmax is float32.
        options: See `LayerOptions`.
    """

    num_heads: int
    dropout_rate: float = 0.0
    causal: bool = False
    implementation: str = "xla"
    kernel_init: Initializer = initialize
    dtype: str = "float32"
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool,
        cache: KVCache | None = None,
        start: Array | None = None,
        rotations: Rotations | None = None,
        first: FirstValues | None = None,
    ) -> tuple[Array, KVCache | None, FirstValues | None]:
        """Returns the output [B, n, D], the KV cache with the n positions of `x`, and `first`.

        Args:
            x: A whole sequence [B, L, D]; with a cache the n positions from `start` on.
            train: Whether dropout is active.
            cache: Keys and values of the positions before `start`; causal attention only.
            start: int32 scalar.
            rotations: Of the whole sequence, for options with rotary positions.
            first: From the layer before, for options with a value residual.
        """
        _, length, width = x.shape
        offset = 0 if start is None else start
        query, key, value = self._project(x)
        query, key = self._normalize(query, "query_norm"), self._normalize(key, "key_norm")
        if rotations is not None:
            here = Rotations(*(
                jax.lax.dynamic_slice_in_dim(array, offset, length) for array in rotations
            ))  # fmt: skip
            query, key = rotate(query, here), rotate(key, here)
        if first is not None:
            value, first = self._mix(value, first)
        if cache is not None:
            key, value = cache = KVCache(*(
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), offset, axis=1)
                for old, new in zip(cache, (key, value), strict=True)
            ))  # fmt: skip
        elif self.implementation == "cudnn":
            attended = fused_attention(query, key, value, self.causal)
            return self._out(attended, width), None, first
        scale = query.shape[-1] ** -0.5
        scores = jnp.einsum("bqnd,bknd->bnqk", query * scale, key)  # [B, N, n, L]
        scores = scores.astype(jnp.float32)
        if self.causal:
            positions = jnp.arange(length) + offset
            later = jnp.arange(key.shape[1])[None] > positions[:, None]
            scores = jnp.where(later[None, None], -jnp.inf, scores)
        weights = jax.nn.softmax(scores).astype(self.dtype)
        weights = Dropout(self.dropout_rate)(weights, deterministic=not train)
        return self._out(jnp.einsum("bnqk,bknd->bqnd", weights, value), width), cache, first

    def _project(self, x: Array) -> list[Array]:
        """Returns queries, keys and values, [B, n, N, D/N] each."""
        bias, batch, length, width = self.options.bias, *x.shape
        heads = (batch, length, self.num_heads, self.options.width_of_head(width, self.num_heads))
        inner = heads[2] * heads[3]
        if self.options.fused_qkv:
            arrays = FusedProjections(3, inner, bias, self.kernel_init, self.dtype, name="qkv")(x)
        else:
            # Dense and reshape: nn.DenseGeneral fails under a mesh with partitioned kernels.
            arrays = [self._dense(inner, name)(x) for name in ("query", "key", "value")]
        axes = ("batch", "length", "heads", "head_width")
        return [with_logical_constraint(array.reshape(heads), axes) for array in arrays]

    def _mix(self, value: Array, first: FirstValues) -> tuple[Array, FirstValues]:
        """Returns the values mixed with those of the first layer, and what the next one needs."""
        weight = self.param("value_residual", nn.initializers.constant(0.5), ())
        kept = jnp.where(first.layer == 0, value, first.value)
        mixed = value + weight.astype(value.dtype) * (kept - value)
        return mixed, FirstValues(kept, first.layer + 1)

    def _normalize(self, x: Array, name: str) -> Array:
        if self.options.qk_norm == "none":
            return x
        by_head = self.options.qk_norm == "head"
        axes = -1 if by_head else (-2, -1)
        norm = nn.RMSNorm(
            self.options.norm_epsilon or QK_NORM_EPSILON,
            use_scale=by_head,
            reduction_axes=axes,
            feature_axes=-1,
            dtype=self.dtype,
            name=name,
        )
        return norm(x)

    def _out(self, attended: Array, width: int) -> Array:
        x = attended.reshape(*attended.shape[:2], -1)
        return self._dense(width, "out", output_init(self.kernel_init, self.options))(x)

    def _dense(self, width: int, name: str, init: Initializer | None = None) -> nn.Dense:
        init = init or self.kernel_init
        return nn.Dense(width, self.options.bias, kernel_init=init, dtype=self.dtype, name=name)


class FusedProjections(nn.Module):
    """Projections [B, L, D] -> [B, L, E] whose kernels are one parameter, [D, parts, E].

    Attributes:
        parts: Number of projections.
        features: E.
        bias: Whether they have biases.
        kernel_init: Initializer of the kernels.
        dtype: Type of the activations.
    """

    parts: int
    features: int
    bias: bool
    kernel_init: Initializer
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        """Returns the results of all projections."""
        shape = (self.parts, self.features)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], *shape))
        bias = None
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, shape)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = jnp.einsum("bld,dpe->blpe", x, kernel)
        x = x if bias is None else x + bias[None, None]
        return [x[:, :, part] for part in range(self.parts)]


def output_init(kernel_init: Initializer, options: LayerOptions) -> Initializer:
    """Returns the initializer of output projections."""
    # If gates and projections were 0 both, neither would have a gradient.
    return nn.initializers.zeros if options.zero_init and not options.adaptive else kernel_init


def fused_attention(query: Array, key: Array, value: Array, causal: bool) -> Array:
    """Returns the attention output [B, L, N, D/N], computed by cuDNN.

    cuDNN trains on even lengths only: odd sequences are padded by one masked position.
    """
    batch, length = query.shape[:2]
    if length % 2:
        padding = ((0, 0), (0, 1), (0, 0), (0, 0))
        query, key, value = (jnp.pad(array, padding) for array in (query, key, value))
    attended = jax.nn.dot_product_attention(
        query,
        key,
        value,
        key_value_seq_lengths=jnp.full((batch,), length, jnp.int32) if length % 2 else None,
        is_causal=causal,
        implementation="cudnn",
    )
    return attended[:, :length]
