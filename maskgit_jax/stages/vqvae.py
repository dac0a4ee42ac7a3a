"""VQ-VAE: an autoencoder with one discrete token map, trained to reconstruct its input."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree, normalize
from maskgit_jax.autoencoders.vqvae import VQVAE
from maskgit_jax.configuration import require, require_one_of
from maskgit_jax.losses.reconstruction import pixel_loss
from maskgit_jax.quantizers.codebook import (
    count_restarts,
    init_codebook,
    init_codebook_state,
    update_codebook_state,
)
from maskgit_jax.stage import Metrics, Stage, Variables
from maskgit_jax.stages.tokenizers import (
    SingleMapTokenizer,
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


def build_network(config: ConfigDict) -> VQVAE:
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


@dataclass(frozen=True, eq=False)
class VQVAEStage(SingleMapTokenizer):
    """The functions of the stage, see `Stage`."""

    def init(self, key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        """Returns the initial variables; the codebook starts from the latents of the batch."""
        autoencoder_key, codes_key = jax.random.split(key)
        params, latents = self.init_autoencoder(autoencoder_key, normalize(batch["image"]))
        model, codebook = self.config.model, params["quantizer"]["codebook"]
        codebook = init_codebook(codebook, latents, codes_key, model.codebook_init)
        params = {"autoencoder": {**params, "quantizer": {"codebook": codebook}}}
        return Variables(params, init_codebook_state(codebook, model.codebook_update), frozen)

    def losses(
        self, variables: Variables, batch: Batch, key: Key, step: Array
    ) -> tuple[Mapping[str, Array], tuple[PyTree, Metrics]]:
        """Returns pixel loss + quantizer_weight * quantizer loss, the state and the metrics."""
        image, model, weights = normalize(batch["image"]), self.config.model, self.config.losses
        latents = self.apply(variables, "latents", image)
        quantized = self.apply(variables, "quantize", latents)
        reconstruction = self.apply(variables, "to_image", quantized.codes)
        pixels = pixel_loss(image, reconstruction, weights.reconstruction).mean()
        state = update_codebook_state(
            variables.state,
            latents,
            quantized.tokens,
            key,
            step,
            model.restart_dead_codes_after,
            model.codebook_decay,
        )
        metrics = {
            "pixel_loss": pixels,
            "quantizer_loss": quantized.loss,
            "restarted_codes": count_restarts(state["usage"], step),
        }
        loss = pixels + weights.quantizer_weight * quantized.loss
        return {"autoencoder": loss}, (state, metrics)


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only network is "autoencoder"."""
    del frozen
    side = config.data.image_size // 2**config.model.num_downsamplings
    stage = VQVAEStage(config, build_network(config), side)
    return Stage(
        init=stage.init,
        losses=stage.losses,
        evaluate=stage.evaluate,
        summarize=summarize,
        preview=stage.preview,
        exports=stage.exports,
        assign=stage.assign,
    )
