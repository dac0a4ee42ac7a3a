"""VQGAN: a tokenizer that must reconstruct, and a discriminator that must not be fooled."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree, normalize
from maskgit_jax.autoencoders.quantizers import draw_codes, record_use
from maskgit_jax.autoencoders.vqgan import LAYOUTS, VQGAN
from maskgit_jax.configuration import require, require_one_of
from maskgit_jax.losses.adversarial import adaptive_weight, discriminator_loss, generator_loss
from maskgit_jax.losses.reconstruction import pixel_loss
from maskgit_jax.networks.discriminators import PatchDiscriminator
from maskgit_jax.stage import Stage, Variables
from maskgit_jax.stages.tokenizers import (
    assign_quantizer,
    new_level,
    one_map,
    revived_codes,
    summarize,
    validate_image_size,
)


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    require_one_of(config, "model.layout", tuple(LAYOUTS))
    require_one_of(config, "losses.pixel", ("l1", "l2"))
    require_one_of(config, "losses.adversarial", ("hinge", "non_saturating"))
    require_one_of(config, "discriminator.norm", ("batch", "group", "none"))
    require(
        not config.losses.judge,
        f"config.losses.judge is '{config.losses.judge}', but this version has no perceptual "
        "network yet; leave it empty",
    )
    validate_image_size(config, 2 ** (len(config.model.multipliers) - 1), "multipliers")
    reach = 2**config.discriminator.num_layers
    require(
        config.losses.adversarial_weight == 0 or config.data.image_size >= 2 * reach,
        f"config.discriminator.num_layers {config.discriminator.num_layers} is too many for "
        f"images of {config.data.image_size} pixels",
    )


def needs(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories that must be loaded first: none."""
    del config
    return {}


class Networks(NamedTuple):
    """The linen modules of the game."""

    autoencoder: VQGAN
    discriminator: PatchDiscriminator


def networks(config: ConfigDict) -> Networks:
    """Returns the modules that a configuration describes."""
    model = config.model
    autoencoder = VQGAN(
        image_size=config.data.image_size,
        channels=config.data.channels,
        filters=model.filters,
        multipliers=tuple(model.multipliers),
        blocks_per_level=model.blocks_per_level,
        codebook_size=model.codebook_size,
        code_width=model.code_width,
        beta=model.beta,
        layout=LAYOUTS[model.layout],
        remat=model.remat,
        dtype=config.dtype,
    )
    judge = config.discriminator
    return Networks(
        autoencoder, PatchDiscriminator(judge.filters, judge.num_layers, judge.norm, config.dtype)
    )


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; players are "autoencoder" and, if it weighs, "discriminator"."""
    del frozen
    autoencoder, discriminator = networks(config)
    weights, model = config.losses, config.model
    adversarial = weights.adversarial_weight > 0
    start_step = config.players.discriminator.start_step
    side = config.data.image_size // 2 ** (len(model.multipliers) - 1)

    def apply(variables: Variables, method: str, *arguments: Array) -> Array:
        return autoencoder.apply(
            {"params": variables.params["autoencoder"]}, *arguments, method=method
        )

    def init(key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        autoencoder_key, discriminator_key, codes_key = jax.random.split(key, 3)
        image = normalize(batch["image"])
        params = autoencoder.init(autoencoder_key, image)["params"]
        latents = autoencoder.apply({"params": params}, image, method="latents")
        codebook = draw_codes(latents, model.codebook_size, codes_key)
        params = {"autoencoder": {**params, "quantizer": {"codebook": codebook}}}
        state = new_level(codebook, "gradient")
        if adversarial:
            judge = discriminator.init(discriminator_key, image, train=True)
            params["discriminator"] = judge["params"]
            state["batch_stats"] = judge.get("batch_stats", {})
        return Variables(params, state, frozen)

    def judge(variables: Variables, statistics: PyTree, image: Array) -> tuple[Array, PyTree]:
        logits, changed = discriminator.apply(
            {"params": variables.params["discriminator"], "batch_stats": statistics},
            image,
            train=True,
            mutable=["batch_stats"],
        )
        return logits, changed.get("batch_stats", {})

    def adversarial_terms(
        variables: Variables, image: Array, features: Array, decoded: Array, step: Array
    ) -> tuple[Array, Array, PyTree, dict[str, Array]]:
        """Returns the generator's term, the discriminator's loss, statistics and metrics."""
        statistics = variables.state["batch_stats"]
        real, statistics = judge(variables, statistics, image)
        fake, statistics = judge(variables, statistics, decoded)
        weight = jnp.float32(weights.adversarial_weight)
        if weights.adaptive:
            last = variables.params["autoencoder"]["conv_out"]
            constant = jax.lax.stop_gradient(features)
            weight *= adaptive_weight(
                lambda x: pixel_loss(image, x, weights.pixel).mean(),
                lambda x: generator_loss(judge(variables, statistics, x)[0], weights.adversarial),
                lambda kernel: autoencoder.apply(
                    {"params": {"conv_out": {**last, "kernel": kernel}}},
                    constant,
                    method="to_image",
                ),
                last["kernel"],
            )
        weight = jnp.where(step >= start_step, weight, 0.0)
        term = weight * generator_loss(fake, weights.adversarial)
        loss = discriminator_loss(real, fake, weights.adversarial)
        metrics = {
            "adversarial_weight": weight,
            "logits_real": real.mean(),
            "logits_fake": fake.mean(),
        }
        return term, loss, statistics, metrics

    def losses(variables: Variables, batch: Batch, key: Key, step: Array):
        image = normalize(batch["image"])
        latents = apply(variables, "latents", image)
        quantized = apply(variables, "quantize", latents)
        features = apply(variables, "features", quantized.codes)
        decoded = apply(variables, "to_image", features)
        faithful = pixel_loss(image, decoded, weights.pixel).mean()
        total = faithful + weights.quantizer_weight * quantized.loss
        use = record_use(
            variables.state["use"], latents, quantized.tokens, key, step, model.revive_after
        )
        metrics = {
            "pixel_loss": faithful,
            "quantizer_loss": quantized.loss,
            "revived_codes": revived_codes({"use": use}, step),
        }
        if not adversarial:
            return {"autoencoder": total}, ({"use": use}, metrics)
        term, judge_loss, statistics, more = adversarial_terms(
            variables, image, features, decoded, step
        )
        state = {"use": use, "batch_stats": statistics}
        return (
            {"autoencoder": total + term, "discriminator": judge_loss},
            (state, {**metrics, **more}),
        )

    own = one_map(apply, model.codebook_size, side)
    return Stage(init, losses, own.evaluate, summarize, own.preview, own.exports, assign_quantizer)
