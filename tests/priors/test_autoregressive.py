"""What the priors that draw token after token see, whole and with their memories."""

from functools import cache
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from maskgit_jax.priors.gpt import GPT, waves
from maskgit_jax.priors.pixelcnn import PixelCNN
from maskgit_jax.priors.pixelsnail import PixelSNAIL

CODES, CLASSES, GRID = 5, 3, (3, 4)
LENGTH = GRID[0] * GRID[1]
COARSER = ((1, 2), (3, 2))
TRANSFORMER = dict(width=8, num_layers=2, num_heads=2, mlp_width=16, remat=False)
SNAIL = dict(
    features=6, hidden_channels=4, num_layers=1, num_output_layers=1, num_condition_layers=1
)


def gpt(codes=CODES, **changes):
    return GPT(codes, CLASSES, GRID, **{**TRANSFORMER, **changes})


def pixelcnn(codes=CODES, **changes):
    return PixelCNN(codes, CLASSES, GRID, **{"features": 6, "head_features": 8, **changes})


def pixelsnail(codes=CODES, **changes):
    return PixelSNAIL(codes, CLASSES, GRID, **{**SNAIL, "num_heads": 2, "num_blocks": 2, **changes})


NETWORKS = {
    "gpt": (gpt, {}),
    "gpt of a condition": (gpt, dict(condition_codebook_size=7, condition_grids=((2, 3),))),
    "pixelcnn": (pixelcnn, dict(num_layers=4)),
    "pixelcnn of kernel_radius 2": (pixelcnn, dict(num_layers=3, kernel_radius=2)),
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
CONDITIONED = tuple(name for name in NETWORKS if "condition" in name or "coarser" in name)


def filled(shapes, seed=0):
    """Parameters of some size everywhere, so that nothing that matters is near 0."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        name, noise = jax.tree_util.keystr(path[-1:]), rng.normal(size=shape.shape)
        if "embedding" in name:
            size, middle = 1.0, 0.0
        elif "kernel" in name:
            size, middle = 1.5 / np.sqrt(prod(shape.shape[:-1])), 0.0
        else:
            size, middle = 0.3, float("scale" in name)
        return (middle + size * noise).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


class Example(NamedTuple):
    """A network, its parameters and inputs; row j + 1 of the tokens differs from row 0 at j only.

    `whole` and `cached` are (params, tokens, label, condition) -> logits, compiled.
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
    """The logits of all places, computed with the memory, from what came before."""

    def one_place(memory, index):
        previous = jnp.take(tokens, jnp.maximum(index - 1, 0), axis=1)
        # What "is ignored at the first place" must be.
        previous = jnp.where(index == 0, tokens[:, -1], previous)
        logits, memory = network.apply(params, memory, previous, index, method="step")
        return memory, logits

    memory = network.apply(params, label, condition, method="begin")
    _, logits = jax.lax.scan(one_place, memory, jnp.arange(tokens.shape[1]))
    return logits.swapaxes(0, 1)


@cache
def example(name) -> Example:
    build, changes = NETWORKS[name]
    network, rng = build(**changes), np.random.default_rng(1)
    first = rng.integers(0, CODES, LENGTH)
    tokens = np.concatenate([first[None], (first[None] + np.eye(LENGTH, dtype=int)) % CODES])
    label, condition = np.zeros(LENGTH + 1, np.int32), None
    if num_condition_tokens(network):
        condition = rng.integers(0, CODES, num_condition_tokens(network))
        condition = np.broadcast_to(condition, (LENGTH + 1, len(condition))).astype(np.int32)
    tokens = tokens.astype(np.int32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), tokens, label, condition)
    return Example(
        network,
        filled(shapes),
        tokens,
        label,
        condition,
        jax.jit(network.apply),
        jax.jit(lambda *arguments: cached_logits(network, *arguments)),
    )


@cache
def logits(name, path, label=0, condition_shift=0):
    """Logits [L + 1, L, K] of an example's inputs."""
    own = example(name)
    condition = own.condition
    if condition_shift:
        condition = (condition + condition_shift) % CODES
    return np.asarray(getattr(own, path)(own.params, own.tokens, own.label + label, condition))


def moved(one, other):
    """Which places have other logits, bool [..., L]; "other" is by more than rounding."""
    return abs(one - other).max(axis=-1) > 1e-6 * one.std()


def places_where(condition):
    """bool [L, L]: condition(row, column, row of the token, column of the token) of each place."""
    row, column = np.divmod(np.arange(LENGTH), GRID[1])
    return condition(row[:, None], column[:, None], row[None], column[None])


