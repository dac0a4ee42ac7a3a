"""Layers of PixelSNAIL: gated residual causal convolutions, and strictly causal attention."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.networks.causal import Grid, Position, ShiftedConv
from maskgit_jax.networks.transformer import KVCache

ConvCaches = tuple[Array | None, Array | None]
"""Caches of both convolutions of a `GatedResidual`; None each for a whole map."""


class GatedResidual(nn.Module):
    """x + a * sigmoid(b), where (a, b) are two causal convolutions of x: [B, h, w, C].

    Attributes:
        features: C.
        hidden_channels: Channels between the convolutions.
        kernel_radius: Positions that a convolution reaches above and to each side; 0: 1x1.
        dropout_rate: Dropout rate between the convolutions.
        auxiliary: Whether a second input [B, h, w, C] is added after the first convolution.
        dtype: Type of the activations.

    Source: Chen et al. 2017, PixelSNAIL, figure 5; rosinality/vq-vae-2-pytorch
    pixelsnail.py:GatedResBlock, with its ELU (the original concatenates ELU(x) and ELU(-x)).
    """

    features: int
    hidden_channels: int
    kernel_radius: int
    dropout_rate: float
    auxiliary: bool
    dtype: str

    def setup(self) -> None:
        radius = self.kernel_radius
        area = ((-radius, 0), (-radius, radius), radius)
        self.conv_1 = ShiftedConv(self.features, self.hidden_channels, *area, dtype=self.dtype)
        self.conv_2 = ShiftedConv(self.hidden_channels, 2 * self.features, *area, dtype=self.dtype)
        self.mix_condition = nn.Dense(2 * self.features, use_bias=False, dtype=self.dtype)
        if self.auxiliary:
            self.mix_auxiliary = nn.Dense(self.hidden_channels, dtype=self.dtype)
        self.dropout = nn.Dropout(self.dropout_rate)

    def init_cache(self, batch: int, grid: Grid) -> ConvCaches:
        """Returns the empty caches of both convolutions."""
        return self.conv_1.init_cache(batch, grid), self.conv_2.init_cache(batch, grid)

    def __call__(
        self,
        x: Array,
        condition: Array,
        auxiliary: Array | None = None,
        train: bool = False,
        cache: ConvCaches = (None, None),
        position: Position | None = None,
    ) -> tuple[Array, ConvCaches]:
        """Returns the output of a whole map, or of one position with the updated caches.

        Args:
            x: [B, h, w, C]; with caches [B, 1, 1, C].
            condition: [B, h or 1, w or 1, D], added before the gate.
            auxiliary: The second input, shaped as x.
            train: Whether dropout is active.
            cache: See `ShiftedConv`.
            position: See `ShiftedConv`.
        """
        h, cache_1 = self.conv_1(nn.elu(x), cache[0], position)
        if auxiliary is not None:
            h = h + self.mix_auxiliary(nn.elu(auxiliary))
        h = self.dropout(nn.elu(h), deterministic=not train)
        h, cache_2 = self.conv_2(h, cache[1], position)
        content, gate = jnp.split(h + self.mix_condition(condition), 2, axis=-1)
        return x + content * nn.sigmoid(gate), (cache_1, cache_2)


class CausalAttention(nn.Module):
    """Attention of each position to the positions before it; the first one gets zeros.

    Attributes:
        features: Channels of the output.
        num_heads: N; must divide the features.
        dropout_rate: Dropout rate of the attention weights.
        dtype: Type of the activations; the softmax is float32.
    """

    features: int
    num_heads: int
    dropout_rate: float
    dtype: str

    def setup(self) -> None:
        self.query, self.key, self.value = (
            nn.Dense(self.features, dtype=self.dtype) for _ in range(3)
        )
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(self, inputs_q: Array, inputs_kv: Array, train: bool) -> Array:
        """Returns the output [B, L, features] for inputs of queries [B, L, D], keys and values."""
        return self.attend(inputs_q, self._keys_values(inputs_kv), jnp.int32(0), train)

    def init_cache(self, batch: int, length: int) -> KVCache:
        """Returns the empty KV cache."""
        shape = (batch, length, self.num_heads, self.features // self.num_heads)
        return KVCache(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))

    def update_cache(self, cache: KVCache, inputs_kv: Array, start: Array) -> KVCache:
        """Returns the cache with keys and values of `inputs_kv` [B, n, D'] from `start` on."""
        return KVCache(*(
            jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=1)
            for old, new in zip(cache, self._keys_values(inputs_kv), strict=True)
        ))  # fmt: skip

    def attend(self, inputs_q: Array, cache: KVCache, start: Array, train: bool = False) -> Array:
        """Returns the output [B, n, features] of the n positions of `inputs_q` from `start` on."""
        batch, length, _ = inputs_q.shape
        query = self._split_heads(self.query(inputs_q)) * (self.features // self.num_heads) ** -0.5
        scores = jnp.einsum("bqnd,bknd->bnqk", query, cache.key).astype(jnp.float32)
        positions = start + jnp.arange(length)
        before = jnp.arange(cache.key.shape[1])[None] < positions[:, None]  # [n, L]
        # Finite, because -inf would make the weights of the first position NaN.
        weights = jax.nn.softmax(jnp.where(before[None, None], scores, -1e30))
        weights = jnp.where(before[None, None], weights, 0.0).astype(self.dtype)
        weights = self.dropout(weights, deterministic=not train)
        attended = jnp.einsum("bnqk,bknd->bqnd", weights, cache.value)
        return attended.reshape(batch, length, self.features)

    def _keys_values(self, inputs_kv: Array) -> KVCache:
        key, value = self.key(inputs_kv), self.value(inputs_kv)
        return KVCache(self._split_heads(key), self._split_heads(value))

    def _split_heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.num_heads, -1)
