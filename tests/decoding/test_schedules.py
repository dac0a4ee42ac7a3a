import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.schedules import (
    SCHEDULES,
    check_schedule,
    guidance_ramp,
    mask_ratio,
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


@pytest.mark.parametrize(
    "name",
    ["sawtooth", "pow", "pow0", "pow-1", "powx", "beta12", "beta0,3", "beta1,2,3"]
    + ["truncnorm1,0.25", "truncnorm1,0.25,1", "truncnorm0,0.01,0.5"],
)
def test_an_unknown_schedule_is_refused(name):
    with pytest.raises(ValueError, match="cosine"):
        mask_ratio(0.5, 16, name)


@pytest.mark.parametrize(
    ("name", "quantile"),
    [
        ("beta12,3", scipy.stats.beta(12, 3).ppf),
        ("beta0.5,2", scipy.stats.beta(0.5, 2).ppf),
        ("truncnorm1,0.25,0.7", scipy.stats.truncnorm(-1.2, 0, loc=1, scale=0.25).ppf),
        ("truncnorm0.6,0.3,0", scipy.stats.truncnorm(-2, 4 / 3, loc=0.6, scale=0.3).ppf),
    ],
)
def test_distributions_of_mask_ratios_are_for_training_only(name, quantile):
    ratio = np.linspace(0.0, 0.999, 50)
    np.testing.assert_allclose(mask_ratio(ratio, 16, name), quantile(1 - ratio), atol=2e-4)
    check_schedule(name, training=True)
    with pytest.raises(InputError, match=f"'{name}', a distribution of mask ratios in training"):
        check_schedule(name)


def test_guidance_ramps_by_hand():
    progress = jnp.asarray([0.25, 0.5, 1.0])
    np.testing.assert_allclose(guidance_ramp(progress, "constant"), [1, 1, 1])
    np.testing.assert_allclose(guidance_ramp(progress, "linear"), progress)
    cosine = [(1 - 0.5**0.5) / 2, 0.5, 1]
    np.testing.assert_allclose(guidance_ramp(progress, "cosine"), cosine, rtol=1e-6)


def test_rank_breaks_ties_by_position():
    assert rank(jnp.asarray([[2.0, 1.0, 1.0, 3.0]])).tolist() == [[2, 0, 1, 3]]