BEFORE = places_where(lambda row, column, r, c: (r < row) | ((r == row) & (c < column)))
# Without attention one stack of masked convolutions cannot look around the corner: of the rows
# above a place sees no more than `kernel_radius` columns to the right for each row.
IN_CONE = BEFORE & places_where(lambda row, column, r, c: c - column <= row - r)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_come_from_the_memory_as_from_the_whole(name):
    whole, cached = (logits(name, path) for path in ("whole", "cached"))
    assert whole.shape == (LENGTH + 1, LENGTH, CODES)
    assert whole.dtype == cached.dtype == np.float32
    scale = whole.std()
    assert 0.1 < scale < 100
    np.testing.assert_allclose(cached / scale, whole / scale, atol=1e-5)


@pytest.mark.parametrize("path", ["whole", "cached"])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_place_depends_on_all_tokens_before_it_and_on_no_other(name, path):
    own = logits(name, path)  # row j + 1 has another token at j
    seen = IN_CONE if name == "pixelsnail, coarser" else BEFORE
    np.testing.assert_array_equal(moved(own[1:], own[:1]).T, seen)


@pytest.mark.parametrize("path", ["whole", "cached"])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_place_depends_on_the_label(name, path):
    one, other, third = (logits(name, path, label)[0] for label in range(CLASSES))
    assert moved(one, other).all()
    assert moved(other, third).all()


@pytest.mark.parametrize("path", ["whole", "cached"])
@pytest.mark.parametrize("name", CONDITIONED)
def test_each_place_depends_on_the_condition(name, path):
    one, other = (logits(name, path, 0, shift)[0] for shift in (0, 1))
    assert moved(one, other).all()  # the first place too


@pytest.mark.parametrize("name", CONDITIONED)
def test_every_token_of_the_condition_counts(name):
    own = example(name)
    condition = own.condition.copy()
    for place in range(condition.shape[1]):  # row 0 stays as it is
        condition[place + 1, place] = (condition[place + 1, place] + 1) % CODES
    tokens = np.broadcast_to(own.tokens[:1], own.tokens.shape)
    out = np.asarray(own.whole(own.params, tokens, own.label, condition))
    changed = moved(out[1:], out[:1]).any(axis=-1)
    assert changed.tolist() == [place < condition.shape[1] for place in range(LENGTH)]


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_acts_in_training_only(name):
    build, changes = NETWORKS[name]
    own, network = example(name), build(**changes, dropout_rate=0.5)
    inputs = (own.tokens[:1], own.label[:1], None if own.condition is None else own.condition[:1])

    @jax.jit
    def apply(params, key):
        one, other = (
            network.apply(params, *inputs, True, rngs={"dropout": own_key})
            for own_key in jax.random.split(key)
        )
        return one, other, network.apply(params, *inputs)

    one, other, still = apply(own.params, jax.random.key(0))
    assert moved(one, other).any()
    scale = float(still.std())
    np.testing.assert_allclose(still[0] / scale, logits(name, "whole")[0] / scale, atol=1e-5)


# Gradients with respect to an embedding table in which every place has a code of its own: row n
# is the gradient with respect to place n.


def seen_places(network, select):
    """Which tokens' embeddings each place depends on, {name: bool [L, L]}.

    Args:
        network: With L codes.
        select: (logits, intermediates) -> {name: [1, h, w, C] or [1, L, C]}.
    """
    tokens, label = np.arange(LENGTH, dtype=np.int32)[None], np.zeros(1, np.int32)
    params = filled(jax.eval_shape(network.init, jax.random.key(0), tokens, label))["params"]
    names = []

    def outputs(table):
        own = {**params, "token_embedding": {"embedding": table}}
        found, kept = network.apply(
            {"params": own},
            tokens,
            label,
            capture_intermediates=lambda _, method: method in ("vertical", "horizontal"),
        )
        chosen = select(found, kept.get("intermediates", {}))
        names[:] = chosen
        weights = np.random.default_rng(2).normal(size=100).astype(np.float32)
        rows = [x.reshape(LENGTH, -1) for x in chosen.values()]
        return jnp.stack([(x * weights[None, : x.shape[1]]).sum(axis=1) for x in rows])

    # One cotangent for each place of each output, all in one program: [outputs, L, L, C].
    jacobian = jax.jit(jax.jacrev(outputs))(params["token_embedding"]["embedding"])
    return dict(zip(names, np.asarray(jacobian != 0).any(axis=-1), strict=True))


