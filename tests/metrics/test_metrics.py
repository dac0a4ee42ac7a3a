import numpy as np
import pytest

from maskgit_jax.metrics.neighbours import coverage, num_copies, num_duplicates
from maskgit_jax.metrics.recognition import PixelClassifier


def test_coverage_by_hand():
    real = np.asarray([[0.0], [1.0], [10.0], [11.0]])
    assert coverage(real, np.asarray([[0.5]]), neighbours=1) == 0.5
    assert coverage(real, real, neighbours=1) == 1.0


def test_one_repeated_image_covers_little():
    real = np.random.default_rng(0).normal(size=(200, 8))
    assert coverage(real, real[:1].repeat(200, 0)) < 0.2


def test_coverage_needs_more_images_than_neighbours():
    with pytest.raises(ValueError, match="too few"):
        coverage(np.zeros((5, 2)), np.zeros((5, 2)))


def test_copies_and_duplicates_are_counted():
    training = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    generated = np.stack([training[1], training[1], training[0] + 100])
    assert num_copies(generated, training) == 2
    assert num_duplicates(generated) == 1


def test_the_classifier_knows_dark_from_bright():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = (labels[:, None, None, None] * 200 + rng.integers(0, 50, (40, 4, 4, 1))).astype("u1")
    judge = PixelClassifier(images, labels)
    assert judge.accuracy(images, labels) == 1.0
    assert judge.accuracy(images, 1 - labels) == 0.0
