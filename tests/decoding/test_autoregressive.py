"""Autoregressive decoding with networks that are a table of logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.autoregressive import (
    check_autoregressive_settings,
    decode_sliding_window,
    decode_with_cache,
    decode_without_cache,
    window_start,
)
from maskgit_jax.decoding.sampling import image_keys
from maskgit_jax.decoding.settings import AutoregressiveSettings, SlidingWindowSettings

DEFAULT = AutoregressiveSettings()
GREEDY = AutoregressiveSettings(top_k=1)
BATCH, LENGTH, CODES = 3, 12, 5
TABLE = 2 * np.random.default_rng(0).normal(size=(LENGTH, CODES, CODES)).astype(np.float32)
"""Logits of a position, by the sum of all tokens before it."""
TOKENS = np.random.default_rng(1).integers(0, CODES, (BATCH, LENGTH)).astype(np.int32)
SOME = np.random.default_rng(2).random((BATCH, LENGTH)) < 0.6
ALL = np.ones_like(SOME)


def decode_step(cache, previous, index):
    cache = cache + jnp.where(index == 0, 0, previous)
    return jnp.asarray(TABLE)[index, cache % CODES], cache


def predict(tokens, index):
    before = jnp.arange(tokens.shape[1]) < index
    total = jnp.where(before[None], tokens, 0).sum(axis=1)
    return jnp.asarray(TABLE)[index, total % CODES]


def with_cache(tokens, mask, key, settings=DEFAULT):
    cache = jnp.zeros(len(tokens), jnp.int32)
    keys = image_keys(key, np.arange(len(tokens)))
    return decode_with_cache(decode_step, cache, tokens, mask, keys, settings)


def without_cache(tokens, mask, key, settings=DEFAULT):
    keys = image_keys(key, np.arange(len(tokens)))
    return decode_without_cache(predict, tokens, mask, keys, settings)


DECODERS = {"with cache": with_cache, "without cache": without_cache}
JITTED = {name: jax.jit(decoder, static_argnums=3) for name, decoder in DECODERS.items()}


@pytest.mark.parametrize(
    "settings", [DEFAULT, AutoregressiveSettings(temperature=2.0, top_k=4, top_p=0.9)]
)
def test_decoding_with_and_without_cache_gives_the_same_tokens(settings):
    for mask in (ALL, SOME):
        first, second = (
            JITTED[name](TOKENS, mask, jax.random.key(0), settings) for name in DECODERS
        )
        assert first.dtype == jnp.int32
        np.testing.assert_array_equal(first, second)
        other = JITTED["with cache"](TOKENS, mask, jax.random.key(1), settings)
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", DECODERS)
def test_unmasked_tokens_stay_and_condition_later_tokens(key, name):
    decoded = JITTED[name](TOKENS, SOME, key, GREEDY)
    expected = TOKENS.copy()
    for index in range(LENGTH):
        most_likely = TABLE[index, expected[:, :index].sum(axis=1) % CODES].argmax(axis=-1)
        expected[:, index] = np.where(SOME[:, index], most_likely, expected[:, index])
    np.testing.assert_array_equal(decoded, expected)
    np.testing.assert_array_equal(decoded[~SOME], TOKENS[~SOME])
    unchanged = JITTED[name](TOKENS, np.zeros_like(SOME), jax.random.key(0), DEFAULT)
    np.testing.assert_array_equal(unchanged, TOKENS)


def test_values_of_masked_tokens_have_no_effect():
    changed = np.where(SOME, (TOKENS + 1) % CODES, TOKENS)
    first, second = (
        JITTED["without cache"](tokens, SOME, jax.random.key(0), DEFAULT)
        for tokens in (TOKENS, changed)
    )
    np.testing.assert_array_equal(first, second)


def test_top_k_1_and_low_temperature_give_the_most_likely_tokens_for_every_key():
    first, second, cold, zero = (
        JITTED["with cache"](TOKENS, ALL, jax.random.key(seed), settings)
        for seed, settings in (
            (0, GREEDY),
            (5, GREEDY),
            (7, AutoregressiveSettings(temperature=1e-4)),
            (8, AutoregressiveSettings(temperature=0.0)),
        )
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, zero)
    np.testing.assert_array_equal(first, cold)


@pytest.mark.parametrize("name", DECODERS)
def test_samples_follow_the_softmax_at_their_temperature(name):
    batch, temperature = 4000, 1.5
    tokens = np.zeros((batch, 2), np.int32)
    settings = AutoregressiveSettings(temperature)
    pairs = np.asarray(
        JITTED[name](tokens, np.ones_like(tokens, bool), jax.random.key(3), settings)
    )
    exponentials = np.exp(TABLE[:2] / temperature)
    probability = exponentials / exponentials.sum(axis=-1, keepdims=True)
    expected = batch * probability[0, 0][:, None] * probability[1]  # first and second token
    counts = np.bincount(pairs[:, 0] * CODES + pairs[:, 1], minlength=CODES**2)
    chi_square = ((counts.reshape(CODES, CODES) - expected) ** 2 / expected).sum()
    assert chi_square < 58.6  # 24 degrees of freedom: exceeded once in 10,000


def test_different_masks_share_one_program(key):
    traces = []

    def traced(tokens, mask, key):
        traces.append(1)
        return with_cache(tokens, mask, key)

    decode = jax.jit(traced)
    for mask in (SOME, ~SOME, ALL):
        decode(TOKENS, mask, key)
    assert len(traces) == 1


# Sliding window.


def reference_start(position, size, window):
    """A transcript of taming-transformers scripts/sample_conditional.py."""
    if position <= window // 2:
        local = position
    elif size - position < window // 2:
        local = window - (size - position)
    else:
        local = window // 2
    return position - local


@pytest.mark.parametrize(("size", "window"), [(4, 4), (5, 4), (8, 4), (9, 2), (20, 16), (40, 16)])
def test_windows_start_as_in_the_reference(size, window):
    starts = window_start(jnp.arange(size), size, window)
    assert starts.tolist() == [reference_start(index, size, window) for index in range(size)]


@pytest.mark.parametrize(("size", "window"), [(7, 3), (5, 5), (6, 1)])
def test_windows_of_any_size_lie_in_the_map_and_contain_their_position(size, window):
    starts = np.asarray(window_start(jnp.arange(size), size, window))
    inside = np.arange(size) - starts
    assert ((inside >= 0) & (inside < window)).all()
    assert ((starts >= 0) & (starts + window <= size)).all()


def decode_windows(predict, tokens, mask, window):
    decode = jax.jit(
        lambda *inputs: decode_sliding_window(predict, *inputs[:2], window, inputs[2], DEFAULT)
    )
    keys = image_keys(jax.random.key(0), np.arange(len(tokens)))
    return np.asarray(decode(tokens, mask, keys))


def test_a_window_of_the_size_of_the_map_equals_decoding_without_cache():
    grid = (3, 4)
    maps = (array.reshape(BATCH, *grid) for array in (TOKENS, SOME))
    windowed = decode_windows(lambda tokens, start, index: predict(tokens, index), *maps, grid)
    whole = JITTED["without cache"](TOKENS, SOME, jax.random.key(0), DEFAULT)
    np.testing.assert_array_equal(windowed, whole.reshape(BATCH, *grid))


@pytest.mark.parametrize(("size", "window"), [((7, 4), (4, 4)), ((5, 9), (2, 4)), ((6, 6), (3, 2))])
def test_the_predicted_position_is_the_one_that_is_written(size, window):
    count = size[0] * size[1]

    def predict_own_index(tokens, start, index):
        row, column = start[0] + index // window[1], start[1] + index % window[1]
        logits = 1e4 * jax.nn.one_hot(row * size[1] + column, count)
        return jnp.broadcast_to(logits, (len(tokens), count))

    tokens = np.zeros((2, *size), np.int32)
    decoded = decode_windows(predict_own_index, tokens, np.ones_like(tokens, bool), window)
    expected = np.arange(count).reshape(size)
    np.testing.assert_array_equal(decoded, np.broadcast_to(expected, decoded.shape))


@pytest.mark.parametrize("all_masked", [True, False])
def test_the_network_sees_its_window_with_all_tokens_so_far(all_masked):
    size, window, batch = (7, 6), (4, 2), 2
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, CODES, (batch, *size)).astype(np.int32)
    mask = np.ones_like(tokens, bool) if all_masked else rng.random(tokens.shape) < 0.5
    weights = rng.integers(0, CODES, window[0] * window[1])

    def code(seen, start, inside, numpy):
        """A code that depends on the window and on every token before the position."""
        before = numpy.where(numpy.arange(weights.size) < inside, weights, 0)
        total = (seen * before[None]).sum(axis=1)
        return (1 + total + 2 * inside + 3 * start[0] + start[1]) % CODES

    def predict_code(seen, start, index):
        return 1e4 * jax.nn.one_hot(code(seen, start, index, jnp), CODES)

    expected = tokens.copy()
    for row in range(size[0]):
        for column in range(size[1]):
            top = reference_start(row, size[0], window[0])
            left = reference_start(column, size[1], window[1])
            seen = expected[:, top : top + window[0], left : left + window[1]].reshape(batch, -1)
            inside = (row - top) * window[1] + column - left
            sampled = code(seen, (top, left), inside, np)
            known = expected[:, row, column]
            expected[:, row, column] = np.where(mask[:, row, column], sampled, known)
    decoded = decode_windows(predict_code, tokens, mask, window)
    np.testing.assert_array_equal(decoded, expected)
    np.testing.assert_array_equal(decoded[~mask], tokens[~mask])


# Refusals.


def test_tokens_and_masks_of_different_shapes_are_refused(key):
    for decode in DECODERS.values():
        with pytest.raises(AssertionError):
            decode(TOKENS, SOME[:, 1:], key)
    with pytest.raises(AssertionError):
        decode_sliding_window(None, TOKENS[:, None], SOME[:, None, 1:], (1, 2), key, DEFAULT)


@pytest.mark.parametrize("settings", [AutoregressiveSettings, SlidingWindowSettings])
def test_settings_that_cannot_work_are_refused(settings):
    check_autoregressive_settings(settings(), CODES)
    for wrong, message in (
        (dict(temperature=1e-30), "temperature is 1e-30"),
        (dict(temperature=-1.0), "it must be at least 0 and at most 1000"),
        (dict(top_k=6), "top_k is 6"),
        (dict(top_k=-1), "top_k is -1"),
        (dict(top_p=0.0), "top_p is 0.0; it must be above 0 and at most 1"),
        (dict(top_p=1.5), "top_p is 1.5"),
        (dict(top_p=float("nan")), "top_p is nan"),
    ):
        with pytest.raises(InputError, match=message):
            check_autoregressive_settings(settings(**wrong), CODES)
