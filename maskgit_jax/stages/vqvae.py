"""VQ-VAE: an autoencoder with one discrete token map, trained to reconstruct its input."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree, normalize
from maskgit_jax.autoencoders.vqvae import VQVAE
from maskgit_jax.configuration import require_at_least, require_one_of
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
    codebook_layouts,
    module_options,
    summarize,
    validate_codebook,
    validate_image_size,
)


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    require_one_of(config, "losses.reconstruction", ("l1", "l2"))
    validate_codebook(config)
    require_at_least(config, 1, "model.num_downsamplings")
    validate_image_size(config, 2**config.model.num_downsamplings, "num_downsamplings")


def build_network(config: ConfigDict) -> VQVAE:
    """Returns the autoencoder that a configuration describes."""
    return VQVAE(channels=config.data.channels, **module_options(VQVAE, config))


@dataclass(frozen=True, eq=False)
class VQVAEStage(SingleMapTokenizer):
    """The functions of the stage, see `Stage`."""

    @property
    def codebook_smoothing(self) -> float:
        """Epsilon of the smoothing of a codebook that is updated by EMA."""
        return self.config.model.codebook_smoothing

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
    functions = (stage.init, stage.losses, stage.evaluate, stage.preview)
    return Stage(*functions, stage.exports, summarize, stage.assign, codebook_layouts(config))
