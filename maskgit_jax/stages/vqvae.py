"""VQ-VAE: one player, a tokenizer that must reconstruct."""

from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, normalize
from maskgit_jax.autoencoders.vqvae import VQVAE
from maskgit_jax.configuration import require, require_one_of
from maskgit_jax.losses.reconstruction import pixel_loss
from maskgit_jax.quantizers.vector import initial_codebook
from maskgit_jax.stage import Stage, Variables
from maskgit_jax.stages.tokenizers import (
    assign_quantizer,
    new_level,
    observe_level,
    one_map,
    restarted_codes,
    summarize,
    validate_codebook,
    validate_image_size,
)


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    require_one_of(config, "losses.reconstruction", ("l1", "l2"))
    validate_codebook(config)
    halvings = config.model.num_downsamplings
    require(halvings >= 1, f"config.model.num_downsamplings is {halvings}; it must be at least 1")
    validate_image_size(config, 2**halvings, "num_downsamplings")


def needs(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories that must be loaded first: none."""
    del config
    return {}


def network(config: ConfigDict) -> VQVAE:
    """Returns the autoencoder that a configuration describes."""
    model = config.model
    return VQVAE(
        channels=config.data.channels,
        filters=model.filters,
        residual_filters=model.residual_filters,
        num_residual_blocks=model.num_residual_blocks,
        num_downsamplings=model.num_downsamplings,
        codebook_size=model.codebook_size,
        codebook_dim=model.codebook_dim,
        beta=model.beta,
        codebook_update=model.codebook_update,
        remat=model.remat,
        dtype=config.dtype,
    )


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only player is "autoencoder"."""
    del frozen
    autoencoder, weights, model = network(config), config.losses, config.model
    side = config.data.image_size // 2**model.num_downsamplings

    def apply(variables: Variables, method: str, *arguments: Array) -> Array:
        return autoencoder.apply(
            {"params": variables.params["autoencoder"]}, *arguments, method=method
        )

    def init(key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        autoencoder_key, codes_key = jax.random.split(key)
        image = normalize(batch["image"])
        params = autoencoder.init(autoencoder_key, image)["params"]
        latents = autoencoder.apply({"params": params}, image, method="latents")
        codebook = initial_codebook(
            params["quantizer"]["codebook"], latents, codes_key, model.codebook_init
        )
        params = {"autoencoder": {**params, "quantizer": {"codebook": codebook}}}
        return Variables(params, new_level(codebook, model.codebook_update), frozen)

    def losses(variables: Variables, batch: Batch, key: Key, step: Array):
        image = normalize(batch["image"])
        latents = apply(variables, "latents", image)
        quantized = apply(variables, "quantize", latents)
        decoded = apply(variables, "to_image", quantized.codes)
        faithful = pixel_loss(image, decoded, weights.reconstruction).mean()
        state = observe_level(variables.state, latents, quantized.tokens, key, step, model)
        metrics = {
            "pixel_loss": faithful,
            "quantizer_loss": quantized.loss,
            "restarted_codes": restarted_codes(state, step),
        }
        total = faithful + weights.quantizer_weight * quantized.loss
        return {"autoencoder": total}, (state, metrics)

    own = one_map(apply, model.codebook_size, side)
    return Stage(init, losses, own.evaluate, summarize, own.preview, own.exports, assign_quantizer)
