import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.sampling import check_top_k, filter_logits, sample_categorical

LOGITS = jnp.log(jnp.asarray([0.15, 0.5, 0.05, 0.3]))
JITTED_SAMPLE = jax.jit(sample_categorical)


def keys(num, seed=1):
    return jax.random.split(jax.random.key(seed), num)


def kept_codes(logits, **settings):
    """The codes that may be sampled; their logits must not change."""
    filtered = filter_logits(logits, **settings)
    kept = np.isfinite(filtered)
    np.testing.assert_array_equal(filtered[kept], logits[kept])
    assert (filtered[~kept] == -jnp.inf).all()
    return [np.flatnonzero(row).tolist() for row in np.atleast_2d(kept)]


@pytest.mark.parametrize(
    ("settings", "codes"),
    [
        (dict(top_k=1), [1]),
        (dict(top_k=2), [1, 3]),
        (dict(top_k=3), [0, 1, 3]),
        (dict(top_p=1e-6), [1]),
        (dict(top_p=0.5), [1]),
        (dict(top_p=0.6), [1, 3]),
        (dict(top_p=0.79), [1, 3]),
        (dict(top_p=0.9), [0, 1, 3]),
        (dict(top_p=0.96), [0, 1, 2, 3]),
        # top_p counts what top_k keeps as all: .5 of .8 is .625, so that .6 keeps one code.
        (dict(top_k=2, top_p=0.6), [1]),
        (dict(top_k=2, top_p=0.65), [1, 3]),
        (dict(top_k=3, top_p=0.97), [0, 1, 3]),
    ],
)
def test_filter_logits_keeps_the_most_likely_codes(settings, codes):
    assert kept_codes(LOGITS, **settings) == [codes]


def test_filter_logits_keeps_the_smaller_of_equally_likely_codes():
    logits = jnp.asarray([[1.0, 2.0, 1.0, 1.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    assert kept_codes(logits, top_k=2) == [[0, 1], [0, 1]]
    assert kept_codes(logits, top_k=3) == [[0, 1, 2], [0, 1, 2]]
    assert kept_codes(jnp.zeros(2), top_p=0.5) == [[0]]
    assert kept_codes(jnp.zeros(2), top_p=0.51) == [[0, 1]]


@pytest.mark.parametrize("settings", [{}, dict(top_k=4), dict(top_k=0, top_p=1.0)])
def test_filter_logits_returns_its_input_where_all_codes_stay(settings):
    assert filter_logits(LOGITS, **settings) is LOGITS


def test_filter_logits_accepts_any_leading_axes_and_one_code():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    filtered = jax.jit(lambda x: filter_logits(x, 2, 0.9))(logits)
    np.testing.assert_array_equal(filtered[1, 2], filter_logits(jnp.asarray(logits[1, 2]), 2, 0.9))
    assert filter_logits(jnp.zeros((2, 1)), 1, 0.1).tolist() == [[0.0], [0.0]]


def test_top_k_larger_than_the_codebook_is_refused():
    with pytest.raises(AssertionError):
        filter_logits(LOGITS, top_k=5)
    for top_k in (-1, 17):
        with pytest.raises(InputError, match=f"top_k is {top_k}; it must be between 0 .* 16"):
            check_top_k(top_k, 16)
    check_top_k(16, 16)


@pytest.mark.parametrize("codes", [1, 2, 5, 16, 37])
def test_samples_are_as_frequent_as_their_probabilities(codes):
    logits = 2.0 * jax.random.normal(jax.random.key(codes), (codes,))
    probability = np.asarray(jax.nn.softmax(logits))
    samples = np.asarray(JITTED_SAMPLE(keys(40_000), jnp.broadcast_to(logits, (40_000, codes))))
    assert samples.dtype == np.int32 and samples.shape == (40_000,)
    frequency = np.bincount(samples, minlength=codes) / 40_000
    assert len(frequency) == codes
    deviation = np.sqrt(probability * (1 - probability) / 40_000)
    assert (abs(frequency - probability) <= 5 * deviation + 1e-9).all()


def test_codes_of_probability_0_are_never_sampled():
    possible = [0, 3, 4, 35]
    logits = np.full((40_000, 37), -np.inf, np.float32)
    logits[:, possible] = 0.0
    samples = np.asarray(JITTED_SAMPLE(keys(40_000), logits))
    assert set(samples.tolist()) == set(possible)
    certain = np.full((50, 1000), -1e9, np.float32)
    certain[np.arange(50), np.arange(50) * 20] = 1e9
    samples = JITTED_SAMPLE(keys(50), certain)
    np.testing.assert_array_equal(samples, np.arange(50) * 20)
