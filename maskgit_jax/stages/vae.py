"""Autoencoder and VAE: one player, latents that are a vector of numbers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree, normalize
from maskgit_jax.autoencoders.latent_paths import interpolate_latents, traverse_latents
from maskgit_jax.autoencoders.vae import NETWORKS, POSTERIORS, VAE
from maskgit_jax.configuration import require, require_one_of
from maskgit_jax.losses.elbo import (
    annealed,
    free_bits,
    gaussian_kl,
    log_normal,
    reparameterize,
)
from maskgit_jax.losses.likelihoods import bits_per_dimension, optimal_log_sigma
from maskgit_jax.stage import Generator, LatentModel, Stage, Variables, Variational
from maskgit_jax.stages.likelihoods import (
    initial_log_sigma,
    pixel_likelihood,
    validate_likelihood,
)
from maskgit_jax.stages.tokenizers import (
    reconstruction_figures,
    side_by_side,
    summarize,
    validate_image_size,
)

ANNEALINGS = ("constant", "linear", "cyclical")
PIXELS = ("mean", "draw")
_VARIANCE_DECAY = 0.99
_PREVIEW_ROWS, _PREVIEW_COLUMNS = 8, 10


class PriorSettings(NamedTuple):
    """How images are drawn from a VAE.

    Attributes:
        temperature: Standard deviation of the latents; 1 is the prior.
        pixels: "mean" shows the mean of p(x | z), "draw" draws from it.
    """

    temperature: float = 1.0
    pixels: str = "mean"


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    model, losses = config.model, config.losses
    require_one_of(config, "model.network", NETWORKS)
    require_one_of(config, "model.posterior", POSTERIORS)
    validate_likelihood(config)
    require_one_of(config, "losses.annealing", ANNEALINGS)
    for key in ("beta", "annealing_steps", "free_bits"):
        value = losses[key]
        require(value >= 0, f"config.losses.{key} is {value}; it must not be negative")
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
    cycles = losses.annealing_cycles
    require(cycles >= 1, f"config.losses.annealing_cycles is {cycles}; it must be at least 1")
    require(
        model.num_latents >= 1,
        f"config.model.num_latents is {model.num_latents}; it must be at least 1",
    )
    if model.network == "convolutional":
        halvings = model.num_downsamplings
        require(
            halvings >= 1, f"config.model.num_downsamplings is {halvings}; it must be at least 1"
        )
        validate_image_size(config, 2**halvings, "num_downsamplings")
    check_settings(sampling_settings(config))


def needs(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories that must be loaded first: none."""
    del config
    return {}


def sampling_settings(config: ConfigDict) -> PriorSettings:
    """Returns how a configuration says that images are drawn."""
    return PriorSettings(**config.sampling.to_dict())


def check_settings(settings: PriorSettings) -> None:
    """Raises `InputError` for settings that cannot work."""
    require(
        settings.temperature >= 0,
        f"temperature is {settings.temperature}; it must not be negative",
    )
    require(
        settings.pixels in PIXELS,
        f"pixels is '{settings.pixels}'; allowed: {', '.join(PIXELS)}",
    )


def network(config: ConfigDict, outputs: int) -> VAE:
    """Returns the autoencoder that a configuration describes."""
    model = config.model
    return VAE(
        image_size=config.data.image_size,
        channels=config.data.channels,
        outputs=outputs,
        num_latents=model.num_latents,
        network=model.network,
        posterior=model.posterior,
        filters=model.filters,
        residual_filters=model.residual_filters,
        num_residual_blocks=model.num_residual_blocks,
        num_downsamplings=model.num_downsamplings,
        initial_log_sigma=initial_log_sigma(config),
        remat=model.remat,
        dtype=config.dtype,
    )


class _Forward(NamedTuple):
    """One way through the model: what the encoder saw, its posteriors, what the decoder said."""

    image: Array
    mean: Array
    log_variance: Array
    outputs: Array


