"""The network of VAE and autoencoder, whose latents are a vector: convolutional, or linear."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.autoencoders.vqvae import StridedDecoder, StridedEncoder

NETWORKS = ("convolutional", "linear")
POSTERIORS = ("gaussian", "none")


class VAE(nn.Module):
    """Encoder to Gaussian posteriors, and decoder to the parameters of the pixels' likelihood.

    The convolutional network is that of the VQ-VAE with a dense layer on each side of the
    latents, so that the two can be compared. The linear one is that of probabilistic PCA: the
    mean of the posterior is linear in the image and its variance is the same for all images, like
    the exact posterior of a linear decoder.

    Attributes:
        image_size: Sides H = W of the images.
        channels: Channels of the images.
        outputs: Outputs P of the decoder for each pixel.
        num_latents: Z.
        network: One of `NETWORKS`.
        posterior: One of `POSTERIORS`; "none" is the plain autoencoder, which has no variance.
        filters: Channels of the convolutional encoder and decoder.
        residual_filters: Channels inside the residual blocks.
        num_residual_blocks: Residual blocks of encoder and of decoder.
        num_downsamplings: Each halves the sides; images must be multiples of 2 to this power.
        initial_log_sigma: Initial value of the learned log standard deviation of pixels; None: it
            is not learned.
        remat: Recompute residual blocks in the backward pass instead of storing them.
        dtype: Type of the activations; latents and outputs are float32.

    Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes; the linear one Lucas et al.
    2019, Don't Blame the ELBO!.
    """

    image_size: int
    channels: int
    outputs: int
    num_latents: int
    network: str = "convolutional"
    posterior: str = "gaussian"
    filters: int = 64
    residual_filters: int = 32
    num_residual_blocks: int = 2
    num_downsamplings: int = 2
    initial_log_sigma: float | None = None
    remat: bool = False
    dtype: str = "float32"

    def setup(self) -> None:
        """Declares the submodules."""
        side = self.image_size
        if self.network == "convolutional":
            parts: dict[str, Any] = dict(
                filters=self.filters,
                residual_filters=self.residual_filters,
                num_residual_blocks=self.num_residual_blocks,
                remat=self.remat,
                dtype=self.dtype,
            )
            halvings = self.num_downsamplings
            self.encoder = StridedEncoder(num_downsamplings=halvings, **parts)
            self.decoder = StridedDecoder(self.outputs, num_upsamplings=halvings, **parts)
            side //= 2**halvings
            self.decoder_shape = (side, side, self.filters)
        else:
            self.decoder_shape = (side, side, self.outputs)
        varying = self.posterior == "gaussian" and self.network == "convolutional"
        self.to_latents = nn.Dense(self.num_latents * (2 if varying else 1), dtype=self.dtype)
        height, width, channels = self.decoder_shape
        self.from_latents = nn.Dense(height * width * channels, dtype=self.dtype)
        if self.posterior == "gaussian" and self.network == "linear":
            zeros = nn.initializers.zeros
            self.log_variance = self.param("log_variance", zeros, (self.num_latents,))
        if self.initial_log_sigma is not None:
            start = nn.initializers.constant(self.initial_log_sigma)
            self.log_sigma = self.param("log_sigma", start, ())

    def __call__(self, image: Array) -> tuple[Array, Array, Array]:
        """Returns mean and log variance of the posteriors, and the decoder's outputs of the mean.

        It uses every parameter, for initialization.
        """
        mean, log_variance = self.encode(image)
        return mean, log_variance, self.decode(mean)

    def encode(self, image: Array) -> tuple[Array, Array]:
        """Returns mean and log variance of the posteriors, float32 [B, Z] each.

        Without posteriors the log variance is -infinity.

        Args:
            image: [B, H, W, C] in [-1, 1].
        """
        x = self.encoder(image) if self.network == "convolutional" else image
        x = self.to_latents(x.reshape(len(x), -1)).astype(jnp.float32)
        if self.posterior == "none":
            return x, jnp.full_like(x, -jnp.inf)
        if self.network == "linear":
            return x, jnp.broadcast_to(self.log_variance[None], x.shape)
        mean, log_variance = jnp.split(x, 2, axis=-1)
        return mean, log_variance

    def decode(self, latents: Array) -> Array:
        """Returns the likelihood's parameters, float32 [B, H, W, P], of latents [B, Z]."""
        x = self.from_latents(latents).reshape(len(latents), *self.decoder_shape)
        # Otherwise a kernel sharded along its last axis shards the rows of the map, and XLA (JAX
        # 0.10.2) computes convolutions of such shards incorrectly.
        x = nn.with_logical_constraint(  # pyright: ignore[reportPrivateImportUsage]
            x, ("batch", None, None, None)
        )
        if self.network == "convolutional":
            x = self.decoder(nn.relu(x))
        return x.astype(jnp.float32)
