"""Transformer layers, and a stack of them that compiles once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint

from maskgit_jax.arrays import Array

initialize = nn.initializers.truncated_normal(0.02)
"""Cut at two sigma and not rescaled (true deviation 0.0176), as in google-research/maskgit."""
Initializer = nn.initializers.Initializer


def scaled_by_width(width: int) -> Initializer:
    """Returns a normal initializer of deviation 0.02 at width 1024 that keeps the output scale."""
    return nn.initializers.normal(0.02 * (1024 / width) ** 0.5)


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
    """

    num_heads: int
    dropout_rate: float = 0.0
    causal: bool = False
    implementation: str = "xla"
    kernel_init: Initializer = initialize
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Array, train: bool, cache: KVCache | None = None, start: Array | None = None
    ) -> tuple[Array, KVCache | None]:
        """Returns the output [B, n, D], and the KV cache with the n positions of `x` added.

        Args:
            x: A whole sequence [B, L, D]; with a cache the n positions from `start` on.
            train: Whether dropout is active.
            cache: Keys and values of the positions before `start`; causal attention only.
            start: int32 scalar.
        """
        _, length, width = x.shape
        offset = 0 if start is None else start
        query, key, value = (self._project(x, name) for name in ("query", "key", "value"))
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

    def _out(self, attended: Array) -> Array:
        x = attended.reshape(*attended.shape[:2], -1)  # [B, n, D]
        dense = nn.Dense(x.shape[-1], kernel_init=self.kernel_init, dtype=self.dtype, name="out")
        return dense(x)


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
    """Self-attention and a GELU MLP, each with a residual connection: [B, L, D] -> [B, L, D].

    Attributes:
        num_heads: Attention heads.
        mlp_width: Hidden width of the MLP.
        norm: "post" (BERT and official MaskGIT: LayerNorm of the sum) or "pre" (LayerNorm of
            the branch's input).
        dropout_rate: Dropout rate of the attention weights and of both branches' outputs.
        epsilon: Epsilon of LayerNorm.
        causal: Whether a position attends only to itself and earlier positions.
        attention: "xla" or "cudnn", see `SelfAttention.implementation`.
        approximate_gelu: Whether GELU is the tanh approximation (MaskGIT) or exact (GPT).
        kernel_init: Initializer of all kernels.
        dtype: Type of the activations.
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

    @nn.compact
    def __call__(
        self, x: Array, train: bool, cache: KVCache | None = None, start: Array | None = None
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
            name="attention",
        )
        norm = layer_norm(self.epsilon, self.dtype, "attention_norm")
        h, cache = attention(norm(x) if pre else x, train, cache, start)
        x = x + Dropout(self.dropout_rate)(h, deterministic=not train)
        x = x if pre else norm(x)
        norm = layer_norm(self.epsilon, self.dtype, "mlp_norm")
        h = self._mlp(norm(x) if pre else x)
        x = x + Dropout(self.dropout_rate)(h, deterministic=not train)
        x = x if pre else norm(x)
        return with_logical_constraint(x, ("batch", "length", "embed")), cache

    def _mlp(self, x: Array) -> Array:
        width = x.shape[-1]
        x = nn.Dense(self.mlp_width, kernel_init=self.kernel_init, dtype=self.dtype, name="mlp_in")(
            x
        )
        x = nn.gelu(x, approximate=self.approximate_gelu)
        x = with_logical_constraint(x, ("batch", "length", "mlp"))
        return nn.Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name="mlp_out")(x)


def layer_norm(epsilon: float, dtype: str, name: str | None = None) -> nn.LayerNorm:
    """Returns LayerNorm with two-pass variance, safe at the official epsilon of 1e-12."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def stacked_layers(num_layers: int, remat: bool, **layer) -> nn.Module:
    """Returns `num_layers` layers as one scanned module.

    Call it as module(x, train, cache, start) -> (x, cache), where the cache is None or holds
    the caches of all layers, stacked. Parameters have a leading axis [num_layers, ...], so that
    the program has the size of one layer; with `remat` each layer is recomputed in the backward
    pass (scan without remat needs three times the memory of separate layers).
    """
    layer_class = TransformerLayer
    if remat:
        layer_class = nn.remat(layer_class, prevent_cse=False, static_argnums=(2,))
    stack = nn.scan(
        layer_class,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast, 0, nn.broadcast),  # pyright: ignore[reportArgumentType]
        length=num_layers,
    )
    return stack(name="layers", **layer)
