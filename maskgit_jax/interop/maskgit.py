"""The published weights of google-research/maskgit: tokenizer, transformer and discriminator.

The files are msgpack of flax. They hold {"params": ...}; a checkpoint of a training is accepted
too, and of several copies of the parameters in it the moving average is read.
"""

import re
from typing import Any

import jax
import numpy as np

from maskgit_jax.configuration import require
from maskgit_jax.interop.correspondence import (
    Source,
    SourceOf,
    import_tree,
    padded,
    reshaped,
    same,
    stacked,
)
from maskgit_jax.interop.imported import Imported, tokenizer_shapes, tokenizer_state
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.priors.maskgit import MaskGIT

_TOKENIZER, _GENERATOR = "quantizer/codebook", "MlmLayer_0/mlm_bias/bias"
_DISCRIMINATOR = "Dense_1/kernel"
_CLASSES = 1000


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
    places = [place for place in places if "opt" not in place and place[-1:] in ("", "/")]
    return min(places, key=lambda place: ("ema" not in place, len(place)), default=None)


def _below(weights: Weights, key: str) -> dict[str, np.ndarray]:
    """Returns the arrays of the network that has an array `key`, without the prefix."""
    prefix = _prefix(weights, key)
    assert prefix is not None
    items = weights.arrays.items()
    return {name.removeprefix(prefix): x for name, x in items if name.startswith(prefix)}


def read_tokenizer(weights: Weights, image_size: int, tokenizer: Imported | None) -> Imported:
    """Returns the tokenizer, with its discriminator if the file has one."""
    del tokenizer
    arrays = _below(weights, _TOKENIZER)
    require("decoder/Conv_0/kernel" in arrays, "lacks 'decoder/Conv_0/kernel'")
    return import_tokenizer(arrays, image_size, _dropped(weights, _TOKENIZER))


def _dropped(weights: Weights, key: str) -> tuple[str, ...]:
    prefix = _prefix(weights, key) or ""
    return tuple(name for name in weights.arrays if not name.startswith(prefix))


def import_tokenizer(
    arrays: dict[str, np.ndarray], image_size: int, dropped: tuple[str, ...]
) -> Imported:
    """Returns the tokenizer of arrays with the official names."""
    sizes = _tokenizer_sizes(arrays)
    size = image_size or 256
    changes = {"data.image_size": size, **sizes}
    preset = f"vqgan:imagenet{512 if size == 512 else 256}"
    shapes = tokenizer_shapes(preset, changes)
    levels, blocks = len(sizes["model.channel_multipliers"]), sizes["model.blocks_per_level"]
    params, _ = import_tree(arrays, shapes, tokenizer_source(levels, blocks))
    state = tokenizer_state(params["quantizer"]["codebook"])
    return Imported("vqgan", preset, changes, {"autoencoder": params}, state, dropped)


