"""Receptive fields of the autoregressive priors, and their logits with a cache."""

from functools import cache
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.priors.gpt import GPT, sinusoidal_positions
from maskgit_jax.priors.pixelcnn import PixelCNN
from maskgit_jax.priors.pixelsnail import PixelSNAIL

CODES, CLASSES, GRID = 5, 3, (3, 4)
LENGTH = GRID[0] * GRID[1]
COARSER = ((1, 2), (3, 2))
MODERN = LayerOptions(
    "rms", "rope", "head", "swiglu", value_residual=True, conditioning="both", fused_qkv=True
)
SNAIL = dict(
    features=6, hidden_channels=4, num_layers=1, num_output_layers=1, num_condition_layers=1
)


def gpt(codes=CODES, width=8, **changes):
    sizes = dict(width=width, num_layers=2, num_heads=2, mlp_width=16, remat=False)
    return GPT(codes, CLASSES, GRID, **sizes, **changes)


def pixelcnn(codes=CODES, **changes):
    return PixelCNN(codes, CLASSES, GRID, features=6, head_features=8, **changes)


def pixelsnail(codes=CODES, **changes):
    return PixelSNAIL(codes, CLASSES, GRID, **{**SNAIL, "num_heads": 2, "num_blocks": 2, **changes})


NETWORKS = {
    "gpt": (gpt, {}),
    "gpt, condition": (
        gpt,
        dict(condition_codebook_size=7, condition_grids=((2, 3),), layer_options=MODERN),
    ),
    "pixelcnn": (pixelcnn, dict(num_layers=4)),
    "pixelcnn, kernel_radius 2": (pixelcnn, dict(num_layers=3, kernel_radius=2)),
    "pixelsnail": (pixelsnail, {}),
    "pixelsnail, coarser": (
        pixelsnail,
        dict(num_heads=0, coarser_grids=COARSER, num_layers=2, kernel_radius=1, num_blocks=3),
    ),
    "pixelsnail, coarser, attention": (
        pixelsnail,
        dict(coarser_grids=COARSER[1:], num_blocks=1, kernel_radius=1),
    ),
}
CONDITIONAL = tuple(name for name in NETWORKS if "condition" in name or "coarser" in name)


