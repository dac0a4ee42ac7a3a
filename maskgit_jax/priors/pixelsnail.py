"""PixelSNAIL-type prior of VQ-VAE-2: gated causal convolutions and causal attention."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint

from maskgit_jax.arrays import Array
from maskgit_jax.networks.causal import Grid, Position, ShiftedConv
from maskgit_jax.networks.gated import CausalAttention, ConvCaches, GatedResidual
from maskgit_jax.networks.transformer import KVCache
from maskgit_jax.stage import Layout, split_levels


class AttentionCache(NamedTuple):
    """State of a block's attention during sampling.

    Attributes:
        kv: Keys and values of the positions so far.
        features: Input features [B, 1, 1, C] of the position before; its key and value follow
            once its token is known.
    """

    kv: KVCache
    features: Array


class BlockCache(NamedTuple):
    """State of a block during sampling: its gated residual layers, and its attention if any."""

    residuals: tuple[ConvCaches, ...]
    attention: AttentionCache | None


class PixelSNAILCache(NamedTuple):
    """State of sampling.

    Attributes:
        condition: Features of class and coarser levels, [B, h or 1, w or 1, C].
        first: Cache of the first convolution.
        blocks: State of each block.
    """

    condition: Array
    first: Array
    blocks: tuple[BlockCache, ...]


class Block(nn.Module):
    """Gated residual layers, then attention: [B, h, w, C].

    Keys and values depend on the tokens, the features and the coordinates; queries on the
    features and the coordinates.

    Attributes:
        features: C.
        hidden_channels: Channels inside the residual layers.
        num_layers: Residual layers.
        kernel_radius: Kernel radius of their convolutions.
        num_heads: Attention heads; 0 for no attention.
        dropout_rate: Dropout rate of residual layers and attention weights.
        dtype: Type of the activations.

    Source: Chen et al. 2017, PixelSNAIL, section 2.3; pixelsnail-public model.py: raw input,
    features and background form the keys.
    """

    features: int
    hidden_channels: int
    num_layers: int
    kernel_radius: int
    num_heads: int
    dropout_rate: float
    dtype: str

    def setup(self) -> None:
        sizes = (self.features, self.hidden_channels)
        self.residuals = [
            GatedResidual(*sizes, self.kernel_radius, self.dropout_rate, False, self.dtype)
            for _ in range(self.num_layers)
        ]
        if self.num_heads:
            self.attention = CausalAttention(
                self.hidden_channels, self.num_heads, self.dropout_rate, self.dtype
            )
            self.after = GatedResidual(*sizes, 0, self.dropout_rate, True, self.dtype)

    def __call__(
        self, x: Array, tokens: Array, coordinates: Array, condition: Array, train: bool
    ) -> Array:
        """Returns the output [B, h, w, C] of a whole map.

        Args:
            x: [B, h, w, C].
            tokens: The embedded tokens, [B, h, w, C].
            coordinates: [1, h, w, 2].
            condition: See `GatedResidual`.
            train: Whether dropout is active.
        """
        for layer in self.residuals:
            x, _ = layer(x, condition, None, train)
        if not self.num_heads:
            return x
        inputs_q, inputs_kv = _sequence(x, coordinates), _sequence(tokens, x, coordinates)
        attended = self.attention(inputs_q, inputs_kv, train)
        return self.after(x, condition, attended.reshape(*x.shape[:3], -1), train)[0]

    def init_cache(self, batch: int, grid: Grid) -> BlockCache:
        """Returns the cache before the first token."""
        residuals = tuple(layer.init_cache(batch, grid) for layer in self.residuals)
        if not self.num_heads:
            return BlockCache(residuals, None)
        features = jnp.zeros((batch, 1, 1, self.features), self.dtype)
        kv = self.attention.init_cache(batch, grid[0] * grid[1])
        return BlockCache(residuals, AttentionCache(kv, features))

    def decode_step(
        self,
        x: Array,
        token: Array,
        coordinates: Array,
        condition: Array,
        cache: BlockCache,
        index: Array,
    ) -> tuple[Array, BlockCache]:
        """Returns the output [B, 1, 1, C] of position `index`, and the updated cache.

        Args:
            x: The input at this position, [B, 1, 1, C].
            token: The embedded token of the position before, [B, 1, 1, C].
            coordinates: Coordinates of the whole map, [1, h, w, 2].
            condition: The condition at this position.
            cache: From `init_cache` or the step before.
            index: int32 scalar.
        """
        width = coordinates.shape[2]
        position, residuals = jnp.divmod(index, width), []
        for layer, old in zip(self.residuals, cache.residuals, strict=True):
            x, new = layer(x, condition, cache=old, position=position)
            residuals.append(new)
        if cache.attention is None:
            return x, BlockCache(tuple(residuals), None)
        kv, features = cache.attention
        # At index 0 this writes a key and a value that attention masks and index 1 overwrites.
        before = jnp.maximum(index - 1, 0)
        inputs_kv = _sequence(token, features, _at(coordinates, jnp.divmod(before, width)))
        kv = self.attention.update_cache(kv, inputs_kv, before)
        attended = self.attention.attend(_sequence(x, _at(coordinates, position)), kv, index)
        out, _ = self.after(x, condition, attended[:, None])
        return out, BlockCache(tuple(residuals), AttentionCache(kv, x))


class ConditioningStack(nn.Module):
    """Features [B, h, w, C] of the token maps of coarser levels, upsampled to a finer map.

    Attributes:
        codebook_size: K of the coarser levels.
        features: C.
        hidden_channels: Channels inside the residual layers.
        num_layers: Residual layers of 3x3 convolutions, which are not causal.
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
        """Returns the features of `grid` for tokens int32 [B, h', w'] of each coarser level."""
        embedded = []
        for number, tokens in enumerate(maps):
            name = f"embedding_{number}"
            x = nn.Embed(self.codebook_size, self.features, dtype=self.dtype, name=name)(tokens)
            scale = (grid[0] // tokens.shape[1], grid[1] // tokens.shape[2])
            embedded.append(jnp.repeat(jnp.repeat(x, scale[0], axis=1), scale[1], axis=2))
        x = jnp.concatenate(embedded, axis=-1)
        x = with_logical_constraint(x, ("batch", None, None, None))

        def conv(features: int, name: str) -> nn.Conv:
            return nn.Conv(features, (3, 3), padding=1, dtype=self.dtype, name=name)

        x = conv(self.features, "conv_in")(x)
        for number in range(self.num_layers):
            h = conv(self.hidden_channels, f"conv_{number}_1")(nn.elu(x))
            x = x + conv(self.features, f"conv_{number}_2")(nn.elu(h))
        return nn.elu(x)


class PixelSNAIL(nn.Module):
    """Prior of one level of tokens, given the class and the tokens of coarser levels.

    With attention a position sees all tokens before it. Without, its receptive field grows by
    `kernel_radius` columns to the right for every row above, as in one stack of masked
    convolutions; the coarser levels inform a bottom level about the rest.

    Attributes:
        codebook_size: K of this and of the coarser levels.
        num_classes: Labels are 0 .. num_classes - 1.
        grid: Rows and columns (h, w) of the token map; L = h*w.
        coarser_grids: Grids of the levels it depends on, coarsest first; each divides `grid`.
        features: C.
        hidden_channels: Channels inside the residual layers and of attention.
        num_blocks: Blocks.
        num_layers: Gated residual layers of each block.
        kernel_radius: Positions that a convolution reaches above and to each side.
        num_heads: Heads of the attention that ends each block; 0 for none, as in VQ-VAE-2's
            bottom level.
        num_output_layers: Gated residual 1x1 layers before the logits.
        num_condition_layers: Residual layers over the coarser levels.
        dropout_rate: Dropout rate of residual layers and attention weights.
        dtype: Type of the activations; logits are float32.

    Source: Chen et al. 2017, PixelSNAIL; Razavi et al. 2019, VQ-VAE-2, section 3.2 and appendix;
    rosinality/vq-vae-2-pytorch pixelsnail.py. Differs: embedded tokens instead of one-hot ones,
    no weight normalisation, and a plain softmax over codes as in all token priors.
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

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """What the entries of embeddings and logits stand for, see `Stage`."""
        codes = {"codes": self.codebook_size}
        return (
            Layout(r"(token_embedding|embedding_\d+)/embedding", 0, codes),
            Layout(r"class_\w+/embedding", 0, {"classes": self.num_classes}),
            Layout("head_logit/(kernel|bias)", -1, codes),
        )

    def setup(self) -> None:
        sizes, radius = (self.features, self.hidden_channels), self.kernel_radius
        self.token_embedding = nn.Embed(self.codebook_size, self.features, dtype=self.dtype)
        self.class_embedding = nn.Embed(self.num_classes, self.features, dtype=self.dtype)
        area = ((-radius, 0), (-radius, radius), radius + 1)
        self.conv_first = ShiftedConv(self.features, self.features, *area, dtype=self.dtype)
        self.blocks = [
            Block(*sizes, self.num_layers, radius, self.num_heads, self.dropout_rate, self.dtype)
            for _ in range(self.num_blocks)
        ]
        self.outputs = [
            GatedResidual(*sizes, 0, self.dropout_rate, False, self.dtype)
            for _ in range(self.num_output_layers)
        ]
        if self.coarser_grids:
            self.coarser = ConditioningStack(
                self.codebook_size, *sizes, self.num_condition_layers, self.dtype
            )
        self.head_logit = nn.Dense(self.codebook_size, dtype=self.dtype)

    def __call__(
        self, tokens: Array, label: Array, condition: Array | None = None, train: bool = False
    ) -> Array:
        """Returns logits float32 [B, L, K]; each position depends on earlier tokens only.

        Args:
            tokens: int32 [B, L], 0 .. K-1.
            label: int32 [B].
            condition: Tokens of the coarser levels, concatenated, int32 [B, Lc], or None.
            train: Whether dropout is active.
        """
        chex.assert_shape(tokens, (len(label), self.grid[0] * self.grid[1]))
        embedded = self._embed(tokens.reshape(-1, *self.grid))  # [B, h, w, C]
        coordinates, features = self._coordinates(), self._condition(label, condition)
        x, _ = self.conv_first(embedded)
        for block in self.blocks:
            x = block(x, embedded, coordinates, features, train)
        for layer in self.outputs:
            x, _ = layer(x, features, None, train)
        return self._logits(x).reshape(*tokens.shape, -1)

    def init_cache(self, label: Array, condition: Array | None = None) -> PixelSNAILCache:
        """Returns the cache before the first token; it holds the features of the condition."""
        batch = len(label)
        return PixelSNAILCache(
            self._condition(label, condition),
            self.conv_first.init_cache(batch, self.grid),
            tuple(block.init_cache(batch, self.grid) for block in self.blocks),
        )

    def decode_step(
        self, cache: PixelSNAILCache, previous: Array, index: Array
    ) -> tuple[Array, PixelSNAILCache]:
        """Returns logits float32 [B, K] of position `index`, and the updated cache.

        Args:
            cache: From `init_cache` or the step before.
            previous: Token at index - 1, int32 [B]; ignored at index 0.
            index: int32 scalar; successive calls count up from 0.
        """
        position = jnp.divmod(index, self.grid[1])
        before = jnp.divmod(jnp.maximum(index - 1, 0), self.grid[1])
        token = jnp.where(index == 0, 0.0, self._embed(previous[:, None, None]))  # [B, 1, 1, C]
        first = self.conv_first.update_cache(cache.first, token, before)
        x = self.conv_first.convolve_cache(first, position, (1, 1))
        condition = cache.condition
        if self.coarser_grids:
            condition = _at(condition, position)
        coordinates, blocks = self._coordinates(), []
        for block, old in zip(self.blocks, cache.blocks, strict=True):
            x, new = block.decode_step(x, token, coordinates, condition, old, index)
            blocks.append(new)
        for layer in self.outputs:
            x, _ = layer(x, condition)
        return self._logits(x)[:, 0, 0], PixelSNAILCache(cache.condition, first, tuple(blocks))

    def _condition(self, label: Array, coarser: Array | None) -> Array:
        condition = self.class_embedding(label)[:, None, None]  # [B, 1, 1, C]
        if not self.coarser_grids:
            return condition
        assert coarser is not None, "the network needs the tokens of the coarser levels"
        return condition + self.coarser(split_levels(coarser, self.coarser_grids), self.grid)

    def _coordinates(self) -> Array:
        """Returns row and column of each position from -1/2 to 1/2, [1, h, w, 2]."""
        height, width = self.grid
        rows = (jnp.arange(height) - height / 2) / height
        columns = (jnp.arange(width) - width / 2) / width
        both = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), axis=-1)
        return both[None].astype(self.dtype)

    def _embed(self, tokens: Array) -> Array:
        x = self.token_embedding(tokens)
        # Unsharded maps: the convolutions of a sharded map would be wrong.
        return with_logical_constraint(x, ("batch", None, None, None))

    def _logits(self, x: Array) -> Array:
        return self.head_logit(nn.elu(x)).astype(jnp.float32)


def _at(x: Array, position: Position) -> Array:
    """Returns the value [B, 1, 1, C] of a map [B, h, w, C] at a position."""
    return jax.lax.dynamic_slice(x, (0, *position, 0), (len(x), 1, 1, x.shape[-1]))


def _sequence(*maps: Array) -> Array:
    """Returns maps [B or 1, h, w, C], concatenated along C, as a sequence [B, h*w, C']."""
    shape = maps[0].shape[:3]
    x = jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in maps], axis=-1)
    return x.reshape(len(x), -1, x.shape[-1])
