"""The published generators of Halton-MaskGIT (valeoai/Halton-MaskGIT, since version 2.0).

They are MaskGITs on the tokenizer of LlamaGen, as torch files of a state dict.
"""

import re
from typing import Any

import numpy as np

from maskgit_jax.configuration import load_config, require
from maskgit_jax.interop.correspondence import Source, SourceOf, dense, import_tree, same, stacked
from maskgit_jax.interop.imported import Imported
from maskgit_jax.interop.maskgit import generator_shapes
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.priors.maskgit import MaskGIT
from maskgit_jax.stages.maskgit import build_network

_PREFIXES = ("module.", "_orig_mod.")  # of data parallel and compiled modules
_TABLES = ("tok_emb.weight", "cls_emb.weight", "pos_emb.weight")
_FIRST = ("ff.w1.weight", "attn.wq.weight")
_GUIDANCE = {384: 1.5, 512: 1.0, 768: 0.7, 1024: 0.5}  # of the published FIDs, by width
_OPTIONS = {
    "norm_type": "rms",
    "qk_norm": "width",
    "mlp": "swiglu",
    "conditioning": "adaln",
    "bias": False,
    "norm_epsilon": 1e-5,
}


def is_generator(weights: Weights) -> bool:
    """Returns whether these are weights of a generator."""
    names = (*_TABLES, "last_norm.mlp.1.weight")
    return set(names) <= set(_arrays(weights))


def _arrays(weights: Weights) -> dict[str, np.ndarray]:
    found = weights.arrays
    for prefix in _PREFIXES:
        found = {name.replace(prefix, ""): array for name, array in found.items()}
    return found


def read_generator(weights: Weights, image_size: int, tokenizer: Imported | None) -> Imported:
    """Returns the transformer, with the sampling settings of its published FID."""
    assert tokenizer is not None
    arrays = _arrays(weights)
    changes = {**_sizes(arrays, tokenizer), **_published_values(arrays)}
    size = changes["data.image_size"]
    require(
        image_size in (0, size),
        f"is a generator of images of {size} pixels, not {image_size}; remove --image_size",
    )
    head, table = arrays.get("head.weight"), arrays["tok_emb.weight"]
    require(
        head is None or np.array_equal(head, table),
        "has a 'head.weight' that is not 'tok_emb.weight', to which it is tied",
    )
    preset = "maskgit:imagenet256"
    network = build_network(load_config(preset, **changes))
    shapes, ignored = generator_shapes(network), ("head.weight",).__contains__
    params, dropped = import_tree(arrays, shapes, generator_source(network), ignored)
    return Imported("maskgit", preset, changes, {"prior": params}, {}, dropped)


def _sizes(arrays: dict[str, np.ndarray], tokenizer: Imported) -> dict[str, Any]:
    """Returns the keys of the configuration that the shapes of the arrays say."""
    layers = {name.split(".")[2] for name in arrays if name.startswith("transformer.layers.")}
    for name in (*_TABLES, *(f"transformer.layers.0.{name}" for name in _FIRST)):
        require(name in arrays, f"lacks '{name}'")
    words, classes, positions = (arrays[name] for name in _TABLES)
    mlp_width, inner = (len(arrays[f"transformer.layers.0.{name}"]) for name in _FIRST)
    width, side = words.shape[1], round(len(positions) ** 0.5)
    require(
        side * side == len(positions),
        f"has {len(positions)} positions, which are no square map of tokens",
    )
    num_heads = _num_heads(width, inner)
    sizes = {
        "data.image_size": side * tokenizer.downsampling,
        "data.channels": tokenizer.changes["data.channels"],
        "data.num_classes": len(classes) - 1,
        "model.codebook_size": len(words) - 1,
        "model.grid": (side, side),
        "model.width": width,
        "model.num_layers": len(layers),
        "model.num_heads": num_heads,
        "model.mlp_width": mlp_width,
    }
    options = {
        **_OPTIONS,
        "num_registers": len(arrays.get("reg_tokens.weight", ())),
        "patch_size": arrays["in_proj.weight"].shape[-1] if "in_proj.weight" in arrays else 1,
        "head_width": inner // num_heads if inner != width else 0,
    }
    return sizes | {f"model.layer_options.{name}": value for name, value in options.items()}


