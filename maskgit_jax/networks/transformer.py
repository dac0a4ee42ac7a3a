"""Transformer layers, and a stack of them compiled once."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array

initialize = nn.initializers.truncated_normal(0.02)
"""Cut at two sigma and not rescaled (true deviation 0.0176), as in google-research/maskgit."""


class SelfAttention(nn.Module):
    """Multi-head attention of every place to every place: [B, L, D] -> [B, L, D].

    Attributes:
        num_heads: N; must divide D.
        dropout_rate: Of the attention weights.
        dtype: Type of the activations; the softmax is float32.
    """

    num_heads: int
    dropout_rate: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        batch, length, width = x.shape
        query, key, value = (self._heads(x, name) for name in ("query", "key", "value"))
        scale = (width // self.num_heads) ** -0.5
        scores = jnp.einsum("bqnd,bknd->bnqk", query * scale, key)  # [B, N, L, L]
        weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(self.dtype)
        weights = nn.Dropout(self.dropout_rate)(weights, deterministic=not train)
        mixed = jnp.einsum("bnqk,bknd->bqnd", weights, value)
        mixed = mixed.reshape(batch, length, width)
        return nn.Dense(width, kernel_init=initialize, dtype=self.dtype, name="out")(mixed)

    def _heads(self, x: Array, name: str) -> Array:
        # Dense and reshape: nn.DenseGeneral fails under a mesh with partitioned kernels.
        batch, length, width = x.shape
        x = nn.Dense(width, kernel_init=initialize, dtype=self.dtype, name=name)(x)
        x = x.reshape(batch, length, self.num_heads, width // self.num_heads)
        return nn.with_logical_constraint(x, ("batch", "length", "heads", "head_width"))


class TransformerLayer(nn.Module):
    """Attention and a GELU network, each with its residual connection: [B, L, D] -> [B, L, D].

    Attributes:
        num_heads: Attention heads.
        mlp_width: Hidden width of the network after attention.
        norm: "post" (BERT and official MaskGIT: LayerNorm of the sum) or "pre" (LayerNorm of
            what goes in).
        dropout_rate: Of attention weights and of both outputs.
        epsilon: Of LayerNorm.
        dtype: Type of the activations.
    """

    num_heads: int
    mlp_width: int
    norm: str = "post"
    dropout_rate: float = 0.0
    epsilon: float = 1e-12
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, None]:
        attend = SelfAttention(self.num_heads, self.dropout_rate, self.dtype, name="attention")
        x = self._residual(x, lambda h: attend(h, train), "attention_norm", train)
        x = self._residual(x, self._mlp, "mlp_norm", train)
        return nn.with_logical_constraint(x, ("batch", "length", "embed")), None

    def _residual(self, x: Array, branch, norm_name: str, train: bool) -> Array:
        norm = layer_norm(self.epsilon, self.dtype, norm_name)
        h = branch(norm(x) if self.norm == "pre" else x)
        x = x + nn.Dropout(self.dropout_rate)(h, deterministic=not train)
        return norm(x) if self.norm == "post" else x

    def _mlp(self, x: Array) -> Array:
        width = x.shape[-1]
        dense = dict(kernel_init=initialize, dtype=self.dtype)
        x = nn.gelu(nn.Dense(self.mlp_width, name="mlp_in", **dense)(x))
        x = nn.with_logical_constraint(x, ("batch", "length", "mlp"))
        return nn.Dense(width, name="mlp_out", **dense)(x)


def layer_norm(epsilon: float, dtype: str, name: str) -> nn.LayerNorm:
    """Returns LayerNorm with two-pass variance, safe at the official epsilon of 1e-12."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def stacked_layers(num_layers: int, remat: bool, **layer) -> nn.Module:
    """Returns `num_layers` layers as one scanned module, called as module(x, train) -> (x, _).

    Parameters carry a leading axis [num_layers, ...], so that the program has one layer's
    size; with `remat` each layer is recomputed in the backward pass (scan without remat needs
    three times the memory of separate layers).
    """
    kind = TransformerLayer
    if remat:
        kind = nn.remat(kind, prevent_cse=False, static_argnums=(2,))
    stack = nn.scan(
        kind,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=num_layers,
    )
    return stack(name="layers", **layer)
