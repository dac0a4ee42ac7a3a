"""Gated PixelCNN over token maps: two stacks of convolutions, without a blind spot."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint

from maskgit_jax.arrays import Array
from maskgit_jax.networks.causal import Grid, ShiftedConv, gated
from maskgit_jax.stage import Layout


class LayerCache(NamedTuple):
    """State of one layer during sampling.

    Attributes:
        vertical: Cache of the vertical convolution.
        horizontal: Cache of the horizontal convolution.
        link: Input of the horizontal from the vertical stack in the current row, [B, 1, w, 2C].
    """

    vertical: Array
    horizontal: Array
    link: Array


class PixelCNNCache(NamedTuple):
    """State of sampling.

    Attributes:
        label: int32 [B].
        row: Embedded tokens of the last w positions by column, [B, 1, w, C].
        layers: State of each layer.
    """

    label: Array
    row: Array
    layers: tuple[LayerCache, ...]


class GatedLayer(nn.Module):
    """One layer of both stacks, of `features` channels each.

    The vertical stack sees all rows above a position, the horizontal stack also the positions
    to the left in the same row; only the first layer excludes the position itself. The class
    is added inside both gates.

    Attributes:
        features: C.
        kernel_radius: Positions that a convolution reaches to each side.
        first: Whether the input are the embedded tokens.
        num_classes: Labels are 0 .. num_classes - 1.
        dtype: Type of the activations.

    Source: van den Oord et al. 2016, arXiv 1606.05328, figure 2 and eq. 4.
    """

    features: int
    kernel_radius: int
    first: bool
    num_classes: int
    dtype: str

    def setup(self) -> None:
        radius, last = self.kernel_radius, -1 if self.first else 0
        sizes = (self.features, 2 * self.features)
        self.conv_vertical = ShiftedConv(
            *sizes, (-radius, last), (-radius, radius), dtype=self.dtype
        )
        self.conv_horizontal = ShiftedConv(*sizes, (0, 0), (-radius, last), dtype=self.dtype)
        self.mix_link = nn.Dense(2 * self.features, dtype=self.dtype)
        self.mix_out = nn.Dense(self.features, dtype=self.dtype)
        self.class_vertical = nn.Embed(self.num_classes, 2 * self.features, dtype=self.dtype)
        self.class_horizontal = nn.Embed(self.num_classes, 2 * self.features, dtype=self.dtype)

    def vertical(self, convolved: Array, label: Array) -> Array:
        """Returns the output of the vertical stack from that of its convolution."""
        return gated(convolved + self.class_vertical(label)[:, None, None])

    def horizontal(self, convolved: Array, link: Array, x: Array, label: Array) -> Array:
        """Returns the output of the horizontal stack.

        Args:
            convolved: Output of the horizontal convolution.
            link: `mix_link` of the output of the vertical convolution.
            x: The layer's input; all but the first layer have a residual connection.
            label: int32 [B].
        """
        h = self.mix_out(gated(convolved + link + self.class_horizontal(label)[:, None, None]))
        return h if self.first else x + h


class PixelCNN(nn.Module):
    """Gated PixelCNN over a token map, rows first.

    Attributes:
        codebook_size: K.
        num_classes: Labels are 0 .. num_classes - 1.
        grid: Rows and columns (h, w) of the token map; L = h*w.
        features: C, channels of each stack.
        num_layers: Layers, the first one included.
        kernel_radius: Positions that a convolution reaches to each side: 1 for "3x3".
        head_features: Channels before the logits.
        dropout_rate: Dropout rate between the layers of the horizontal stack.
        dtype: Type of the activations; logits are float32.

    Source: van den Oord et al. 2016, arXiv 1606.05328; on codes as in van den Oord et al. 2017,
    arXiv 1711.00937, section 4.2. The vertical stack excludes its own row in its first layer
    instead of being shifted before every link; the receptive field is the same.
    """

    codebook_size: int
    num_classes: int
    grid: Grid
    features: int = 128
    num_layers: int = 12
    kernel_radius: int = 1
    head_features: int = 512
    dropout_rate: float = 0.0
    dtype: str = "float32"

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """What the entries of embeddings and logits stand for, see `Stage`."""
        codes = {"codes": self.codebook_size}
        return (
            Layout("token_embedding/embedding", 0, codes),
            Layout(r"class_\w+/embedding", 0, {"classes": self.num_classes}),
            Layout("head_logit/(kernel|bias)", -1, codes),
        )

    def setup(self) -> None:
        self.token_embedding = nn.Embed(self.codebook_size, self.features, dtype=self.dtype)
        self.gated_layers = [
            GatedLayer(self.features, self.kernel_radius, number == 0, self.num_classes, self.dtype)
            for number in range(self.num_layers)
        ]
        self.dropout = nn.Dropout(self.dropout_rate)
        self.mix_head = nn.Dense(self.head_features, dtype=self.dtype)
        self.head_logit = nn.Dense(self.codebook_size, dtype=self.dtype)

    def __call__(
        self, tokens: Array, label: Array, condition: None = None, train: bool = False
    ) -> Array:
        """Returns logits float32 [B, L, K]; each position depends on earlier tokens only.

        Args:
            tokens: int32 [B, L], 0 .. K-1.
            label: int32 [B].
            condition: None; the class is the only condition.
            train: Whether dropout is active.
        """
        del condition
        chex.assert_shape(tokens, (len(label), self.grid[0] * self.grid[1]))
        vertical = horizontal = self._embed(tokens.reshape(-1, *self.grid))  # [B, h, w, C]
        for layer in self.gated_layers:
            above, _ = layer.conv_vertical(vertical)
            left, _ = layer.conv_horizontal(horizontal)
            horizontal = layer.horizontal(left, layer.mix_link(above), horizontal, label)
            if layer is not self.gated_layers[-1]:
                vertical = layer.vertical(above, label)
            horizontal = self.dropout(horizontal, deterministic=not train)
        return self._logits(horizontal).reshape(*tokens.shape, -1)

    def init_cache(self, label: Array, condition: None = None) -> PixelCNNCache:
        """Returns the cache before the first token."""
        del condition
        batch, width = len(label), self.grid[1]
        layers = tuple(
            LayerCache(
                layer.conv_vertical.init_cache(batch, self.grid),
                layer.conv_horizontal.init_cache(batch, self.grid),
                jnp.zeros((batch, 1, width, 2 * self.features), self.dtype),
            )
            for layer in self.gated_layers
        )
        return PixelCNNCache(label, jnp.zeros((batch, 1, width, self.features), self.dtype), layers)

    def decode_step(
        self, cache: PixelCNNCache, previous: Array, index: Array
    ) -> tuple[Array, PixelCNNCache]:
        """Returns logits float32 [B, K] of position `index`, and the updated cache.

        The vertical stack is evaluated once for each row, the horizontal one at each position.

        Args:
            cache: From `init_cache` or the step before.
            previous: Token at index - 1, int32 [B]; ignored at index 0.
            index: int32 scalar; successive calls count up from 0.
        """
        position = jnp.divmod(index, self.grid[1])
        before = jnp.divmod(jnp.maximum(index - 1, 0), self.grid[1])
        token = jnp.where(index == 0, 0.0, self._embed(previous[:, None, None]))  # [B, 1, 1, C]
        row = jax.lax.dynamic_update_slice(cache.row, token, (0, 0, before[1], 0))
        cache = nn.cond(
            position[1] == 0,
            lambda model, cache: model._begin_row(cache, position[0]),
            lambda _, cache: cache,
            self,
            cache._replace(row=row),
        )
        x, layers = token, []
        for layer, old in zip(self.gated_layers, cache.layers, strict=True):
            conv = layer.conv_horizontal
            horizontal = conv.update_cache(old.horizontal, x, before if layer.first else position)
            left = conv.convolve_cache(horizontal, position, (1, 1))
            link = jax.lax.dynamic_slice_in_dim(old.link, position[1], 1, axis=2)
            x = layer.horizontal(left, link, x, cache.label)
            layers.append(old._replace(horizontal=horizontal))
        return self._logits(x)[:, 0, 0], cache._replace(layers=tuple(layers))

    def _begin_row(self, cache: PixelCNNCache, row: Array) -> PixelCNNCache:
        """Returns the cache with the vertical stack of a row, given the tokens of all rows above.

        The first layer reads the row above. For row 0 that row is zeros, which overwrite the
        zeros of the padding.
        """
        start, start_above = (row, jnp.zeros_like(row)), (row - 1, jnp.zeros_like(row))
        x, layers = cache.row, []
        for layer, old in zip(self.gated_layers, cache.layers, strict=True):
            conv = layer.conv_vertical
            vertical = conv.update_cache(old.vertical, x, start_above if layer.first else start)
            above = conv.convolve_cache(vertical, start, (1, self.grid[1]))
            layers.append(old._replace(vertical=vertical, link=layer.mix_link(above)))
            if layer is not self.gated_layers[-1]:
                x = layer.vertical(above, cache.label)
        return cache._replace(layers=tuple(layers))

    def _embed(self, tokens: Array) -> Array:
        x = self.token_embedding(tokens)
        # Unsharded maps: the convolutions of a sharded map would be wrong.
        return with_logical_constraint(x, ("batch", None, None, None))

    def _logits(self, x: Array) -> Array:
        x = nn.relu(self.mix_head(nn.relu(x)))
        return self.head_logit(x).astype(jnp.float32)
