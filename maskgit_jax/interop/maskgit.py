"""The published weights of google-research/maskgit: tokenizer, transformer and discriminator.

The files are msgpack of flax. They hold {"params": ...}; a checkpoint of a training is accepted
too, and of several copies of the parameters in it the moving average is read.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array
from maskgit_jax.configuration import load_config, require
from maskgit_jax.interop.correspondence import (
    Source,
    SourceOf,
    import_tree,
    padded,
    reshaped,
    same,
    stacked,
)
from maskgit_jax.interop.imported import (
    Imported,
    imagenet_classes,
    vqgan_shapes,
    vqgan_state,
)
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.priors.maskgit import MaskGIT
from maskgit_jax.stages.maskgit import build_network

_TOKENIZER, _GENERATOR = "quantizer/codebook", "MlmLayer_0/mlm_bias/bias"
_DISCRIMINATOR = "Dense_1/kernel"


def is_tokenizer(weights: Weights) -> bool:
    """Returns whether these are weights of the tokenizer."""
    prefix = _prefix(weights, _TOKENIZER)
    return prefix is not None and f"{prefix}encoder/ResBlock_0/Conv_0/kernel" in weights.arrays


def is_generator(weights: Weights) -> bool:
    """Returns whether these are weights of the transformer."""
    return _prefix(weights, _GENERATOR) is not None


def _prefix(weights: Weights, key: str) -> str | None:
    """Returns the beginning of the names of a network, None without it."""
    places = [name.removesuffix(key) for name in weights.arrays if name.endswith(key)]
    places = [place for place in places if "opt_state" not in place and place[-1:] in ("", "/")]
    return min(places, key=lambda place: ("ema" not in place, len(place)), default=None)


def _network(weights: Weights, key: str, name: str = "") -> dict[str, np.ndarray]:
    """Returns the arrays of the network that has an array `key`, with the prefix `name`."""
    prefix = _prefix(weights, key)
    if prefix is None:
        return {}
    items = weights.arrays.items()
    return {name + path.removeprefix(prefix): x for path, x in items if path.startswith(prefix)}


def _dropped(weights: Weights, *keys: str) -> tuple[str, ...]:
    """Returns the names of the arrays that belong to none of the networks."""
    prefixes = tuple(_prefix(weights, key) for key in keys)
    used = tuple(prefix for prefix in prefixes if prefix is not None)
    return tuple(name for name in weights.arrays if not name.startswith(used))


def read_tokenizer(weights: Weights, image_size: int, tokenizer: Imported | None) -> Imported:
    """Returns the tokenizer, with its discriminator if the file has one."""
    del tokenizer
    arrays = _network(weights, _TOKENIZER)
    arrays |= _network(weights, _DISCRIMINATOR, DISCRIMINATOR_PREFIX)
    return import_tokenizer(arrays, image_size, _dropped(weights, _TOKENIZER, _DISCRIMINATOR))


def import_tokenizer(
    arrays: Mapping[str, np.ndarray], image_size: int, dropped: tuple[str, ...] = ()
) -> Imported:
    """Returns the tokenizer of arrays with the official names."""
    changes = _tokenizer_sizes(arrays)
    with_discriminator = f"{DISCRIMINATOR_PREFIX}{_DISCRIMINATOR}" in arrays
    if with_discriminator:
        changes |= _discriminator_sizes(arrays)
        size = changes["data.image_size"]
        require(
            image_size in (0, size),
            f"has a discriminator of images of {size} pixels, not {image_size}",
        )
    else:
        changes["data.image_size"] = image_size or 256
    preset = f"vqgan:imagenet{512 if changes['data.image_size'] == 512 else 256}"
    config = load_config(preset, **changes)
    shapes = vqgan_shapes(config)
    if not with_discriminator:
        del shapes["discriminator"]
    params, _ = import_tree(arrays, shapes, tokenizer_source(config))
    return Imported("vqgan", preset, changes, params, vqgan_state(params), dropped)


def _tokenizer_sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the keys of the configuration that the shapes of the arrays say."""
    codebook_size, codebook_dim = _shape(arrays, "quantizer/codebook", 2)
    *_, channels, filters = _shape(arrays, "encoder/Conv_0/kernel", 4)
    levels = _count(arrays, "decoder/Conv_") - 1
    blocks = _count(arrays, "encoder/ResBlock_") // max(1, levels + 1)
    require(levels > 0 and blocks > 0, "lacks the blocks of encoder or decoder")
    first = [f"encoder/ResBlock_{level * blocks}/Conv_0/kernel" for level in range(levels)]
    widths = [_shape(arrays, name, 4)[-1] for name in first]
    shortcuts = [x.shape for name, x in arrays.items() if re.match("enc.*/Conv_2/kernel", name)]
    fixed = any(shape[-2] != shape[-1] for shape in shortcuts)
    return {
        "data.channels": channels,
        "model.architecture": "maskgit_fixed" if fixed else "maskgit",
        "model.filters": filters,
        "model.channel_multipliers": tuple(width // filters for width in widths),
        "model.blocks_per_level": blocks,
        "model.mid_blocks": blocks,
        "model.codebook_size": codebook_size,
        "model.codebook_dim": codebook_dim,
    }


def _shape(arrays: Mapping[str, np.ndarray], name: str, num_axes: int) -> tuple[int, ...]:
    """Returns the shape of an array that must be there."""
    require(name in arrays, f"lacks '{name}'")
    shape = arrays[name].shape
    require(len(shape) == num_axes, f"has '{name}' of shape {shape}, not of {num_axes} axes")
    return shape


def _discriminator_sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    prefix = DISCRIMINATOR_PREFIX
    filters = _shape(arrays, f"{prefix}Conv_0/kernel", 4)[-1]
    kernels = [x.shape[-1] for key, x in arrays.items() if key.startswith(prefix) and x.ndim == 4]
    return {
        "data.image_size": 4 * 2 ** _count(arrays, f"{prefix}ResBlock_"),
        "discriminator.kind": "stylegan",
        "discriminator.filters": filters,
        "discriminator.max_width": max(kernels),
    }


def _count(arrays: Mapping[str, np.ndarray], start: str) -> int:
    """Returns the number of submodules whose names begin like this."""
    return len({name[len(start) :].split("/")[0] for name in arrays if name.startswith(start)})


_BLOCK = {
    "norm1": "GroupNorm_0",
    "conv1": "Conv_0",
    "norm2": "GroupNorm_1",
    "conv2": "Conv_1",
    "shortcut": "Conv_2",
}
_SINGLE_LAYERS = {"conv_in": "Conv_0", "norm_out": "GroupNorm_0", "to_codes": "Conv_1"}
DISCRIMINATOR_PREFIX = "discriminator/"
"""Of the names of the discriminator's arrays, beside those of the tokenizer."""
_DISCRIMINATOR_LAYERS = {
    "conv_in": "Conv_0",
    "conv_out": "Conv_1",
    "head_dense": "Dense_0",
    "head_logit": "Dense_1",
    "conv_0": "Conv_0",
    "shortcut": "Conv_1",
    "conv_1": "Conv_2",
}


def tokenizer_source(config: ConfigDict) -> SourceOf:
    """Returns the official source of each of our arrays of a VQGAN."""
    levels, blocks = len(config.model.channel_multipliers), config.model.blocks_per_level

    def number(part: str, block: str) -> int:
        """The official networks count their blocks in the order of their use."""
        place, _, index = block.rpartition("_")
        level = 0 if place == "mid" else int(place.removeprefix("level"))
        if part == "encoder":
            level = levels if place == "mid" else level
        else:
            level = 0 if place == "mid" else levels - level
        return level * blocks + int(index)

    def source_of(path: str) -> Source:
        network, part, *rest = path.split("/")
        if network == "discriminator":
            return _discriminator_source(part, *rest)
        if part == "quantizer":
            return same("quantizer/codebook")
        if part == "conv_out":
            return same(f"decoder/Conv_{levels}/{rest[0]}")
        module, *inner = rest
        if module.startswith("upsample"):
            return same(f"decoder/Conv_{levels - int(module[8:])}/{inner[-1]}")
        if module in _SINGLE_LAYERS:
            return same(f"{part}/{_SINGLE_LAYERS[module]}/{inner[0]}")
        layer, leaf = inner
        return same(f"{part}/ResBlock_{number(part, module)}/{_BLOCK[layer]}/{leaf}")

    return source_of


def _discriminator_source(module: str, *rest: str) -> Source:
    *inner, leaf = rest
    block = module.replace("block_", "ResBlock_")
    words = [block, *inner] if inner else [module]
    words[-1] = _DISCRIMINATOR_LAYERS[words[-1]]
    return same("/".join([DISCRIMINATOR_PREFIX + words[0], *words[1:], leaf]))


def read_generator(weights: Weights, image_size: int, tokenizer: Imported | None) -> Imported:
    """Returns the transformer; its position embeddings say the size of the images."""
    del image_size
    assert tokenizer is not None
    arrays = _network(weights, _GENERATOR)
    return import_generator(arrays, tokenizer, _dropped(weights, _GENERATOR))


def import_generator(
    arrays: Mapping[str, np.ndarray], tokenizer: Imported, dropped: tuple[str, ...] = ()
) -> Imported:
    """Returns the transformer of arrays with the official names."""
    changes = _generator_sizes(arrays, tokenizer)
    preset = f"maskgit:imagenet{512 if changes['data.image_size'] == 512 else 256}"
    network = build_network(load_config(preset, **changes))
    params, _ = import_tree(arrays, generator_shapes(network), generator_source(network))
    return Imported("maskgit", preset, changes, {"prior": params}, {}, dropped)


def _generator_sizes(arrays: Mapping[str, np.ndarray], tokenizer: Imported) -> dict[str, Any]:
    """Returns the keys of the configuration that the shapes of the arrays say."""
    layer = "TransformerLayer_0"
    words = _shape(arrays, "Embed_0/word_embeddings/embedding", 2)
    positions = _shape(arrays, "Embed_0/position_embeddings/embedding", 2)
    query = _shape(arrays, f"{layer}/Attention_0/self_attention/query/kernel", 3)
    mlp = _shape(arrays, f"{layer}/Mlp_0/intermediate_output/kernel", 2)
    codes = tokenizer.changes["model.codebook_size"]
    side, classes = round((positions[0] - 1) ** 0.5), words[0] - codes - 1
    require(
        classes > 0 and side * side == positions[0] - 1,
        f"has {words[0]} word and {positions[0]} position embeddings; to a tokenizer with {codes} "
        "codes belong one row for each code, class and the mask, and one position for the class "
        "and each token of a square map",
    )
    return {
        "data.image_size": side * tokenizer.downsampling,
        "data.channels": tokenizer.changes["data.channels"],
        "data.num_classes": classes,
        "data.class_names": imagenet_classes(classes),
        "model.codebook_size": codes,
        "model.grid": (side, side),
        "model.width": words[1],
        "model.num_layers": _count(arrays, "TransformerLayer_"),
        "model.num_heads": query[1],
        "model.mlp_width": mlp[1],
    }


def generator_shapes(network: MaskGIT) -> Any:
    """Returns the shapes of the parameters of a transformer."""
    label = jax.ShapeDtypeStruct((1,), np.int32)
    tokens = jax.ShapeDtypeStruct((1, network.num_tokens), np.int32)
    mask = jax.ShapeDtypeStruct(tokens.shape, bool)

    def init(tokens: Array, mask: Array, label: Array) -> Any:
        return network.init(jax.random.key(0), tokens, mask, label, False)

    return jax.eval_shape(init, tokens, mask, label)["params"]


_SINGLE = {
    "embedding_norm": "Embed_0/embeddings_ln",
    "head_dense": "MlmLayer_0/mlm_dense",
    "head_norm": "MlmLayer_0/mlm_ln",
}
_LAYER = {
    "attention_norm": "Attention_0/attention_output_ln",
    "mlp_in": "Mlp_0/intermediate_output",
    "mlp_out": "Mlp_0/layer_output",
    "mlp_norm": "Mlp_0/layer_output_ln",
}


def generator_source(network: MaskGIT) -> SourceOf:
    """Returns the official source of each of our arrays of the transformer."""
    rows, width, heads = network.num_rows, network.width, network.num_heads
    padding = -rows % network.row_multiple

    def attention(layer: str, projection: str, leaf: str) -> Source:
        name = f"{layer}/Attention_0/self_attention/{projection}/{leaf}"
        head = width // heads
        if projection == "out":
            theirs = (heads, head, width) if leaf == "kernel" else (width,)
        else:
            theirs = (width, heads, head) if leaf == "kernel" else (heads, head)
        return reshaped(name, (width, width) if leaf == "kernel" else (width,), theirs)

    def of_layer(index: int, path: str) -> Source:
        layer = f"TransformerLayer_{index}"
        module, *rest = path.split("/")
        if module == "attention":
            return attention(layer, *rest)
        return same(f"{layer}/{_LAYER[module]}/{rest[0]}")

    def source_of(path: str) -> Source:
        if path == "word_embedding":
            return padded("Embed_0/word_embeddings/embedding", rows, padding)
        if path == "head_bias":
            return padded("MlmLayer_0/mlm_bias/bias", rows, padding)
        if path == "position_embedding":
            return same("Embed_0/position_embeddings/embedding")
        if path.startswith("layers/"):
            inner = re.sub(r"^layers/(layer/)?", "", path)
            return stacked(lambda index: of_layer(index, inner), network.num_layers)
        module, leaf = path.split("/")
        return same(f"{_SINGLE[module]}/{leaf}")

    return source_of
