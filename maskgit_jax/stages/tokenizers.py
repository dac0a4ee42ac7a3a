"""What the stages that make tokens share: how codebooks are kept, and their figures."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree, normalize
from maskgit_jax.configuration import require, require_one_of
from maskgit_jax.losses.reconstruction import pixel_loss
from maskgit_jax.quantizers.vector import (
    INITS,
    UPDATES,
    init_ema,
    init_usage,
    reset_ema_of_restarted,
    restart_dead_codes,
    update_ema,
    update_usage,
)
from maskgit_jax.stage import Metrics, Tokenizer, Variables

HISTOGRAM = "codebook_histogram"


def validate_codebook(config: ConfigDict) -> None:
    """Raises `InputError` for settings of `config.model` that no codebook can be kept by."""
    require_one_of(config, "model.codebook_update", UPDATES)
    require_one_of(config, "model.codebook_init", INITS)
    for key in ("codebook_size", "codebook_dim"):
        value = config.model[key]
        require(value >= 1, f"config.model.{key} is {value}; it must be at least 1")
    decay = config.model.codebook_decay
    require(0 <= decay < 1, f"config.model.codebook_decay is {decay}; it must be in [0, 1)")
    after = config.model.restart_dead_codes_after
    require(
        after >= 0, f"config.model.restart_dead_codes_after is {after}; it must not be negative"
    )


def validate_image_size(config: ConfigDict, factor: int, *keys: str) -> None:
    """Raises `InputError` unless `factor`, which comes of `config.model`'s `keys`, divides it."""
    size = config.data.image_size
    reasons = " and ".join(f"config.model.{key} {config.model[key]}" for key in keys)
    require(
        size % factor == 0,
        f"config.data.image_size {size} is not a multiple of {factor}, by which {reasons} shrink "
        "the image",
    )


def new_level(codebook: Array, update: str) -> dict[str, PyTree]:
    """Returns the running statistics of one codebook [K, D] before the first step."""
    state: dict[str, PyTree] = {"use": init_usage(*codebook.shape)}
    if update == "ema":
        state["running"] = init_ema(codebook)
    return state


def observe_level(
    state: Mapping[str, PyTree],
    latents: Array,
    tokens: Array,
    key: Key,
    step: Array,
    model: ConfigDict,
) -> dict[str, PyTree]:
    """Returns the statistics of one codebook after a batch.

    Args:
        state: As made by `new_level`.
        latents: Before quantization [..., D].
        tokens: Their nearest codes, int32 [...].
        key: Chooses what revives idle codes.
        step: The training step [].
        model: `config.model` with `codebook_decay` and `restart_dead_codes_after`.
    """
    use = update_usage(state["use"], latents, tokens, key, step, model.restart_dead_codes_after)
    if "running" not in state:
        return {"use": use}
    running = update_ema(state["running"], latents, tokens, model.codebook_decay)
    return {"use": use, "running": reset_ema_of_restarted(running, use, step)}


def assigned_codebook(codebook: Array, state: Mapping[str, PyTree], step: Array) -> Array:
    """Returns the codebook [K, D] after a step: its running means, or itself with revived codes.

    Both parameters and their running average get it: the means are an average already.
    """
    if "running" in state:
        return state["running"]["means"]
    return restart_dead_codes(codebook, state["use"], step)


def assign_quantizer(
    params: Mapping[str, PyTree], state: Mapping[str, PyTree], step: Array
) -> Mapping[str, PyTree]:
    """Returns the players with the codebook of the autoencoder's only quantizer assigned.

    It is `Stage.assign` where `state` is what `new_level` made, whatever else is in it.
    """
    if "autoencoder" not in params:
        return params
    player = params["autoencoder"]
    codebook = assigned_codebook(player["quantizer"]["codebook"], state, step)
    return {**params, "autoencoder": {**player, "quantizer": {"codebook": codebook}}}