class _Noise(NamedTuple):
    """How the standard deviation of Gaussian pixels comes about, as `config.model.sigma_mode` says.

    "fixed" keeps it, "learned" descends it, and "optimal" takes the likeliest one of each batch;
    then what is evaluated has the running mean of the variance, which is kept in the state.
    """

    optimal: bool
    learned: bool
    fixed: float

    def initial_state(self) -> dict[str, Array]:
        return {"variance": jnp.ones((), jnp.float32)} if self.optimal else {}

    def log_sigma(self, variables: Variables) -> Array:
        if self.optimal:
            return 0.5 * jnp.log(variables.state["variance"])
        if self.learned:
            return variables.params["autoencoder"]["log_sigma"]
        return jnp.log(jnp.float32(self.fixed))

    def followed(self, state: Mapping[str, Array], log_sigma: Array, step: Array) -> PyTree:
        """Returns the state after a batch; the first ones count more, as in a running average."""
        if not self.optimal:
            return {}
        count = step.astype(jnp.float32)
        decay = jnp.minimum(_VARIANCE_DECAY, (1.0 + count) / (10.0 + count))
        variance = jax.lax.stop_gradient(jnp.exp(2.0 * log_sigma))
        return {"variance": decay * state["variance"] + (1.0 - decay) * variance}


