"""Token after token, on networks that are a table of logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.autoregressive import (
    AutoregressiveSettings,
    SlidingWindowSettings,
    check_autoregressive_settings,
    decode_sliding_window,
    decode_with_cache,
    decode_without_cache,
    window_start,
)

ORDER, WINDOW = AutoregressiveSettings(), SlidingWindowSettings()
BATCH, LENGTH, CODES = 3, 12, 5
TABLE = 2 * np.random.default_rng(0).normal(size=(LENGTH, CODES, CODES)).astype(np.float32)
"""Logits of a place, by the sum of all tokens before it."""
TOKENS = np.random.default_rng(1).integers(0, CODES, (BATCH, LENGTH)).astype(np.int32)
SOME = np.random.default_rng(2).random((BATCH, LENGTH)) < 0.6


def step(memory, previous, index):
    memory = memory + jnp.where(index == 0, 0, previous)
    return jnp.asarray(TABLE)[index, memory % CODES], memory


def predict(tokens, index):
    before = jnp.arange(tokens.shape[1]) < index
    total = jnp.where(before[None], tokens, 0).sum(axis=1)
    return jnp.asarray(TABLE)[index, total % CODES]


def with_memory(tokens, mask, key, settings=ORDER):
    memory = jnp.zeros(len(tokens), jnp.int32)
    return decode_with_cache(step, memory, tokens, mask, key, settings)


def by_passes(tokens, mask, key, settings=ORDER):
    return decode_without_cache(predict, tokens, mask, key, settings)


DECODERS = {"memory": with_memory, "passes": by_passes}
JITTED = {name: jax.jit(decoder, static_argnums=3) for name, decoder in DECODERS.items()}


@pytest.mark.parametrize(
    "settings", [ORDER, AutoregressiveSettings(temperature=2.0, top_k=4, top_p=0.9)]
)
@pytest.mark.parametrize("mask", [np.ones_like(SOME), SOME], ids=["all", "some"])
def test_a_memory_and_whole_passes_give_the_same_tokens(key, mask, settings):
    one, other = (JITTED[name](TOKENS, mask, key, settings) for name in DECODERS)
    assert one.dtype == jnp.int32
    np.testing.assert_array_equal(one, other)
    third = JITTED["memory"](TOKENS, mask, jax.random.key(1), settings)
    assert not np.array_equal(one, third)


@pytest.mark.parametrize("name", DECODERS)
def test_known_tokens_stay_and_count_for_later_ones(key, name):
    coldest = AutoregressiveSettings(temperature=1e-4)
    out = JITTED[name](TOKENS, SOME, key, coldest)
    expected = TOKENS.copy()
    for place in range(LENGTH):
        likeliest = TABLE[place, expected[:, :place].sum(axis=1) % CODES].argmax(axis=-1)
        expected[:, place] = np.where(SOME[:, place], likeliest, expected[:, place])
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(out[~SOME], TOKENS[~SOME])


@pytest.mark.parametrize("name", DECODERS)
def test_nothing_hidden_changes_nothing(key, name):
    out = JITTED[name](TOKENS, np.zeros_like(SOME), key, ORDER)
    np.testing.assert_array_equal(out, TOKENS)


def test_what_is_hidden_does_not_matter(key):
    other = np.where(SOME, (TOKENS + 1) % CODES, TOKENS)
    one, two = (JITTED["passes"](tokens, SOME, key, ORDER) for tokens in (TOKENS, other))
    np.testing.assert_array_equal(one, two)


def test_one_code_only_is_the_likeliest_whatever_the_key():
    mask = np.ones_like(SOME)
    one, other, coldest = (
        JITTED["memory"](TOKENS, mask, jax.random.key(seed), settings)
        for seed, settings in (
            (0, AutoregressiveSettings(top_k=1)),
            (5, AutoregressiveSettings(top_k=1)),
            (7, AutoregressiveSettings(temperature=1e-4)),
        )
    )
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, coldest)


@pytest.mark.parametrize("name", DECODERS)
def test_draws_follow_the_softmax_at_their_temperature(name):
    batch, temperature = 4000, 1.5
    tokens = np.zeros((batch, 2), np.int32)
    out = JITTED[name](
        tokens, np.ones_like(tokens, bool), jax.random.key(3), AutoregressiveSettings(temperature)
    )
    powers = np.exp(TABLE[:2] / temperature)
    shares = powers / powers.sum(axis=-1, keepdims=True)
    expected = batch * shares[0, 0][:, None] * shares[1]  # pairs of first and second token
    pairs = np.asarray(out)
    counts = np.bincount(pairs[:, 0] * CODES + pairs[:, 1], minlength=CODES**2)
    square = (counts.reshape(CODES, CODES) - expected) ** 2 / expected
    assert square.sum() < 58.6  # chi-square of 24 degrees of freedom: once in 10,000


def test_different_masks_are_one_program(key):
    traces = []

    def counted(tokens, mask, key):
        traces.append(1)
        return with_memory(tokens, mask, key)

    decode = jax.jit(counted)
    for mask in (SOME, ~SOME, np.ones_like(SOME)):
        decode(TOKENS, mask, key)
    assert len(traces) == 1


def reference_start(place, size, window):
    """A transcript of taming-transformers scripts/sample_conditional.py."""
    if place <= window // 2:
        local = place
    elif size - place < window // 2:
        local = window - (size - place)
    else:
        local = window // 2
    return place - local


@pytest.mark.parametrize(("size", "window"), [(4, 4), (5, 4), (8, 4), (9, 2), (20, 16), (40, 16)])
def test_windows_begin_where_the_reference_has_them(size, window):
    starts = window_start(jnp.arange(size), size, window)
    assert starts.tolist() == [reference_start(place, size, window) for place in range(size)]


@pytest.mark.parametrize(("size", "window"), [(7, 3), (5, 5), (6, 1)])
def test_windows_of_any_size_hold_their_place_and_lie_in_the_map(size, window):
    starts = np.asarray(window_start(jnp.arange(size), size, window))
    inside = np.arange(size) - starts
    assert ((inside >= 0) & (inside < window)).all()
    assert ((starts >= 0) & (starts + window <= size)).all()


def in_window(predict, tokens, mask, window, seed=0):
    decode = jax.jit(
        lambda tokens, mask, key: decode_sliding_window(predict, tokens, mask, window, key, WINDOW)
    )
    return np.asarray(decode(tokens, mask, jax.random.key(seed)))


def test_a_window_as_large_as_the_map_is_a_whole_pass():
    grid = (3, 4)

    def asked(seen, start, index):
        del start
        return predict(seen, index)

    maps = (x.reshape(BATCH, *grid) for x in (TOKENS, SOME))
    one = in_window(asked, *maps, grid)
    other = JITTED["passes"](TOKENS, SOME, jax.random.key(0), ORDER)
    np.testing.assert_array_equal(one, other.reshape(BATCH, *grid))


@pytest.mark.parametrize(("size", "window"), [((7, 4), (4, 4)), ((5, 9), (2, 4)), ((6, 6), (3, 2))])
def test_the_place_asked_for_is_the_one_that_is_filled(size, window):
    number = size[0] * size[1]

    def asked(seen, start, index):
        row, column = start[0] + index // window[1], start[1] + index % window[1]
        logits = 1e4 * jax.nn.one_hot(row * size[1] + column, number)
        return jnp.broadcast_to(logits, (len(seen), number))

    tokens = np.zeros((2, *size), np.int32)
    out = in_window(asked, tokens, np.ones_like(tokens, bool), window)
    np.testing.assert_array_equal(out, np.broadcast_to(np.arange(number).reshape(size), out.shape))


@pytest.mark.parametrize("all_hidden", [True, False])
def test_the_network_sees_its_window_with_all_tokens_so_far(all_hidden):
    size, window, batch = (7, 6), (4, 2), 2
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, CODES, (batch, *size)).astype(np.int32)
    mask = np.ones_like(tokens, bool) if all_hidden else rng.random(tokens.shape) < 0.5
    weights = rng.integers(0, CODES, window[0] * window[1])

    def code(seen, start, inside, numbers):
        """Anything that depends on every token before the place, and on the window."""
        before = numbers.where(numbers.arange(weights.size) < inside, weights, 0)
        total = (seen * before[None]).sum(axis=1)
        return (1 + total + 2 * inside + 3 * start[0] + start[1]) % CODES

    def asked(seen, start, index):
        return 1e4 * jax.nn.one_hot(code(seen, start, index, jnp), CODES)

    expected = tokens.copy()
    for row in range(size[0]):
        for column in range(size[1]):
            top, left = (
                reference_start(*place)
                for place in ((row, size[0], window[0]), (column, size[1], window[1]))
            )
            seen = expected[:, top : top + window[0], left : left + window[1]].reshape(batch, -1)
            inside = (row - top) * window[1] + column - left
            drawn = code(seen, (top, left), inside, np)
            own = mask[:, row, column]
            expected[:, row, column] = np.where(own, drawn, expected[:, row, column])
    out = in_window(asked, tokens, mask, window)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(out[~mask], tokens[~mask])


@pytest.mark.parametrize("decode", [*DECODERS.values(), None], ids=[*DECODERS, "window"])
def test_tokens_and_masks_of_different_shapes_are_our_own_mistake(key, decode):
    with pytest.raises(AssertionError):
        if decode:
            decode(TOKENS, SOME[:, 1:], key)
        else:
            decode_sliding_window(None, TOKENS[:, None], SOME[:, None, 1:], (1, 2), key, WINDOW)


@pytest.mark.parametrize("kind", [AutoregressiveSettings, SlidingWindowSettings])
def test_settings_that_cannot_work_are_refused(kind):
    check_autoregressive_settings(kind(), CODES)
    for wrong, message in (
        (dict(temperature=0.0), "temperature is 0.0"),
        (dict(temperature=-1.0), "it must be > 0"),
        (dict(top_k=6), "top_k is 6"),
        (dict(top_p=0.0), "top_p is 0.0"),
    ):
        with pytest.raises(InputError, match=message):
            check_autoregressive_settings(kind(**wrong), CODES)
