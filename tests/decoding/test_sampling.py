import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.sampling import check_top_k_top_p, filter_logits, sample_categorical

SHARES = jnp.log(jnp.asarray([0.15, 0.5, 0.05, 0.3]))


def kept(logits, **settings):
    """Which codes may be drawn; their logits must not have changed."""
    out = filter_logits(logits, **settings)
    stay = np.isfinite(out)
    np.testing.assert_array_equal(out[stay], logits[stay])
    assert (out[~stay] == -jnp.inf).all()
    return [np.flatnonzero(row).tolist() for row in np.atleast_2d(stay)]


@pytest.mark.parametrize(
    ("top_k", "codes"), [(1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (0, [0, 1, 2, 3])]
)
def test_the_k_most_likely_codes_stay(top_k, codes):
    assert kept(SHARES, top_k=top_k) == [codes]


def test_of_equally_likely_codes_exactly_k_stay_and_those_are_the_smaller_ones():
    logits = jnp.asarray([[1.0, 2.0, 1.0, 1.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    assert kept(logits, top_k=2) == [[0, 1], [0, 1]]
    assert kept(logits, top_k=3) == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("top_p", "codes"),
    [
        (1e-6, [1]),
        (0.5, [1]),
        (0.6, [1, 3]),
        (0.79, [1, 3]),
        (0.9, [0, 1, 3]),
        (0.96, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_the_most_likely_codes_that_make_up_p_stay(top_p, codes):
    assert kept(SHARES, top_p=top_p) == [codes]


def test_half_of_two_equal_codes_is_the_smaller_one():
    assert kept(jnp.zeros(2), top_p=0.5) == [[0]]
    assert kept(jnp.zeros(2), top_p=0.51) == [[0, 1]]


def test_p_counts_what_k_left_over_as_all():
    # Of the whole .5 + .3 make up .75; of the two that stay .5 / .8 is .625, so .6 takes one.
    assert kept(SHARES, top_p=0.6) == [[1, 3]]
    assert kept(SHARES, top_k=2, top_p=0.6) == [[1]]
    assert kept(SHARES, top_k=2, top_p=0.65) == [[1, 3]]
    assert kept(SHARES, top_k=3, top_p=0.97) == [[0, 1, 3]]


@pytest.mark.parametrize("settings", [{}, dict(top_k=4), dict(top_k=0, top_p=1.0)])
def test_nothing_is_left_out_unasked(settings):
    assert filter_logits(SHARES, **settings) is SHARES


def test_any_leading_axes_and_one_code():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
    out = jax.jit(lambda x: filter_logits(x, 2, 0.9))(logits)
    np.testing.assert_array_equal(out[1, 2], filter_logits(logits[1, 2], 2, 0.9))
    assert filter_logits(jnp.zeros((2, 1)), 1, 0.1).tolist() == [[0.0], [0.0]]


def test_more_codes_than_there_are_cannot_be_kept():
    with pytest.raises(AssertionError):
        filter_logits(SHARES, top_k=5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-1, 1.0), "top_k is -1; it must be between 0 .* 16"),
        ((17, 1.0), "top_k is 17"),
        ((0, 0.0), "top_p is 0.0; it must be above 0 and at most 1"),
        ((0, 1.5), "top_p is 1.5"),
        ((0, float("nan")), "top_p is nan"),
    ],
)
def test_misuse_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        check_top_k_top_p(*values, 16)
    check_top_k_top_p(16, 1.0, 16)
    check_top_k_top_p(0, 0.01, 16)


@pytest.mark.parametrize("codes", [1, 2, 5, 16, 37])
def test_draws_are_as_often_as_they_are_likely(codes):
    logits = 2.0 * jax.random.normal(jax.random.key(codes), (codes,))
    share = np.asarray(jax.nn.softmax(logits))
    many = jnp.broadcast_to(logits, (40_000, codes))
    drawn = np.asarray(jax.jit(sample_categorical)(jax.random.key(1), many))
    assert drawn.dtype == np.int32 and drawn.shape == (40_000,)
    found = np.bincount(drawn, minlength=codes) / 40_000
    assert len(found) == codes
    assert (abs(found - share) <= 5 * np.sqrt(share * (1 - share) / 40_000) + 1e-9).all()


def test_what_is_impossible_is_never_drawn():
    possible = np.asarray([0, 3, 4, 35])
    logits = jnp.full((20_000, 37), -jnp.inf).at[:, possible].set(0.0)
    drawn = np.asarray(jax.jit(sample_categorical)(jax.random.key(0), logits))
    assert set(drawn.tolist()) == set(possible.tolist())
    sure = jnp.full((50, 1000), -1e9).at[jnp.arange(50), jnp.arange(50) * 20].set(1e9)
    drawn = np.asarray(sample_categorical(jax.random.key(1), sure))
    np.testing.assert_array_equal(drawn, np.arange(50) * 20)