def _noise(config: ConfigDict) -> _Noise:
    gaussian, how = config.model.likelihood == "gaussian", config.model.sigma_mode
    return _Noise(gaussian and how == "optimal", gaussian and how == "learned", config.model.sigma)


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only player is "autoencoder"."""
    del frozen
    pixels, noise = pixel_likelihood(config), _noise(config)
    autoencoder, weights = network(config, pixels.outputs), config.losses
    variational = config.model.posterior == "gaussian"
    shape = (config.data.image_size, config.data.image_size, config.data.channels)

    def apply(variables: Variables, method: str, argument: Array) -> Any:
        params = {"params": variables.params["autoencoder"]}
        return autoencoder.apply(params, argument, method=method)

    def init(key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        params = autoencoder.init(key, normalize(batch["image"]))["params"]
        return Variables({"autoencoder": params}, noise.initial_state(), frozen)

    def forward(variables: Variables, image: Array, key: Key) -> _Forward:
        binary_key, latent_key = jax.random.split(key)
        image = pixels.prepare(image, binary_key)
        mean, log_variance = apply(variables, "encode", image)
        latents = reparameterize(mean, log_variance, latent_key) if variational else mean
        return _Forward(image, mean, log_variance, apply(variables, "decode", latents))

    def losses(variables: Variables, batch: Batch, key: Key, step: Array):
        image, mean, log_variance, outputs = forward(variables, normalize(batch["image"]), key)
        log_sigma = noise.log_sigma(variables)
        if noise.optimal:
            log_sigma = optimal_log_sigma(image, outputs)
        nats = -pixels.log_likelihood(image, outputs, log_sigma).mean()
        metrics = {"reconstruction_nats": nats}
        if config.model.likelihood == "gaussian":
            metrics["sigma"] = jnp.exp(log_sigma)
        if variational:
            kl = gaussian_kl(mean, log_variance)
            weight = weights.beta * annealed(
                step, weights.annealing, weights.annealing_steps, weights.annealing_cycles
            )
            metrics |= {"kl": kl.sum(axis=1).mean(), "kl_weight": weight}
            nats += weight * free_bits(kl, weights.free_bits)
        return {"autoencoder": nats}, (noise.followed(variables.state, log_sigma, step), metrics)

    def encode(variables: Variables, image: Array) -> Array:
        return apply(variables, "encode", pixels.expected(image))[0]

    def decode(variables: Variables, latents: Array) -> Array:
        return pixels.mean(apply(variables, "decode", latents))

    def posterior(variables: Variables, image: Array, key: Key) -> tuple[Array, Array]:
        binary_key, _ = jax.random.split(key)  # the same images as `log_weights` sees
        return apply(variables, "encode", pixels.prepare(image, binary_key))

    def log_weights(variables: Variables, image: Array, key: Key, count: int) -> Array:
        binary_key, draws_key = jax.random.split(key)
        image = pixels.prepare(image, binary_key)
        mean, log_variance = apply(variables, "encode", image)
        log_sigma = noise.log_sigma(variables)

        def one(_: None, draw_key: Key) -> tuple[None, Array]:
            latents = reparameterize(mean, log_variance, draw_key)
            outputs = apply(variables, "decode", latents)
            likelihood = pixels.log_likelihood(image, outputs, log_sigma)
            prior = log_normal(latents, 0.0, 0.0)
            return None, likelihood + prior - log_normal(latents, mean, log_variance)

        # One draw after another: only one set of decoded images is in memory.
        return jax.lax.scan(one, None, jax.random.split(draws_key, count))[1]

    def sample(variables: Variables, wanted: Batch, key: Key, settings: PriorSettings) -> Array:
        latent_key, pixel_key = jax.random.split(key)
        latents = jax.random.normal(latent_key, (len(wanted["label"]), config.model.num_latents))
        outputs = apply(variables, "decode", settings.temperature * latents)
        if settings.pixels == "draw":
            return pixels.draw(outputs, noise.log_sigma(variables), pixel_key)
        return pixels.mean(outputs)

    def evaluate(variables: Variables, batch: Batch, key: Key):
        image = normalize(batch["image"])
        figures = reconstruction_figures(image, decode(variables, encode(variables, image)))
        if not variational:
            return figures
        return figures | elbo_figures(variables, image, key)

    def elbo_figures(variables: Variables, image: Array, key: Key) -> dict[str, Array]:
        """Returns the bound of each image, [B], with one draw of the latents."""
        image, mean, log_variance, outputs = forward(variables, image, key)
        nats = -pixels.log_likelihood(image, outputs, noise.log_sigma(variables))
        kl = gaussian_kl(mean, log_variance).sum(axis=1)
        return {
            "negative_elbo": nats + kl,
            "reconstruction_nats": nats,
            "kl": kl,
            "bits_per_dimension_bound": bits_per_dimension(
                nats + kl, shape[0] * shape[1] * shape[2], pixels.density
            ),
        }

    def preview(variables: Variables, batch: Batch, key: Key):
        image = normalize(batch["image"])
        latents = encode(variables, image)
        pictures = {
            "original_and_reconstruction": side_by_side(image, decode(variables, latents)),
            "interpolations": decode_grid(variables, latent_rows(latents)),
            "traversals": decode_grid(
                variables,
                traverse_latents(latents, variational, _PREVIEW_ROWS, _PREVIEW_COLUMNS),
            ),
        }
        if variational:
            wanted = {"label": jnp.zeros((len(image),), jnp.int32)}
            pictures["samples"] = sample(variables, wanted, key, sampling_settings(config))
        return pictures

    def decode_grid(variables: Variables, latents: Array) -> Array:
        """Returns images [rows, columns, H, W, C] of latents [rows, columns, Z]."""
        flat = latents.reshape(-1, latents.shape[-1])
        return decode(variables, flat).reshape(*latents.shape[:2], *shape)

    def latent_rows(latents: Array) -> Array:
        rows = min(_PREVIEW_ROWS, max(1, len(latents) // 2))
        return interpolate_latents(latents[:rows], latents[-rows:], _PREVIEW_COLUMNS)

    generator = Generator(sample, sampling_settings(config), check_settings, 0)
    bayes = Variational(posterior, log_weights, pixels.density, pixels.law, generator)
    exports = LatentModel(encode, decode, bayes if variational else None)
    return Stage(init, losses, evaluate, summarize, preview, exports)