@pytest.mark.parametrize(("kernel_radius", "num_layers"), [(1, 4), (2, 3)])
def test_pixelcnn_has_no_blind_spot_and_no_leak_in_any_layer(kernel_radius, num_layers):
    def select(found, kept):
        chosen = {"logits": found}
        for number in range(num_layers):
            layer = kept[f"gated_layers_{number}"]
            for stack in layer:
                chosen[f"{stack} {number + 1}"] = layer[stack][0]
        return chosen

    network = pixelcnn(LENGTH, num_layers=num_layers, kernel_radius=kernel_radius)
    seen = seen_places(network, select)
    assert len(seen) == 2 * num_layers  # behind the last layer no vertical stack
    for number in range(1, num_layers + 1):
        far = number * kernel_radius
        above = places_where(
            lambda row, column, r, c, far=far: (
                (r < row) & (r >= row - far) & (abs(c - column) <= far)
            )
        )
        left = places_where(
            lambda row, column, r, c, far=far: (r == row) & (c < column) & (c >= column - far)
        )
        np.testing.assert_array_equal(seen[f"horizontal {number}"], above | left, str(number))
        if number < num_layers:
            np.testing.assert_array_equal(seen[f"vertical {number}"], above, str(number))
    np.testing.assert_array_equal(seen["logits"], BEFORE)


@pytest.mark.parametrize(
    ("num_heads", "num_blocks", "expected"),
    [(2, 1, BEFORE), (0, 4, IN_CONE)],
    ids=["attention", "convolutions"],
)
def test_pixelsnail_with_attention_has_no_blind_spot(num_heads, num_blocks, expected):
    network = pixelsnail(LENGTH, num_heads=num_heads, num_blocks=num_blocks, kernel_radius=1)
    seen = seen_places(network, lambda found, kept: {"logits": found})
    np.testing.assert_array_equal(seen["logits"], expected)


@pytest.mark.parametrize(
    ("name", "tokens", "condition"),
    [
        ("gpt", (1, LENGTH + 1), None),
        ("gpt of a condition", (1, LENGTH), (1, 7)),
        ("pixelcnn", (1, LENGTH - 1), None),
        ("pixelcnn", (1, LENGTH + 1), None),
        ("pixelsnail", (1, LENGTH - 1), None),
        ("pixelsnail, coarser", (1, LENGTH), (1, 7)),
        ("pixelsnail, coarser", (1, LENGTH), (1, 9)),
        ("pixelsnail, coarser", (1, LENGTH), None),
        ("gpt of a condition", (1, LENGTH), None),
        ("gpt", (1, LENGTH - 1), None),
        ("gpt of a condition", (1, LENGTH), (1, 5)),
        ("pixelcnn", (2, LENGTH // 2), None),
        ("pixelsnail", (2, LENGTH // 2), None),
    ],
)
def test_a_wrong_number_of_tokens_is_an_error(name, tokens, condition):
    own = example(name)
    with pytest.raises((ValueError, TypeError, AttributeError, AssertionError)):
        jax.eval_shape(
            own.network.apply,
            own.params,
            jnp.zeros(tokens, jnp.int32),
            jnp.zeros(tokens[0], jnp.int32),
            None if condition is None else jnp.zeros(condition, jnp.int32),
        )


def test_positions_start_as_waves_of_rows_and_columns():
    table = np.asarray(waves((2, 3), 8))
    frequency = np.asarray([1.0, 0.01])
    for place in range(6):
        row, column = divmod(place, 3)
        expected = [np.sin(row * frequency), np.cos(row * frequency)]
        expected += [np.sin(column * frequency), np.cos(column * frequency)]
        np.testing.assert_allclose(table[place], np.concatenate(expected), atol=1e-6)


@pytest.mark.parametrize("width", [8, 6])
def test_gpt_has_a_row_for_each_code_class_and_condition(width):
    network = gpt(width=width, condition_codebook_size=200, condition_grids=((2, 3), (1, 1)))
    inputs = [jnp.zeros(shape, jnp.int32) for shape in ((1, LENGTH), (1,), (1, 7))]
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    assert params["word_embedding"].shape == (256, width)  # 208, padded
    assert params["position_embedding"].shape == (7 + LENGTH, width)
    assert network.num_condition_tokens == 7
    rows = network._class_row(jnp.arange(CLASSES)), network._condition_rows(jnp.arange(200))
    assert np.concatenate(rows).tolist() == list(range(CODES, CODES + CLASSES + 200))
