"""The official MaskGIT weights as torch files: renamed to the official names, then read as these.

Two ports exist: hmorimitsu/maskgit-torch has tokenizer and transformer, and the tokenizer of
open-muse and bytedance/1d-tokenizer (`maskgit-vqgan-imagenet-f16-256.bin`) has other names.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maskgit_jax.configuration import InputError, require
from maskgit_jax.interop.imported import Imported
from maskgit_jax.interop.maskgit import import_generator, import_tokenizer
from maskgit_jax.interop.weight_files import Weights, count

_HEAD_WIDTH = 48  # of the official transformer; no shape says it
_CODEBOOKS = ("quantizer.codebook.weight", "quantize.embedding.weight")
_BLOCKS = ("encoder.res_blocks.0.0.conv0.weight", "encoder.mid.0.conv1.weight")
_LAYERS = {
    "res_blocks": ("norm0", "conv0", "norm1", "conv1", "conv_res"),
    "down": ("norm1", "conv1", "norm2", "conv2", "nin_shortcut"),
}
_LAYERS |= dict.fromkeys(("up", "mid"), _LAYERS["down"])
_OFFICIAL_LAYERS = ("GroupNorm_0", "Conv_0", "GroupNorm_1", "Conv_1", "Conv_2")


def is_tokenizer(weights: Weights) -> bool:
    """Returns whether these are weights of the tokenizer, of either port."""
    pairs = zip(_CODEBOOKS, _BLOCKS, strict=True)
    return any(first in weights.arrays and second in weights.arrays for first, second in pairs)


def is_generator(weights: Weights) -> bool:
    """Returns whether these are weights of the transformer."""
    return {"tok_emb.weight", "pos_emb", "emb_ln.weight"} <= weights.arrays.keys()


def read_tokenizer(weights: Weights, image_size: int, tokenizer: Imported | None) -> Imported:
    """Returns the tokenizer."""
    del tokenizer
    arrays = weights.arrays
    levels, blocks = count(arrays, r"encoder\.down\.(\d+)"), count(arrays, r"encoder\.mid\.(\d+)")
    if not levels:
        levels = count(arrays, r"encoder\.res_blocks\.(\d+)") - 1
        blocks = count(arrays, r"encoder\.res_blocks\.0\.(\d+)")
    require(levels > 0 and blocks > 0, "lacks the blocks of the encoder")
    renamed = {}
    for name, array in arrays.items():
        kernel = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        renamed[_tokenizer_name(name, array.ndim, levels, blocks)] = kernel
    return _with_official_names(import_tokenizer, renamed, image_size)


def read_generator(weights: Weights, image_size: int, tokenizer: Imported | None) -> Imported:
    """Returns the transformer."""
    del image_size
    renamed = {}
    for name, array in weights.arrays.items():
        renamed |= _transformer_arrays(name, array)
    return _with_official_names(import_generator, renamed, tokenizer)


def _with_official_names(
    read: Callable[..., Imported], arrays: Mapping[str, np.ndarray], argument: Any
) -> Imported:
    try:
        return read(arrays, argument)
    except InputError as error:
        raise InputError(f"{error}, in the names of google-research/maskgit") from error


def _tokenizer_name(name: str, axes: int, levels: int, blocks: int) -> str:
    """Returns the official name, or `name` itself if it is of no array of the tokenizer."""
    if name in _CODEBOOKS:
        return "quantizer/codebook"
    match = re.fullmatch(r"(encoder|decoder)\.(.+)\.(weight|bias)", name)
    if not match:
        return name
    part, path, leaf = match[1], match[2], match[3]
    module = _tokenizer_module(part, path, levels, blocks)
    leaf = {"weight": "kernel" if axes == 4 else "scale"}.get(leaf, leaf)
    return f"{part}/{module}/{leaf}" if module else name


def _tokenizer_module(part: str, path: str, levels: int, blocks: int) -> str:
    """Returns the official name of a layer; the official blocks are numbered in order of use."""
    last = levels if part == "decoder" else 1
    single = {"conv_in": "Conv_0", "norm_out": "GroupNorm_0", "conv_out": f"Conv_{last}"}
    if path in single:
        return single[path]
    pattern = r"(?:(res_blocks|down|up)\.(\d+)|(mid))(?:\.block)?(?:\.(\d+))?(?:\.(\w+))?"
    match = re.fullmatch(pattern, path)
    if not match:
        return ""
    place, level, index, layer = match[1] or match[3], int(match[2] or 0), match[4], match[5]
    if place == "up":
        level = levels - level
    elif place == "mid":
        level = levels if part == "encoder" else 0
    if layer == "upsample_conv" or (place == "res_blocks" and not layer):
        return f"Conv_{level}"
    if layer not in _LAYERS[place] or index is None:
        return ""
    official = _OFFICIAL_LAYERS[_LAYERS[place].index(layer)]
    return f"ResBlock_{level * blocks + int(index)}/{official}"


_TRANSFORMER = {
    "tok_emb": "Embed_0/word_embeddings/embedding",
    "pos_emb": "Embed_0/position_embeddings/embedding",
    "bias": "MlmLayer_0/mlm_bias/bias",
}
_TRANSFORMER_LAYERS = {
    "emb_ln": "Embed_0/embeddings_ln",
    "Token_Prediction.0": "MlmLayer_0/mlm_dense",
    "Token_Prediction.2": "MlmLayer_0/mlm_ln",
    "AttentionLN": "Attention_0/attention_output_ln",
    "MlpLN": "Mlp_0/layer_output_ln",
    "MLP.0": "Mlp_0/intermediate_output",
    "MLP.2": "Mlp_0/layer_output",
}


def _transformer_arrays(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the official arrays that one of the port's consists of."""
    if name.removesuffix(".weight") in _TRANSFORMER:
        return {_TRANSFORMER[name.removesuffix(".weight")]: array}
    match = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+?)[._](weight|bias)", name)
    if not match:
        return {name: array}
    prefix, layer = f"TransformerLayer_{match[1]}/" if match[1] else "", match[2]
    is_bias = match[3] == "bias"
    if layer.startswith("MultiHeadAttention."):
        attention = f"{prefix}Attention_0/self_attention"
        return _attention_arrays(attention, layer.partition(".")[2], is_bias, array)
    if layer not in _TRANSFORMER_LAYERS:
        return {name: array}
    leaf = "bias" if is_bias else ("kernel" if array.ndim == 2 else "scale")
    return {f"{prefix}{_TRANSFORMER_LAYERS[layer]}/{leaf}": array.T}


def _attention_arrays(
    place: str, layer: str, is_bias: bool, array: np.ndarray
) -> dict[str, np.ndarray]:
    """Splits torch's joint projections, and the axes of width into heads."""
    leaf = "bias" if is_bias else "kernel"
    width = array.shape[-1] if layer == "out_proj" or not is_bias else array.shape[0] // 3
    rows = width if layer == "out_proj" else 3 * width
    require(array.shape[0] == rows, f"has {array.shape[0]} rows in '{place}', not {rows}")
    require(
        width % _HEAD_WIDTH == 0,
        f"has width {width}, which is not a multiple of {_HEAD_WIDTH}, the width of a head of the "
        "official network",
    )
    heads = (width // _HEAD_WIDTH, _HEAD_WIDTH)
    if layer == "out_proj":
        return {f"{place}/out/{leaf}": array if is_bias else array.T.reshape(*heads, width)}
    parts = zip(("query", "key", "value"), np.split(array, 3), strict=True)
    shape = heads if is_bias else (width, *heads)
    return {f"{place}/{name}/{leaf}": part.T.reshape(shape) for name, part in parts}
