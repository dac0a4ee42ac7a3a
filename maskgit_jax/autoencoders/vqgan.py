"""The VQGAN autoencoder, as in google-research/maskgit and as in taming-transformers.

Both are one residual pyramid; the options of `Layout` are the places where they differ.
Images are [B, H, W, C] in [-1, 1] (the official MaskGIT tokenizer takes [0, 1]).
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.autoencoders.quantizers import Quantized, VectorQuantizer
from maskgit_jax.networks.residual import (
    Downsample,
    ResidualBlock,
    SpatialAttention,
    Upsample,
    group_norm,
)


class Layout(NamedTuple):
    """Where the published VQGANs differ; the defaults are the official MaskGIT tokenizer.

    Attributes:
        residual_bias: Biases in residual blocks and in the encoder's first convolution.
        shortcut_from: "output" (published MaskGIT weights) or "input" (taming, magvit).
        downsample: "average" or "conv".
        mid_attention: Attention between the two blocks at the lowest resolution.
        attention_sizes: Side lengths (pixels) of the levels with attention after each block.
        extra_decoder_block: One more residual block in each level of the decoder.
        latent_width: Channels between the convolutions and the 1x1 projections around the
            quantizer (taming's z_channels); 0: no such projections.
    """

    residual_bias: bool = False
    shortcut_from: str = "output"
    downsample: str = "average"
    mid_attention: bool = False
    attention_sizes: tuple[int, ...] = ()
    extra_decoder_block: bool = False
    latent_width: int = 0


TAMING = Layout(
    residual_bias=True,
    shortcut_from="input",
    downsample="conv",
    mid_attention=True,
    attention_sizes=(16,),
    extra_decoder_block=True,
    latent_width=256,
)
LAYOUTS = {
    "maskgit": Layout(),
    "maskgit_fixed": Layout(shortcut_from="input"),  # magvit's repair of the shortcut
    "taming": TAMING,
}


class _Pyramid(nn.Module):
    """What encoder and decoder share; see `VQGAN` for the attributes."""

    filters: int
    multipliers: tuple[int, ...]
    blocks_per_level: int
    image_size: int
    layout: Layout
    remat: bool
    dtype: str

    def block(self, x: Array, features: int, name: str) -> Array:
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        layout = self.layout
        return block(
            features, layout.residual_bias, layout.shortcut_from, dtype=self.dtype, name=name
        )(x)

    def level(self, x: Array, index: int, num_blocks: int) -> Array:
        for number in range(num_blocks):
            x = self.block(x, self.filters * self.multipliers[index], f"level{index}_{number}")
            if self.image_size // 2**index in self.layout.attention_sizes:
                x = self.attention(x, f"level{index}_attention{number}")
        return x

    def middle(self, x: Array) -> Array:
        x = self.block(x, x.shape[-1], "mid_0")
        if self.layout.mid_attention:
            x = self.attention(x, "mid_attention")
        return self.block(x, x.shape[-1], "mid_1")

    def attention(self, x: Array, name: str) -> Array:
        return SpatialAttention(self.dtype, name=name)(x)

    def conv(self, features: int, size: int, name: str, bias: bool = True) -> nn.Conv:
        return nn.Conv(
            features, (size, size), padding=size // 2, use_bias=bias, dtype=self.dtype, name=name
        )


class Encoder(_Pyramid):
    """Images to latents before quantization: [B, H, W, C] -> [B, h, w, code_width]."""

    code_width: int = 256

    @nn.compact
    def __call__(self, image: Array) -> Array:
        layout = self.layout
        x = self.conv(self.filters, 3, "conv_in", layout.residual_bias)(image)
        for index in range(len(self.multipliers)):
            x = self.level(x, index, self.blocks_per_level)
            if index < len(self.multipliers) - 1:
                x = Downsample(layout.downsample, self.dtype, name=f"downsample{index}")(x)
        x = nn.silu(group_norm(x.shape[-1], self.dtype, "norm_out")(self.middle(x)))
        if layout.latent_width:
            x = self.conv(layout.latent_width, 3, "conv_out")(x)
        return self.conv(self.code_width, 1, "to_codes")(x)


class Decoder(_Pyramid):
    """Codes to the features before the last convolution: [B, h, w, D] -> [B, H, W, filters]."""

    @nn.compact
    def __call__(self, codes: Array) -> Array:
        layout = self.layout
        x = codes
        if layout.latent_width:
            x = self.conv(layout.latent_width, 1, "from_codes")(x)
        x = self.conv(self.filters * self.multipliers[-1], 3, "conv_in")(x)
        x = self.middle(x)
        for index in reversed(range(len(self.multipliers))):
            x = self.level(x, index, self.blocks_per_level + layout.extra_decoder_block)
            if index > 0:
                x = Upsample(self.dtype, name=f"upsample{index}")(x)
        return nn.silu(group_norm(x.shape[-1], self.dtype, "norm_out")(x))


class VQGAN(nn.Module):
    """Encoder, vector quantizer and decoder.

    Attributes:
        image_size: Side of the training images in pixels; decides where attention stands.
        channels: Of the images.
        filters: Channels of the highest resolution.
        multipliers: Channels of each level over `filters`; each further level halves the side.
        blocks_per_level: Residual blocks in each level.
        codebook_size: K.
        code_width: D.
        beta: Weight of the commitment loss.
        layout: Which published network; see `Layout`.
        remat: Recompute residual blocks in the backward pass instead of storing them.
        dtype: Type of the activations; the codebook is always float32.
    """

    image_size: int
    channels: int = 3
    filters: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks_per_level: int = 2
    codebook_size: int = 1024
    code_width: int = 256
    beta: float = 0.25
    layout: Layout = Layout()
    remat: bool = False
    dtype: str = "float32"

    def setup(self) -> None:
        """Declares the submodules."""
        pyramid = dict(
            filters=self.filters,
            multipliers=self.multipliers,
            blocks_per_level=self.blocks_per_level,
            image_size=self.image_size,
            layout=self.layout,
            remat=self.remat,
            dtype=self.dtype,
        )
        self.encoder = Encoder(code_width=self.code_width, **pyramid)
        self.quantizer = VectorQuantizer(self.codebook_size, self.code_width, self.beta)
        self.decoder = Decoder(**pyramid)
        self.conv_out = nn.Conv(self.channels, (3, 3), padding=1, dtype=self.dtype)

    def __call__(self, image: Array) -> tuple[Array, Quantized]:
        """Returns the reconstruction [B, H, W, C] and the quantized latents."""
        quantized = self.quantize(self.latents(image))
        return self.to_image(self.features(quantized.codes)), quantized

    def latents(self, image: Array) -> Array:
        """Returns latents before quantization, float32 [B, h, w, D]."""
        return self.encoder(image).astype(jnp.float32)

    def quantize(self, latents: Array) -> Quantized:
        """Returns the nearest codes of latents [B, h, w, D]."""
        return self.quantizer(latents)

    def features(self, codes: Array) -> Array:
        """Returns the decoder's features before its last convolution, [B, H, W, filters]."""
        return self.decoder(codes)

    def to_image(self, features: Array) -> Array:
        """Returns the image [B, H, W, C], float32, about [-1, 1] (nothing bounds it)."""
        return self.conv_out(features).astype(jnp.float32)

    def encode(self, image: Array) -> Array:
        """Returns tokens int32 [B, h, w]."""
        return self.quantizer.nearest(self.latents(image))

    def decode(self, tokens: Array) -> Array:
        """Returns images [B, H, W, C] of tokens int32 [B, h, w]."""
        return self.to_image(self.features(self.quantizer.lookup(tokens)))
