"""Layers of PixelSNAIL: a gated residual of causal convolutions, and strictly causal attention."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.networks.causal import Place, ShiftedConv
from maskgit_jax.networks.transformer import KeyValue


class GatedResidual(nn.Module):
    """x + a * sigmoid(b), where (a, b) are two causal convolutions of x: [B, h, w, C].

    Attributes:
        features: C.
        hidden_channels: Channels between the convolutions.
        kernel_radius: Places that a convolution reaches above and to each side; 0 sees one place only.
        dropout_rate: Between the convolutions.
        auxiliary: Whether a second input [B, h, w, C] is added behind the first convolution.
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
        area = (
            (-self.kernel_radius, 0),
            (-self.kernel_radius, self.kernel_radius),
            self.kernel_radius,
        )
        self.conv_1 = ShiftedConv(self.features, self.hidden_channels, *area, dtype=self.dtype)
        self.conv_2 = ShiftedConv(self.hidden_channels, 2 * self.features, *area, dtype=self.dtype)
        self.mix_condition = nn.Dense(2 * self.features, use_bias=False, dtype=self.dtype)
        if self.auxiliary:
            self.mix_auxiliary = nn.Dense(self.hidden_channels, dtype=self.dtype)
        self.dropout = nn.Dropout(self.dropout_rate)

    def empty_memory(self, batch: int, grid: tuple[int, int]) -> tuple[Array, Array]:
        """Returns the memory of both convolutions."""
        return self.conv_1.empty_memory(batch, grid), self.conv_2.empty_memory(batch, grid)

    def __call__(
        self,
        x: Array,
        condition: Array,
        auxiliary: Array | None = None,
        train: bool = False,
        memory: tuple[Array, Array] | None = None,
        place: Place | None = None,
    ) -> tuple[Array, Any]:
        """Returns the output of a whole map, or of one place and the next memory.

        Args:
            x: [B, h, w, C]; with a memory [B, 1, 1, C].
            condition: [B, h or 1, w or 1, D], added before the gate.
            auxiliary: As x.
            train: Whether dropout acts.
            memory: See `ShiftedConv`.
            place: See `ShiftedConv`.
        """
        first, second = memory or (None, None)
        h, first = self.conv_1(nn.elu(x), first, place)
        if auxiliary is not None:
            h = h + self.mix_auxiliary(nn.elu(auxiliary))
        h = self.dropout(nn.elu(h), deterministic=not train)
        h, second = self.conv_2(h, second, place)
        content, gate = jnp.split(h + self.mix_condition(condition), 2, axis=-1)
        return x + content * nn.sigmoid(gate), (first, second)


class CausalAttention(nn.Module):
    """Attention of each place to the places before it; the first one gets zeros.

    Attributes:
        features: Channels of the result.
        num_heads: N; must divide the features.
        dropout_rate: Of the attention weights.
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

    def empty_memory(self, batch: int, length: int) -> KeyValue:
        """Returns keys and values before anything is known."""
        shape = (batch, length, self.num_heads, self.features // self.num_heads)
        return KeyValue(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))

    def remember(self, memory: KeyValue, told: Array, index: Array) -> KeyValue:
        """Returns the memory with the keys and values of `told` [B, n, D] from `index` on."""
        return KeyValue(*(
            jax.lax.dynamic_update_slice_in_dim(old, new, index, axis=1)
            for old, new in zip(memory, self._told(told), strict=True)
        ))  # fmt: skip

    def __call__(self, asked: Array, told: Array, train: bool) -> Array:
        """Returns [B, L, features] of what the places ask [B, L, D] and tell [B, L, D']."""
        return self.recall(asked, self._told(told), jnp.int32(0), train)

    def recall(self, asked: Array, memory: KeyValue, start: Array, train: bool = False) -> Array:
        """Returns [B, n, features] of what the n places from `start` on ask [B, n, D]."""
        batch, length, _ = asked.shape
        query = self._heads(self.query(asked)) * (self.features // self.num_heads) ** -0.5
        scores = jnp.einsum("bqnd,bknd->bnqk", query, memory.key).astype(jnp.float32)
        places = start + jnp.arange(length)
        before = jnp.arange(memory.key.shape[1])[None] < places[:, None]  # [n, L]
        # A finite number: the first place sees nothing, and its weights must not become NaN.
        weights = jax.nn.softmax(jnp.where(before[None, None], scores, -1e30))
        weights = jnp.where(before[None, None], weights, 0.0).astype(self.dtype)
        weights = self.dropout(weights, deterministic=not train)
        mixed = jnp.einsum("bnqk,bknd->bqnd", weights, memory.value)
        return mixed.reshape(batch, length, self.features)

    def _told(self, told: Array) -> KeyValue:
        return KeyValue(self._heads(self.key(told)), self._heads(self.value(told)))

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.num_heads, -1)
