import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.metrics.scores import ScoreSums, softmax64
from tests.golden import make_metrics


def added(probabilities, splits, *cuts):
    sums = ScoreSums(probabilities.shape[1], len(probabilities), splits)
    start = 0
    for part in np.split(probabilities, cuts):
        sums.add(part, start)
        start += len(part)
    return sums


def test_a_published_program_gives_the_same_score():
    golden = np.load(make_metrics.FILE)["score"]
    score = added(softmax64(make_metrics.logits()), 5, 130, 131, 402).score()
    np.testing.assert_allclose(score, golden, rtol=1e-10)


def test_sure_and_varied_is_k_and_unsure_is_one():
    sure = np.eye(4)[np.arange(40) % 4]
    assert added(sure, 10).score() == (pytest.approx(4.0), 0.0)
    assert added(np.full((40, 4), 0.25), 10).score() == (pytest.approx(1.0), 0.0)
    # The first split shows two classes, the second one class.
    halves = np.eye(2)[[0, 1, 0, 1, 1, 1, 1, 1]]
    assert added(halves, 2).score() == (pytest.approx(1.5), pytest.approx(0.5))


def test_splits_need_not_divide_the_images_nor_batches_follow_in_order():
    probabilities = softmax64(np.random.default_rng(0).normal(size=(11, 3)))
    sums = ScoreSums(3, 11, 3)
    sums.add(probabilities[6:], 6)
    sums.add(probabilities[:6], 0)
    scores = []
    for part in (probabilities[:4], probabilities[4:8], probabilities[8:]):
        divergence = (part * np.log(part / part.mean(0))).sum(1).mean()
        scores.append(np.exp(divergence))
    np.testing.assert_allclose(sums.score(), (np.mean(scores), np.std(scores)), rtol=1e-12)


def test_saved_and_continued_equals_uninterrupted_to_the_bit(tmp_path):
    probabilities = softmax64(np.random.default_rng(0).normal(size=(30, 5)))
    half = ScoreSums(5, 30, 3)
    half.add(probabilities[:17], 0)
    np.savez(tmp_path / "half.npz", **half.to_arrays())
    with np.load(tmp_path / "half.npz") as arrays:
        half = ScoreSums.from_arrays(arrays)
    half.add(probabilities[17:], 17)
    assert half.score() == added(probabilities, 3, 17).score()


def test_softmax_keeps_large_logits():
    np.testing.assert_allclose(softmax64(np.float32([[1000.0, 1000.0, -1000.0]])), [[0.5, 0.5, 0]])


def test_misuse_is_told():
    sums = ScoreSums(2, 4, 2)
    with pytest.raises(InputError, match="softmax64 makes them"):
        sums.add(np.ones((2, 2)), 0)
    with pytest.raises(InputError, match="images 3 to 4 were given"):
        sums.add(np.full((2, 2), 0.5), 3)
    with pytest.raises(InputError, match="not of 2 classes"):
        sums.add(np.full((2, 4), 0.25), 0)
    with pytest.raises(InputError, match="0 images were added"):
        sums.score()
    with pytest.raises(InputError, match="5 splits of 4 images"):
        ScoreSums(2, 4, 5)
