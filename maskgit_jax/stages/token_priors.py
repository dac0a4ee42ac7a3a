"""Functions shared by the stages of token priors: tokenizers, conditions, known tokens."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, normalize
from maskgit_jax.configuration import InputError, require, require_one_of
from maskgit_jax.decoding.regions import token_mask
from maskgit_jax.losses.masked_tokens import unigram_entropy_bits
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.settings import check_settings
from maskgit_jax.stage import Exports, Stage, Tokenizer, Variables

Grids = tuple[tuple[int, int], ...]


def token_grids(config: ConfigDict) -> Grids:
    """Returns the rows and columns of each token map of a prior, coarsest first."""
    grids = config.model.grids if "grids" in config.model else (config.model.grid,)
    return tuple((height, width) for height, width in grids)


def check_tokenizer(config: ConfigDict, exports: Exports) -> Tokenizer:
    """Returns the tokenizer of a prior.

    Raises:
        InputError: Its codebook or token maps are not those of `config.model`.
    """
    model = config.model
    run = config.tokenizer if "tokenizer" in config else f"{config.generator}/frozen/tokenizer"
    if not isinstance(exports, Tokenizer):
        raise InputError(
            f"{run} is no run of a tokenizer; give a run of configs/vqgan.py or configs/vqvae.py"
        )
    if exports.codebook_size != model.codebook_size:
        raise InputError(
            f"the tokenizer in {run} has {exports.codebook_size} codes, but "
            f"config.model.codebook_size is {model.codebook_size}; make them equal"
        )
    if "grids" not in model and len(exports.grids) != 1:
        raise InputError(
            f"the tokenizer in {run} has {len(exports.grids)} token maps, and stage "
            f"'{config.stage}' predicts one; choose a tokenizer of one level, such as a run of "
            "configs/vqgan.py or configs/vqvae.py, or train configs/pixelsnail.py on it"
        )
    if exports.grids != token_grids(config):
        key = "grids" if "grids" in model else "grid"
        grid = exports.grids if "grids" in model else exports.grids[0]
        raise InputError(
            f"the tokenizer in {run} has a grid of {grid} tokens, but config.model.{key} is "
            f"{model[key]}; make them equal"
        )
    return exports


def check_transformer(config: ConfigDict) -> None:
    """Raises `InputError` for heads, an attention kernel or layer options that cannot work."""
    model, options = config.model, layer_options(config)
    check_settings(options)
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
    require(
        not options.rotary or model.width // model.num_heads % 4 == 0,
        f"config.model.width / num_heads is {model.width // model.num_heads}; with rotary "
        "positions it must be a multiple of 4",
    )


def check_bidirectional(config: ConfigDict) -> None:
    """Raises `InputError` for layer options that do not fit the model of MaskGIT or a critic."""
    model, options = config.model, layer_options(config)
    require_one_of(config, "model.norm", ("post", "pre"))
    require(
        options.conditioning != "none",
        "config.model.layer_options.conditioning is 'none', which is for configs/gpt.py; set it to "
        "token, adaln or both",
    )
    require(
        model.norm == "pre" or not options.adaptive,
        f"config.model.layer_options.conditioning is '{options.conditioning}', but adaptive norms "
        "are for pre-norm layers; set --config.model.norm=pre",
    )
    require(
        all(side % options.patch_size == 0 for side in model.grid),
        f"config.model.grid is {tuple(model.grid)}; both must be multiples of "
        f"config.model.layer_options.patch_size, {options.patch_size}",
    )
    require(
        options.patch_size == 1 or not config.data.condition,
        f"config.model.layer_options.patch_size is {options.patch_size}, but tokens of condition "
        "images are not joined; set it to 1",
    )


def layer_options(config: ConfigDict) -> LayerOptions:
    """Returns the options of the transformer's layers."""
    return LayerOptions(**config.model.layer_options.to_dict())


def condition_tokenizer(config: ConfigDict, frozen: Mapping[str, Stage]) -> Tokenizer | None:
    """Returns the tokenizer of the condition images, None without conditions.

    Raises:
        InputError: The run in `config.condition_tokenizer` has no tokenizer.
    """
    if "condition_tokenizer" not in frozen:
        return None
    exports = frozen["condition_tokenizer"].exports
    if not isinstance(exports, Tokenizer):
        raise InputError(
            f"config.condition_tokenizer {config.condition_tokenizer} is no run of a tokenizer; "
            "give a run of configs/vqgan.py or configs/vqvae.py"
        )
    return exports


