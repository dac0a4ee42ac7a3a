"""The VQGAN autoencoder, as in google-research/maskgit and as in taming-transformers.

Both are one residual pyramid; the options of `Architecture` are their differences.
Images are [B, H, W, C] in [-1, 1]; with `unit_range`, as in the official MaskGIT tokenizer, the
network itself reads and writes [0, 1].
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.networks.residual import (
    Downsample,
    ResidualBlock,
    SpatialAttention,
    Upsample,
    group_norm,
)
from maskgit_jax.quantizers.gumbel import GumbelQuantizer
from maskgit_jax.quantizers.vector import Quantized, VectorQuantizer

QUANTIZERS = ("vector", "gumbel")
"""The nearest code, or the one with the largest logit of a dense layer (taming's GumbelVQ)."""


class Architecture(NamedTuple):
    """The differences between published VQGANs; the defaults are the official MaskGIT tokenizer.

    Attributes:
        residual_bias: Biases in residual blocks and in the encoder's first convolution.
        shortcut_from: "output" (published MaskGIT weights) or "input" (taming, magvit).
        downsample: "average" or "conv".
        mid_attention: Attention after the first of the middle blocks.
        attention_sizes: Side lengths (pixels) of the levels with attention after each block.
        extra_decoder_block: One more residual block in each level of the decoder.
        latent_width: Channels between the convolutions and the 1x1 projections around the
            quantizer (taming's z_channels); 0: there are no projections.
    """

    residual_bias: bool = False
    shortcut_from: str = "output"
    downsample: str = "average"
    mid_attention: bool = False
    attention_sizes: tuple[int, ...] = ()
    extra_decoder_block: bool = False
    latent_width: int = 0


TAMING = Architecture(
    residual_bias=True,
    shortcut_from="input",
    downsample="conv",
    mid_attention=True,
    attention_sizes=(16,),
    extra_decoder_block=True,
    latent_width=256,
)
ARCHITECTURES = {
    "maskgit": Architecture(),
    "maskgit_fixed": Architecture(shortcut_from="input"),  # magvit's repair of the shortcut
    "taming": TAMING,
}


class _Pyramid(nn.Module):
    """The common part of encoder and decoder; see `VQGAN` for the attributes."""

    filters: int
    channel_multipliers: tuple[int, ...]
    blocks_per_level: int
    mid_blocks: int
    norm_groups: int
    image_size: int
    architecture: Architecture
    remat: bool
    dtype: str

    def block(self, x: Array, features: int, name: str) -> Array:
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        architecture = self.architecture
        return block(
            features,
            architecture.residual_bias,
            architecture.shortcut_from,
            self.norm_groups,
            dtype=self.dtype,
            name=name,
        )(x)

    def level(self, x: Array, index: int, num_blocks: int) -> Array:
        for number in range(num_blocks):
            features = self.filters * self.channel_multipliers[index]
            x = self.block(x, features, f"level{index}_{number}")
            if self.image_size // 2**index in self.architecture.attention_sizes:
                x = self.attention(x, f"level{index}_attention{number}")
        return x

    def middle(self, x: Array) -> Array:
        for number in range(self.mid_blocks):
            x = self.block(x, x.shape[-1], f"mid_{number}")
            if number == 0 and self.architecture.mid_attention:
                x = self.attention(x, "mid_attention")
        return x

    def attention(self, x: Array, name: str) -> Array:
        return SpatialAttention(self.norm_groups, self.dtype, name=name)(x)

    def norm_out(self, x: Array) -> Array:
        return nn.silu(group_norm(x.shape[-1], self.dtype, "norm_out", self.norm_groups)(x))

    def conv(self, features: int, size: int, name: str, bias: bool = True) -> nn.Conv:
        return nn.Conv(
            features, (size, size), padding=size // 2, use_bias=bias, dtype=self.dtype, name=name
        )


class Encoder(_Pyramid):
    """Images to latents before quantization: [B, H, W, C] -> [B, h, w, codebook_dim]."""

    codebook_dim: int = 256

    @nn.compact
    def __call__(self, image: Array) -> Array:
        architecture = self.architecture
        x = self.conv(self.filters, 3, "conv_in", architecture.residual_bias)(image)
        for index in range(len(self.channel_multipliers)):
            x = self.level(x, index, self.blocks_per_level)
            if index < len(self.channel_multipliers) - 1:
                x = Downsample(architecture.downsample, self.dtype, name=f"downsample{index}")(x)
        x = self.norm_out(self.middle(x))
        if architecture.latent_width:
            x = self.conv(architecture.latent_width, 3, "conv_out")(x)
        return self.conv(self.codebook_dim, 1, "to_codes")(x)


class Decoder(_Pyramid):
    """Codes to the features before the last convolution: [B, h, w, D] -> [B, H, W, filters]."""

    @nn.compact
    def __call__(self, codes: Array) -> Array:
        architecture = self.architecture
        x = codes
        if architecture.latent_width:
            x = self.conv(architecture.latent_width, 1, "from_codes")(x)
        x = self.conv(self.filters * self.channel_multipliers[-1], 3, "conv_in")(x)
        x = self.middle(x)
        for index in reversed(range(len(self.channel_multipliers))):
            x = self.level(x, index, self.blocks_per_level + architecture.extra_decoder_block)
            if index > 0:
                x = Upsample(self.dtype, name=f"upsample{index}")(x)
        return self.norm_out(x)


class VQGAN(nn.Module):
    """Encoder, vector quantizer and decoder.

    Attributes:
        image_size: Side of the training images in pixels; determines the levels with attention.
        channels: Channels of the images.
        filters: Channels of the highest resolution.
        channel_multipliers: Channels of each level over `filters`; each level after the first
            halves the sides.
        blocks_per_level: Residual blocks in each level.
        mid_blocks: Residual blocks at the lowest resolution after (encoder) or before the levels.
        norm_groups: Groups of GroupNorm, as published 32 at every width; 0: fewer in narrow layers.
        unit_range: Whether the network reads and writes pixels in [0, 1], as the published MaskGIT
            tokenizers; images are converted from and to [-1, 1].
        codebook_size: K.
        codebook_dim: D.
        beta: Weight of the commitment loss.
        normalize_codes: Whether latents and codes have length 1, see `VectorQuantizer`.
        quantizer_kind: One of `QUANTIZERS`; `beta` is of "vector".
        architecture: The published network, see `Architecture`.
        remat: Recompute residual blocks in the backward pass instead of storing them.
        dtype: Type of the activations; the codebook is always float32.
    """

    image_size: int
    channels: int = 3
    filters: int = 128
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks_per_level: int = 2
    mid_blocks: int = 2
    norm_groups: int = 0
    unit_range: bool = False
    codebook_size: int = 1024
    codebook_dim: int = 256
    beta: float = 0.25
    normalize_codes: bool = False
    quantizer_kind: str = "vector"
    architecture: Architecture = Architecture()
    remat: bool = False
    dtype: str = "float32"

    def setup(self) -> None:
        """Declares the submodules."""
        pyramid: dict[str, Any] = dict(
            filters=self.filters,
            channel_multipliers=self.channel_multipliers,
            blocks_per_level=self.blocks_per_level,
            mid_blocks=self.mid_blocks,
            norm_groups=self.norm_groups,
            image_size=self.image_size,
            architecture=self.architecture,
            remat=self.remat,
            dtype=self.dtype,
        )
        self.encoder = Encoder(codebook_dim=self.codebook_dim, **pyramid)
        self.quantizer = self._quantizer()
        self.decoder = Decoder(**pyramid)
        self.conv_out = nn.Conv(self.channels, (3, 3), padding=1, dtype=self.dtype)

    def _quantizer(self) -> VectorQuantizer | GumbelQuantizer:
        if self.quantizer_kind == "gumbel":
            return GumbelQuantizer(self.codebook_size, self.codebook_dim)
        return VectorQuantizer(
            self.codebook_size, self.codebook_dim, self.beta, normalize=self.normalize_codes
        )

    def __call__(self, image: Array) -> tuple[Array, Quantized]:
        """Returns the reconstruction [B, H, W, C] and the quantized latents."""
        quantized = self.quantize(self.latents(image))
        return self.to_image(self.features(quantized.codes)), quantized

    def latents(self, image: Array) -> Array:
        """Returns latents before quantization, float32 [B, h, w, D]."""
        image = (image + 1.0) / 2.0 if self.unit_range else image
        return self.encoder(image).astype(jnp.float32)

    def quantize(self, latents: Array) -> Quantized:
        """Returns the nearest codes of latents [B, h, w, D]."""
        return self.quantizer(latents)

    def features(self, codes: Array) -> Array:
        """Returns the decoder's features before its last convolution, [B, H, W, filters]."""
        return self.decoder(codes)

    def to_image(self, features: Array) -> Array:
        """Returns the image [B, H, W, C], float32, about [-1, 1] (unbounded)."""
        image = self.conv_out(features).astype(jnp.float32)
        return 2.0 * image - 1.0 if self.unit_range else image

    def encode(self, image: Array) -> Array:
        """Returns tokens int32 [B, h, w]."""
        return self.quantizer.nearest(self.latents(image))

    def lookup(self, tokens: Array) -> Array:
        """Returns the codes [..., D] of tokens int32 [...]."""
        return self.quantizer.lookup(tokens)

    def decode(self, tokens: Array) -> Array:
        """Returns images [B, H, W, C] of tokens int32 [B, h, w]."""
        return self.to_image(self.features(self.lookup(tokens)))
