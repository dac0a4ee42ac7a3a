"""Causal convolutions over token maps, for whole maps and position by position."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array

Grid = tuple[int, int]
Position = tuple[Array, Array]
"""Row and column, int32 scalars that may be traced."""


class ShiftedConv(nn.Module):
    """Convolution over a rectangle of offsets: [B, h, w, C] -> [B, h, w, features].

    Positions outside of the map are zeros. With rows (-1, -1) and columns (-1, 1) an output
    sees the three positions above; with rows (0, 0) and columns (-1, 0) itself and its left
    neighbour; with rows (-1, 0), columns (-1, 1) and `masked` 1 both, which is the masked
    convolution of PixelCNN.

    With a cache, a call computes one block of the map from the inputs so far. The cache is the
    padded input map, updated in place.

    Attributes:
        in_features: Channels of the input.
        features: Channels of the output.
        rows: First and last row offset, inclusive; the first is not positive.
        columns: First and last column offset, inclusive; the first is not positive.
        masked: Number of the last row's offsets, counted from the right, that are masked.
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
            raise ValueError(f"offsets {self.rows}, {self.columns} must begin at 0 or before")
        self.kernel_size = tuple(last - first + 1 for first, last in (self.rows, self.columns))
        shape = (*self.kernel_size, self.in_features, self.features)
        self.kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        self.bias = self.param("bias", nn.initializers.zeros, (self.features,))

    def __call__(
        self, x: Array, cache: Array | None = None, position: Position | None = None
    ) -> tuple[Array, Array | None]:
        """Returns the output of a whole map and None, or of a block and the updated cache.

        Args:
            x: The whole input, or a block [B, a, b, C] of it.
            cache: As returned by `init_cache` or an earlier call.
            position: Where the block begins; required with a cache.
        """
        shape = (x.shape[1], x.shape[2])
        if cache is None or position is None:
            height, width = self._input_size(shape)
            return self._convolve(jnp.pad(x, self._padding())[:, :height, :width]), None
        cache = self.update_cache(cache, x, position)
        return self.convolve_cache(cache, position, shape), cache

    def init_cache(self, batch: int, grid: Grid) -> Array:
        """Returns the empty cache of a map of h x w positions."""
        return jnp.pad(jnp.zeros((batch, *grid, self.in_features), self.dtype), self._padding())

    def update_cache(self, cache: Array, x: Array, position: Position) -> Array:
        """Returns the cache with the block `x` [B, a, b, C] written at `position`."""
        row, column = position[0] - min(0, self.rows[0]), position[1] - min(0, self.columns[0])
        return jax.lax.dynamic_update_slice(cache, x.astype(cache.dtype), (0, row, column, 0))

    def convolve_cache(self, cache: Array, position: Position, shape: Grid) -> Array:
        """Returns the output [B, *shape, features] of the block that begins at `position`."""
        batch, _, _, channels = cache.shape
        size = (batch, *self._input_size(shape), channels)
        return self._convolve(jax.lax.dynamic_slice(cache, (0, *position, 0), size))

    def _padding(self) -> list[tuple[int, int]]:
        sides = [(max(0, -first), max(0, last)) for first, last in (self.rows, self.columns)]
        return [(0, 0), *sides, (0, 0)]

    def _input_size(self, shape: Grid) -> Grid:
        """Returns the rows and columns of the padded input that a block of outputs depends on."""
        return shape[0] + self.kernel_size[0] - 1, shape[1] + self.kernel_size[1] - 1

    def _convolve(self, x: Array) -> Array:
        kernel = self.kernel
        if self.masked:
            height, width = self.kernel_size
            masked = jnp.arange(height * width) >= height * width - self.masked
            kernel = jnp.where(masked.reshape(height, width, 1, 1), 0.0, kernel)
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