def _num_heads(width: int, inner: int) -> int:
    """Returns the number of heads, which no shape says: one for 64 channels, with two exceptions.

    Source: valeoai/Halton-MaskGIT Trainer/abstract_trainer.py:transformer_size.
    """
    # The 6 heads of width 512 have 85 channels, and together 510.
    return {(512, 510): 6, (1152, 1152): 16}.get((width, inner), max(1, width // 64))


def _published_values(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the keys of training and sampling that differ from those of the preset.

    Source: Config/base_cls2img.yaml and launch/run_cls_to_img.sh; guidance: the README's table.
    """
    return {
        "model.norm": "pre",
        "model.head": "tied_linear",
        "losses.loss_on": "all",
        "losses.reduction": "tokens",
        "losses.label_smoothing": 0.0,
        "losses.label_dropout_rate": 0.1,
        "masking.schedule": "arccos",
        "sampling.decoder": "halton",
        "sampling.schedule": "arccos",
        "sampling.steps": min(32, len(arrays["pos_emb.weight"])),
        "sampling.guidance": _GUIDANCE.get(arrays["tok_emb.weight"].shape[1], 0.5),
        "sampling.guidance_schedule": "constant",
    }


_LAYER = {
    "attention/query/kernel": "attn.wq",
    "attention/key/kernel": "attn.wk",
    "attention/value/kernel": "attn.wv",
    "attention/out/kernel": "attn.wo",
    "mlp_gate/kernel": "ff.w1",
    "mlp_in/kernel": "ff.w3",
    "mlp_out/kernel": "ff.w2",
    "modulation/kernel": "mlp.1",
    "attention_norm/scale": "ln1",
    "mlp_norm/scale": "ln2",
}
_SINGLE = {
    "position_embedding": "pos_emb.weight",
    "registers": "reg_tokens.weight",
    "final_norm/scale": "last_norm.norm_final.weight",
}


def generator_source(network: MaskGIT) -> SourceOf:
    """Returns the source of each of our arrays of the transformer."""

    def of_layer(index: int, path: str) -> Source:
        layer = f"transformer.layers.{index}"
        if path == "modulation/bias":
            return same(f"{layer}.mlp.1.bias")
        name = f"{layer}.{_LAYER[path]}.weight"
        return dense(name) if path.endswith("kernel") else same(name)

    special = {
        "word_embedding": _word_embedding(network),
        "head_bias": _head_bias(network),
        "patch_in/kernel": _patch_in(network),
        "patch_out/kernel": _patch_out(network),
        "final_modulation/kernel": _final_modulation("weight"),
        "final_modulation/bias": _final_modulation("bias"),
    }

    def source_of(path: str) -> Source:
        if path in special:
            return special[path]
        if path in _SINGLE:
            return same(_SINGLE[path])
        inner = re.sub(r"^layers/(layer/)?", "", path)
        return stacked(lambda index: of_layer(index, inner), network.num_layers)

    return source_of


def _num_padding_rows(network: MaskGIT) -> int:
    return -network.num_rows % network.row_multiple


def _word_embedding(network: MaskGIT) -> Source:
    """Codes and the mask are a table there, classes and "no class" another."""
    codes, last = network.codebook_size, network.codebook_size + network.num_classes

    def to_ours(theirs: list[np.ndarray]) -> np.ndarray:
        words, classes = theirs
        padding = np.zeros((_num_padding_rows(network), words.shape[1]), words.dtype)
        rows = [words[:-1], classes[:-1], words[-1:], classes[-1:], padding]
        return np.concatenate(rows)

    def to_theirs(ours: np.ndarray) -> list[np.ndarray]:
        words = np.concatenate([ours[:codes], ours[last : last + 1]])
        return [words, np.concatenate([ours[codes:last], ours[last + 1 : last + 2]])]

    return Source(("tok_emb.weight", "cls_emb.weight"), to_ours, to_theirs)


def _head_bias(network: MaskGIT) -> Source:
    codes, classes = network.codebook_size, network.num_classes
    end = 1 + _num_padding_rows(network)

    def to_ours(theirs: list[np.ndarray]) -> np.ndarray:
        (bias,) = theirs
        return np.concatenate(
            [np.insert(bias, codes, np.zeros(classes)), np.zeros(end, bias.dtype)]
        )

    def to_theirs(ours: np.ndarray) -> list[np.ndarray]:
        return [np.append(ours[:codes], ours[codes + classes])]

    return Source(("head.bias",), to_ours, to_theirs)


def _patch_in(network: MaskGIT) -> Source:
    width, size = network.width, network.layer_options.patch_size

    def to_ours(theirs: list[np.ndarray]) -> np.ndarray:
        return theirs[0].transpose(2, 3, 1, 0).reshape(-1, width)

    def to_theirs(ours: np.ndarray) -> list[np.ndarray]:
        return [ours.reshape(size, size, width, width).transpose(3, 2, 0, 1)]

    return Source(("in_proj.weight",), to_ours, to_theirs)


def _patch_out(network: MaskGIT) -> Source:
    """Its channels are there [width, row, column], and here [row, column, width]."""
    width, size = network.width, network.layer_options.patch_size

    def to_ours(theirs: list[np.ndarray]) -> np.ndarray:
        return theirs[0].reshape(width, size, size, width).transpose(3, 1, 2, 0).reshape(width, -1)

    def to_theirs(ours: np.ndarray) -> list[np.ndarray]:
        split = ours.reshape(width, size, size, width).transpose(3, 1, 2, 0)
        return [split.reshape(-1, width, 1, 1)]

    return Source(("out_proj.weight",), to_ours, to_theirs)


def _final_modulation(leaf: str) -> Source:
    """Its last norm has a bias b, which is scaled too: (1 + scale) b is a part of the shift here.

    In the other direction b is 0.
    """

    def to_ours(theirs: list[np.ndarray]) -> np.ndarray:
        array, bias = theirs
        shift, scale = np.split(array.T, 2, axis=-1)
        if leaf == "bias":
            return np.concatenate([shift + (1 + scale) * bias, scale])
        return np.concatenate([shift + scale * bias, scale], axis=-1)

    def to_theirs(ours: np.ndarray) -> list[np.ndarray]:
        return [ours.T, np.zeros(ours.shape[-1] // 2, np.float32)]

    names = (f"last_norm.mlp.1.{leaf}", "last_norm.norm_final.bias")
    return Source(names, to_ours, to_theirs)
