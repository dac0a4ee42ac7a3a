from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.priors.maskgit import MaskGIT, resize_positions
from maskgit_jax.stages import maskgit
from maskgit_jax.training.sharding import make_mesh, tree_shardings
from tests.example import preset


def small(**changes) -> MaskGIT:
    options = dict(codebook_size=6, num_classes=3, num_tokens=4, width=8, num_layers=2)
    options |= dict(num_heads=2, mlp_width=16, row_multiple=8, null_class=True)
    return MaskGIT(**{**options, **changes})


def logits(module, params, tokens, mask, label):
    arrays = (jnp.asarray(tokens), jnp.asarray(mask), jnp.asarray(label))
    return module.apply(params, *arrays, train=False)


def test_the_paper_model_has_172457193_parameters():
    config = preset("maskgit", "imagenet256")
    module = maskgit.build_network(config)
    shape = (1, module.num_tokens)
    params = jax.eval_shape(
        lambda key: module.init(
            key, jnp.zeros(shape, int), jnp.zeros(shape, bool), jnp.zeros(1, int), train=False
        ),
        jax.random.key(0),
    )["params"]
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    rows = params["word_embedding"].shape[0]
    assert (module.num_rows, rows) == (2025, 2048)
    padding = (rows - 2025) * (768 + 1)  # of the table and of the head's bias
    assert total - padding == 172_457_193


MODERN = LayerOptions("rms", "rope", "head", "swiglu", zero_init=False)
ALL = dict(
    norm="pre",
    head="tied_linear",
    grids=((2, 4),),
    num_tokens=8,
    layer_options=replace(
        MODERN, positions="both", value_residual=True, conditioning="both", num_registers=2,
        fused_qkv=True, patch_size=2, bias=False,
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "post"},
        {"norm": "pre", "head": "linear", "initialization": "scaled"},
        {"norm": "pre", "layer_options": MODERN, "grids": ((2, 2),)},
        ALL,
    ],
)
def test_logits_depend_on_unmasked_tokens_only(key, changes):
    module = small(**changes)
    rest = module.num_tokens - 4
    mask = [[True, True, False, False] + [True] * rest]
    zeros = jnp.zeros((1, module.num_tokens), int)
    init = jax.jit(partial(module.init, train=False))
    params = init(key, zeros, jnp.asarray(mask), jnp.zeros(1, int))
    params = jax.tree.map(lambda leaf: leaf + 0.01, params)  # gates start at 0
    first, other_masked, other_known = (
        logits(module, params, [tokens + [0] * rest], mask, [0])
        for tokens in ([0, 1, 2, 3], [5, 5, 2, 3], [0, 1, 2, 4])
    )
    np.testing.assert_array_equal(first, other_masked)
    assert first.shape == (1, module.num_tokens, 6)
    assert abs(first - other_known).max() > 1e-6


def applied(module, params, tokens, label=0, **options):
    return module.apply(params, tokens, tokens > 3, jnp.asarray([label]), False, **options)


def test_registers_have_no_order_and_the_class_is_no_token_with_adaptive_norms(key):
    options = replace(MODERN, conditioning="adaln", num_registers=3)
    module = small(norm="pre", layer_options=options, grids=((2, 2),))
    tokens = jnp.asarray([[0, 1, 5, 5]])
    init = jax.jit(partial(module.init, train=False))
    params = init(key, tokens, tokens > 3, jnp.zeros(1, int))["params"]
    apply = jax.jit(lambda p, label: applied(module, {"params": p}, tokens, label))
    first = apply(params, 0)
    np.testing.assert_array_equal(first, apply(params, 1))  # modulations start at 0
    params = {**params, **jax.tree.map(lambda leaf: leaf + 0.1, {
        name: params[name] for name in ("layers", "final_modulation")
    })}  # fmt: skip
    first = apply(params, 0)
    assert abs(first - apply(params, 1)).max() > 1e-6
    reversed_ = apply({**params, "registers": params["registers"][::-1]}, 0)
    np.testing.assert_allclose(first, reversed_, atol=1e-6)
    assert abs(first - apply({**params, "registers": params["registers"] + 1}, 0)).max() > 1e-6


