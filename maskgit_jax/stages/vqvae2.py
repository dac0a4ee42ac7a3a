"""VQ-VAE-2: one player, a tokenizer with two or three levels of token maps."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree, normalize
from maskgit_jax.autoencoders.vqvae2 import LEVEL_NAMES, VQVAE2
from maskgit_jax.configuration import require, require_one_of
from maskgit_jax.losses.reconstruction import pixel_loss
from maskgit_jax.quantizers.vector import initial_codebook
from maskgit_jax.stage import Stage, Tokenizer, Variables, join_levels, split_levels
from maskgit_jax.stages.tokenizers import (
    assigned_codebook,
    codebook_histogram,
    new_level,
    observe_level,
    reconstruction_figures,
    restarted_codes,
    side_by_side,
    summarize,
    validate_codebook,
    validate_image_size,
)


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    require_one_of(config, "losses.reconstruction", ("l1", "l2"))
    validate_codebook(config)
    rate = config.losses.level_dropout_rate
    require(0 <= rate < 1, f"config.losses.level_dropout_rate is {rate}; it must be in [0, 1)")
    halvings, levels = config.model.bottom_downsamplings, config.model.num_levels
    require(
        levels in LEVEL_NAMES,
        f"config.model.num_levels is {levels}; allowed: {', '.join(map(str, LEVEL_NAMES))}",
    )
    require(
        halvings >= 1, f"config.model.bottom_downsamplings is {halvings}; it must be at least 1"
    )
    factor = 2 ** (halvings + levels - 1)
    validate_image_size(config, factor, "bottom_downsamplings", "num_levels")


def needs(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories that must be loaded first: none."""
    del config
    return {}


def network(config: ConfigDict) -> VQVAE2:
    """Returns the autoencoder that a configuration describes."""
    model = config.model
    return VQVAE2(
        channels=config.data.channels,
        filters=model.filters,
        residual_filters=model.residual_filters,
        num_residual_blocks=model.num_residual_blocks,
        num_levels=model.num_levels,
        bottom_downsamplings=model.bottom_downsamplings,
        codebook_size=model.codebook_size,
        codebook_dim=model.codebook_dim,
        beta=model.beta,
        codebook_update=model.codebook_update,
        remat=model.remat,
        dtype=config.dtype,
    )


