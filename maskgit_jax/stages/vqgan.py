"""VQGAN: an autoencoder with one discrete token map, trained together with a discriminator.

The autoencoder also minimizes a perceptual loss: the distance between image and reconstruction
in the features of a pretrained network (`frozen["perceptual"]`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree, normalize
from maskgit_jax.autoencoders.vqgan import ARCHITECTURES, QUANTIZERS, VQGAN
from maskgit_jax.configuration import require, require_at_least, require_one_of
from maskgit_jax.losses.adversarial import (
    ADVERSARIAL_LOSSES,
    LecamAverages,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    init_lecam_averages,
    lecam_penalty,
    r1_penalty,
    update_lecam_averages,
)
from maskgit_jax.losses.quantization import ENTROPY_LOSSES, entropy_loss
from maskgit_jax.losses.reconstruction import pixel_loss
from maskgit_jax.networks.discriminators import PatchDiscriminator, StyleGANDiscriminator
from maskgit_jax.networks.perceptual import PERCEPTUAL_NETWORKS, min_image_size, perceptual_distance
from maskgit_jax.quantizers.codebook import (
    count_restarts,
    init_codebook_state,
    sample_latents,
    update_usage,
)
from maskgit_jax.quantizers.vector import unit_vectors
from maskgit_jax.stage import Metrics, Stage, Variables
from maskgit_jax.stages.tokenizers import (
    SingleMapTokenizer,
    codebook_layouts,
    module_options,
    summarize,
    validate_image_size,
)

Discriminator = PatchDiscriminator | StyleGANDiscriminator


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    require_one_of(config, "model.architecture", tuple(ARCHITECTURES))
    require_one_of(config, "losses.reconstruction", ("l1", "l2"))
    require_one_of(config, "losses.adversarial", ADVERSARIAL_LOSSES)
    losses = config.losses
    require_one_of(config, "losses.entropy", ENTROPY_LOSSES)
    terms = ("reconstruction", "quantizer", "entropy", "perceptual", "adversarial", "r1", "lecam")
    require_at_least(config, 0, *(f"losses.{term}_weight" for term in terms))
    require_at_least(config, 1e-6, "losses.entropy_temperature")
    _validate_network(config)
    decay = losses.lecam_decay
    require(0 <= decay < 1, f"config.losses.lecam_decay is {decay}; it must be in [0, 1)")
    factor = 2 ** (len(config.model.channel_multipliers) - 1)
    validate_image_size(config, factor, "channel_multipliers")
    _validate_perceptual(config)
    _validate_discriminator(config)


def _validate_network(config: ConfigDict) -> None:
    model = config.model
    require_at_least(config, 0, "model.mid_blocks", "model.norm_groups")
    widths = [model.filters * multiplier for multiplier in model.channel_multipliers]
    require(
        not model.norm_groups or all(width % model.norm_groups == 0 for width in widths),
        f"config.model.norm_groups is {model.norm_groups}, which does not divide all widths, "
        f"{widths}; set it to 0 for fewer groups in narrow layers",
    )
    require_one_of(config, "model.quantizer_kind", QUANTIZERS)
    require(
        model.quantizer_kind == "vector" or model.restart_dead_codes_after == 0,
        f"config.model.restart_dead_codes_after is {model.restart_dead_codes_after}, but latents "
        "are no codes of config.model.quantizer_kind gumbel; set it to 0",
    )
    require(
        model.quantizer_kind == "vector" or not model.normalize_codes,
        "config.model.normalize_codes has no effect with config.model.quantizer_kind gumbel; set "
        "it to False",
    )


def _validate_perceptual(config: ConfigDict) -> None:
    require_one_of(config, "losses.perceptual", ("", *PERCEPTUAL_NETWORKS))
    losses, side = config.losses, config.data.image_size
    if not losses.perceptual:
        require(
            not losses.perceptual_weights,
            f"config.losses.perceptual_weights is '{losses.perceptual_weights}', but "
            "config.losses.perceptual is empty; set it to the network of these weights",
        )
        return
    smallest = min_image_size(losses.perceptual)
    require(
        side >= smallest,
        f"config.losses.perceptual {losses.perceptual} compares images of {smallest} pixels or "
        f"more, and config.data.image_size is {side}",
    )


def _validate_discriminator(config: ConfigDict) -> None:
    require_one_of(config, "discriminator.kind", ("patch", "stylegan"))
    require_one_of(config, "discriminator.norm", ("batch", "actnorm", "group", "none"))
    losses, settings, side = config.losses, config.discriminator, config.data.image_size
    sizes = ("filters", "num_layers", "max_width")
    require_at_least(config, 1, *(f"discriminator.{size}" for size in sizes))
    if losses.adversarial_weight == 0:
        for key in ("r1_weight", "lecam_weight"):
            require(
                losses[key] == 0,
                f"config.losses.{key} is {losses[key]}, but without a discriminator "
                "(config.losses.adversarial_weight is 0) it has no effect; set it to 0",
            )
    elif settings.kind == "patch":
        require(
            side >= 2 * 2**settings.num_layers,
            f"config.discriminator.num_layers {settings.num_layers} is too many for images of "
            f"{side} pixels",
        )
        require(
            losses.r1_weight == 0 or settings.norm != "batch",
            "config.losses.r1_weight needs logits that depend on their own image alone, but "
            "config.discriminator.norm is 'batch'; set the norm to group or none, or the weight "
            "to 0",
        )


def build_autoencoder(config: ConfigDict) -> VQGAN:
    """Returns the autoencoder that a configuration describes."""
    options = module_options(VQGAN, config)
    architecture = ARCHITECTURES[config.model.architecture]
    if config.model.architecture == "taming":
        sizes = tuple(config.model.attention_sizes)
        architecture = architecture._replace(
            attention_sizes=sizes, latent_width=config.model.latent_width
        )
    options["architecture"] = architecture
    size, channels = config.data.image_size, config.data.channels
    return VQGAN(image_size=size, channels=channels, **options)


def build_discriminator(config: ConfigDict) -> Discriminator:
    """Returns the discriminator that a configuration describes."""
    settings, dtype = config.discriminator, config.dtype
    if settings.kind == "stylegan":
        return StyleGANDiscriminator(
            config.data.image_size, settings.filters, settings.max_width, settings.blur, dtype
        )
    return PatchDiscriminator(settings.filters, settings.num_layers, settings.norm, dtype)


@dataclass(frozen=True, eq=False)
class VQGANStage(SingleMapTokenizer):
    """The functions of the stage, see `Stage`.

    Attributes:
        config: The stage's configuration.
        autoencoder: The network that it describes.
        side: Rows and columns of the token map.
        discriminator: Trained only if `config.losses.adversarial_weight` is above 0.
    """

    discriminator: Discriminator

    def init(self, key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        """Returns the initial variables; the codebook starts from latents of the batch."""
        autoencoder_key, discriminator_key, codes_key = jax.random.split(key, 3)
        image, weights = normalize(batch["image"]), self.config.losses
        autoencoder, latents = self.init_autoencoder(autoencoder_key, image)
        codebook = autoencoder["quantizer"]["codebook"]
        if self.config.model.quantizer_kind == "vector":
            codebook = sample_latents(latents, len(codebook), codes_key)
            autoencoder["quantizer"] = {"codebook": codebook}
        params = {"autoencoder": autoencoder}
        state: dict[str, PyTree] = {**init_codebook_state(codebook, "gradient")}
        if weights.adversarial_weight:
            discriminator: Any = self.discriminator.init(discriminator_key, image, train=True)
            params["discriminator"] = discriminator["params"]
            state["batch_stats"] = discriminator.get("batch_stats", {})
        if weights.lecam_weight:
            state["lecam"] = init_lecam_averages()._asdict()
        return Variables(params, state, frozen)

    def losses(
        self, variables: Variables, batch: Batch, key: Key, step: Array
    ) -> tuple[Mapping[str, Array], tuple[PyTree, Metrics]]:
        """Returns the losses of autoencoder and discriminator, the state and the metrics.

        The autoencoder's: reconstruction + perceptual + quantizer + generator loss.
        """
        image, weights = normalize(batch["image"]), self.config.losses
        latents = self.apply(variables, "latents", image)
        quantized = self.apply(variables, "quantize", latents)
        features = self.apply(variables, "features", quantized.codes)
        reconstruction = self.apply(variables, "to_image", features)
        terms = self.reconstruction_terms(variables, image, reconstruction)
        terms |= self.quantizer_terms(variables, latents, quantized.loss)
        loss = sum(terms.values(), jnp.float32(0.0))
        usage = update_usage(
            variables.state["usage"],
            latents,
            quantized.tokens,
            key,
            step,
            self.config.model.restart_dead_codes_after,
        )
        metrics = {**terms, "restarted_codes": count_restarts(usage, step)}
        if not weights.adversarial_weight:
            return {"autoencoder": loss}, ({"usage": usage}, metrics)
        weight = self.generator_weight(variables, image, features, step)
        fake, discriminator, state, discriminator_metrics = self.discriminator_terms(
            variables, image, reconstruction
        )
        metrics |= {"adversarial_weight": weight, **discriminator_metrics}
        loss = loss + weight * generator_loss(fake, weights.adversarial)
        losses = {"autoencoder": loss, "discriminator": discriminator}
        return losses, ({"usage": usage, **state}, metrics)

    def reconstruction_terms(
        self, variables: Variables, image: Array, reconstruction: Array
    ) -> dict[str, Array]:
        """Returns the weighted pixel and perceptual losses, [] each."""
        weights = self.config.losses
        pixels = pixel_loss(image, reconstruction, weights.reconstruction).mean()
        terms = {"pixel_loss": weights.reconstruction_weight * pixels}
        if weights.perceptual:
            network = variables.frozen["perceptual"].params["network"]
            distance = perceptual_distance(weights.perceptual)(network, image, reconstruction)
            terms["perceptual_loss"] = weights.perceptual_weight * distance.mean()
        return terms

    def quantizer_terms(
        self, variables: Variables, latents: Array, loss: Array
    ) -> dict[str, Array]:
        """Returns the weighted losses of the quantizer, [] each.

        Args:
            variables: Of the stage.
            latents: Encoder outputs [B, h, w, D].
            loss: Of codebook and commitment, [].
        """
        weights = self.config.losses
        terms = {"quantizer_loss": weights.quantizer_weight * loss}
        if weights.entropy_weight:
            codebook = variables.params["autoencoder"]["quantizer"]["codebook"]
            if self.config.model.normalize_codes:
                latents, codebook = unit_vectors(latents), unit_vectors(codebook)
            entropy = entropy_loss(latents, codebook, weights.entropy, weights.entropy_temperature)
            terms["entropy_loss"] = weights.entropy_weight * entropy
        return terms

    def discriminate(
        self, variables: Variables, batch_stats: PyTree, image: Array
    ) -> tuple[Array, PyTree]:
        """Returns the discriminator's logits and its batch statistics after these images."""
        image = (image + 1.0) / 2.0 if self.config.model.unit_range else image
        logits, changed = self.discriminator.apply(
            {"params": variables.params["discriminator"], "batch_stats": batch_stats},
            image,
            train=True,
            mutable=["batch_stats"],
        )
        return logits, changed.get("batch_stats", {})

    def discriminator_terms(
        self, variables: Variables, image: Array, reconstruction: Array
    ) -> tuple[Array, Array, dict[str, PyTree], dict[str, Array]]:
        """Returns the logits of the reconstructions, the loss [], the state and the metrics."""
        weights = self.config.losses
        real, batch_stats = self.discriminate(variables, variables.state["batch_stats"], image)
        fake, batch_stats = self.discriminate(variables, batch_stats, reconstruction)
        loss = discriminator_loss(real, fake, weights.adversarial)
        state: dict[str, PyTree] = {"batch_stats": batch_stats}
        metrics = {"logits_real": real.mean(), "logits_fake": fake.mean()}
        if weights.r1_weight:
            metrics["r1"] = r1_penalty(lambda x: self.logits(variables, x), image)
            loss += weights.r1_weight * metrics["r1"]
        if weights.lecam_weight:
            averages = LecamAverages(**variables.state["lecam"])
            metrics["lecam"] = lecam_penalty(real, fake, averages, weights.lecam_rectified)
            loss += weights.lecam_weight * metrics["lecam"]
            averages = update_lecam_averages(averages, real, fake, weights.lecam_decay)
            state["lecam"] = averages._asdict()
        return fake, loss, state, metrics

    def logits(self, variables: Variables, image: Array) -> Array:
        """Returns the discriminator's logits; in training they do not depend on its statistics."""
        return self.discriminate(variables, variables.state["batch_stats"], image)[0]

    def generator_weight(
        self, variables: Variables, image: Array, features: Array, step: Array
    ) -> Array:
        """Returns the weight of the generator's loss [], 0 before the discriminator starts.

        Args:
            variables: Of the stage.
            image: Originals [B, H, W, C] in [-1, 1].
            features: Input of the decoder's last convolution, [B, H, W, filters].
            step: The training step [].
        """
        weights = self.config.losses
        weight = jnp.float32(weights.adversarial_weight)
        if weights.adaptive_weight:
            conv_out = variables.params["autoencoder"]["conv_out"]
            features = jax.lax.stop_gradient(features)

            def reconstruction_loss(decoded: Array) -> Array:
                terms = self.reconstruction_terms(variables, image, decoded)
                return sum(terms.values(), jnp.float32(0.0))

            def adversarial_loss(decoded: Array) -> Array:
                return generator_loss(self.logits(variables, decoded), weights.adversarial)

            def to_image(kernel: Array) -> Array:
                params = {"conv_out": {**conv_out, "kernel": kernel}}
                decoded: Any = self.autoencoder.apply(
                    {"params": params}, features, method="to_image"
                )
                return decoded

            weight *= adaptive_weight(
                reconstruction_loss, adversarial_loss, to_image, conv_out["kernel"]
            )
        start_step = self.config.optimizers.discriminator.start_step
        return jnp.where(step >= start_step, weight, 0.0)


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its networks are "autoencoder" and "discriminator".

    Without `config.losses.adversarial_weight` there is no discriminator. With
    `config.losses.perceptual` the losses (and nothing else) need `frozen["perceptual"]`, whose
    `params["network"]` are the parameters of `interop.perceptual.load_perceptual_network`.
    """
    del frozen
    side = config.data.image_size // 2 ** (len(config.model.channel_multipliers) - 1)
    stage = VQGANStage(config, build_autoencoder(config), side, build_discriminator(config))
    functions = (stage.init, stage.losses, stage.evaluate, stage.preview)
    return Stage(*functions, stage.exports, summarize, stage.assign, codebook_layouts(config))
