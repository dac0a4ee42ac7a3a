import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.decoding.schedules import (
    SCHEDULES,
    any_order_mask,
    guidance_ramp,
    mask_ratio,
    random_mask,
    rank,
)


def test_mask_ratios_by_hand():
    quarter = {
        "linear": 0.75, "cosine": np.cos(np.pi / 8), "square": 15 / 16, "cubic": 63 / 64,
        "sqrt": 0.5, "exponential": 1 - 16 ** (-3 / 4), "logarithmic": 0.5,
        "arccos": np.arccos(0.25) / (np.pi / 2), "pow2.5": 1 - 0.25**2.5,
    }  # fmt: skip
    for name, gamma in quarter.items():
        np.testing.assert_allclose(mask_ratio(0.25, 16, name), gamma, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(mask_ratio(0.0, 16, name), 1.0, atol=0.07)
        assert mask_ratio(1.0, 16, name) == np.float32(1e-6), name
    assert set(SCHEDULES) < set(quarter)


@pytest.mark.parametrize("name", ["sawtooth", "pow", "pow0", "pow-1", "powx"])
def test_an_unknown_schedule_is_refused(name):
    with pytest.raises(ValueError, match="cosine"):
        mask_ratio(0.5, 16, name)


def test_training_masks_have_the_scheduled_number_of_tokens(key):
    scores = jax.random.uniform(key, (3, 16))
    mask = random_mask(jnp.asarray([0.0, 0.5, 0.9999]), scores, "cosine")
    assert mask.sum(axis=-1).tolist() == [16, 11, 1]


def test_guidance_ramps_by_hand():
    progress = jnp.asarray([0.25, 0.5, 1.0])
    np.testing.assert_allclose(guidance_ramp(progress, "constant"), [1, 1, 1])
    np.testing.assert_allclose(guidance_ramp(progress, "linear"), progress)
    cosine = [(1 - 0.5**0.5) / 2, 0.5, 1]
    np.testing.assert_allclose(guidance_ramp(progress, "cosine"), cosine, rtol=1e-6)


def test_rank_breaks_ties_by_position():
    assert rank(jnp.asarray([[2.0, 1.0, 1.0, 3.0]])).tolist() == [[2, 0, 1, 3]]


def test_any_number_of_masked_tokens_is_equally_likely(key):
    ratio_key, place_key = jax.random.split(key)
    ratio = jax.random.uniform(ratio_key, (6000,))
    mask = np.asarray(any_order_mask(ratio, jax.random.uniform(place_key, (6000, 5))))
    counts = np.bincount(mask.sum(axis=1), minlength=6)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / 6000, 0.2, atol=0.02)
    np.testing.assert_allclose(mask.mean(axis=0), 0.6, atol=0.03)
