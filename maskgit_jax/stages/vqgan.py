"""VQGAN: a tokenizer that must reconstruct, and the judges that say how well it does.

Judges are a discriminator, which learns with it, and a frozen network for classification, in
whose features original and reconstruction are compared (`frozen["judge"]`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree, normalize
from maskgit_jax.autoencoders.vqgan import ARCHITECTURES, VQGAN
from maskgit_jax.configuration import require, require_one_of
from maskgit_jax.losses.adversarial import (
    LecamAverages,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    initial_lecam_averages,
    lecam_penalty,
    r1_penalty,
    update_lecam_averages,
)
from maskgit_jax.losses.reconstruction import pixel_loss
from maskgit_jax.networks.discriminators import PatchDiscriminator, StyleGANDiscriminator
from maskgit_jax.networks.perceptual import PERCEPTUAL_NETWORKS, min_image_size, perceptual_distance
from maskgit_jax.quantizers.vector import sample_latents, update_usage
from maskgit_jax.stage import Stage, Variables
from maskgit_jax.stages.tokenizers import (
    assign_quantizer,
    new_level,
    one_map,
    restarted_codes,
    summarize,
    validate_image_size,
)


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    require_one_of(config, "model.architecture", tuple(ARCHITECTURES))
    require_one_of(config, "losses.reconstruction", ("l1", "l2"))
    require_one_of(config, "losses.adversarial", ("hinge", "non_saturating"))
    require_one_of(config, "losses.perceptual", ("", *PERCEPTUAL_NETWORKS))
    require_one_of(config, "discriminator.kind", ("patch", "stylegan"))
    require_one_of(config, "discriminator.norm", ("batch", "group", "none"))
    losses, side = config.losses, config.data.image_size
    for key in ("reconstruction_weight", "quantizer_weight", "perceptual_weight", "adversarial_weight",
                "r1_weight", "lecam_weight"):  # fmt: skip
        require(losses[key] >= 0, f"config.losses.{key} is {losses[key]}; it must not be negative")
    decay = losses.lecam_decay
    require(0 <= decay < 1, f"config.losses.lecam_decay is {decay}; it must be in [0, 1)")
    require(
        bool(losses.perceptual) or not losses.perceptual_weights,
        f"config.losses.perceptual_weights is '{losses.perceptual_weights}', but config.losses.perceptual is empty; "
        "name the network of these weights",
    )
    if losses.perceptual:
        least = min_image_size(losses.perceptual)
        require(
            side >= least,
            f"config.losses.perceptual {losses.perceptual} compares images of {least} pixels or more, and "
            f"config.data.image_size is {side}",
        )
    validate_image_size(
        config, 2 ** (len(config.model.channel_multipliers) - 1), "channel_multipliers"
    )
    _validate_discriminator(config)


def _validate_discriminator(config: ConfigDict) -> None:
    losses, judge, side = config.losses, config.discriminator, config.data.image_size
    for key in ("filters", "num_layers", "max_width"):
        require(
            judge[key] >= 1,
            f"config.discriminator.{key} is {judge[key]}; it must be at least 1",
        )
    if losses.adversarial_weight == 0:
        for key in ("r1_weight", "lecam_weight"):
            require(
                losses[key] == 0,
                f"config.losses.{key} is {losses[key]}, but without a discriminator "
                "(config.losses.adversarial_weight is 0) it has no meaning; set it to 0",
            )
        return
    if judge.kind == "patch":
        require(
            side >= 2 * 2**judge.num_layers,
            f"config.discriminator.num_layers {judge.num_layers} is too many for images of "
            f"{side} pixels",
        )
        require(
            losses.r1_weight == 0 or judge.norm != "batch",
            "config.losses.r1_weight needs logits that depend on their own image alone, but "
            "config.discriminator.norm is 'batch'; set the norm to group or none, or the weight "
            "to 0",
        )


def needs(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories that must be loaded first: none."""
    del config
    return {}


class Networks(NamedTuple):
    """The linen modules of the game."""

    autoencoder: VQGAN
    discriminator: PatchDiscriminator | StyleGANDiscriminator


