"""The VQ-VAE of van den Oord et al.: strided convolutions, a few residual blocks, no norms.

VQ-VAE-2 and the VAE use its encoder and decoder too.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.quantizers.vector import Quantized, VectorQuantizer


class ResidualStack(nn.Module):
    """Blocks of ReLU, 3x3, ReLU, 1x1 around a shortcut, then ReLU: [B, H, W, C], same shape.

    Attributes:
        residual_filters: Channels between the two convolutions of a block.
        num_blocks: Number of blocks.
        remat: Recompute blocks in the backward pass instead of storing them.
        dtype: Type of the activations.
    """

    residual_filters: int
    num_blocks: int
    remat: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        block = nn.remat(ResidualUnit) if self.remat else ResidualUnit
        for number in range(self.num_blocks):
            x = block(self.residual_filters, self.dtype, name=f"block_{number}")(x)
        return nn.relu(x)


class ResidualUnit(nn.Module):
    """One block of `ResidualStack`."""

    residual_filters: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = conv(self.residual_filters, 3, self.dtype, "conv1")(nn.relu(x))
        return x + conv(x.shape[-1], 1, self.dtype, "conv2")(nn.relu(h))


def conv(features: int, size: int, dtype: str, name: str) -> nn.Conv:
    """Returns a convolution that preserves the sides."""
    return nn.Conv(features, (size, size), padding="SAME", dtype=dtype, name=name)


class StridedEncoder(nn.Module):
    """Halves the sides `num_downsamplings` times: [B, H, W, C] -> [B, h, w, filters].

    4x4 convolutions of stride 2 (the first with half the channels), one 3x3, residual blocks. The
    attributes are those of `VQVAE`.
    """

    filters: int
    residual_filters: int
    num_residual_blocks: int
    num_downsamplings: int
    remat: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for number in range(self.num_downsamplings):
            width = max(1, self.filters // 2) if number == 0 else self.filters
            name = f"conv_down{number}"
            x = nn.Conv(width, (4, 4), (2, 2), padding="SAME", dtype=self.dtype, name=name)(x)
            x = nn.relu(x)
        x = conv(self.filters, 3, self.dtype, "conv_out")(x)
        return ResidualStack(
            self.residual_filters, self.num_residual_blocks, self.remat, self.dtype, name="stack"
        )(x)


class StridedDecoder(nn.Module):
    """Doubles the sides `num_upsamplings` times: [B, h, w, D] -> [B, H, W, features].

    The mirror of `StridedEncoder`, with transposed 4x4 convolutions; the output is unbounded. At
    least one upsampling; the other attributes are those of `VQVAE`.
    """

    features: int
    filters: int
    residual_filters: int
    num_residual_blocks: int
    num_upsamplings: int
    remat: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = conv(self.filters, 3, self.dtype, "conv_in")(x)
        x = ResidualStack(
            self.residual_filters, self.num_residual_blocks, self.remat, self.dtype, name="stack"
        )(x)
        for number in range(1, self.num_upsamplings):
            last_but_one = number == self.num_upsamplings - 1
            width = max(1, self.filters // 2) if last_but_one else self.filters
            x = nn.relu(upsample(width, self.dtype, f"conv_up{number}")(x))
        return upsample(self.features, self.dtype, "conv_out")(x)


def upsample(features: int, dtype: str, name: str | None = None) -> nn.ConvTranspose:
    """Returns a transposed 4x4 convolution that doubles the sides."""
    return nn.ConvTranspose(features, (4, 4), (2, 2), padding="SAME", dtype=dtype, name=name)


class VQVAE(nn.Module):
    """Encoder, vector quantizer and decoder with one token map.

    Attributes:
        channels: Channels of the images.
        filters: Channels of encoder and decoder.
        residual_filters: Channels inside the residual blocks.
        num_residual_blocks: Residual blocks of encoder and of decoder.
        num_downsamplings: Each halves the sides; images must be multiples of 2 to this power.
        codebook_size: K.
        codebook_dim: D.
        beta: Weight of the commitment loss.
        codebook_update: One of `quantizers.vector.CODEBOOK_UPDATES`.
        remat: Recompute residual blocks in the backward pass instead of storing them.
        dtype: Type of the activations; the codebook is always float32.

    Source: van den Oord et al. 2017, VQ-VAE, section 4.1 (all 256 channels); the widths that
    start at half and the 3x3 convolutions next to the stacks are those of its authors' example
    in google-deepmind/sonnet, examples/vqvae_example.ipynb.
    """

    channels: int = 3
    filters: int = 128
    residual_filters: int = 32
    num_residual_blocks: int = 2
    num_downsamplings: int = 2
    codebook_size: int = 512
    codebook_dim: int = 64
    beta: float = 0.25
    codebook_update: str = "ema"
    remat: bool = False
    dtype: str = "float32"

    def setup(self) -> None:
        """Declares the submodules."""
        parts: dict[str, Any] = dict(
            filters=self.filters,
            residual_filters=self.residual_filters,
            num_residual_blocks=self.num_residual_blocks,
            remat=self.remat,
            dtype=self.dtype,
        )
        self.encoder = StridedEncoder(num_downsamplings=self.num_downsamplings, **parts)
        self.to_codes = nn.Conv(self.codebook_dim, (1, 1), dtype=self.dtype)
        self.quantizer = VectorQuantizer(
            self.codebook_size, self.codebook_dim, self.beta, self.codebook_update
        )
        self.decoder = StridedDecoder(
            self.channels, num_upsamplings=self.num_downsamplings, **parts
        )

    def __call__(self, image: Array) -> tuple[Array, Quantized]:
        """Returns the reconstruction [B, H, W, C] and the quantized latents."""
        quantized = self.quantize(self.latents(image))
        return self.to_image(quantized.codes), quantized

    def latents(self, image: Array) -> Array:
        """Returns latents before quantization, float32 [B, h, w, D]."""
        return self.to_codes(self.encoder(image)).astype(jnp.float32)

    def quantize(self, latents: Array) -> Quantized:
        """Returns the nearest codes of latents [B, h, w, D]."""
        return self.quantizer(latents)

    def to_image(self, codes: Array) -> Array:
        """Returns images [B, H, W, C], float32, about [-1, 1], of codes [B, h, w, D]."""
        return self.decoder(codes).astype(jnp.float32)

    def encode(self, image: Array) -> Array:
        """Returns tokens int32 [B, h, w]."""
        return self.quantizer.nearest(self.latents(image))

    def lookup(self, tokens: Array) -> Array:
        """Returns the codes [..., D] of tokens int32 [...]."""
        return self.quantizer.lookup(tokens)

    def decode(self, tokens: Array) -> Array:
        """Returns images [B, H, W, C] of tokens int32 [B, h, w]."""
        return self.to_image(self.lookup(tokens))
