"""GPT: a causal transformer over the tokens of an image, with a memory for sampling."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array, Key
from maskgit_jax.networks.transformer import KeyValue, layer_norm, scaled_by_width, stacked_layers

Grid = tuple[int, int]
EPSILON = 1e-5
POSITION_SCALE = 0.03  # then positions deviate as much as words do
initialize = nn.initializers.normal(0.02)


class GPTMemory(NamedTuple):
    """What sampling remembers: the class, and keys and values of all layers.

    Attributes:
        label: int32 [B].
        layers: [layers, B, Lc + L, N, D/N] each.
    """

    label: Array
    layers: KeyValue


class GPT(nn.Module):
    """Pre-LN causal transformer over [Lc condition tokens, class, L - 1 image tokens].

    Rows of the embedding table: 0 .. K-1 image codes, then the classes, then the condition's
    codes; padded to a multiple of `row_multiple`, because odd tables cannot be sharded.

    Attributes:
        codebook_size: K.
        num_classes: Labels are 0 .. num_classes - 1.
        grid: Rows and columns (h, w) of the token map; L = h*w.
        condition_codebook_size: Codes of the condition; 0 without one.
        condition_grids: Rows and columns of the condition's maps, Lc tokens in all.
        width: D.
        num_layers: Transformer layers.
        num_heads: Attention heads.
        mlp_width: Hidden width of each layer's network.
        dropout_rate: Of embeddings, attention weights and the outputs of both parts of a layer.
        attention: "xla" or "cudnn", see `SelfAttention.implementation`.
        remat: Recompute layers in the backward pass.
        row_multiple: Of what the embedding table's rows are a multiple.
        dtype: Type of the activations; logits are float32.

    Source: taming-transformers modules/transformer/mingpt.py:GPT. Differs: class, condition and
    image tokens have rows of their own (there class 7, condition code 7 and image code 7 are
    one embedding); the class stands between condition and image, so that sampling without a
    condition needs no other program; the learned positions start as sines and cosines of row and
    column instead of 0, so that attention can tell neighbours apart from the first step on.
    """

    codebook_size: int
    num_classes: int
    grid: Grid
    condition_codebook_size: int = 0
    condition_grids: tuple[Grid, ...] = ()
    width: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    mlp_width: int = 4096
    dropout_rate: float = 0.0
    attention: str = "xla"
    remat: bool = True
    row_multiple: int = 128
    dtype: str = "float32"

    @property
    def num_tokens(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    @property
    def num_condition_tokens(self) -> int:
        """Lc."""
        return sum(height * width for height, width in self.condition_grids)

    def setup(self) -> None:
        rows = self.codebook_size + self.num_classes + self.condition_codebook_size
        rows = -(-rows // self.row_multiple) * self.row_multiple
        self.word_embedding = self.param("word_embedding", initialize, (rows, self.width))
        self.position_embedding = self.param("position_embedding", self._initial_positions)
        self.dropout = nn.Dropout(self.dropout_rate)
        self.layers = stacked_layers(
            self.num_layers,
            self.remat,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            norm="pre",
            dropout_rate=self.dropout_rate,
            attention=self.attention,
            epsilon=EPSILON,
            causal=True,
            approximate_gelu=False,
            kernel_init=scaled_by_width(self.width),
            dtype=self.dtype,
        )
        self.final_norm = layer_norm(EPSILON, self.dtype, None)
        self.head_logit = nn.Dense(
            self.codebook_size, use_bias=False, kernel_init=initialize, dtype=self.dtype
        )

    def __call__(
        self, tokens: Array, label: Array, condition: Array | None = None, train: bool = False
    ) -> Array:
        """Returns logits float32 [B, L, K]; those of a place depend on the tokens before it only.

        Args:
            tokens: int32 [B, L], 0 .. K-1, rows first.
            label: int32 [B].
            condition: int32 [B, Lc], where there is one.
            train: Whether dropout acts.
        """
        chex.assert_shape(tokens, (len(label), self.num_tokens))
        rows = [self._class_row(label)[:, None], tokens[:, :-1]]
        if self.num_condition_tokens:
            chex.assert_shape(condition, (len(label), self.num_condition_tokens))
            rows = [self._condition_rows(condition), *rows]
        x = self._embedded(jnp.concatenate(rows, axis=1), jnp.int32(0), train)  # [B, Lc + L, D]
        x, _ = self.layers(x, train, None, None)
        return self._logits(x[:, self.num_condition_tokens :])

    def begin(self, label: Array, condition: Array | None = None) -> GPTMemory:
        """Returns the memory before the first image token, the condition read."""
        places = self.num_condition_tokens + self.num_tokens
        shape = (self.num_layers, len(label), places, self.num_heads)
        zeros = jnp.zeros((*shape, self.width // self.num_heads), self.dtype)
        layers = KeyValue(zeros, zeros)
        if self.num_condition_tokens:
            x = self._embedded(self._condition_rows(condition), jnp.int32(0), False)
            _, layers = self.layers(x, False, layers, jnp.int32(0))
        return GPTMemory(label, layers)

    def step(self, memory: GPTMemory, previous: Array, index: Array) -> tuple[Array, GPTMemory]:
        """Returns logits float32 [B, K] of place `index`, and the next memory.

        Args:
            memory: Of `begin` or of the step before.
            previous: Token at index - 1, int32 [B]; ignored at the first place.
            index: int32 scalar, one after another from 0 on.
        """
        row = jnp.where(index == 0, self._class_row(memory.label), previous)
        start = self.num_condition_tokens + index
        x = self._embedded(row[:, None], start, False)  # [B, 1, D]
        x, layers = self.layers(x, False, memory.layers, start)
        return self._logits(x)[:, 0], memory._replace(layers=layers)

    def _initial_positions(self, key: Key) -> Array:
        """Returns [Lc + L, D]; random where the width is no multiple of 4."""
        grids = (*self.condition_grids, self.grid)
        if self.width % 4:
            places = self.num_condition_tokens + self.num_tokens
            return initialize(key, (places, self.width), jnp.float32)
        return jnp.concatenate([waves(grid, self.width) for grid in grids]) * POSITION_SCALE

    def _class_row(self, label: Array) -> Array:
        return self.codebook_size + label

    def _condition_rows(self, condition: Array) -> Array:
        return self.codebook_size + self.num_classes + condition

    def _embedded(self, rows: Array, start: Array, train: bool) -> Array:
        x = jnp.take(self.word_embedding, rows, axis=0)
        positions = jax.lax.dynamic_slice_in_dim(self.position_embedding, start, rows.shape[1])
        x = nn.with_logical_constraint(x + positions[None], ("batch", "length", "embed"))
        return self.dropout(x.astype(self.dtype), deterministic=not train)

    def _logits(self, x: Array) -> Array:
        return self.head_logit(self.final_norm(x)).astype(jnp.float32)


def waves(grid: Grid, width: int) -> Array:
    """Returns sines and cosines of the places of a map, float32 [h*w, width] in [-1, 1].

    One half of the width tells rows, the other one columns, at wavelengths from 2 pi places to
    100 times that.

    Args:
        grid: Rows and columns (h, w).
        width: A multiple of 4.

    Source: Vaswani et al. 2017, Attention is all you need, section 3.5, for rows and columns,
    with 100 instead of 10,000: maps are a few dozen places wide.
    """
    frequency = 100.0 ** -jnp.linspace(0.0, 1.0, width // 4)
    row, column = jnp.divmod(jnp.arange(grid[0] * grid[1]), grid[1])
    angles = [place[:, None] * frequency[None] for place in (row, column)]  # [L, D/4] each
    return jnp.concatenate([wave(angle) for angle in angles for wave in (jnp.sin, jnp.cos)], axis=1)
