"""VAE and autoencoder: images to a vector of latents, and back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree, normalize
from maskgit_jax.autoencoders.latent_paths import interpolate_latents, traverse_latents
from maskgit_jax.autoencoders.vae import NETWORKS, POSTERIORS, VAE
from maskgit_jax.configuration import require, require_at_least, require_one_of
from maskgit_jax.decoding.sampling import draw_each, split_each
from maskgit_jax.decoding.settings import PriorSettings
from maskgit_jax.losses.elbo import (
    ANNEALINGS,
    annealing_weight,
    free_bits,
    gaussian_kl,
    log_normal,
    reparameterize,
)
from maskgit_jax.losses.likelihoods import bits_per_dimension, optimal_log_sigma
from maskgit_jax.settings import check_settings
from maskgit_jax.stage import Generator, LatentModel, Metrics, Stage, Variables, Variational
from maskgit_jax.stages.likelihoods import (
    PixelLikelihood,
    initial_log_sigma,
    pixel_likelihood,
    validate_likelihood,
)
from maskgit_jax.stages.tokenizers import (
    module_options,
    reconstruction_metrics,
    side_by_side,
    validate_image_size,
)

_VARIANCE_DECAY = 0.99
_PREVIEW_ROWS, _PREVIEW_COLUMNS = 8, 10


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    model, losses = config.model, config.losses
    require_one_of(config, "model.network", NETWORKS)
    require_one_of(config, "model.posterior", POSTERIORS)
    validate_likelihood(config)
    require_one_of(config, "losses.annealing", ANNEALINGS)
    require_at_least(config, 0, "losses.beta", "losses.annealing_steps", "losses.free_bits")
    require_at_least(config, 1, "losses.annealing_cycles", "model.num_latents")
    require(
        losses.annealing == "constant" or losses.annealing_steps > 0,
        f"config.losses.annealing is '{losses.annealing}', but takes 0 steps; set "
        "config.losses.annealing_steps",
    )
    require(
        model.posterior == "gaussian" or config.training.best_metric != "negative_elbo",
        "config.training.best_metric is 'negative_elbo', which an autoencoder "
        "(config.model.posterior=none) does not have; set it to reconstruction_mse",
    )
    if model.network == "convolutional":
        require_at_least(config, 1, "model.num_downsamplings")
        validate_image_size(config, 2**model.num_downsamplings, "num_downsamplings")
    check_settings(sampling_settings(config))


def sampling_settings(config: ConfigDict) -> PriorSettings:
    """Returns the sampling settings of a configuration."""
    return PriorSettings(**config.sampling.to_dict())


def build_network(config: ConfigDict, num_outputs: int) -> VAE:
    """Returns the autoencoder that a configuration describes."""
    return VAE(
        image_size=config.data.image_size,
        channels=config.data.channels,
        outputs=num_outputs,
        initial_log_sigma=initial_log_sigma(config),
        **module_options(VAE, config),
    )


class ForwardPass(NamedTuple):
    """One evaluation of encoder and decoder.

    Attributes:
        image: Input of the encoder: the images, binarized for a Bernoulli likelihood.
        mean: Of the posteriors, [B, Z].
        log_variance: Of the posteriors, [B, Z].
        outputs: Of the decoder, [B, H, W, P].
    """

    image: Array
    mean: Array
    log_variance: Array
    outputs: Array


@dataclass(frozen=True, eq=False)
class VAEStage:
    """The functions of the stage, see `Stage`.

    Attributes:
        config: The stage's configuration.
        autoencoder: The network that it describes.
        pixels: The likelihood that it describes.
    """

    config: ConfigDict
    autoencoder: VAE
    pixels: PixelLikelihood

    @property
    def variational(self) -> bool:
        """Whether latents have posteriors and a prior."""
        return self.config.model.posterior == "gaussian"

    @property
    def sigma_mode(self) -> str:
        """The source of the standard deviation of Gaussian pixels, "" for other likelihoods.

        "fixed" keeps it, "learned" makes it a parameter, and "optimal" takes the most likely one
        of each batch in training, and the moving average of its square otherwise.
        """
        model = self.config.model
        return model.sigma_mode if model.likelihood == "gaussian" else ""

    def apply(self, variables: Variables, method: str, argument: Array) -> Any:
        """Returns the result of a method of the autoencoder."""
        params = {"params": variables.params["autoencoder"]}
        return self.autoencoder.apply(params, argument, method=method)

    def init(self, key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        """Returns the initial variables."""
        params = self.autoencoder.init(key, normalize(batch["image"]))["params"]
        optimal = self.sigma_mode == "optimal"
        state = {"variance": jnp.ones((), jnp.float32)} if optimal else {}
        return Variables({"autoencoder": params}, state, frozen)

    def losses(
        self, variables: Variables, batch: Batch, key: Key, step: Array
    ) -> tuple[Mapping[str, Array], tuple[PyTree, Metrics]]:
        """Returns the negative ELBO with a weighted divergence, the state and the metrics."""
        weights = self.config.losses
        image, mean, log_variance, outputs = self.forward(variables, normalize(batch["image"]), key)
        log_sigma = self.log_sigma(variables)
        if self.sigma_mode == "optimal":
            log_sigma = optimal_log_sigma(image, outputs)
        loss = -self.pixels.log_likelihood(image, outputs, log_sigma).mean()
        metrics = {"reconstruction_nats": loss}
        if self.sigma_mode:
            metrics["sigma"] = jnp.exp(log_sigma)
        if self.variational:
            kl = gaussian_kl(mean, log_variance)
            weight = weights.beta * annealing_weight(
                step, weights.annealing, weights.annealing_steps, weights.annealing_cycles
            )
            metrics |= {"kl": kl.sum(axis=1).mean(), "kl_weight": weight}
            loss += weight * free_bits(kl, weights.free_bits)
        state = self.update_state(variables.state, log_sigma, step)
        return {"autoencoder": loss}, (state, metrics)

    def forward(self, variables: Variables, image: Array, key: Key) -> ForwardPass:
        """Returns posteriors and decoder outputs of images [B, H, W, C], with sampled latents."""
        binary_key, latent_key = jax.random.split(key)
        image = self.pixels.binarize(image, binary_key)
        mean, log_variance = self.apply(variables, "encode", image)
        latents = reparameterize(mean, log_variance, latent_key) if self.variational else mean
        return ForwardPass(image, mean, log_variance, self.apply(variables, "decode", latents))

    def log_sigma(self, variables: Variables) -> Array:
        """Returns the log standard deviation of Gaussian pixels, [], outside of training."""
        if self.sigma_mode == "optimal":
            return 0.5 * jnp.log(variables.state["variance"])
        if self.sigma_mode == "learned":
            return variables.params["autoencoder"]["log_sigma"]
        return jnp.log(jnp.float32(self.config.model.sigma))

    def update_state(self, state: Mapping[str, Array], log_sigma: Array, step: Array) -> PyTree:
        """Returns the moving average of the variance; the first batches have more weight."""
        if self.sigma_mode != "optimal":
            return {}
        count = step.astype(jnp.float32)
        decay = jnp.minimum(_VARIANCE_DECAY, (1.0 + count) / (10.0 + count))
        variance = jax.lax.stop_gradient(jnp.exp(2.0 * log_sigma))
        return {"variance": decay * state["variance"] + (1.0 - decay) * variance}

    def encode(self, variables: Variables, image: Array) -> Array:
        """Returns latents float32 [B, Z] of images [B, H, W, C]."""
        return self.apply(variables, "encode", self.pixels.expected(image))[0]

    def decode(self, variables: Variables, latents: Array) -> Array:
        """Returns the mean images [B, H, W, C] of latents [B, Z]."""
        return self.pixels.mean(self.apply(variables, "decode", latents))

    def posterior(self, variables: Variables, image: Array, key: Key) -> tuple[Array, Array]:
        """Returns mean and log variance of the posteriors, see `Variational.posterior`."""
        binary_key, _ = jax.random.split(key)  # the same binary images as in `log_weights`
        return self.apply(variables, "encode", self.pixels.binarize(image, binary_key))

    def log_weights(self, variables: Variables, image: Array, key: Key, count: int) -> Array:
        """Returns log importance weights, float32 [count, B], see `Variational.log_weights`."""
        binary_key, samples_key = jax.random.split(key)
        image = self.pixels.binarize(image, binary_key)
        mean, log_variance = self.apply(variables, "encode", image)
        log_sigma = self.log_sigma(variables)

        def weigh_sample(_: None, sample_key: Key) -> tuple[None, Array]:
            latents = reparameterize(mean, log_variance, sample_key)
            outputs = self.apply(variables, "decode", latents)
            likelihood = self.pixels.log_likelihood(image, outputs, log_sigma)
            prior = log_normal(latents, 0.0, 0.0)
            return None, likelihood + prior - log_normal(latents, mean, log_variance)

        # One sample after another: only one set of decoded images is in memory.
        return jax.lax.scan(weigh_sample, None, jax.random.split(samples_key, count))[1]

    def sample(
        self, variables: Variables, inputs: Batch, keys: Key, settings: PriorSettings
    ) -> Array:
        """Returns images [B, H, W, C] of latents from the prior, one for each label."""
        del inputs
        latent_keys, pixel_keys = split_each(keys, 2)
        noise = draw_each(jax.random.normal, latent_keys, self.config.model.num_latents)
        latents = settings.temperature * noise
        outputs = self.apply(variables, "decode", latents)
        if settings.pixels == "draw":
            log_sigma = self.log_sigma(variables)

            def sample(output: Array, key: Key) -> Array:
                return self.pixels.sample(output[None], log_sigma, key)[0]

            return jax.vmap(sample)(outputs, pixel_keys)
        return self.pixels.mean(outputs)

    def evaluate(self, variables: Variables, batch: Batch, key: Key) -> Metrics:
        """Returns reconstruction errors and the ELBO of each image, see `Stage.evaluate`."""
        image = normalize(batch["image"])
        reconstruction = self.decode(variables, self.encode(variables, image))
        metrics = reconstruction_metrics(image, reconstruction)
        return metrics | self.elbo_metrics(variables, image, key) if self.variational else metrics

    def elbo_metrics(self, variables: Variables, image: Array, key: Key) -> dict[str, Array]:
        """Returns the negative ELBO of each image and its terms, [B], from one latent sample."""
        image, mean, log_variance, outputs = self.forward(variables, image, key)
        nats = -self.pixels.log_likelihood(image, outputs, self.log_sigma(variables))
        kl = gaussian_kl(mean, log_variance).sum(axis=1)
        bits = bits_per_dimension(nats + kl, math.prod(image.shape[1:]), self.pixels.density)
        return {
            "negative_elbo": nats + kl,
            "reconstruction_nats": nats,
            "kl": kl,
            "bits_per_dimension_bound": bits,
        }

    def preview(self, variables: Variables, batch: Batch, key: Key) -> Metrics:
        """Returns reconstructions, interpolations, traversals and samples, see `Stage.preview`."""
        image = normalize(batch["image"])
        latents = self.encode(variables, image)
        rows = min(_PREVIEW_ROWS, max(1, len(latents) // 2))
        interpolations = interpolate_latents(latents[:rows], latents[-rows:], _PREVIEW_COLUMNS)
        traversals = traverse_latents(latents, self.variational, _PREVIEW_ROWS, _PREVIEW_COLUMNS)
        images = {
            "original_and_reconstruction": side_by_side(image, self.decode(variables, latents)),
            "interpolations": self.decode_grid(variables, interpolations),
            "traversals": self.decode_grid(variables, traversals),
        }
        if self.variational:
            inputs = {"label": jnp.zeros((len(image),), jnp.int32)}
            keys, settings = jax.random.split(key, len(image)), sampling_settings(self.config)
            images["samples"] = self.sample(variables, inputs, keys, settings)
        return images

    def decode_grid(self, variables: Variables, latents: Array) -> Array:
        """Returns images [rows, columns, H, W, C] of latents [rows, columns, Z]."""
        images = self.decode(variables, latents.reshape(-1, latents.shape[-1]))
        return images.reshape(*latents.shape[:2], *images.shape[1:])

    @property
    def exports(self) -> LatentModel:
        """The latent model that other stages and programs use."""
        generator = Generator(self.sample, sampling_settings(self.config), check_settings, 0)
        variational = Variational(
            posterior=self.posterior,
            log_weights=self.log_weights,
            density=self.pixels.density,
            likelihood_description=self.pixels.description,
            generator=generator,
        )
        return LatentModel(self.encode, self.decode, variational if self.variational else None)


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only network is "autoencoder"."""
    del frozen
    pixels = pixel_likelihood(config)
    stage = VAEStage(config, build_network(config, pixels.num_outputs), pixels)
    return Stage(stage.init, stage.losses, stage.evaluate, stage.preview, stage.exports)
