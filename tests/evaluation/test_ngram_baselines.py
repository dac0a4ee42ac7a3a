import numpy as np
import pytest

from maskgit_jax.evaluation.ngram_baselines import (
    SMOOTHING_WEIGHTS,
    baseline_bits,
    bigram_bits,
    unigram_bits,
)


def test_unigrams_of_two_classes():
    # Class 0 has only code 0, class 1 half code 1 and half code 2.
    train = np.asarray([[0, 0, 0, 0]] * 5000 + [[1, 2, 2, 1]] * 5000)
    labels = np.repeat([0, 1], 5000)
    bits = unigram_bits(train, np.asarray([[0, 0], [2, 1]]), (labels, np.asarray([0, 1])), 4)
    np.testing.assert_allclose(bits, 0.5, atol=1e-3)


def test_bigrams_of_alternating_tokens():
    # 1 follows 0 and 0 follows 1; the first token is either.
    train = np.asarray([[0, 1, 0, 1], [1, 0, 1, 0]] * 5000)
    np.testing.assert_allclose(bigram_bits(train, train[:2], 2), 1 / 4, atol=1e-3)


def test_unseen_code_has_finite_bits():
    train = np.zeros((100, 4), int)
    bits = bigram_bits(train, np.full((1, 4), 7), 8)
    assert np.isfinite(bits) and bits > 3


def test_smoothing_is_chosen_in_favour_of_the_baseline():
    rng = np.random.default_rng(0)
    train, held_out = rng.integers(0, 16, (50, 8)), rng.integers(0, 16, (500, 8))
    labels = (np.zeros(50, int), np.zeros(500, int))
    # Uniform tokens have no structure, so strong smoothing is best.
    assert 4.0 < bigram_bits(train, held_out, 16) < 4.1
    assert 4.0 < unigram_bits(train, held_out, labels, 16) < 4.1
    assert max(SMOOTHING_WEIGHTS) > 100


def test_maps_have_separate_counts():
    # Two maps with unrelated codes: 1 token of no and 3 tokens of one bit.
    rng = np.random.default_rng(1)
    first, second = np.zeros((20_000, 1), int), rng.integers(0, 2, (20_000, 3))
    tokens, labels = np.concatenate([first, second], axis=1), np.zeros(20_000, int)
    bits = baseline_bits(tokens, tokens, (labels, labels), (1, 3), 2)
    assert bits["unigram_bits_per_token"] == pytest.approx(0.75, abs=1e-3)
    assert bits["bigram_bits_per_token"] == pytest.approx(0.75, abs=1e-3)