@pytest.mark.parametrize("changes", [ALL, {"norm": "post", "num_tokens": 8, "grids": ((2, 4),)}])
def test_other_sizes_interpolate_the_positions(key, changes):
    module, tokens = small(**changes), jnp.asarray([[0, 1, 5, 5, 2, 3, 5, 0]])
    params = jax.jit(partial(module.init, train=False))(key, tokens, tokens > 3, jnp.zeros(1, int))
    params = jax.tree.map(lambda leaf: leaf + 0.01, params)
    apply = jax.jit(partial(applied, module), static_argnames="grid")
    np.testing.assert_allclose(apply(params, tokens, grid=(2, 4)), apply(params, tokens), atol=1e-6)
    tall, wide = (apply(params, jnp.tile(tokens, (1, 3)), grid=grid) for grid in ((6, 4), (2, 12)))
    assert tall.shape == wide.shape == (1, 24, 6)
    assert abs(tall - wide).max() > 1e-6


def test_the_parameters_of_all_options_have_one_row_in_the_sharding_table():
    module, tokens = small(**ALL), jnp.zeros((1, 8), int)
    init = partial(module.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), tokens, tokens > 3, jnp.zeros(1, int))
    mesh = make_mesh(ConfigDict(dict(layout="data", data=2, fsdp=2, tensor=2)))
    layers = tree_shardings(shapes["params"], mesh)["layers"]
    assert layers["attention"]["qkv"]["kernel"].spec == P(None, "fsdp", None, "tensor")
    assert layers["modulation"]["kernel"].spec == P(None, "fsdp", None)
    assert layers["attention"]["value_residual"].spec == P(None)


def test_interpolated_positions_by_hand(key):
    positions = jax.random.normal(key, (8, 3))
    resized = resize_positions(positions, (2, 4), (4, 8)).reshape(4, 8, 3)
    expected = jnp.asarray([9, 3, 3, 1]) / 16 @ positions[jnp.asarray([0, 1, 4, 5])]
    np.testing.assert_allclose(resized[1, 1], expected, atol=1e-6)
    np.testing.assert_allclose(resized[0, 0], positions[0], atol=1e-6)


def test_the_scaled_initialization_is_that_of_width_1024(key):
    module = small(width=64, num_tokens=16, initialization="scaled", head="linear")
    tokens = jnp.zeros((1, 16), int)
    params = module.init(key, tokens, tokens > 0, jnp.zeros(1, int), train=False)["params"]
    assert "head_bias" not in params and params["head_codes"]["kernel"].shape == (64, 6)
    layers = params["layers"]
    for kernel in (layers["attention"]["query"]["kernel"], layers["mlp_in"]["kernel"]):
        np.testing.assert_allclose(kernel.std(), 0.02 * (1024 / 64) ** 0.5, rtol=0.05)
    for name in ("word_embedding", "position_embedding"):
        np.testing.assert_allclose(params[name].std(), 0.1, rtol=0.1)


def test_each_label_and_the_null_class_have_an_embedding():
    rows = small()._rows(
        jnp.asarray([[5, 0, 1, 2]]), jnp.asarray([[False, True, False, True]]), jnp.asarray([2])
    )
    assert rows.tolist() == [[8, 5, 9, 1, 9]]  # codes 0-5, classes 6-8, mask 9, null 10
    null = small()._rows(jnp.zeros((1, 4), int), jnp.zeros((1, 4), bool), jnp.asarray([3]))
    assert null[0, 0] == 10
    assert small().num_rows == 11


def test_condition_tokens_have_embeddings_and_change_the_logits(key):
    module = small(condition_codebook_size=4, num_condition_tokens=2)
    assert module.num_rows == 15
    tokens, label = jnp.zeros((1, 4), int), jnp.zeros(1, int)
    mask = jnp.ones((1, 4), bool)
    params = module.init(key, tokens, mask, label, False, jnp.zeros((1, 2), int))

    def logits_given(condition):
        return module.apply(params, tokens, mask, label, False, jnp.asarray([condition]))

    assert logits_given([0, 0]).shape == (1, 4, 6)
    assert abs(logits_given([0, 3]) - logits_given([0, 0])).max() > 1e-6
    rows = jax.grad(
        lambda p: module.apply(p, tokens, mask, label, False, jnp.asarray([[0, 3]])).sum()
    )(params)["params"]["word_embedding"]
    assert abs(rows[jnp.asarray([11, 14])]).max() > 0 and not rows[jnp.asarray([12, 13])].any()
