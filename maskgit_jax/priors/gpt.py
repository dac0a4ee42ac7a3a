"""GPT: a causal transformer over the tokens of an image, with a KV cache for sampling."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint

from maskgit_jax.arrays import Array, Key
from maskgit_jax.networks.attention import KVCache
from maskgit_jax.networks.causal import Grid
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.networks.rotations import Rotations, axial_rotations
from maskgit_jax.networks.transformer import (
    Modulation,
    make_norm,
    modulate,
    scaled_by_width,
    stacked_layers,
)
from maskgit_jax.stage import Layout

EPSILON = 1e-5
POSITION_SCALE = 0.03  # gives positions the deviation of the word embeddings
initialize = nn.initializers.normal(0.02)


class GPTCache(NamedTuple):
    """State of sampling.

    Attributes:
        label: int32 [B].
        first: Row of the input from which the first image token is predicted, int32 [B].
        layers: Keys and values of all layers, [layers, B, Lc + L, N, D/N] each.
    """

    label: Array
    first: Array
    layers: KVCache


class GPT(nn.Module):
    """Pre-LN causal transformer over [Lc condition tokens, class, L - 1 image tokens].

    Without a class (`layer_options.conditioning` "none") the first image token is predicted from
    the last condition token.

    Rows of the embedding table: 0 .. K-1 image codes, then the classes, then the condition's
    codes; padded to a multiple of `row_multiple`, because odd tables cannot be sharded.

    Attributes:
        codebook_size: K.
        num_classes: Labels are 0 .. num_classes - 1.
        grid: Rows and columns (h, w) of the token map; L = h*w.
        condition_codebook_size: Codes of the condition; 0 without a condition.
        condition_grids: Rows and columns of the condition's token maps, Lc tokens in all.
        width: D.
        num_layers: Transformer layers.
        num_heads: Attention heads.
        mlp_width: Hidden width of each layer's MLP.
        dropout_rate: Dropout rate of embeddings, attention weights and branch outputs.
        layer_options: See `LayerOptions`.
        attention: "xla" or "cudnn", see `SelfAttention.implementation`.
        remat: Whether layers are recomputed in the backward pass.
        row_multiple: The embedding table has a multiple of this number of rows.
        dtype: Type of the activations; logits are float32.

    Source: taming-transformers modules/transformer/mingpt.py:GPT. Differs: class, condition and
    image tokens have rows of their own (there class 7, condition code 7 and image code 7 share
    one embedding); the class stands between condition and image (there, as here with conditioning
    "none", is no class), so that sampling without a condition needs no other program; the learned
    positions start as sines and cosines of row and column instead of 0, so that attention tells
    neighbours apart from the first step on.
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
    layer_options: LayerOptions = LayerOptions()
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

    @property
    def start(self) -> int:
        """Number of inputs before the one from which the first image token is predicted."""
        return self.num_condition_tokens - (0 if self.layer_options.class_token else 1)

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """What the entries of the tables of rows and positions stand for, see `Stage`."""
        rows = {
            "codes": self.codebook_size,
            "classes": self.num_classes,
            "condition codes": self.condition_codebook_size,
        }
        maps: dict[str, Any] = {f"condition map {n}": g for n, g in enumerate(self.condition_grids)}
        if not self.layer_options.class_token:  # the last condition token has an image position
            maps[[*maps][-1]] = math.prod(self.condition_grids[-1]) - 1
        return (
            Layout("word_embedding", 0, rows),
            Layout("position_embedding", 0, {**maps, "map": self.grid}),
            Layout("head_logit/kernel", -1, {"codes": self.codebook_size}),
        )

    def setup(self) -> None:
        rows = self.codebook_size + self.num_classes + self.condition_codebook_size
        rows = -(-rows // self.row_multiple) * self.row_multiple
        self.word_embedding = self.param("word_embedding", initialize, (rows, self.width))
        if self.layer_options.learned_positions:
            self.position_embedding = self.param("position_embedding", self._init_positions)
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
            options=self.layer_options,
        )
        self.final_norm = make_norm(self.layer_options, EPSILON, self.dtype)
        if self.layer_options.adaptive:
            self.final_modulation = Modulation(2 * self.width, dtype=self.dtype)
        self.head_logit = nn.Dense(
            self.codebook_size, use_bias=False, kernel_init=initialize, dtype=self.dtype
        )

    def __call__(
        self, tokens: Array, label: Array, condition: Array | None = None, train: bool = False
    ) -> Array:
        """Returns logits float32 [B, L, K]; each position depends on earlier tokens only.

        Args:
            tokens: int32 [B, L], 0 .. K-1, rows first.
            label: int32 [B].
            condition: Condition tokens int32 [B, Lc], where the network has a condition.
            train: Whether dropout is active.
        """
        chex.assert_shape(tokens, (len(label), self.num_tokens))
        rows = jnp.concatenate([self._first_rows(label, condition), tokens[:, :-1]], axis=1)
        x = self._embed(rows, jnp.int32(0), train)  # [B, Lc + L, D]; Lc + L - 1 without a class
        embedding = self._label_embedding(label)
        x, _ = self.layers(x, train, None, None, self._rotations(), embedding)
        return self._logits(x[:, self.start :], embedding)

    def init_cache(self, label: Array, condition: Array | None = None) -> GPTCache:
        """Returns the cache before the first image token; it holds the condition tokens."""
        rows, length = self._first_rows(label, condition), self.start + self.num_tokens
        shape = (self.num_layers, len(label), length, self.num_heads)
        head_width = self.layer_options.width_of_head(self.width, self.num_heads)
        zeros = jnp.zeros((*shape, head_width), self.dtype)
        layers = KVCache(zeros, zeros)
        if self.start:
            x = self._embed(rows[:, :-1], jnp.int32(0), False)
            embedding = self._label_embedding(label)
            _, layers = self.layers(x, False, layers, jnp.int32(0), self._rotations(), embedding)
        return GPTCache(label, rows[:, -1], layers)

    def decode_step(self, cache: GPTCache, previous: Array, index: Array) -> tuple[Array, GPTCache]:
        """Returns logits float32 [B, K] of position `index`, and the updated cache.

        Args:
            cache: From `init_cache` or the step before.
            previous: Token at index - 1, int32 [B]; ignored at index 0.
            index: int32 scalar; successive calls count up from 0.
        """
        row, start = jnp.where(index == 0, cache.first, previous), self.start + index
        x = self._embed(row[:, None], start, False)  # [B, 1, D]
        embedding = self._label_embedding(cache.label)
        x, layers = self.layers(x, False, cache.layers, start, self._rotations(), embedding)
        return self._logits(x, embedding)[:, 0], cache._replace(layers=layers)

    def _init_positions(self, key: Key) -> Array:
        """Returns the positions of all inputs; random where the width is no multiple of 4."""
        if self.width % 4:
            shape = (self.start + self.num_tokens, self.width)
            return initialize(key, shape, jnp.float32)
        *tables, image = [
            sinusoidal_positions(g, self.width) for g in (*self.condition_grids, self.grid)
        ]
        before = [jnp.concatenate(tables)[: self.start]] if tables else []
        return jnp.concatenate([*before, image]) * POSITION_SCALE

    def _rotations(self) -> Rotations | None:
        """Returns the rotations of [condition, class, image tokens]; the last is no input."""
        if not self.layer_options.rotary:
            return None
        between = (None,) if self.layer_options.class_token else ()
        grids = (*self.condition_grids, *between, self.grid)
        head_width = self.layer_options.width_of_head(self.width, self.num_heads)
        return axial_rotations(grids, head_width)

    def _label_embedding(self, label: Array) -> Array | None:
        """Returns the embedding [B, D] of the class for adaptive norms; None without them."""
        if not self.layer_options.adaptive:
            return None
        return jnp.take(self.word_embedding, self._class_row(label), axis=0)

    def _first_rows(self, label: Array, condition: Array | None) -> Array:
        """Returns the rows of the inputs before the image: condition tokens, then the class."""
        rows = [self._condition_rows(condition)] if self.num_condition_tokens else []
        if self.layer_options.class_token:
            rows.append(self._class_row(label)[:, None])
        return jnp.concatenate(rows, axis=1)

    def _class_row(self, label: Array) -> Array:
        return self.codebook_size + label

    def _condition_rows(self, condition: Array | None) -> Array:
        assert condition is not None, "the network needs condition tokens"
        chex.assert_shape(condition, (None, self.num_condition_tokens))
        return self.codebook_size + self.num_classes + condition

    def _embed(self, rows: Array, start: Array, train: bool) -> Array:
        x = jnp.take(self.word_embedding, rows, axis=0)
        if self.layer_options.learned_positions:
            x += jax.lax.dynamic_slice_in_dim(self.position_embedding, start, rows.shape[1])[None]
        x = with_logical_constraint(x, ("batch", "length", "embed"))
        return self.dropout(x.astype(self.dtype), deterministic=not train)

    def _logits(self, x: Array, label_embedding: Array | None) -> Array:
        x = self.final_norm(x)
        if label_embedding is not None:
            x = modulate(x, *jnp.split(self.final_modulation(label_embedding), 2, axis=-1))
        return self.head_logit(x).astype(jnp.float32)


def sinusoidal_positions(grid: Grid, width: int) -> Array:
    """Returns sines and cosines of the rows and columns of a map, float32 [h*w, width].

    One half of the width encodes the row, the other one the column, at wavelengths from 2 pi
    positions to 100 times that.

    Args:
        grid: Rows and columns (h, w).
        width: A multiple of 4.

    Source: Vaswani et al. 2017, Attention is all you need, section 3.5, for rows and columns,
    with 100 instead of 10,000: maps are a few dozen positions wide.
    """
    frequency = 100.0 ** -jnp.linspace(0.0, 1.0, width // 4)
    row, column = jnp.divmod(jnp.arange(grid[0] * grid[1]), grid[1])
    angles = [index[:, None] * frequency[None] for index in (row, column)]  # [L, D/4] each
    return jnp.concatenate([wave(angle) for angle in angles for wave in (jnp.sin, jnp.cos)], axis=1)
