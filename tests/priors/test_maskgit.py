import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.priors.maskgit import MaskGIT
from maskgit_jax.stages import maskgit
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


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "post"},
        {"norm": "pre", "head": "linear", "initialization": "scaled"},
        {"norm": "pre", "layer_options": MODERN, "grids": ((2, 2),)},
    ],
)
def test_logits_depend_on_unmasked_tokens_only(key, changes):
    module = small(**changes)
    mask = [[True, True, False, False]]
    params = module.init(
        key, jnp.zeros((1, 4), int), jnp.asarray(mask), jnp.zeros(1, int), train=False
    )
    first, other_masked, other_known = (
        logits(module, params, [tokens], mask, [0])
        for tokens in ([0, 1, 2, 3], [5, 5, 2, 3], [0, 1, 2, 4])
    )
    np.testing.assert_array_equal(first, other_masked)
    assert first.shape == (1, 4, 6)
    assert abs(first - other_known).max() > 1e-6


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
