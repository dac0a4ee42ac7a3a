"""Convolutions that see only what comes before a place, for whole maps and place by place."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array

Place = tuple[Array, Array]
"""Row and column, int32 scalars that may be traced."""


class ShiftedConv(nn.Module):
    """Convolution over the places in a rectangle of offsets: [B, h, w, C] -> [B, h, w, features].

    What lies outside of the map counts as zeros. With rows (-1, -1) and columns (-1, 1) an
    output sees the three places above; with rows (0, 0) and columns (-1, 0) itself and its left
    neighbour; with rows (-1, 0), columns (-1, 1) and `masked` 1 both, which is the masked
    convolution of PixelCNN.

    Given a memory, a module computes a block of the map only, from what it has been given so
    far: the memory is the padded input map, written in place.

    Attributes:
        in_features: Channels of the input.
        features: Channels of the output.
        rows: First and last offset of the rows, both seen; the first is not positive.
        columns: First and last offset of the columns; the first is not positive.
        masked: How many of the last row's offsets, counted from the right, are not seen.
        dtype: Type of the activations.
    """

    in_features: int
    features: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    masked: int = 0
    dtype: str = "float32"

    def setup(self) -> None:
        if self.rows[0] > 0 or self.columns[0] > 0:
            raise ValueError(f"offsets {self.rows}, {self.columns} begin behind the place itself")
        self._size = tuple(last - first + 1 for first, last in (self.rows, self.columns))
        shape = (*self._size, self.in_features, self.features)
        self.kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        self.bias = self.param("bias", nn.initializers.zeros, (self.features,))

    def __call__(
        self, x: Array, memory: Array | None = None, place: Place | None = None
    ) -> tuple[Array, Array | None]:
        """Returns the output of a whole map and None, or of a block and the next memory.

        Args:
            x: The whole input, or a block [B, a, b, C] of it.
            memory: As `empty_memory` or an earlier call gave it.
            place: Where the block begins.
        """
        if memory is None:
            return self._convolve(self._visible(jnp.pad(x, self._padding()), x.shape[1:3])), None
        memory = self.store(memory, x, place)
        return self.read(memory, place, x.shape[1:3]), memory

    def empty_memory(self, batch: int, grid: tuple[int, int]) -> Array:
        """Returns the memory before anything is known of a map of h x w places."""
        return jnp.pad(jnp.zeros((batch, *grid, self.in_features), self.dtype), self._padding())

    def store(self, memory: Array, x: Array, place: Place) -> Array:
        """Returns the memory with the block `x` [B, a, b, C] written at `place`."""
        row, column = place[0] - min(0, self.rows[0]), place[1] - min(0, self.columns[0])
        return jax.lax.dynamic_update_slice(memory, x.astype(memory.dtype), (0, row, column, 0))

    def read(self, memory: Array, place: Place, shape: tuple[int, int]) -> Array:
        """Returns the output [B, *shape, features] of the block that begins at `place`."""
        batch, _, _, channels = memory.shape
        size = [extent + own - 1 for extent, own in zip(shape, self._size, strict=True)]
        start = (0, place[0], place[1], 0)
        return self._convolve(
            jax.lax.dynamic_slice(memory, start, (batch, *size, channels))
        )  # [B, a, b, features]

    def _padding(self) -> list[tuple[int, int]]:
        sides = [(max(0, -first), max(0, last)) for first, last in (self.rows, self.columns)]
        return [(0, 0), *sides, (0, 0)]

    def _visible(self, padded: Array, grid: tuple[int, int]) -> Array:
        height, width = (extent + own - 1 for extent, own in zip(grid, self._size, strict=True))
        return padded[:, :height, :width]

    def _convolve(self, x: Array) -> Array:
        kernel = self.kernel
        if self.masked:
            height, width = self._size
            hidden = jnp.arange(height * width) >= height * width - self.masked
            kernel = jnp.where(hidden.reshape(height, width, 1, 1), 0.0, kernel)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.bias.astype(self.dtype)[None, None, None]


def gated(x: Array) -> Array:
    """Returns tanh(a) * sigmoid(b) of the halves a, b of the channels [..., 2C] -> [..., C].

    Source: van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders, eq. 2.
    """
    content, gate = jnp.split(x, 2, axis=-1)
    return jnp.tanh(content) * nn.sigmoid(gate)
