"""Transformer layers, and a stack of them compiled once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array

initialize = nn.initializers.truncated_normal(0.02)
"""Cut at two sigma and not rescaled (true deviation 0.0176), as in google-research/maskgit."""
Initializer = nn.initializers.Initializer


def scaled_by_width(width: int) -> Initializer:
    """Returns normal kernels of deviation 0.02 at width 1024 and as large outputs at others."""
    return nn.initializers.normal(0.02 * (1024 / width) ** 0.5)


class KeyValue(NamedTuple):
    """What attention remembers of the places before: [B, L, N, D/N] each, or stacked by layer."""

    key: Array
    value: Array


class Dropout(nn.Dropout):
    """Dropout whose mask is finished before it is used.

    The same random bits as `nn.Dropout`. Without the barrier XLA fuses their generation into the
    softmax, and on TPUs that writes the generator's constants to memory at the size of the
    attention weights: for 1025 tokens 570 instead of 62 GB a step and device.
    """

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """Returns `x` with a share `rate` set to 0 and the rest scaled up."""
        if deterministic or self.rate == 0:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, x.shape)
        keep = jax.lax.optimization_barrier(keep)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))


class SelfAttention(nn.Module):
    """Multi-head attention of every place to every place, or to those before it and itself.

    Attributes:
        num_heads: N; must divide D.
        dropout_rate: Of the attention weights.
        causal: Whether a place sees only places up to itself.
        implementation: "xla", or "cudnn": the fused kernel of NVIDIA GPUs, for bfloat16, which
            knows no dropout of attention weights. With a memory it is always "xla".
        kernel_init: Of all kernels.
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
        self, x: Array, train: bool, memory: KeyValue | None = None, start: Array | None = None
    ) -> tuple[Array, KeyValue | None]:
        """Returns [B, n, D], and the memory with what the n places of `x` added to it.

        Args:
            x: A whole sequence [B, L, D]; with a memory the n places that begin at `start`.
            train: Whether dropout acts.
            memory: Keys and values of the places before `start`; causal attention only.
            start: int32 scalar.
        """
        batch, length, width = x.shape
        query, key, value = (self._heads(x, name) for name in ("query", "key", "value"))
        if memory is not None:
            key, value = (
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=1)
                for old, new in zip(memory, (key, value), strict=True)
            )
            memory = KeyValue(key, value)
        elif self.implementation == "cudnn":
            mixed = fused_attention(query, key, value, self.causal)
            return self._out(mixed), None
        scale = (width // self.num_heads) ** -0.5
        scores = jnp.einsum("bqnd,bknd->bnqk", query * scale, key)  # [B, N, n, L]
        scores = scores.astype(jnp.float32)
        if self.causal:
            own = jnp.arange(length) + (0 if start is None else start)
            later = jnp.arange(key.shape[1])[None] > own[:, None]
            scores = jnp.where(later[None, None], -jnp.inf, scores)
        weights = jax.nn.softmax(scores).astype(self.dtype)
        weights = Dropout(self.dropout_rate)(weights, deterministic=not train)
        mixed = jnp.einsum("bnqk,bknd->bqnd", weights, value)
        return self._out(mixed), memory

    def _out(self, mixed: Array) -> Array:
        mixed = mixed.reshape(*mixed.shape[:2], -1)  # [B, n, D]
        width = mixed.shape[-1]
        return nn.Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name="out")(mixed)

    def _heads(self, x: Array, name: str) -> Array:
        # Dense and reshape: nn.DenseGeneral fails under a mesh with partitioned kernels.
        batch, length, width = x.shape
        x = nn.Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name=name)(x)
        x = x.reshape(batch, length, self.num_heads, width // self.num_heads)
        return nn.with_logical_constraint(x, ("batch", "length", "heads", "head_width"))


def fused_attention(query: Array, key: Array, value: Array, causal: bool) -> Array:
    """Returns attention [B, L, N, D/N] by cuDNN, which trains on even lengths only.

    A place is added to odd ones, which nobody sees.
    """
    batch, length = query.shape[:2]
    if length % 2:
        padding = ((0, 0), (0, 1), (0, 0), (0, 0))
        query, key, value = (jnp.pad(array, padding) for array in (query, key, value))
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        key_value_seq_lengths=jnp.full((batch,), length, jnp.int32) if length % 2 else None,
        is_causal=causal,
        implementation="cudnn",
    )
    return mixed[:, :length]


class TransformerLayer(nn.Module):
    """Attention and a GELU network, each with its residual connection: [B, L, D] -> [B, L, D].

    Attributes:
        num_heads: Attention heads.
        mlp_width: Hidden width of the network after attention.
        norm: "post" (BERT and official MaskGIT: LayerNorm of the sum) or "pre" (LayerNorm of
            what goes in).
        dropout_rate: Of attention weights and of both outputs.
        epsilon: Of LayerNorm.
        causal: Whether a place sees only places up to itself.
        attention: "xla" or "cudnn", see `SelfAttention.implementation`.
        approximate_gelu: Whether GELU is its usual approximation by tanh (MaskGIT) or exact (GPT).
        kernel_init: Of all kernels.
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
        self, x: Array, train: bool, memory: KeyValue | None = None, start: Array | None = None
    ) -> tuple[Array, KeyValue | None]:
        """Returns the layer's output and memory, see `SelfAttention`."""
        attention = SelfAttention(
            self.num_heads,
            self.dropout_rate,
            self.causal,
            self.attention,
            self.kernel_init,
            self.dtype,
            name="attention",
        )

        def attend(h: Array) -> Array:
            nonlocal memory
            h, memory = attention(h, train, memory, start)
            return h

        x = self._residual(x, attend, "attention_norm", train)
        x = self._residual(x, self._mlp, "mlp_norm", train)
        return nn.with_logical_constraint(x, ("batch", "length", "embed")), memory

    def _residual(self, x: Array, branch, norm_name: str, train: bool) -> Array:
        norm = layer_norm(self.epsilon, self.dtype, norm_name)
        h = branch(norm(x) if self.norm == "pre" else x)
        x = x + Dropout(self.dropout_rate)(h, deterministic=not train)
        return norm(x) if self.norm == "post" else x

    def _mlp(self, x: Array) -> Array:
        width = x.shape[-1]
        dense = dict(kernel_init=self.kernel_init, dtype=self.dtype)
        x = nn.Dense(self.mlp_width, name="mlp_in", **dense)(x)
        x = nn.gelu(x, approximate=self.approximate_gelu)
        x = nn.with_logical_constraint(x, ("batch", "length", "mlp"))
        return nn.Dense(width, name="mlp_out", **dense)(x)


def layer_norm(epsilon: float, dtype: str, name: str) -> nn.LayerNorm:
    """Returns LayerNorm with two-pass variance, safe at the official epsilon of 1e-12."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def stacked_layers(num_layers: int, remat: bool, **layer) -> nn.Module:
    """Returns `num_layers` layers as one scanned module.

    It is called as module(x, train, memory, start) -> (x, memory), where memory is None or holds
    those of all layers, stacked. Parameters carry a leading axis [num_layers, ...], so that the
    program has one layer's size; with `remat` each layer is recomputed in the backward pass (scan
    without remat needs three times the memory of separate layers).
    """
    kind = TransformerLayer
    if remat:
        kind = nn.remat(kind, prevent_cse=False, static_argnums=(2,))
    stack = nn.scan(
        kind,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast, 0, nn.broadcast),
        length=num_layers,
    )
    return stack(name="layers", **layer)