def random_params(shapes, seed=0):
    """Parameters of similar size everywhere, so that every connection has an effect."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        name, noise = jax.tree_util.keystr(path[-1:]), rng.normal(size=shape.shape)
        if "embedding" in name:
            size, mean = 1.0, 0.0
        elif "kernel" in name:
            size, mean = 1.5 / np.sqrt(prod(shape.shape[:-1])), 0.0
        else:
            size, mean = 0.3, float("scale" in name)
        return (mean + size * noise).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


class Example(NamedTuple):
    """A network, its parameters and inputs; tokens[j + 1] differs from tokens[0] at j only.

    `whole` and `cached` are compiled: (params, tokens, label, condition) -> logits.
    """

    network: nn.Module
    params: dict
    tokens: np.ndarray
    label: np.ndarray
    condition: np.ndarray | None
    whole: object
    cached: object


def num_condition_tokens(network):
    if isinstance(network, PixelSNAIL):
        return sum(height * width for height, width in network.coarser_grids)
    return getattr(network, "num_condition_tokens", 0)


def cached_logits(network, params, tokens, label, condition):
    """The logits of all positions, computed with the cache from the tokens before them."""

    def decode_step(cache, index):
        previous = jnp.take(tokens, jnp.maximum(index - 1, 0), axis=1)
        # At index 0 any value must be ignored.
        previous = jnp.where(index == 0, tokens[:, -1], previous)
        logits, cache = network.apply(params, cache, previous, index, method="decode_step")
        return cache, logits

    cache = network.apply(params, label, condition, method="init_cache")
    _, logits = jax.lax.scan(decode_step, cache, jnp.arange(tokens.shape[1]))
    return logits.swapaxes(0, 1)


@cache
def example(name) -> Example:
    build, changes = NETWORKS[name]
    network, rng = build(**changes), np.random.default_rng(1)
    first = rng.integers(0, CODES, LENGTH)
    tokens = np.concatenate([first[None], (first[None] + np.eye(LENGTH, dtype=int)) % CODES])
    tokens, label, condition = tokens.astype(np.int32), np.zeros(LENGTH + 1, np.int32), None
    if num_condition_tokens(network):
        condition = rng.integers(0, CODES, num_condition_tokens(network)).astype(np.int32)
        condition = np.broadcast_to(condition, (LENGTH + 1, len(condition)))
    shapes = jax.eval_shape(network.init, jax.random.key(0), tokens, label, condition)
    return Example(
        network,
        random_params(shapes),
        tokens,
        label,
        condition,
        jax.jit(network.apply),
        jax.jit(lambda *inputs: cached_logits(network, *inputs)),
    )


@cache
def logits(name, path, label=0, condition_shift=0):
    """Logits [L + 1, L, K] of an example."""
    network = example(name)
    condition = network.condition
    if condition_shift:
        condition = (condition + condition_shift) % CODES
    apply = getattr(network, path)
    return np.asarray(apply(network.params, network.tokens, network.label + label, condition))


def changed(first, second):
    """The positions whose logits differ by more than rounding, bool [..., L]."""
    return abs(first - second).max(axis=-1) > 1e-6 * first.std()


def receptive_field(condition):
    """bool [L, L]: condition(row, column, row of the token, column of the token)."""
    row, column = np.divmod(np.arange(LENGTH), GRID[1])
    return condition(row[:, None], column[:, None], row[None], column[None])


BEFORE = receptive_field(lambda row, column, r, c: (r < row) | ((r == row) & (c < column)))
# One stack of masked convolutions has a blind spot: in the rows above, it sees at most
# `kernel_radius` columns to the right for each row.
CONE = BEFORE & receptive_field(lambda row, column, r, c: c - column <= row - r)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_with_a_cache_equal_those_of_the_whole_map(name):
    whole, cached = (logits(name, path) for path in ("whole", "cached"))
    assert whole.shape == (LENGTH + 1, LENGTH, CODES)
    assert whole.dtype == cached.dtype == np.float32
    scale = whole.std()
    assert 0.1 < scale < 100
    np.testing.assert_allclose(cached / scale, whole / scale, atol=1e-5)


@pytest.mark.parametrize("path", ["whole", "cached"])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_depend_on_all_earlier_tokens_only_and_on_label_and_condition(name, path):
    zero = logits(name, path)  # zero[j + 1] has another token at j
    expected = CONE if name == "pixelsnail, coarser" else BEFORE
    np.testing.assert_array_equal(changed(zero[1:], zero[:1]).T, expected)
    one, two = (logits(name, path, label)[0] for label in (1, 2))
    assert changed(zero[0], one).all()
    assert changed(one, two).all()
    if name in CONDITIONAL:
        shifted = logits(name, path, condition_shift=1)
        assert changed(zero[0], shifted[0]).all()  # position 0 too


@pytest.mark.parametrize("name", CONDITIONAL)
def test_logits_depend_on_every_condition_token(name):
    network = example(name)
    condition = network.condition.copy()
    for index in range(condition.shape[1]):
        condition[index + 1, index] = (condition[index + 1, index] + 1) % CODES
    tokens = np.broadcast_to(network.tokens[:1], network.tokens.shape)
    out = np.asarray(network.whole(network.params, tokens, network.label, condition))
    differs = changed(out[1:], out[:1]).any(axis=-1)
    assert differs.tolist() == [index < condition.shape[1] for index in range(LENGTH)]


@pytest.mark.parametrize("name", ["gpt", "pixelcnn", "pixelsnail, coarser, attention"])
def test_dropout_is_active_in_training_only(name):
    build, changes = NETWORKS[name]
    plain, network = example(name), build(**changes, dropout_rate=0.5)

    @jax.jit
    def apply(params, key):
        inputs = (plain.tokens, plain.label, plain.condition)
        return network.apply(params, *inputs, True, rngs={"dropout": key})

    first, second = (apply(plain.params, jax.random.key(seed)) for seed in (0, 1))
    assert changed(np.asarray(first), np.asarray(second)).any()
    without = jax.jit(network.apply)(plain.params, plain.tokens, plain.label, plain.condition)
    scale = logits(name, "whole").std()
    np.testing.assert_allclose(without / scale, logits(name, "whole") / scale, atol=1e-5)


# Receptive fields of inner layers: gradients with respect to an embedding table in which every
# position has a code of its own.


def gradient_fields(network, select):
    """Which positions' tokens each output depends on, {name: bool [L, L]}.

    Args:
        network: Has L codes.
        select: (logits, intermediates) -> {name: [1, h, w, C] or [1, L, C]}.
    """
    tokens, label = np.arange(LENGTH, dtype=np.int32)[None], np.zeros(1, np.int32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), tokens, label)
    params, names = random_params(shapes)["params"], []

    def outputs(table):
        logits, state = network.apply(
            {"params": {**params, "token_embedding": {"embedding": table}}},
            tokens,
            label,
            capture_intermediates=lambda _, method: method in ("vertical", "horizontal"),
        )
        selected = select(logits, state.get("intermediates", {}))
        names[:] = selected
        weights = np.random.default_rng(2).normal(size=100).astype(np.float32)
        rows = [x.reshape(LENGTH, -1) for x in selected.values()]
        return jnp.stack([(x * weights[None, : x.shape[1]]).sum(axis=1) for x in rows])

    # One cotangent for each position of each output, all in one program: [outputs, L, L, C].
    jacobian = jax.jit(jax.jacrev(outputs))(params["token_embedding"]["embedding"])
    return dict(zip(names, np.asarray(jacobian != 0).any(axis=-1), strict=True))


@pytest.mark.parametrize(("radius", "num_layers"), [(1, 4), (2, 3)])
def test_pixelcnn_has_no_blind_spot_and_no_leak_in_any_layer(radius, num_layers):
    def select(logits, intermediates):
        selected = {"logits": logits}
        for number in range(num_layers):
            for stack, (output, *_) in intermediates[f"gated_layers_{number}"].items():
                selected[f"{stack} {number + 1}"] = output
        return selected

    network = pixelcnn(LENGTH, num_layers=num_layers, kernel_radius=radius)
    fields = gradient_fields(network, select)
    assert len(fields) == 2 * num_layers  # the last layer has no vertical output
    for number in range(1, num_layers + 1):

        def near(row, column, r, c, reach=number * radius):
            return (r >= row - reach) & (abs(c - column) <= reach)

        above = receptive_field(lambda row, column, r, c: r < row) & receptive_field(near)
        left = receptive_field(lambda row, column, r, c: (r == row) & (c < column))
        left = left & receptive_field(near)
        np.testing.assert_array_equal(fields[f"horizontal {number}"], above | left, str(number))
        if number < num_layers:
            np.testing.assert_array_equal(fields[f"vertical {number}"], above, str(number))
    np.testing.assert_array_equal(fields["logits"], BEFORE)


@pytest.mark.parametrize(
    ("num_heads", "num_blocks", "expected"),
    [(2, 1, BEFORE), (0, 4, CONE)],
    ids=["attention", "convolutions"],
)
def test_pixelsnail_with_attention_has_no_blind_spot(num_heads, num_blocks, expected):
    network = pixelsnail(LENGTH, num_heads=num_heads, num_blocks=num_blocks, kernel_radius=1)
    fields = gradient_fields(network, lambda logits, intermediates: {"logits": logits})
    np.testing.assert_array_equal(fields["logits"], expected)


@pytest.mark.parametrize(
    ("name", "tokens", "condition"),
    [
        ("gpt", (1, LENGTH - 1), None),
        ("gpt", (1, LENGTH + 1), None),
        ("gpt, condition", (1, LENGTH), (1, 5)),
        ("gpt, condition", (1, LENGTH), (1, 7)),
        ("gpt, condition", (1, LENGTH), None),
        ("pixelcnn", (1, LENGTH - 1), None),
        ("pixelcnn", (1, LENGTH + 1), None),
        ("pixelcnn", (2, LENGTH // 2), None),
        ("pixelsnail", (1, LENGTH - 1), None),
        ("pixelsnail", (2, LENGTH // 2), None),
        ("pixelsnail, coarser", (1, LENGTH), (1, 7)),
        ("pixelsnail, coarser", (1, LENGTH), (1, 9)),
        ("pixelsnail, coarser", (1, LENGTH), None),
    ],
)
def test_a_wrong_number_of_tokens_is_an_error(name, tokens, condition):
    network = example(name)
    with pytest.raises((ValueError, AssertionError)):
        jax.eval_shape(
            network.network.apply,
            network.params,
            jnp.zeros(tokens, jnp.int32),
            jnp.zeros(tokens[0], jnp.int32),
            None if condition is None else jnp.zeros(condition, jnp.int32),
        )


def test_sinusoidal_positions_by_hand():
    table = np.asarray(sinusoidal_positions((2, 3), 8))
    frequency = np.asarray([1.0, 0.01])
    for position in range(6):
        row, column = divmod(position, 3)
        expected = [np.sin(row * frequency), np.cos(row * frequency)]
        expected += [np.sin(column * frequency), np.cos(column * frequency)]
        np.testing.assert_allclose(table[position], np.concatenate(expected), atol=1e-6)


@pytest.mark.parametrize("width", [8, 6])
def test_gpt_has_embeddings_for_each_code_class_and_condition_code(width):
    network = gpt(width=width, condition_codebook_size=200, condition_grids=((2, 3), (1, 1)))
    inputs = [jnp.zeros(shape, jnp.int32) for shape in ((1, LENGTH), (1,), (1, 7))]
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    assert params["word_embedding"].shape == (256, width)  # 208, padded
    assert params["position_embedding"].shape == (7 + LENGTH, width)
    assert network.num_condition_tokens == 7
    condition = jnp.arange(200 // 7 * 7).reshape(-1, 7)
    rows = network._class_row(jnp.arange(CLASSES)), network._condition_rows(condition).ravel()
    first, last = CODES, CODES + CLASSES + condition.size
    assert np.concatenate(rows).tolist() == list(range(first, last))
