"""Training masks: numbers of masked tokens, strata, complements and orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.decoding.masking import (
    any_order_mask,
    masked_batch,
    random_mask,
    sample_mask,
    stratified_uniform,
)
from maskgit_jax.decoding.rules import halton_order
from maskgit_jax.decoding.settings import MaskingSettings

GRID = (4, 6)


def test_training_masks_have_the_scheduled_number_of_tokens(key):
    scores = jax.random.uniform(key, (3, 16))
    mask = random_mask(jnp.asarray([0.0, 0.5, 0.9999]), scores, "cosine")
    assert mask.sum(axis=-1).tolist() == [16, 12, 1]


def test_any_number_of_masked_tokens_is_equally_likely(key):
    ratio_key, place_key = jax.random.split(key)
    ratio = jax.random.uniform(ratio_key, (6000,))
    scores = jax.random.uniform(place_key, (6000, 5))
    for mask in (any_order_mask(ratio, scores), random_mask(ratio, scores, "linear")):
        counts = np.bincount(mask.sum(axis=1), minlength=6)
        assert counts[0] == 0
        np.testing.assert_allclose(counts[1:] / 6000, 0.2, atol=0.02)
        np.testing.assert_allclose(mask.mean(axis=0), 0.6, atol=0.03)


def test_each_stratum_has_one_ratio_and_each_row_all_of_them(key):
    ratio_key, mask_key = jax.random.split(key)
    ratio = jax.vmap(lambda key: stratified_uniform(key, (8,)))(jax.random.split(ratio_key, 2000))
    strata = np.floor(np.asarray(ratio) * 8).astype(int)
    np.testing.assert_array_equal(np.sort(strata, axis=1), np.arange(8)[None].repeat(2000, 0))
    np.testing.assert_allclose(np.bincount(strata[:, 0]) / 2000, 1 / 8, atol=0.03)
    quantiles = np.quantile(ratio[:, 3], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.5, 0.9], atol=0.04)
    # The number of masked tokens of a batch hardly varies.
    settings = MaskingSettings("linear", stratified=True)
    sample = jax.vmap(lambda key: sample_mask(key, 16, GRID, settings).sum())
    assert sample(jax.random.split(mask_key, 50)).std() < 10  # independent ratios: 28


@pytest.mark.parametrize("order", ["random", "halton"])
@pytest.mark.parametrize("schedule", ["linear", "truncnorm1,0.25,0.7"])
def test_complements_are_disjoint_and_cover_everything(key, order, schedule):
    settings = MaskingSettings(schedule, complementary=True, order=order, stratified=True)
    mask = np.asarray(sample_mask(key, 32, GRID, settings))
    np.testing.assert_array_equal(mask[::2], ~mask[1::2])
    assert mask[::2].any(axis=1).all()
    image = np.arange(32)
    batch = masked_batch({"label": image, "image": image[:, None] + np.arange(3)}, settings)
    np.testing.assert_array_equal(batch["label"], (image // 2) * 2)
    np.testing.assert_array_equal(batch["image"][:, 2], batch["label"] + 2)


def test_halton_masks_are_the_last_tokens_of_a_rotated_order(key):
    mask = np.asarray(sample_mask(key, 64, GRID, MaskingSettings("linear", order="halton")))
    tokens = np.argsort(halton_order(GRID))  # in the order in which they are revealed
    starts = set()
    for row in mask[~mask.all(axis=1)][:, tokens]:
        (edges,) = np.nonzero(row & ~np.roll(row, 1))
        assert len(edges) == 1, "masked tokens are consecutive in the order, seen as a circle"
        starts.add(edges[0])
    assert len(starts) > 12