def validate_condition(config: ConfigDict) -> None:
    """Raises `InputError` unless a condition and its tokenizer are given both or neither."""
    require(
        bool(config.condition_tokenizer) == bool(config.data.condition),
        f"config.condition_tokenizer is '{config.condition_tokenizer}' and config.data.condition "
        f"is '{config.data.condition}'; set both for image-conditional generation, or neither",
    )


def tokenizer_runs(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories of the tokenizer and, with conditions, of theirs."""
    names = ("tokenizer", "condition_tokenizer")
    return {name: config[name] for name in names if name in config and config[name]}


def encode_condition(
    tokenizer: Tokenizer | None, variables: Variables, batch: Batch
) -> Array | None:
    """Returns the tokens of the condition images of a batch, int32 [B, Lc]; None without any."""
    if tokenizer is None:
        return None
    image = normalize(batch["condition"])
    return tokenizer.encode(variables.frozen["condition_tokenizer"], image)


def known_tokens(
    tokenizer: Tokenizer, variables: Variables, inputs: Batch, grids: Grids
) -> tuple[Array, Array]:
    """Returns the tokens of the given image and their mask, [B, L] each; all masked without one.

    Args:
        tokenizer: The tokenizer of the images.
        variables: The variables of the prior.
        inputs: `label`, and optionally `image` and `mask`.
        grids: Rows and columns of the token maps to generate.
    """
    if "image" not in inputs:
        shape = (len(inputs["label"]), sum(height * width for height, width in grids))
        return jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool)
    encode = tokenizer.encode if grids == tokenizer.grids else tokenizer.encode_map
    assert encode is not None, "other sizes are for tokenizers of one level"
    tokens = encode(variables.frozen["tokenizer"], normalize(inputs["image"]))
    mask = token_mask(inputs["mask"], grids)
    return tokens.reshape(mask.shape), mask


def decode_tokens(
    decode: Callable[[Variables, Array], Array], variables: Variables, tokens: Array
) -> Array:
    """Returns the images [B, H, W, C] of tokens [B, ...]; NaN where a token is negative.

    Args:
        decode: `Tokenizer.decode` or `decode_map`.
        variables: The variables of the prior.
        tokens: int32; `sampling.NO_CODE` where the logits were not finite.
    """
    image = decode(variables.frozen["tokenizer"], jnp.maximum(tokens, 0))
    valid = (tokens >= 0).all(axis=tuple(range(1, tokens.ndim)))
    return jnp.where(valid[:, None, None, None], image, jnp.nan)


def paste_known_pixels(image: Array, inputs: Batch) -> Array:
    """Returns the image [B, H, W, C] with the unmasked pixels of the given one, if any."""
    if "image" not in inputs:
        return image
    return jnp.where(inputs["mask"][..., None], image, normalize(inputs["image"]))


def show_conditions(batch: Batch, samples: Sequence[Array]) -> Array:
    """Returns rows of condition, original and samples in [-1, 1], [B, columns, H, W, C]."""
    columns = [normalize(batch["condition"]), normalize(batch["image"]), *samples]
    channels = max(image.shape[-1] for image in columns)
    columns = [jnp.broadcast_to(image, (*image.shape[:3], channels)) for image in columns]
    return jnp.stack(columns, axis=1)


def encode_tokens(tokenizer: Tokenizer, variables: Variables, batch: Batch) -> Array:
    """Returns the tokens of a batch, int32 [B, L]; images are encoded if it has no tokens."""
    if "tokens" in batch:
        return batch["tokens"]
    return tokenizer.encode(variables.frozen["tokenizer"], normalize(batch["image"]))


def bits_metrics(
    errors: Array, tokens: Array, codebook_size: int, selected: Array | None = None
) -> dict[str, Array]:
    """Returns the cross-entropy in bits per token and, to compare, two that need no network.

    `bits_per_token_uniform` is that of equally likely codes, `bits_per_token_unigram` that of the
    frequencies of the codes in this batch.

    Args:
        errors: Cross-entropy of each token in nats, [B, L].
        tokens: int32 [B, L].
        codebook_size: K.
        selected: Tokens whose errors count, bool [B, L]; None for all.
    """
    return {
        "bits_per_token": errors.mean(where=selected) / jnp.log(2.0),
        "bits_per_token_unigram": unigram_entropy_bits(tokens, codebook_size),
        "bits_per_token_uniform": jnp.log2(float(codebook_size)),
    }
