"""Published transformers of CompVis/taming-transformers: Net2Net with a GPT.

The number of heads and the kind of condition are not in the weights: the YAML file of the training
says them.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from maskgit_jax.configuration import InputError, require
from maskgit_jax.interop.correspondence import (
    Source,
    SourceOf,
    dense,
    import_tree,
    mapped,
    same,
    stacked,
)
from maskgit_jax.interop.imported import Imported
from maskgit_jax.interop.taming import below, import_tokenizer, parameters
from maskgit_jax.interop.weight_files import Weights, count
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.priors.gpt import GPT

_PREFIX, _CONDITION = "transformer.", "cond_stage_model."


class Condition(NamedTuple):
    """What an image is generated from.

    Attributes:
        classes: The embedding of each class: their token.
        tokenizer: Of condition images; None without them.
    """

    classes: tuple[int, ...]
    tokenizer: Imported | None = None


def is_generator(weights: Weights) -> bool:
    """Returns whether these are weights of a Net2Net transformer."""
    names = (f"{_PREFIX}{name}" for name in ("tok_emb.weight", "pos_emb", "head.weight"))
    return all(name in weights.arrays for name in names)


def read_generator(weights: Weights, image_size: int, tokenizer: Imported | None) -> Imported:
    """Returns the transformer; of a condition on tokens also their tokenizer."""
    del image_size  # that of the tokenizer
    assert tokenizer is not None
    arrays = below(weights.arrays, _PREFIX)
    _refuse_other_orders(weights.arrays)
    condition = _condition(weights, tokenizer.changes["data.image_size"])
    changes = _sizes(arrays, weights.config, tokenizer, condition)
    network = _network(changes, condition)
    positions = arrays["pos_emb"].shape[1]
    needed = network.start + network.num_tokens
    require(
        needed <= positions,
        f"has positions for {positions} tokens, but images of {changes['data.image_size']} pixels "
        f"and their condition are {needed}; give the size of its images as --image_size",
    )
    source_of = generator_source(
        network, condition.classes, len(arrays["tok_emb.weight"]), positions
    )
    arrays = {_PREFIX + name: value for name, value in arrays.items()}
    params, dropped = import_tree(
        arrays, _shapes(network), source_of, lambda name: name.endswith(".attn.mask")
    )
    frozen = {"condition_tokenizer": condition.tokenizer} if condition.tokenizer else {}
    return Imported("gpt", "gpt:imagenet256", changes, {"prior": params}, {}, dropped, frozen)


def _refuse_other_orders(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises `InputError` for a permuted order of tokens, or attention to later ones."""
    order = arrays.get("permuter.forward_shuffle_idx")
    require(
        order is None or bool((order == np.arange(order.size)).all()),
        "generates the tokens in another order (permuter.forward_shuffle_idx), which cannot be "
        "imported; only rows first can",
    )
    mask = arrays.get(f"{_PREFIX}blocks.0.attn.mask")
    require(
        mask is None or not np.triu(mask[0, 0], 1).any(),
        "has an attention mask that is not causal (n_unmasked), which cannot be imported",
    )


def _condition(weights: Weights, image_size: int) -> Condition:
    """Returns the condition, from the weights of its tokenizer or from the YAML file."""
    params = parameters(weights.config)
    stage = params.get("cond_stage_config")
    require(
        stage is not None,
        "needs the YAML file of its training beside it, under the same name: the number of heads "
        "and the kind of condition are not in the weights",
    )
    if params.get("unconditional") or stage == "__is_unconditional__":
        return Condition((int(params.get("sos_token", 0)),))
    arrays = below(weights.arrays, _CONDITION)
    if arrays:
        return Condition((), import_tokenizer(arrays, image_size))
    target = stage.get("target", "") if isinstance(stage, Mapping) else str(stage)
    require(
        target.endswith(".Labelator"),
        f"is conditional on {target or stage!r}; only classes, condition images with a VQGAN of "
        "their own, and no condition can be imported",
    )
    classes = parameters(stage).get("n_classes")
    if not isinstance(classes, int) or classes < 1:
        raise InputError(
            f"has a YAML file whose cond_stage_config.params.n_classes is {classes!r}, no number"
        )
    return Condition(tuple(range(classes)))


