"""The layer options express Halton-MaskGIT's transformer: its logits with random weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.decoding.rules import halton_order
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.priors.maskgit import MaskGIT
from tests.golden_values import assert_close, golden, state_dict

CODES, CLASSES, WIDTH, LAYERS = 11, 3, 16, 2
STORED = golden("halton")


def network(registers: int, patch_size: int, fused_qkv: bool) -> MaskGIT:
    options = LayerOptions(
        norm_type="rms",
        qk_norm="width",
        mlp="swiglu",
        conditioning="adaln",
        num_registers=registers,
        patch_size=patch_size,
        fused_qkv=fused_qkv,
        bias=False,
        norm_epsilon=1e-5,
    )
    return MaskGIT(
        CODES,
        CLASSES,
        16,
        null_class=True,
        width=WIDTH,
        num_layers=LAYERS,
        num_heads=2,
        mlp_width=256,
        norm="pre",
        head="tied_linear",
        layer_options=options,
        grids=((4, 4),),
        row_multiple=1,
    )


def stacked(state: dict, name: str) -> np.ndarray:
    """Weights [layers, ...] with the inputs before the outputs."""
    arrays = [state[f"transformer.layers.{layer}.{name}"] for layer in range(LAYERS)]
    return np.stack([array.T for array in arrays])


def dense(state: dict, name: str) -> dict:
    return {"kernel": stacked(state, f"{name}.weight")}


def params_of(state: dict, fused_qkv: bool) -> dict:
    """The parameters of `network` from a state dict of Halton-MaskGIT."""
    projections = [dense(state, f"attn.w{letter}") for letter in "qkv"]
    if fused_qkv:
        kernel = np.stack([projection["kernel"] for projection in projections], axis=2)
        attention = {"qkv": {"kernel": kernel}}
    else:
        attention = dict(zip(("query", "key", "value"), projections, strict=True))
    layers = {
        "attention": {**attention, "out": dense(state, "attn.wo")},
        "attention_norm": {"scale": stacked(state, "ln1.weight")},
        "mlp_norm": {"scale": stacked(state, "ln2.weight")},
        "mlp_gate": dense(state, "ff.w1"),
        "mlp_in": dense(state, "ff.w3"),
        "mlp_out": dense(state, "ff.w2"),
        "modulation": {**dense(state, "mlp.1"), "bias": stacked(state, "mlp.1.bias")},
    }
    codes, classes = state["tok_emb.weight"], state["cls_emb.weight"]
    rows = [codes[:CODES], classes[:CLASSES], codes[CODES:], classes[CLASSES:]]
    # Its last norm has a bias b, which is scaled too: (1 + scale) b is a part of the shift here.
    shift, scale = np.split(state["last_norm.mlp.1.weight"].T, 2, axis=1)
    shift_bias, scale_bias = np.split(state["last_norm.mlp.1.bias"], 2)
    bias = state["last_norm.norm_final.bias"]
    return {
        "word_embedding": np.concatenate(rows),
        "position_embedding": state["pos_emb.weight"],
        "registers": state["reg_tokens.weight"],
        "layers": layers,
        "final_norm": {"scale": state["last_norm.norm_final.weight"]},
        "final_modulation": {
            "kernel": np.concatenate([shift + scale * bias, scale], axis=1),
            "bias": np.concatenate([shift_bias + (1 + scale_bias) * bias, scale_bias]),
        },
        "head_bias": np.concatenate([state["head.bias"][:CODES], np.zeros(5, np.float32)]),
        **patch_params(state),
    }


def patch_params(state: dict) -> dict:
    if "in_proj.weight" not in state:
        return {}
    joined = state["in_proj.weight"].transpose(2, 3, 1, 0).reshape(4 * WIDTH, WIDTH)
    split = state["out_proj.weight"].reshape(WIDTH, 2, 2, WIDTH).transpose(3, 1, 2, 0)
    return {
        "patch_in": {"kernel": joined},
        "patch_out": {"kernel": split.reshape(WIDTH, 4 * WIDTH)},
    }


@pytest.mark.parametrize(
    ("name", "registers", "patch_size", "fused_qkv"),
    [("plain", 1, 1, False), ("patches", 2, 2, True)],
)
def test_logits_equal_those_of_halton_maskgit(name, registers, patch_size, fused_qkv):
    module = network(registers, patch_size, fused_qkv)
    params = params_of(state_dict(STORED[f"{name}_shapes"]), fused_qkv)
    tokens = jnp.asarray(STORED["tokens"].reshape(2, 16), jnp.int32)
    mask, label = tokens == CODES, jnp.where(STORED["dropped"], CLASSES, STORED["labels"])
    init = partial(module.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), tokens, mask, label)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    apply = jax.jit(partial(module.apply, train=False))
    logits = apply({"params": params}, tokens, mask, label)
    assert_close(np.asarray(logits), STORED[f"{name}_logits"][..., :CODES], 1e-5)


@pytest.mark.parametrize("size", [16, 32])
def test_the_order_of_positions_is_that_of_halton_maskgit(size):
    order = np.argsort(halton_order((size, size)))
    row, column = STORED[f"order_{size}"].T
    expected = row.astype(int) * size + column
    np.testing.assert_array_equal(order, expected)
