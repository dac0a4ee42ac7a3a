"""Gated PixelCNN over token maps: two stacks of convolutions, without a blind spot."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.networks.causal import ShiftedConv, gated


class LayerMemory(NamedTuple):
    """What sampling remembers of a layer.

    Attributes:
        vertical: Memory of the vertical convolution.
        horizontal: Memory of the horizontal convolution.
        linked: What the vertical stack tells each place of the current row, [B, 1, w, 2C].
    """

    vertical: Array
    horizontal: Array
    linked: Array


class PixelCNNMemory(NamedTuple):
    """What sampling remembers: the class [B], the row before [B, 1, w, C], and each layer's."""

    label: Array
    row: Array
    layers: tuple[LayerMemory, ...]


class GatedLayer(nn.Module):
    """One layer of both stacks, of `features` channels each.

    The vertical stack of a place sees all rows above it, the horizontal one also its own row
    on the left; only the first layer leaves the place itself out. The class is added inside
    both gates.

    Attributes:
        features: C.
        kernel_radius: Places that a convolution reaches to each side.
        first: Whether the input are the tokens themselves.
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
        sides, own = (-self.kernel_radius, self.kernel_radius), -1 if self.first else 0
        pair = (self.features, 2 * self.features)
        self.conv_vertical = ShiftedConv(*pair, (-self.kernel_radius, own), sides, dtype=self.dtype)
        self.conv_horizontal = ShiftedConv(
            *pair, (0, 0), (-self.kernel_radius, own), dtype=self.dtype
        )
        self.mix_link = nn.Dense(2 * self.features, dtype=self.dtype)
        self.mix_out = nn.Dense(self.features, dtype=self.dtype)
        self.class_vertical = nn.Embed(self.num_classes, 2 * self.features, dtype=self.dtype)
        self.class_horizontal = nn.Embed(self.num_classes, 2 * self.features, dtype=self.dtype)

    def vertical(self, before_gate: Array, label: Array) -> Array:
        """Returns the vertical stack's output."""
        return gated(before_gate + self.class_vertical(label)[:, None, None])

    def link(self, before_gate: Array) -> Array:
        """Returns what the vertical stack tells the horizontal one, from before its gate."""
        return self.mix_link(before_gate)

    def horizontal(self, seen: Array, linked: Array, x: Array, label: Array) -> Array:
        """Returns the horizontal stack's output.

        Args:
            seen: Of the horizontal convolution.
            linked: Of `link`.
            x: The layer's input, added to its output but in the first layer.
            label: int32 [B].
        """
        h = self.mix_out(gated(seen + linked + self.class_horizontal(label)[:, None, None]))
        return h if self.first else x + h