def _sizes(
    arrays: Mapping[str, np.ndarray],
    description: Mapping[str, Any],
    tokenizer: Imported,
    condition: Condition,
) -> dict[str, Any]:
    """Returns the keys of the configuration that differ from the preset."""
    rows, width = arrays["tok_emb.weight"].shape
    codes, size = tokenizer.changes["model.codebook_size"], tokenizer.changes["data.image_size"]
    most = max((codes, *(label + 1 for label in condition.classes)))
    require(rows >= most, f"has embeddings of {rows} tokens, but needs {most}: one for each code "
            "of the tokenizer and each class")  # fmt: skip
    transformer = parameters(parameters(description).get("transformer_config"))
    heads = transformer.get("n_head")
    require(
        isinstance(heads, int) and heads > 0 and width % heads == 0,
        f"has a YAML file whose transformer_config.params.n_head is {heads!r}; it must divide the "
        f"width, {width}",
    )
    changes: dict[str, Any] = {
        "data.image_size": size,
        "data.channels": tokenizer.changes["data.channels"],
        "data.num_classes": len(condition.classes) if len(condition.classes) > 1 else 0,
        "model.codebook_size": codes,
        "model.grid": _grid(tokenizer),
        "model.width": width,
        "model.num_layers": count(arrays, r"blocks\.(\d+)\."),
        "model.num_heads": heads,
        "model.mlp_width": len(arrays.get("blocks.0.mlp.0.weight", ())),
    }
    if condition.tokenizer:
        changes |= {
            "model.layer_options.conditioning": "none",
            "data.condition": "paired",
            "data.condition_channels": condition.tokenizer.changes["data.channels"],
            "data.source": "pairs:pairs",
        }
    return changes


def _grid(tokenizer: Imported) -> tuple[int, int]:
    side = tokenizer.changes["data.image_size"] // tokenizer.downsampling
    return side, side


def _network(changes: Mapping[str, Any], condition: Condition) -> GPT:
    sizes = ("codebook_size", "grid", "width", "num_layers", "num_heads", "mlp_width")
    second = condition.tokenizer
    return GPT(
        num_classes=max(1, len(condition.classes)),
        condition_codebook_size=second.changes["model.codebook_size"] if second else 0,
        condition_grids=(_grid(second),) if second else (),
        layer_options=LayerOptions(conditioning="none" if second else "token"),
        **{name: changes[f"model.{name}"] for name in sizes},
    )


def _shapes(network: GPT) -> Any:
    label = jax.ShapeDtypeStruct((1,), np.int32)
    tokens = jax.ShapeDtypeStruct((1, network.num_tokens), np.int32)
    condition = jax.ShapeDtypeStruct((1, network.num_condition_tokens), np.int32)
    shapes: Any = jax.eval_shape(
        lambda *inputs: network.init(jax.random.key(0), *inputs), tokens, label, condition
    )
    return shapes["params"]


def generator_source(
    network: GPT, classes: tuple[int, ...], vocabulary: int, positions: int
) -> SourceOf:
    """Returns the sources of our arrays.

    Args:
        network: Our network.
        classes: Their token of each class.
        vocabulary: Number of their embeddings, which codes, classes and condition share.
        positions: Number of their positions; those after the last token of an image are dropped.
    """
    codes, rows = network.codebook_size, network.start + network.num_tokens

    def source_of(path: str) -> Source:
        if path == "word_embedding":
            return _embedding(network, classes, vocabulary)
        if path == "position_embedding":
            name = f"{_PREFIX}pos_emb"
            return mapped(name, lambda x: x[0, :rows], lambda x: _padded(x, positions)[None])
        if path == "head_logit/kernel":
            name = f"{_PREFIX}head.weight"
            return mapped(name, lambda x: x[:codes].T, lambda x: _padded(x.T, vocabulary))
        if path.startswith("layers/"):
            inner = re.sub(r"^layers/(layer/)?", "", path)
            return stacked(lambda index: _layer_source(index, inner), network.num_layers)
        leaf = path.removeprefix("final_norm/")
        return same(f"{_PREFIX}ln_f.{'weight' if leaf == 'scale' else leaf}")

    return source_of


def _layer_source(index: int, path: str) -> Source:
    module, leaf = path.rsplit("/", 1)
    theirs = {
        "attention_norm": "ln1",
        "mlp_norm": "ln2",
        "attention/out": "attn.proj",
        "mlp_in": "mlp.0",
        "mlp_out": "mlp.2",
    }.get(module, module.replace("attention/", "attn."))
    name = f"{_PREFIX}blocks.{index}.{theirs}"
    return dense(f"{name}.weight") if leaf == "kernel" else same(
        f"{name}.{'weight' if leaf == 'scale' else leaf}"
    )  # fmt: skip


def _embedding(network: GPT, classes: tuple[int, ...], vocabulary: int) -> Source:
    """Codes, classes and codes of the condition have rows of their own here."""
    codes, second = network.codebook_size, network.condition_codebook_size
    tokens = [*range(codes), *(classes or (0,)), *range(second)]  # without a class the row is idle
    padding = -len(tokens) % network.row_multiple

    def to_ours(theirs: np.ndarray) -> np.ndarray:
        return np.pad(theirs[tokens], [(0, padding), (0, 0)])

    def to_theirs(ours: np.ndarray) -> np.ndarray:
        theirs = np.zeros((vocabulary, ours.shape[1]), ours.dtype)
        theirs[tokens[::-1]] = ours[: len(tokens)][::-1]  # codes last: they are the images'
        return theirs

    return mapped(f"{_PREFIX}tok_emb.weight", to_ours, to_theirs)


def _padded(x: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(x, [(0, rows - len(x)), (0, 0)])