def networks(config: ConfigDict) -> Networks:
    """Returns the modules that a configuration describes."""
    model = config.model
    autoencoder = VQGAN(
        image_size=config.data.image_size,
        channels=config.data.channels,
        filters=model.filters,
        channel_multipliers=tuple(model.channel_multipliers),
        blocks_per_level=model.blocks_per_level,
        codebook_size=model.codebook_size,
        codebook_dim=model.codebook_dim,
        beta=model.beta,
        architecture=ARCHITECTURES[model.architecture],
        remat=model.remat,
        dtype=config.dtype,
    )
    judge, dtype = config.discriminator, config.dtype
    if judge.kind == "stylegan":
        size = config.data.image_size
        discriminator = StyleGANDiscriminator(
            size, judge.filters, judge.max_width, judge.blur, dtype
        )
    else:
        discriminator = PatchDiscriminator(judge.filters, judge.num_layers, judge.norm, dtype)
    return Networks(autoencoder, discriminator)


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; players are "autoencoder" and, if it weighs, "discriminator".

    With `config.losses.perceptual` the losses (and nothing else) need `frozen["judge"]`, whose
    `params["network"]` is what `interop.judges.load_perceptual_network` gives.
    """
    del frozen
    autoencoder, discriminator = networks(config)
    weights, model = config.losses, config.model
    adversarial = weights.adversarial_weight > 0
    perceptual = perceptual_distance(weights.perceptual) if weights.perceptual else None
    start_step = config.optimizers.discriminator.start_step
    side = config.data.image_size // 2 ** (len(model.channel_multipliers) - 1)

    def apply(variables: Variables, method: str, *arguments: Array) -> Array:
        return autoencoder.apply(
            {"params": variables.params["autoencoder"]}, *arguments, method=method
        )

    def init(key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        autoencoder_key, discriminator_key, codes_key = jax.random.split(key, 3)
        image = normalize(batch["image"])
        params = autoencoder.init(autoencoder_key, image)["params"]
        latents = autoencoder.apply({"params": params}, image, method="latents")
        codebook = sample_latents(latents, model.codebook_size, codes_key)
        params = {"autoencoder": {**params, "quantizer": {"codebook": codebook}}}
        state = new_level(codebook, "gradient")
        if adversarial:
            judge = discriminator.init(discriminator_key, image, train=True)
            params["discriminator"] = judge["params"]
            state["batch_stats"] = judge.get("batch_stats", {})
        if weights.lecam_weight:
            state["lecam"] = initial_lecam_averages()._asdict()
        return Variables(params, state, frozen)

    def faithfulness(variables: Variables, image: Array, decoded: Array) -> dict[str, Array]:
        """Returns the terms, weighted, that ask for the original, [] each."""
        pixels = pixel_loss(image, decoded, weights.reconstruction).mean()
        terms = {"pixel_loss": weights.reconstruction_weight * pixels}
        if perceptual is not None:
            network = variables.frozen["judge"].params["network"]
            distance = perceptual(network, image, decoded).mean()
            terms["perceptual_loss"] = weights.perceptual_weight * distance
        return terms

    def judge(variables: Variables, statistics: PyTree, image: Array) -> tuple[Array, PyTree]:
        logits, changed = discriminator.apply(
            {"params": variables.params["discriminator"], "batch_stats": statistics},
            image,
            train=True,
            mutable=["batch_stats"],
        )
        return logits, changed.get("batch_stats", {})

    def generator_weight(
        variables: Variables, statistics: PyTree, image: Array, features: Array, step: Array
    ) -> Array:
        """Returns what the generator's loss is multiplied by, 0 before the discriminator starts."""
        weight = jnp.float32(weights.adversarial_weight)
        if weights.adaptive_weight:
            last = variables.params["autoencoder"]["conv_out"]
            constant = jax.lax.stop_gradient(features)
            weight *= adaptive_weight(
                lambda x: sum(faithfulness(variables, image, x).values(), jnp.float32(0.0)),
                lambda x: generator_loss(judge(variables, statistics, x)[0], weights.adversarial),
                lambda kernel: autoencoder.apply(
                    {"params": {"conv_out": {**last, "kernel": kernel}}},
                    constant,
                    method="to_image",
                ),
                last["kernel"],
            )
        return jnp.where(step >= start_step, weight, 0.0)

    def adversarial_terms(
        variables: Variables, image: Array, features: Array, decoded: Array, step: Array
    ) -> tuple[Array, Array, dict[str, PyTree], dict[str, Array]]:
        """Returns the generator's term, the discriminator's loss, state and metrics."""
        statistics = variables.state["batch_stats"]
        real, statistics = judge(variables, statistics, image)
        fake, statistics = judge(variables, statistics, decoded)
        weight = generator_weight(variables, statistics, image, features, step)
        loss = discriminator_loss(real, fake, weights.adversarial)
        state: dict[str, PyTree] = {"batch_stats": statistics}
        metrics = {
            "adversarial_weight": weight,
            "logits_real": real.mean(),
            "logits_fake": fake.mean(),
        }
        if weights.r1_weight:
            metrics["r1"] = r1_penalty(lambda x: judge(variables, statistics, x)[0], image)
            loss += weights.r1_weight * metrics["r1"]
        if weights.lecam_weight:
            averages = LecamAverages(**variables.state["lecam"])
            metrics["lecam"] = lecam_penalty(real, fake, averages, weights.lecam_rectified)
            loss += weights.lecam_weight * metrics["lecam"]
            moved = update_lecam_averages(averages, real, fake, weights.lecam_decay)
            state["lecam"] = moved._asdict()
        return weight * generator_loss(fake, weights.adversarial), loss, state, metrics

    def losses(variables: Variables, batch: Batch, key: Key, step: Array):
        image = normalize(batch["image"])
        latents = apply(variables, "latents", image)
        quantized = apply(variables, "quantize", latents)
        features = apply(variables, "features", quantized.codes)
        decoded = apply(variables, "to_image", features)
        terms = faithfulness(variables, image, decoded)
        total = sum(terms.values(), weights.quantizer_weight * quantized.loss)
        use = update_usage(
            variables.state["use"],
            latents,
            quantized.tokens,
            key,
            step,
            model.restart_dead_codes_after,
        )
        metrics = {
            **terms,
            "quantizer_loss": quantized.loss,
            "restarted_codes": restarted_codes({"use": use}, step),
        }
        if not adversarial:
            return {"autoencoder": total}, ({"use": use}, metrics)
        term, judge_loss, state, more = adversarial_terms(variables, image, features, decoded, step)
        return (
            {"autoencoder": total + term, "discriminator": judge_loss},
            ({"use": use, **state}, {**metrics, **more}),
        )

    own = one_map(apply, model.codebook_size, side)
    return Stage(init, losses, own.evaluate, summarize, own.preview, own.exports, assign_quantizer)