def _tokenizer_sizes(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the keys of the configuration that the shapes of the arrays say."""
    levels = _count(arrays, "decoder/Conv_") - 1
    blocks = _count(arrays, "encoder/ResBlock_") // (levels + 1)
    filters = arrays["encoder/Conv_0/kernel"].shape[-1]
    first = [f"encoder/ResBlock_{level * blocks}/Conv_0/kernel" for level in range(levels)]
    widths = [arrays[name].shape[-1] for name in first]
    codebook_size, codebook_dim = arrays["quantizer/codebook"].shape
    shortcuts = [x for name, x in arrays.items() if name.endswith("/Conv_2/kernel")]
    fixed = bool(shortcuts) and shortcuts[0].shape[-2] != shortcuts[0].shape[-1]
    return {
        "data.channels": arrays["encoder/Conv_0/kernel"].shape[-2],
        "model.architecture": "maskgit_fixed" if fixed else "maskgit",
        "model.filters": filters,
        "model.channel_multipliers": tuple(width // filters for width in widths),
        "model.blocks_per_level": blocks,
        "model.mid_blocks": blocks,
        "model.codebook_size": codebook_size,
        "model.codebook_dim": codebook_dim,
    }


def _count(arrays: dict[str, np.ndarray], start: str) -> int:
    """Returns the number of submodules whose names begin like this."""
    return len({name[len(start) :].split("/")[0] for name in arrays if name.startswith(start)})


_BLOCK = {"norm1": "GroupNorm_0", "conv1": "Conv_0", "norm2": "GroupNorm_1", "conv2": "Conv_1"}


def tokenizer_source(levels: int, blocks: int) -> SourceOf:
    """Returns the official name of each of our arrays of the autoencoder."""

    def number(part: str, block: str) -> int:
        where, _, index = block.rpartition("_")
        if part == "encoder":
            start = levels * blocks if where == "mid" else int(where[5:]) * blocks
        else:
            start = 0 if where == "mid" else (levels - int(where[5:])) * blocks
        return start + int(index)

    def source_of(path: str) -> Source:
        if path == "quantizer/codebook":
            return same(path)
        if path.startswith("conv_out/"):
            return same(path.replace("conv_out", f"decoder/Conv_{levels}"))
        part, rest = path.split("/", 1)
        module, leaf = rest.split("/", 1)
        if module.startswith("upsample"):
            return same(f"decoder/Conv_{levels - int(module[8:])}/{leaf.split('/')[1]}")
        single = {"conv_in": "Conv_0", "norm_out": "GroupNorm_0", "to_codes": "Conv_1"}
        if module in single:
            return same(f"{part}/{single[module]}/{leaf}")
        layer, kind = leaf.split("/")
        theirs = {**_BLOCK, "shortcut": "Conv_2"}[layer]
        return same(f"{part}/ResBlock_{number(part, module)}/{theirs}/{kind}")

    return source_of


def read_generator(weights: Weights, image_size: int, tokenizer: Imported | None) -> Imported:
    """Returns the transformer."""
    del image_size  # the position embeddings say it
    assert tokenizer is not None
    arrays = _below(weights, _GENERATOR)
    return import_generator(arrays, tokenizer, _dropped(weights, _GENERATOR))


def import_generator(
    arrays: dict[str, np.ndarray], tokenizer: Imported, dropped: tuple[str, ...]
) -> Imported:
    """Returns the transformer of arrays with the official names."""
    names = (
        "Embed_0/word_embeddings/embedding",
        "Embed_0/position_embeddings/embedding",
        "TransformerLayer_0/Attention_0/self_attention/query/kernel",
        "TransformerLayer_0/Mlp_0/intermediate_output/kernel",
    )
    for name in names:
        require(name in arrays, f"lacks '{name}'")
    words, positions, query, mlp = (arrays[name] for name in names)
    codes = tokenizer.changes["model.codebook_size"]
    side, classes = round((len(positions) - 1) ** 0.5), len(words) - codes - 1
    require(
        classes > 0 and side * side == len(positions) - 1,
        f"has {len(words)} word and {len(positions)} position embeddings, which do not fit the "
        f"tokenizer with {codes} codes: there must be a row for each code, class and the mask, "
        "and a position for the class and each token of a square map",
    )
    factor = 2 ** (len(tokenizer.changes["model.channel_multipliers"]) - 1)
    changes = {
        "data.image_size": side * factor,
        "data.channels": tokenizer.changes["data.channels"],
        "data.num_classes": classes,
        "model.codebook_size": codes,
        "model.grid": (side, side),
        "model.width": words.shape[1],
        "model.num_layers": _count(arrays, "TransformerLayer_"),
        "model.num_heads": query.shape[1],
        "model.mlp_width": mlp.shape[1],
    }
    network = MaskGIT(
        codebook_size=codes,
        num_classes=classes,
        num_tokens=side * side,
        **{key: changes[f"model.{key}"] for key in ("width", "num_layers", "num_heads")},
        mlp_width=mlp.shape[1],
    )
    source_of = generator_source(network)
    params, _ = import_tree(arrays, generator_shapes(network), source_of)
    preset = f"maskgit:imagenet{512 if side == 32 else 256}"
    return Imported("maskgit", preset, changes, {"prior": params}, {}, dropped)


def generator_shapes(network: MaskGIT) -> Any:
    """Returns the shapes of the parameters of a transformer."""
    label = jax.ShapeDtypeStruct((1,), np.int32)
    tokens = jax.ShapeDtypeStruct((1, network.num_tokens), np.int32)
    mask = jax.ShapeDtypeStruct(tokens.shape, bool)
    init: Any = jax.eval_shape(
        lambda *inputs: network.init(jax.random.key(0), *inputs, False), tokens, mask, label
    )
    return init["params"]


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