def grids_of(config: ConfigDict) -> tuple[tuple[int, int], ...]:
    """Returns rows and columns of each level's token map, coarsest first."""
    model = config.model
    bottom = config.data.image_size // 2**model.bottom_downsamplings
    sides = [bottom // 2**number for number in range(model.num_levels)]
    return tuple((side, side) for side in reversed(sides))


def drop_levels(codes: tuple[Array, ...], key: Key, rate: float) -> tuple[Array, ...]:
    """Returns codes of which some images have lost their finest levels (zeros instead).

    Without it nothing asks the coarse levels to say anything, and they may end up saying nothing.

    Args:
        codes: Of all levels [B, h, w, D], coarsest first.
        key: Chooses the images, and for each how many levels it keeps (1 .. all but one).
        rate: Share of such images in [0, 1); 0 is the published VQ-VAE-2.

    Source: "quantizer dropout" of Zeghidour et al. 2021, SoundStream, for levels
    of resolution instead of residual quantizers, and of a part of the images only.
    """
    if rate == 0:
        return codes
    image_key, count_key = jax.random.split(key)
    batch_size, num_levels = len(codes[0]), len(codes)
    dropped = jax.random.bernoulli(image_key, rate, (batch_size,))
    fewer = jax.random.randint(count_key, (batch_size,), 1, num_levels)
    kept = jnp.where(dropped, fewer, num_levels).reshape(-1, 1, 1, 1)
    return tuple(jnp.where(kept > number, own, 0.0) for number, own in enumerate(codes))


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only player is "autoencoder"."""
    del frozen
    autoencoder, weights, model = network(config), config.losses, config.model
    names, grids = autoencoder.level_names, grids_of(config)

    def apply(variables: Variables, method: str, *arguments: Any) -> Any:
        return autoencoder.apply(
            {"params": variables.params["autoencoder"]}, *arguments, method=method
        )

    def init(key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        autoencoder_key, codes_key = jax.random.split(key)
        image = normalize(batch["image"])
        params = autoencoder.init(autoencoder_key, image)["params"]
        state = {}
        # One after another: the latents of a level depend on the codes of the coarser ones.
        for number, name in enumerate(names):
            latents = autoencoder.apply({"params": params}, image, method="levels")[number].latents
            codebook = initial_codebook(
                params[f"quantizer_{name}"]["codebook"],
                latents,
                jax.random.fold_in(codes_key, number),
                model.codebook_init,
            )
            params = {**params, f"quantizer_{name}": {"codebook": codebook}}
            state[name] = new_level(codebook, model.codebook_update)
        return Variables({"autoencoder": params}, state, frozen)

    def losses(variables: Variables, batch: Batch, key: Key, step: Array):
        drop_key, *revive_keys = jax.random.split(key, len(names) + 1)
        image = normalize(batch["image"])
        levels = apply(variables, "levels", image)
        codes = tuple(level.quantized.codes for level in levels)
        codes = drop_levels(codes, drop_key, weights.level_dropout_rate)
        decoded = apply(variables, "to_image", codes)
        faithful = pixel_loss(image, decoded, weights.reconstruction).mean()
        distance = sum((level.quantized.loss for level in levels), jnp.float32(0.0))
        state, metrics = {}, {"pixel_loss": faithful, "quantizer_loss": distance}
        for name, level, revive_key in zip(names, levels, revive_keys, strict=True):
            state[name] = observe_level(
                variables.state[name],
                level.latents,
                level.quantized.tokens,
                revive_key,
                step,
                model,
            )
            metrics[f"revived_codes_{name}"] = restarted_codes(state[name], step)
        return {"autoencoder": faithful + weights.quantizer_weight * distance}, (state, metrics)

    def assign(params: Mapping[str, PyTree], state: PyTree, step: Array):
        if "autoencoder" not in params:
            return params
        player = dict(params["autoencoder"])
        for name in names:
            old = player[f"quantizer_{name}"]["codebook"]
            codebook = assigned_codebook(old, state[name], step)
            player[f"quantizer_{name}"] = {"codebook": codebook}
        return {**params, "autoencoder": player}

    def encode(variables: Variables, image: Array) -> Array:
        return join_levels(apply(variables, "encode", image))

    def decode(variables: Variables, tokens: Array) -> Array:
        return apply(variables, "decode", split_levels(tokens, grids))

    def top_only(variables: Variables, tokens: Array) -> Array:
        """Returns what the top level says of an image; the codes of the finer ones are zeros."""
        top, *finer = apply(variables, "lookup", split_levels(tokens, grids))
        return apply(variables, "to_image", (top, *(jnp.zeros_like(codes) for codes in finer)))

    def evaluate(variables: Variables, batch: Batch, key: Key):
        del key
        image = normalize(batch["image"])
        tokens = encode(variables, image)
        figures = reconstruction_figures(image, decode(variables, tokens))
        coarse = reconstruction_figures(image, top_only(variables, tokens))
        figures["reconstruction_mse_top_only"] = coarse["reconstruction_mse"]
        for name, own in zip(names, split_levels(tokens, grids), strict=True):
            own = own.reshape(len(own), -1)
            figures[f"codebook_histogram_{name}"] = codebook_histogram(own, model.codebook_size)
        return figures

    def preview(variables: Variables, batch: Batch, key: Key):
        del key
        image = normalize(batch["image"])
        tokens = encode(variables, image)
        return {
            "original_and_reconstruction": side_by_side(image, decode(variables, tokens)),
            "original_and_top_only": side_by_side(image, top_only(variables, tokens)),
        }

    exports = Tokenizer(encode, decode, model.codebook_size, grids)
    return Stage(init, losses, evaluate, summarize, preview, exports, assign)