class PixelCNN(nn.Module):
    """Gated PixelCNN: tokens to logits of each from those before it, rows first.

    Attributes:
        codebook_size: K.
        num_classes: Labels are 0 .. num_classes - 1.
        grid: Rows and columns (h, w) of the token map; L = h*w.
        features: C, channels of each stack.
        num_layers: Layers, the first one included.
        kernel_radius: Places that a convolution reaches to each side: 1 for "3x3".
        head_features: Channels before the logits.
        dropout_rate: Between the layers of the horizontal stack.
        dtype: Type of the activations; logits are float32.

    Source: van den Oord et al. 2016, arXiv 1606.05328; on codes as in van den Oord et al. 2017,
    arXiv 1711.00937, section 4.2. The vertical stack leaves its own row out in its first layer
    instead of being shifted before every link; what a place sees is the same.
    """

    codebook_size: int
    num_classes: int
    grid: tuple[int, int]
    features: int = 128
    num_layers: int = 12
    kernel_radius: int = 1
    head_features: int = 512
    dropout_rate: float = 0.0
    dtype: str = "float32"

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
        """Returns logits float32 [B, L, K]; those of a place depend on the tokens before it only.

        Args:
            tokens: int32 [B, L], 0 .. K-1.
            label: int32 [B].
            condition: None; there is no other condition.
            train: Whether dropout acts.
        """
        del condition
        chex.assert_shape(tokens, (len(label), self.grid[0] * self.grid[1]))
        vertical = horizontal = self._embedded(tokens.reshape(-1, *self.grid))  # [B, h, w, C]
        for layer in self.gated_layers:
            before_gate, _ = layer.conv_vertical(vertical)
            seen, _ = layer.conv_horizontal(horizontal)
            horizontal = layer.horizontal(seen, layer.link(before_gate), horizontal, label)
            if layer is not self.gated_layers[-1]:  # behind the last one nobody looks
                vertical = layer.vertical(before_gate, label)
            horizontal = self.dropout(horizontal, deterministic=not train)
        return self._logits(horizontal).reshape(*tokens.shape, -1)

    def begin(self, label: Array, condition: None = None) -> PixelCNNMemory:
        """Returns the memory before the first token."""
        del condition
        batch, width = len(label), self.grid[1]
        layers = tuple(
            LayerMemory(
                layer.conv_vertical.empty_memory(batch, self.grid),
                layer.conv_horizontal.empty_memory(batch, self.grid),
                jnp.zeros((batch, 1, width, 2 * self.features), self.dtype),
            )
            for layer in self.gated_layers
        )
        return PixelCNNMemory(
            label, jnp.zeros((batch, 1, width, self.features), self.dtype), layers
        )

    def step(
        self, memory: PixelCNNMemory, previous: Array, index: Array
    ) -> tuple[Array, PixelCNNMemory]:
        """Returns logits float32 [B, K] of place `index`, and the next memory.

        The vertical stack is computed once for each row, the horizontal one place by place.

        Args:
            memory: Of `begin` or of the step before.
            previous: Token at index - 1, int32 [B]; ignored at the first place.
            index: int32 scalar, one after another from 0 on.
        """
        place = jnp.divmod(index, self.grid[1])
        before = jnp.divmod(jnp.maximum(index - 1, 0), self.grid[1])
        token = jnp.where(index == 0, 0.0, self._embedded(previous[:, None, None]))  # [B, 1, 1, C]
        row = jax.lax.dynamic_update_slice(memory.row, token, (0, 0, before[1], 0))
        memory = nn.cond(
            place[1] == 0,
            lambda own, memory: own._next_row(memory, place[0]),
            lambda _, memory: memory,
            self,
            memory._replace(row=row),
        )
        x, layers = token, []
        for layer, old in zip(self.gated_layers, memory.layers, strict=True):
            conv = layer.conv_horizontal
            stored = conv.store(old.horizontal, x, before if layer.first else place)
            linked = jax.lax.dynamic_slice_in_dim(old.linked, place[1], 1, axis=2)
            x = layer.horizontal(conv.read(stored, place, (1, 1)), linked, x, memory.label)
            layers.append(old._replace(horizontal=stored))
        return self._logits(x)[:, 0, 0], memory._replace(layers=tuple(layers))

    def _next_row(self, memory: PixelCNNMemory, row: Array) -> PixelCNNMemory:
        """Returns the memory with the vertical stack of a row, for which all rows above are known.

        The first layer's input ends in the row above: of row 0 that is a row of zeros, which is
        written where the zeros outside of the map are.
        """
        own, above = (row, jnp.zeros_like(row)), (row - 1, jnp.zeros_like(row))
        vertical, layers = memory.row, []
        for layer, old in zip(self.gated_layers, memory.layers, strict=True):
            conv = layer.conv_vertical
            stored = conv.store(old.vertical, vertical, above if layer.first else own)
            before_gate = conv.read(stored, own, (1, self.grid[1]))
            layers.append(old._replace(vertical=stored, linked=layer.link(before_gate)))
            if layer is not self.gated_layers[-1]:
                vertical = layer.vertical(before_gate, memory.label)
        return memory._replace(layers=tuple(layers))

    def _embedded(self, tokens: Array) -> Array:
        x = self.token_embedding(tokens)
        # A whole map on every device: convolutions of a divided one would be computed wrongly.
        return nn.with_logical_constraint(x, ("batch", None, None, None))

    def _logits(self, x: Array) -> Array:
        x = nn.relu(self.mix_head(nn.relu(x)))
        return self.head_logit(x).astype(jnp.float32)
