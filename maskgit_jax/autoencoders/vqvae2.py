"""VQ-VAE-2: a hierarchy of token maps, each conditioned on the coarser ones."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.autoencoders.vqvae import StridedDecoder, StridedEncoder, upsample
from maskgit_jax.quantizers.vector import Quantized, VectorQuantizer

LEVEL_NAMES = {2: ("top", "bottom"), 3: ("top", "middle", "bottom")}
"""Number of levels -> their names, coarsest first."""


class Level(NamedTuple):
    """One level of the hierarchy.

    Attributes:
        latents: Latents before quantization, float32 [B, h, w, D].
        quantized: Their codes and tokens.
    """

    latents: Array
    quantized: Quantized


class VQVAE2(nn.Module):
    """Encoders from fine to coarse, quantizers from coarse to fine, one decoder for all levels.

    The finest map is `2**bottom_downsamplings` times smaller than the image, each coarser one
    half of the next finer. The latents of a level are computed from its encoder's features and
    from the decoded codes of the coarser levels, so that fine codes need not repeat the
    information of coarse ones.

    Attributes:
        channels: Channels of the images.
        filters: Channels of encoders and decoders.
        residual_filters: Channels inside the residual blocks.
        num_residual_blocks: Residual blocks of each encoder and decoder.
        num_levels: 2 (top, bottom) or 3 (top, middle, bottom).
        bottom_downsamplings: 2 as in the paper; 1 for small images. Images must be multiples
            of 2 to the power bottom_downsamplings + num_levels - 1.
        codebook_size: K of each level.
        codebook_dim: D of each level.
        beta: Weight of the commitment losses.
        codebook_update: One of `quantizers.vector.CODEBOOK_UPDATES`.
        remat: Recompute residual blocks in the backward pass instead of storing them.
        dtype: Type of the activations; codebooks are always float32.

    Source: Razavi et al. 2019, VQ-VAE-2, section 3.1 and figure 2; details that the paper leaves
    open follow rosinality/vq-vae-2-pytorch vqvae.py:VQVAE. Three levels repeat the construction:
    a level is conditioned on all coarser ones, upsampled to the finest of their grids.
    """

    channels: int = 3
    filters: int = 128
    residual_filters: int = 64
    num_residual_blocks: int = 2
    num_levels: int = 2
    bottom_downsamplings: int = 2
    codebook_size: int = 512
    codebook_dim: int = 64
    beta: float = 0.25
    codebook_update: str = "ema"
    remat: bool = False
    dtype: str = "float32"

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the levels, coarsest first."""
        return LEVEL_NAMES[self.num_levels]

    def setup(self) -> None:
        """Declares the submodules; their names end with the name of their level."""
        parts: dict[str, Any] = dict(
            filters=self.filters,
            residual_filters=self.residual_filters,
            num_residual_blocks=self.num_residual_blocks,
            remat=self.remat,
            dtype=self.dtype,
        )
        *coarser, finest = self.level_names
        halvings = {**dict.fromkeys(coarser, 1), finest: self.bottom_downsamplings}
        self.encoder = {
            name: StridedEncoder(num_downsamplings=count, **parts)
            for name, count in halvings.items()
        }
        self.conv_codes = {
            name: nn.Conv(self.codebook_dim, (1, 1), dtype=self.dtype) for name in halvings
        }
        self.quantizer = {
            name: VectorQuantizer(
                self.codebook_size, self.codebook_dim, self.beta, self.codebook_update
            )
            for name in halvings
        }
        # Both upsample the codes of the coarser levels to the grid of the named one.
        self.condition = {
            name: StridedDecoder(self.codebook_dim, num_upsamplings=1, **parts)
            for name in self.level_names[1:]
        }
        self.conv_up = {
            name: upsample(self.codebook_dim, self.dtype) for name in self.level_names[1:]
        }
        self.decoder = StridedDecoder(
            self.channels, num_upsamplings=self.bottom_downsamplings, **parts
        )

    def __call__(self, image: Array) -> tuple[Array, tuple[Level, ...]]:
        """Returns the reconstruction [B, H, W, C] and the levels, coarsest first."""
        levels = self.levels(image)
        return self.to_image(tuple(level.quantized.codes for level in levels)), levels

    def levels(self, image: Array) -> tuple[Level, ...]:
        """Returns latents and codes of all levels of images [B, H, W, C], coarsest first."""
        features, x = {}, image
        for name in reversed(self.level_names):
            features[name] = x = self.encoder[name](x)  # [B, h, w, filters]
        levels, coarser = [], None
        for name in self.level_names:
            inputs = features[name]
            if coarser is not None:
                inputs = jnp.concatenate([self.condition[name](coarser), inputs], axis=-1)
            latents = self.conv_codes[name](inputs).astype(jnp.float32)  # [B, h, w, D]
            quantized = self.quantizer[name](latents)
            levels.append(Level(latents, quantized))
            coarser = self._join(coarser, quantized.codes, name)
        return tuple(levels)

    def _join(self, coarser: Array | None, codes: Array, name: str) -> Array:
        """Concatenates the codes of a level with those of the coarser ones, [B, h, w, n D]."""
        if coarser is None:
            return codes
        return jnp.concatenate([self.conv_up[name](coarser), codes], axis=-1)

    def to_image(self, codes: tuple[Array, ...]) -> Array:
        """Returns images [B, H, W, C], float32, about [-1, 1].

        Args:
            codes: Codes of all levels [B, h, w, D], coarsest first.
        """
        joined = None
        for name, level_codes in zip(self.level_names, codes, strict=True):
            joined = self._join(joined, level_codes, name)
        assert joined is not None
        return self.decoder(joined).astype(jnp.float32)

    def encode(self, image: Array) -> tuple[Array, ...]:
        """Returns tokens int32 [B, h, w] of all levels, coarsest first."""
        return tuple(level.quantized.tokens for level in self.levels(image))

    def lookup(self, tokens: tuple[Array, ...]) -> tuple[Array, ...]:
        """Returns the codes [B, h, w, D] of tokens int32 [B, h, w] of all levels."""
        return tuple(
            self.quantizer[name].lookup(level_tokens)
            for name, level_tokens in zip(self.level_names, tokens, strict=True)
        )

    def decode(self, tokens: tuple[Array, ...]) -> Array:
        """Returns images [B, H, W, C] of tokens int32 [B, h, w] of all levels, coarsest first."""
        return self.to_image(self.lookup(tokens))
