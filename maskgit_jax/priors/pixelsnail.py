"""PixelSNAIL-type prior of VQ-VAE-2: gated causal convolutions and causal attention."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.networks.causal import Place, ShiftedConv
from maskgit_jax.networks.gated import CausalAttention, GatedResidual
from maskgit_jax.networks.transformer import KeyValue
from maskgit_jax.stage import split_levels

Grid = tuple[int, int]


class BlockMemory(NamedTuple):
    """What sampling remembers of a block.

    Attributes:
        residuals: Memory of each gated residual layer.
        attention: Keys and values; None without attention.
        told: What the place before will tell once its token is known, [B, 1, 1, C].
    """

    residuals: tuple[Any, ...]
    attention: KeyValue | None
    told: Array | None


class Block(nn.Module):
    """Gated residual layers, then attention: [B, h, w, C].

    Keys and values are made of the tokens, the features and the coordinates; queries of the
    features and the coordinates.

    Attributes:
        features: C.
        hidden_channels: Channels inside the residual layers.
        num_layers: Residual layers.
        kernel_radius: Of their convolutions.
        num_heads: Of attention; 0 for none.
        dropout_rate: Of residual layers and attention weights.
        dtype: Type of the activations.

    Source: Chen et al. 2017, PixelSNAIL, section 2.3; pixelsnail-public model.py: raw input,
    features and background make the keys.
    """

    features: int
    hidden_channels: int
    num_layers: int
    kernel_radius: int
    num_heads: int
    dropout_rate: float
    dtype: str

    def setup(self) -> None:
        shared = dict(dropout_rate=self.dropout_rate, dtype=self.dtype)
        sizes = (self.features, self.hidden_channels)
        self.residuals = [
            GatedResidual(*sizes, self.kernel_radius, auxiliary=False, **shared)
            for _ in range(self.num_layers)
        ]
        if self.num_heads:
            self.attention = CausalAttention(self.hidden_channels, self.num_heads, **shared)
            self.after = GatedResidual(*sizes, 0, auxiliary=True, **shared)

    def empty_memory(self, batch: int, grid: Grid) -> BlockMemory:
        """Returns the memory before the first token."""
        residuals = tuple(layer.empty_memory(batch, grid) for layer in self.residuals)
        if not self.num_heads:
            return BlockMemory(residuals, None, None)
        told = jnp.zeros((batch, 1, 1, self.features), self.dtype)
        return BlockMemory(residuals, self.attention.empty_memory(batch, grid[0] * grid[1]), told)

    def __call__(
        self, x: Array, embedded: Array, coordinates: Array, condition: Array, train: bool
    ) -> Array:
        """Returns the output of a whole map.

        Args:
            x: [B, h, w, C].
            embedded: The tokens themselves, [B, h, w, C].
            coordinates: [1, h, w, 2].
            condition: See `GatedResidual`.
            train: Whether dropout acts.
        """
        for layer in self.residuals:
            x, _ = layer(x, condition, None, train)
        if not self.num_heads:
            return x
        asked, told = self._asked(x, coordinates), self._told(embedded, x, coordinates)
        heard = self.attention(_in_order(asked), _in_order(told), train)
        return self.after(x, condition, heard.reshape(*x.shape[:3], -1), train)[0]

    def step(
        self,
        x: Array,
        token: Array,
        coordinates: Array,
        condition: Array,
        memory: BlockMemory,
        index: Array,
        grid: Grid,
    ) -> tuple[Array, BlockMemory]:
        """Returns the output [B, 1, 1, C] of place `index`, and the next memory.

        Args:
            x: The input at this place, [B, 1, 1, C].
            token: The embedded token of the place before, [B, 1, 1, C].
            coordinates: Of the whole map, [1, h, w, 2].
            condition: At this place.
            memory: Of the step before.
            index: int32 scalar.
            grid: (h, w).
        """
        place = jnp.divmod(index, grid[1])
        residuals = []
        for layer, old in zip(self.residuals, memory.residuals, strict=True):
            x, new = layer(x, condition, memory=old, place=place)
            residuals.append(new)
        memory = memory._replace(residuals=tuple(residuals))
        if not self.num_heads:
            return x, memory
        before = jnp.maximum(index - 1, 0)  # at the first place nothing is read of what it writes
        told = self._told(token, memory.told, at_place(coordinates, jnp.divmod(before, grid[1])))
        keys = self.attention.remember(memory.attention, _in_order(told), before)
        asked = self._asked(x, at_place(coordinates, place))
        heard = self.attention.recall(_in_order(asked), keys, index)
        memory = memory._replace(attention=keys, told=x)
        return self.after(x, condition, heard[:, None])[0], memory

    def _asked(self, x: Array, coordinates: Array) -> Array:
        return jnp.concatenate([x, _everywhere(coordinates, x)], axis=-1)

    def _told(self, embedded: Array, x: Array, coordinates: Array) -> Array:
        return jnp.concatenate([embedded, x, _everywhere(coordinates, x)], axis=-1)


class Coarser(nn.Module):
    """What the maps of coarser levels say of each place of a finer one: [B, h, w, C].

    Attributes:
        codebook_size: K of the coarser levels.
        features: C.
        hidden_channels: Channels inside the residual layers.
        num_layers: Residual layers of 3x3 convolutions that see all around.
        dtype: Type of the activations.

    Source: Razavi et al. 2019, VQ-VAE-2, appendix: a "conditioning stack" of residual blocks on
    the upsampled top codes.
    """

    codebook_size: int
    features: int
    hidden_channels: int
    num_layers: int
    dtype: str

    @nn.compact
    def __call__(self, maps: tuple[Array, ...], grid: Grid) -> Array:
        """Returns the features of tokens int32 [B, h', w'] of each coarser level."""
        seen = []
        for number, tokens in enumerate(maps):
            name = f"embedding_{number}"
            x = nn.Embed(self.codebook_size, self.features, dtype=self.dtype, name=name)(tokens)
            scale = (grid[0] // tokens.shape[1], grid[1] // tokens.shape[2])
            seen.append(jnp.repeat(jnp.repeat(x, scale[0], axis=1), scale[1], axis=2))
        x = jnp.concatenate(seen, axis=-1)
        x = nn.with_logical_constraint(x, ("batch", None, None, None))

        def conv(features: int, name: str) -> nn.Conv:
            return nn.Conv(features, (3, 3), padding=1, dtype=self.dtype, name=name)

        x = conv(self.features, "conv_in")(x)
        for number in range(self.num_layers):
            h = conv(self.hidden_channels, f"conv_{number}_1")(nn.elu(x))
            x = x + conv(self.features, f"conv_{number}_2")(nn.elu(h))
        return nn.elu(x)


class PixelSNAILMemory(NamedTuple):
    """What sampling remembers.

    Attributes:
        condition: Of class and coarser levels, [B, h or 1, w or 1, C].
        first: Memory of the first convolution.
        blocks: Of each block.
    """

    condition: Array
    first: Array
    blocks: tuple[BlockMemory, ...]


class PixelSNAIL(nn.Module):
    """Prior of one level of tokens: logits of each from those before it, class, coarser levels.

    With attention a place sees every token before it. Without, it sees `kernel_radius` more columns to the
    right for every row above, as one stack of masked convolutions does: all the rest of what a
    bottom level knows of places far to the right comes from the coarser levels.

    Attributes:
        codebook_size: K of this and of the coarser levels.
        num_classes: Labels are 0 .. num_classes - 1.
        grid: Rows and columns (h, w) of the token map; L = h*w.
        coarser_grids: Of the levels it depends on, coarsest first; each divides `grid`.
        features: C.
        hidden_channels: Channels inside the residual layers, and of attention.
        num_blocks: Blocks.
        num_layers: Gated residual layers of each block.
        kernel_radius: Places that a convolution reaches above and to each side.
        num_heads: Of the attention that ends each block; 0 for none, as VQ-VAE-2's bottom level.
        num_output_layers: Gated residual layers of one place each before the logits.
        num_condition_layers: Residual layers over the coarser levels.
        dropout_rate: Of residual layers and attention weights.
        dtype: Type of the activations; logits are float32.

    Source: Chen et al. 2017, PixelSNAIL; Razavi et al. 2019, VQ-VAE-2, section 3.2 and appendix;
    rosinality/vq-vae-2-pytorch pixelsnail.py. Differs: embedded tokens instead of one-hot ones,
    no weight normalisation, and a plain softmax over codes as all priors of tokens have.
    """

    codebook_size: int
    num_classes: int
    grid: Grid
    coarser_grids: tuple[Grid, ...] = ()
    features: int = 256
    hidden_channels: int = 256
    num_blocks: int = 4
    num_layers: int = 4
    kernel_radius: int = 2
    num_heads: int = 8
    num_output_layers: int = 4
    num_condition_layers: int = 3
    dropout_rate: float = 0.1
    dtype: str = "float32"

    def setup(self) -> None:
        sizes = (self.features, self.hidden_channels)
        shared = dict(dropout_rate=self.dropout_rate, dtype=self.dtype)
        self.token_embedding = nn.Embed(self.codebook_size, self.features, dtype=self.dtype)
        self.class_embedding = nn.Embed(self.num_classes, self.features, dtype=self.dtype)
        area = (
            (-self.kernel_radius, 0),
            (-self.kernel_radius, self.kernel_radius),
            self.kernel_radius + 1,
        )
        self.conv_first = ShiftedConv(self.features, self.features, *area, dtype=self.dtype)
        self.blocks = [
            Block(*sizes, self.num_layers, self.kernel_radius, self.num_heads, **shared)
            for _ in range(self.num_blocks)
        ]
        self.outputs = [
            GatedResidual(*sizes, 0, auxiliary=False, **shared)
            for _ in range(self.num_output_layers)
        ]
        if self.coarser_grids:
            self.coarser = Coarser(
                self.codebook_size, *sizes, self.num_condition_layers, self.dtype
            )
        self.head_logit = nn.Dense(self.codebook_size, dtype=self.dtype)

    def __call__(
        self, tokens: Array, label: Array, condition: Array | None = None, train: bool = False
    ) -> Array:
        """Returns logits float32 [B, L, K]; those of a place depend on the tokens before it only.

        Args:
            tokens: int32 [B, L], 0 .. K-1.
            label: int32 [B].
            condition: Tokens of the coarser levels one after another, int32 [B, Lc], or None.
            train: Whether dropout acts.
        """
        chex.assert_shape(tokens, (len(label), self.grid[0] * self.grid[1]))
        embedded = self._embedded(tokens.reshape(-1, *self.grid))
        coordinates, condition = self._coordinates(), self._condition(label, condition)
        x, _ = self.conv_first(embedded)
        for block in self.blocks:
            x = block(x, embedded, coordinates, condition, train)
        for layer in self.outputs:
            x, _ = layer(x, condition, None, train)
        return self._logits(x).reshape(*tokens.shape, -1)

    def begin(self, label: Array, condition: Array | None = None) -> PixelSNAILMemory:
        """Returns the memory before the first token, the coarser levels read."""
        batch = len(label)
        return PixelSNAILMemory(
            self._condition(label, condition),
            self.conv_first.empty_memory(batch, self.grid),
            tuple(block.empty_memory(batch, self.grid) for block in self.blocks),
        )

    def step(
        self, memory: PixelSNAILMemory, previous: Array, index: Array
    ) -> tuple[Array, PixelSNAILMemory]:
        """Returns logits float32 [B, K] of place `index`, and the next memory.

        Args:
            memory: Of `begin` or of the step before.
            previous: Token at index - 1, int32 [B]; ignored at the first place.
            index: int32 scalar, one after another from 0 on.
        """
        place = jnp.divmod(index, self.grid[1])
        before = jnp.divmod(jnp.maximum(index - 1, 0), self.grid[1])
        token = jnp.where(index == 0, 0.0, self._embedded(previous[:, None, None]))  # [B, 1, 1, C]
        first = self.conv_first.store(memory.first, token, before)
        x = self.conv_first.read(first, place, (1, 1))
        coordinates, blocks = self._coordinates(), []
        condition = memory.condition
        if self.coarser_grids:
            condition = at_place(condition, place)
        for block, old in zip(self.blocks, memory.blocks, strict=True):
            x, new = block.step(x, token, coordinates, condition, old, index, self.grid)
            blocks.append(new)
        for layer in self.outputs:
            x, _ = layer(x, condition)
        memory = memory._replace(first=first, blocks=tuple(blocks))
        return self._logits(x)[:, 0, 0], memory

    def _condition(self, label: Array, coarser: Array | None) -> Array:
        condition = self.class_embedding(label)[:, None, None]  # [B, 1, 1, C]
        if not self.coarser_grids:
            return condition
        return condition + self.coarser(split_levels(coarser, self.coarser_grids), self.grid)

    def _coordinates(self) -> Array:
        """Returns row and column of each place from -1/2 to 1/2, [1, h, w, 2]."""
        height, width = self.grid
        rows = (jnp.arange(height) - height / 2) / height
        columns = (jnp.arange(width) - width / 2) / width
        both = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), axis=-1)
        return both[None].astype(self.dtype)

    def _embedded(self, tokens: Array) -> Array:
        x = self.token_embedding(tokens)
        # A whole map on every device: convolutions of a divided one would be computed wrongly.
        return nn.with_logical_constraint(x, ("batch", None, None, None))

    def _logits(self, x: Array) -> Array:
        return self.head_logit(nn.elu(x)).astype(jnp.float32)


def at_place(x: Array, place: Place) -> Array:
    """Returns [B, 1, 1, C], what a map [B, h, w, C] holds at a place."""
    return jax.lax.dynamic_slice(x, (0, *place, 0), (len(x), 1, 1, x.shape[-1]))


def _in_order(x: Array) -> Array:
    return x.reshape(len(x), -1, x.shape[-1])


def _everywhere(coordinates: Array, x: Array) -> Array:
    return jnp.broadcast_to(coordinates, (*x.shape[:3], coordinates.shape[-1]))
