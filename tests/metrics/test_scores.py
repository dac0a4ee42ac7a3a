import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.metrics.scores import InceptionScore, softmax64
from tests.golden import make_metrics


def accumulate(probabilities, splits, *cuts):
    result = InceptionScore(probabilities.shape[1], len(probabilities), splits)
    start = 0
    for part in np.split(probabilities, cuts):
        result.add(part, start)
        start += len(part)
    return result


def test_score_equals_published_program():
    golden = np.load(make_metrics.FILE)["score"]
    score = accumulate(softmax64(make_metrics.logits()), 5, 130, 131, 402).score()
    np.testing.assert_allclose(score, golden, rtol=1e-10)


def test_score_of_confident_and_of_uniform_predictions():
    confident = np.eye(4)[np.arange(40) % 4]
    assert accumulate(confident, 10).score() == (pytest.approx(4.0), 0.0)
    assert accumulate(np.full((40, 4), 0.25), 10).score() == (pytest.approx(1.0), 0.0)
    # The first split has two classes, the second one class.
    halves = np.eye(2)[[0, 1, 0, 1, 1, 1, 1, 1]]
    assert accumulate(halves, 2).score() == (pytest.approx(1.5), pytest.approx(0.5))


def test_score_with_uneven_splits_and_unordered_batches():
    probabilities = softmax64(np.random.default_rng(0).normal(size=(11, 3)))
    sums = InceptionScore(3, 11, 3)
    sums.add(probabilities[6:], 6)
    sums.add(probabilities[:6], 0)
    scores = []
    for part in (probabilities[:4], probabilities[4:8], probabilities[8:]):
        divergence = (part * np.log(part / part.mean(0))).sum(1).mean()
        scores.append(np.exp(divergence))
    np.testing.assert_allclose(sums.score(), (np.mean(scores), np.std(scores)), rtol=1e-12)


def test_score_resumes_bit_for_bit(tmp_path):
    probabilities = softmax64(np.random.default_rng(0).normal(size=(30, 5)))
    half = InceptionScore(5, 30, 3)
    half.add(probabilities[:17], 0)
    np.savez(tmp_path / "half.npz", **half.to_arrays())
    with np.load(tmp_path / "half.npz") as arrays:
        half = InceptionScore.from_arrays(arrays)
    half.add(probabilities[17:], 17)
    assert half.score() == accumulate(probabilities, 3, 17).score()


def test_softmax_of_large_logits():
    np.testing.assert_allclose(softmax64(np.float32([[1000.0, 1000.0, -1000.0]])), [[0.5, 0.5, 0]])


def test_invalid_input_is_refused():
    sums = InceptionScore(2, 4, 2)
    with pytest.raises(InputError, match="apply softmax64"):
        sums.add(np.ones((2, 2)), 0)
    with pytest.raises(InputError, match="images 3 to 4 were added"):
        sums.add(np.full((2, 2), 0.5), 3)
    with pytest.raises(InputError, match="the score has 2 classes"):
        sums.add(np.full((2, 4), 0.25), 0)
    with pytest.raises(InputError, match="0 images were added"):
        sums.score()
    with pytest.raises(InputError, match="splits is 5; it must be 1 to 4"):
        InceptionScore(2, 4, 5)
