"""What the stages that learn the tokens of a frozen tokenizer share."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, normalize
from maskgit_jax.configuration import InputError, require, require_one_of
from maskgit_jax.decoding.regions import token_mask
from maskgit_jax.stage import Stage, Tokenizer, Variables

Grids = tuple[tuple[int, int], ...]


def token_grids(config: ConfigDict) -> Grids:
    """Returns rows and columns of each token map that a prior's configuration describes."""
    grids = config.model.grids if "grids" in config.model else (config.model.grid,)
    return tuple((height, width) for height, width in grids)


def check_tokenizer(config: ConfigDict, tokenizer: Tokenizer) -> None:
    """Raises `InputError` unless the tokenizer makes the tokens that `config.model` is made for."""
    model, wanted = config.model, token_grids(config)
    place = config.tokenizer if "tokenizer" in config else f"{config.generator}/frozen/tokenizer"
    if tokenizer.codebook_size != model.codebook_size:
        raise InputError(
            f"the tokenizer in {place} has {tokenizer.codebook_size} codes, but "
            f"config.model.codebook_size is {model.codebook_size}; make them equal"
        )
    if "grids" not in model and len(tokenizer.grids) != 1:
        raise InputError(
            f"the tokenizer in {place} makes {len(tokenizer.grids)} token maps of each image, and "
            f"stage '{config.stage}' learns one; choose a tokenizer of one level, such as a run of "
            "configs/vqgan.py or configs/vqvae.py, or train configs/pixelsnail.py on it"
        )
    if tokenizer.grids != wanted:
        key, found = (
            ("grids", tokenizer.grids) if "grids" in model else ("grid", tokenizer.grids[0])
        )
        raise InputError(
            f"the tokenizer in {place} makes a grid of {found} tokens, but config.model.{key} is "
            f"{model[key]}; make them equal"
        )


def check_attention(config: ConfigDict) -> None:
    """Raises `InputError` for heads that do not share the width evenly, or an unknown kernel."""
    model = config.model
    require_one_of(config, "model.attention", ("xla", "cudnn"))
    if model.attention == "cudnn":
        kinds = {device.platform for device in jax.devices()}
        require(
            config.dtype == "bfloat16" and kinds == {"gpu"},
            "config.model.attention=cudnn is for bfloat16 on NVIDIA GPUs; set "
            "--config.dtype=bfloat16 there, or --config.model.attention=xla",
        )
    require(
        model.width % model.num_heads == 0,
        f"config.model.width {model.width} is not a multiple of config.model.num_heads "
        f"{model.num_heads}",
    )


def condition_tokenizer(config: ConfigDict, frozen: Mapping[str, Stage]) -> Tokenizer | None:
    """Returns the tokenizer of the images that others are made from, None without any.

    Raises:
        InputError: The run that the configuration names holds none.
    """
    if "condition_tokenizer" not in frozen:
        return None
    found = frozen["condition_tokenizer"].exports
    if not isinstance(found, Tokenizer):
        raise InputError(
            f"config.condition_tokenizer {config.condition_tokenizer} holds no tokenizer; give a "
            "run of configs/vqgan.py or configs/vqvae.py"
        )
    return found


def validate_condition(config: ConfigDict) -> None:
    """Raises `InputError` unless a condition and its tokenizer are given both or neither."""
    require(
        bool(config.condition_tokenizer) == bool(config.data.condition),
        f"config.condition_tokenizer is '{config.condition_tokenizer}' and config.data.condition "
        f"'{config.data.condition}': images made from others need both, the run of a tokenizer "
        "of the conditions and what these are",
    )


def needed_tokenizers(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories of a prior's tokenizer and of that of its condition."""
    runs = {"tokenizer": config.tokenizer}
    if config.condition_tokenizer:
        runs["condition_tokenizer"] = config.condition_tokenizer
    return runs


def encode_condition(
    tokenizer: Tokenizer | None, variables: Variables, batch: Batch
) -> Array | None:
    """Returns the tokens of the condition images of a batch, int32 [B, Lc]; None without any."""
    if tokenizer is None:
        return None
    image = normalize(batch["condition"])
    return tokenizer.encode(variables.frozen["condition_tokenizer"], image)


def known_tokens(
    tokenizer: Tokenizer, variables: Variables, wanted: Batch, maps: Grids
) -> tuple[Array, Array]:
    """Returns tokens and which of them are to be made, [B, L] both; all without a given image.

    Args:
        tokenizer: Of the images.
        variables: Of the prior.
        wanted: `label`, and perhaps `image` and `mask`.
        maps: Rows and columns of the token maps of the images to be made.
    """
    if "image" not in wanted:
        shape = (len(wanted["label"]), sum(height * width for height, width in maps))
        return jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool)
    encode = tokenizer.encode if maps == tokenizer.grids else tokenizer.encode_map
    tokens = encode(variables.frozen["tokenizer"], normalize(wanted["image"]))
    mask = token_mask(wanted["mask"], maps)
    return tokens.reshape(mask.shape), mask


def paste_known_pixels(image: Array, wanted: Batch) -> Array:
    """Returns the image [B, H, W, C] with the pixels of a given one that were to be kept."""
    if "image" not in wanted:
        return image
    return jnp.where(wanted["mask"][..., None], image, normalize(wanted["image"]))


def show_conditions(batch: Batch, made: Sequence[Array]) -> Array:
    """Returns rows of condition, original and samples of it, in [-1, 1], [B, columns, H, W, C]."""
    shown = [normalize(batch["condition"]), normalize(batch["image"]), *made]
    channels = max(image.shape[-1] for image in shown)
    shown = [jnp.broadcast_to(image, (*image.shape[:3], channels)) for image in shown]
    return jnp.stack(shown, axis=1)


def encode_tokens(tokenizer: Tokenizer, variables: Variables, batch: Batch) -> Array:
    """Returns the tokens of a batch, int32 [B, L], encoded now unless they are there already."""
    if "tokens" in batch:
        return batch["tokens"]
    return tokenizer.encode(variables.frozen["tokenizer"], normalize(batch["image"]))
