"""Generators of Halton-MaskGIT: logits with random weights, sizes, the way back, wrong files."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError, load_config
from maskgit_jax.decoding.rules import halton_order
from maskgit_jax.interop.correspondence import export_tree, import_tree
from maskgit_jax.interop.formats import choose_format, read_format
from maskgit_jax.interop.halton import generator_source
from maskgit_jax.interop.imported import Imported
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.stages.maskgit import build_network
from tests.golden_values import assert_close, golden, state_dict

CODES, CLASSES = 11, 3
STORED = golden("halton")
TOKENIZER = {"model.channel_multipliers": (1, 1, 2, 2, 4), "data.channels": 3}


def weights_of(name: str, prefix: str = "") -> Weights:
    state = state_dict(STORED[f"{name}_shapes"])
    state["head.weight"] = state["tok_emb.weight"]  # one tensor
    return Weights(Path("halton.pth"), {prefix + key: x for key, x in state.items()}, {})


def read(weights: Weights, image_size: int = 0) -> Imported:
    chosen = choose_format(weights, "generator")
    assert chosen.name == "halton"
    tokenizer = Imported("vqgan", "vqgan:imagenet256", TOKENIZER, {}, {})
    return read_format(weights, chosen, image_size, tokenizer)


def network_of(imported: Imported):
    return build_network(load_config(imported.preset, dtype="float32", **imported.changes))


@pytest.mark.parametrize("name", ["plain", "patches", "small"])
def test_logits_equal_those_of_halton_maskgit(name):
    imported = read(weights_of(name, prefix="module._orig_mod."))
    tokens = jnp.asarray(STORED["tokens"].reshape(2, 16), jnp.int32)
    mask, label = tokens == CODES, jnp.where(STORED["dropped"], CLASSES, STORED["labels"])
    apply = jax.jit(partial(network_of(imported).apply, train=False))
    logits = apply({"params": imported.params["prior"]}, tokens, mask, label)
    assert_close(np.asarray(logits), STORED[f"{name}_logits"][..., :CODES], 1e-5)


def test_sizes_follow_from_the_shapes():
    imported = read(weights_of("patches"))
    expected = {
        "data.image_size": 64,
        "data.num_classes": CLASSES,
        "model.grid": (4, 4),
        "model.width": 128,
        "model.num_layers": 2,
        "model.num_heads": 2,
        "model.mlp_width": 256,
        "model.layer_options.num_registers": 2,
        "model.layer_options.patch_size": 2,
        "model.layer_options.head_width": 0,
        "sampling.decoder": "halton",
        "sampling.steps": 16,
    }
    assert expected.items() <= imported.changes.items()
    assert imported.dropped == ("head.weight",)
    small = read(weights_of("small")).changes
    options = ("model.num_heads", "model.layer_options.head_width", "sampling.guidance")
    assert [small[key] for key in options] == [6, 85, 1.0]


def test_export_is_the_inverse_of_import():
    imported = read(weights_of("patches"))
    params, source_of = imported.params["prior"], generator_source(network_of(imported))
    exported = export_tree(params, source_of)
    again, _ = import_tree(exported, params, source_of)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    original = weights_of("patches").arrays
    final = [f"last_norm.{name}" for name in ("norm_final.bias", "mlp.1.weight", "mlp.1.bias")]
    for key in original.keys() - {"head.weight", *final}:
        np.testing.assert_array_equal(exported[key], original[key], err_msg=key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer.layers.1.ff.w2.weight": None}, "lacks 'transformer.layers.1.ff.w2.weight'"),
        ({"pos_emb.weight": np.zeros((15, 128), np.float32)}, "15 positions, which are no square"),
        (
            {"head.bias": np.zeros(11, np.float32)},
            r"has 'head.bias' of shape \(11,\), but \(12,\) is expected",
        ),
        ({"ff.extra": np.zeros(1, np.float32)}, "1 arrays that do not belong.*'ff.extra'"),
        ({"head.weight": np.zeros((12, 128), np.float32)}, "'head.weight' that is not 'tok_emb"),
    ],
)
def test_wrong_files_are_refused_in_one_line(changes, message):
    weights = weights_of("plain")
    arrays = {key: x for key, x in {**weights.arrays, **changes}.items() if x is not None}
    with pytest.raises(InputError, match=message) as caught:
        read(weights._replace(arrays=arrays))
    assert str(caught.value).startswith("halton.pth, read as generator of format 'halton', ")
    assert "\n" not in str(caught.value)


def test_another_image_size_than_that_of_the_positions_is_refused():
    with pytest.raises(InputError, match="images of 64 pixels, not 384; remove --image_size"):
        read(weights_of("plain"), 384)


@pytest.mark.parametrize("size", [16, 32])
def test_the_order_of_positions_is_that_of_halton_maskgit(size):
    order = np.argsort(halton_order((size, size)))
    row, column = STORED[f"order_{size}"].T
    expected = row.astype(int) * size + column
    np.testing.assert_array_equal(order, expected)