def restarted_codes(state: Mapping[str, PyTree], step: Array) -> Array:
    """Returns how many codes were given up and replaced at this step, float32 []."""
    return (state["use"]["restarted_at"] == step).sum().astype(jnp.float32)


def reconstruction_figures(image: Array, decoded: Array) -> dict[str, Array]:
    """Returns mean squared and absolute error and PSNR (dB) of each image, [B].

    Args:
        image: Originals [B, H, W, C] in [-1, 1].
        decoded: Reconstructions; what leaves [-1, 1] is clipped. Errors are stated for pixels
            in [0, 1], as the field does.
    """
    decoded = jnp.clip(decoded, -1.0, 1.0)
    square = pixel_loss(image, decoded, "l2") / 4
    return {
        "reconstruction_mse": square,
        "reconstruction_l1": pixel_loss(image, decoded, "l1") / 2,
        "psnr": -10 * jnp.log10(jnp.maximum(square, 1e-10)),
    }


def codebook_histogram(tokens: Array, codebook_size: int) -> Array:
    """Returns the share of each code in the tokens int32 [B, L] of each image, [B, K]."""
    return jax.vmap(lambda row: jnp.bincount(row, length=codebook_size) / len(row))(tokens)


def side_by_side(*images: Array) -> Array:
    """Returns [B, H, W, C] image sets in one: the first of each, then the second of each, ..."""
    return jnp.stack(images, axis=1).reshape(-1, *images[0].shape[1:])


def summarize(means: Mapping[str, Array]) -> dict[str, float]:
    """Returns means as numbers, and usage and perplexity of each codebook over the split.

    `codebook_usage` is the share of codes chosen at least once; `codebook_perplexity` is
    exp(entropy) of their frequencies, 1 .. K. They have the suffix of their histogram:
    `codebook_histogram_top` gives `codebook_usage_top`.
    """
    figures = {}
    for name, value in means.items():
        if not name.startswith(HISTOGRAM):
            figures[name] = float(value)
            continue
        level, share = name.removeprefix(HISTOGRAM), jnp.asarray(value)
        entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-30)), 0.0))
        figures[f"codebook_usage{level}"] = float((share > 0).mean())
        figures[f"codebook_perplexity{level}"] = float(jnp.exp(entropy))
    return figures


class OneMap(NamedTuple):
    """What a tokenizer with one token map offers, see `Stage`."""

    evaluate: Callable[[Variables, Batch, Key], Metrics]
    preview: Callable[[Variables, Batch, Key], Metrics]
    exports: Tokenizer


def one_map(apply: Callable[..., Array], codebook_size: int, side: int) -> OneMap:
    """Returns the functions of a tokenizer with one square token map.

    Args:
        apply: (variables, method, argument) -> the autoencoder's `encode`, image [B, H, W, C] ->
            tokens int32 [B, h, w], or `decode`, the reverse.
        codebook_size: K.
        side: h = w.
    """

    def encode_map(variables: Variables, image: Array) -> Array:
        return apply(variables, "encode", image)

    def decode_map(variables: Variables, tokens: Array) -> Array:
        return apply(variables, "decode", tokens)

    def encode(variables: Variables, image: Array) -> Array:
        return encode_map(variables, image).reshape(len(image), -1)

    def decode(variables: Variables, tokens: Array) -> Array:
        return decode_map(variables, tokens.reshape(-1, side, side))

    def evaluate(variables: Variables, batch: Batch, key: Key) -> Metrics:
        del key
        image = normalize(batch["image"])
        tokens = encode(variables, image)
        return {
            **reconstruction_figures(image, decode(variables, tokens)),
            HISTOGRAM: codebook_histogram(tokens, codebook_size),
        }

    def preview(variables: Variables, batch: Batch, key: Key) -> Metrics:
        del key
        image = normalize(batch["image"])
        decoded = decode(variables, encode(variables, image))
        return {"original_and_reconstruction": side_by_side(image, decoded)}

    exports = Tokenizer(encode, decode, codebook_size, ((side, side),), encode_map, decode_map)
    return OneMap(evaluate, preview, exports)
