"""Transformer layers, and a stack of them that compiles once."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint

from maskgit_jax.arrays import Array
from maskgit_jax.networks.layer_options import LayerOptions

initialize = nn.initializers.truncated_normal(0.02)
"""Cut at two sigma and not rescaled (true deviation 0.0176), as in google-research/maskgit."""
Initializer = nn.initializers.Initializer


def scaled_by_width(width: int) -> Initializer:
    """Returns a normal initializer of deviation 0.02 at width 1024 that keeps the output scale."""
    return nn.initializers.normal(0.02 * (1024 / width) ** 0.5)


ROPE_BASE = 100.0  # maps are a few dozen positions wide; texts of thousands use 10,000
NORM_EPSILON = 1e-6  # of queries and keys


class Rotations(NamedTuple):
    """Cosines and sines of the angles of positions, float32 [L, D/N/2] each."""

    cosine: Array
    sine: Array


def axial_rotations(grids: Sequence[tuple[int, int] | None], head_width: int) -> Rotations:
    """Returns the rotations of the positions of a sequence of token maps.

    The first half of the angles turns with the row, the second one with the column.

    Args:
        grids: Rows and columns (h, w) of each map; None for a single position without a place,
            such as the class token, which is not rotated.
        head_width: D/N, a multiple of 4.

    Source: Su et al. 2021, RoFormer, for rows and columns (Heo et al. 2024, axial RoPE).
    """
    frequency = ROPE_BASE ** -(jnp.arange(head_width // 4) / (head_width // 4))
    angles = []
    for height, width in (grid or (1, 1) for grid in grids):
        row, column = jnp.divmod(jnp.arange(height * width), width)
        angles.append(
            jnp.concatenate([place[:, None] * frequency[None] for place in (row, column)], axis=1)
        )
    angle = jnp.concatenate(angles)  # [L, D/N/2]
    return Rotations(jnp.cos(angle), jnp.sin(angle))


def rotate(x: Array, rotations: Rotations) -> Array:
    """Returns queries or keys [B, L, N, D/N], rotated in pairs of the two halves."""
    cosine, sine = (array[None, :, None] for array in rotations)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cosine - second * sine, first * sine + second * cosine]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


class KVCache(NamedTuple):
    """Keys and values of the positions so far, [B, L, N, D/N] each; a stack adds a layer axis."""

    key: Array
    value: Array


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
    ) -> tuple[Array, KVCache | None]:
        """Returns the output [B, n, D], and the KV cache with the n positions of `x` added.

        Args:
            x: A whole sequence [B, L, D]; with a cache the n positions from `start` on.
            train: Whether dropout is active.
            cache: Keys and values of the positions before `start`; causal attention only.
            start: int32 scalar.
            rotations: Of the whole sequence, for options with rotary positions.
        """
        _, length, width = x.shape
        offset = 0 if start is None else start
        query, key, value = (self._project(x, name) for name in ("query", "key", "value"))
        query, key = self._normalize(query, "query_norm"), self._normalize(key, "key_norm")
        if rotations is not None:
            here = Rotations(*(
                jax.lax.dynamic_slice_in_dim(array, offset, length) for array in rotations
            ))  # fmt: skip
            query, key = rotate(query, here), rotate(key, here)
        if cache is not None:
            key, value = cache = KVCache(*(
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), offset, axis=1)
                for old, new in zip(cache, (key, value), strict=True)
            ))  # fmt: skip
        elif self.implementation == "cudnn":
            return self._out(fused_attention(query, key, value, self.causal)), None
        scale = (width // self.num_heads) ** -0.5
        scores = jnp.einsum("bqnd,bknd->bnqk", query * scale, key)  # [B, N, n, L]
        scores = scores.astype(jnp.float32)
        if self.causal:
            positions = jnp.arange(length) + offset
            later = jnp.arange(key.shape[1])[None] > positions[:, None]
            scores = jnp.where(later[None, None], -jnp.inf, scores)
        weights = jax.nn.softmax(scores).astype(self.dtype)
        weights = Dropout(self.dropout_rate)(weights, deterministic=not train)
        return self._out(jnp.einsum("bnqk,bknd->bqnd", weights, value)), cache

    def _project(self, x: Array, name: str) -> Array:
        # Dense and reshape: nn.DenseGeneral fails under a mesh with partitioned kernels.
        batch, length, width = x.shape
        x = nn.Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name=name)(x)
        x = x.reshape(batch, length, self.num_heads, width // self.num_heads)
        return with_logical_constraint(x, ("batch", "length", "heads", "head_width"))

    def _normalize(self, x: Array, name: str) -> Array:
        if self.options.qk_norm == "none":
            return x
        by_head = self.options.qk_norm == "head"
        axes = -1 if by_head else (-2, -1)
        norm = nn.RMSNorm(
            NORM_EPSILON,
            use_scale=by_head,
            reduction_axes=axes,
            feature_axes=-1,
            dtype=self.dtype,
            name=name,
        )
        return norm(x)

    def _out(self, attended: Array) -> Array:
        x = attended.reshape(*attended.shape[:2], -1)  # [B, n, D]
        kernel_init = output_init(self.kernel_init, self.options)
        return nn.Dense(x.shape[-1], kernel_init=kernel_init, dtype=self.dtype, name="out")(x)


def output_init(kernel_init: Initializer, options: LayerOptions) -> Initializer:
    """Returns the initializer of output projections."""
    return nn.initializers.zeros if options.zero_init else kernel_init


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


class TransformerLayer(nn.Module):
    """Self-attention and an MLP, each with a residual connection: [B, L, D] -> [B, L, D].

    Attributes:
        num_heads: Attention heads.
        mlp_width: Hidden width of the MLP.
        norm: "post" (BERT and official MaskGIT: norm of the sum) or "pre" (norm of the branch's
            input).
        dropout_rate: Dropout rate of the attention weights and of both branches' outputs.
        epsilon: Epsilon of LayerNorm.
        causal: Whether a position attends only to itself and earlier positions.
        attention: "xla" or "cudnn", see `SelfAttention.implementation`.
        approximate_gelu: Whether GELU is the tanh approximation (MaskGIT) or exact (GPT).
        kernel_init: Initializer of all kernels.
        dtype: Type of the activations.
        options: See `LayerOptions`.
    """

    num_heads: int
    mlp_width: int
    norm: str = "post"
    dropout_rate: float = 0.0
    epsilon: float = 1e-12
    causal: bool = False
    attention: str = "xla"
    approximate_gelu: bool = True
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
    ) -> tuple[Array, KVCache | None]:
        """Returns the layer's output and KV cache, see `SelfAttention`."""
        pre = self.norm == "pre"
        attention = SelfAttention(
            self.num_heads,
            self.dropout_rate,
            self.causal,
            self.attention,
            self.kernel_init,
            self.dtype,
            self.options,
            name="attention",
        )
        norm = self._norm("attention_norm")
        h, cache = attention(norm(x) if pre else x, train, cache, start, rotations)
        x = x + Dropout(self.dropout_rate)(h, deterministic=not train)
        x = x if pre else norm(x)
        norm = self._norm("mlp_norm")
        h = self._mlp(norm(x) if pre else x)
        x = x + Dropout(self.dropout_rate)(h, deterministic=not train)
        x = x if pre else norm(x)
        return with_logical_constraint(x, ("batch", "length", "embed")), cache

    def _norm(self, name: str) -> nn.Module:
        return make_norm(self.options, self.epsilon, self.dtype, name)

    def _mlp(self, x: Array) -> Array:
        width, kind = x.shape[-1], self.options.mlp
        h = self._dense(self.mlp_width, "mlp_in")(x)
        if kind == "swiglu":
            h = h * nn.silu(self._dense(self.mlp_width, "mlp_gate")(x))
        else:
            h = nn.relu(h) ** 2 if kind == "relu2" else nn.gelu(h, self.approximate_gelu)
        h = with_logical_constraint(h, ("batch", "length", "mlp"))
        return self._dense(width, "mlp_out", output_init(self.kernel_init, self.options))(h)

    def _dense(self, width: int, name: str, kernel_init: Initializer | None = None) -> nn.Dense:
        init = kernel_init or self.kernel_init
        return nn.Dense(width, kernel_init=init, dtype=self.dtype, name=name)


def make_norm(
    options: LayerOptions, epsilon: float, dtype: str, name: str | None = None
) -> nn.Module:
    """Returns LayerNorm or RMSNorm."""
    if options.norm_type == "rms":
        return nn.RMSNorm(epsilon=epsilon, dtype=dtype, name=name)
    return layer_norm(epsilon, dtype, name)


def layer_norm(epsilon: float, dtype: str, name: str | None = None) -> nn.LayerNorm:
    """Returns LayerNorm with two-pass variance, safe at the official epsilon of 1e-12."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def stacked_layers(num_layers: int, remat: bool, **layer) -> nn.Module:
    """Returns `num_layers` layers as one scanned module.

    Call it as module(x, train, cache, start, rotations) -> (x, cache), where the cache is None or
    holds the caches of all layers, stacked. Parameters have a leading axis [num_layers, ...], so
    that the program has the size of one layer; with `remat` each layer is recomputed in the
    backward pass (scan without remat needs three times the memory of separate layers).
    """
    layer_class = TransformerLayer
    if remat:
        layer_class = nn.remat(layer_class, prevent_cse=False, static_argnums=(2,))
    stack = nn.scan(
        layer_class,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast, 0, nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
        length=num_layers,
    )
    return stack(name="layers", **layer)
