"""Which classes are asked for, so that made images can be compared with a dataset."""

from types import SimpleNamespace

import numpy as np
import pytest

from maskgit_jax.configuration import base_config
from maskgit_jax.evaluation.generation import RealImages, real_images, sample_labels


def real(labels: list[int] | None) -> RealImages:
    known = {} if labels is None else {"labels": np.asarray(labels)}
    training = SimpleNamespace(source=SimpleNamespace(**known))
    return RealImages("some images", training, None, 3, {})


@pytest.mark.parametrize("labels", [None, [2, 0, 1], [0] * 6000 + [1] * 6000 + [2] * 6000])
def test_equal_classes_come_in_turn(labels):
    assert sample_labels(real(labels), 3, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_unequal_classes_come_as_often_as_they_are():
    found = sample_labels(real([0] * 7 + [2] * 3), 3, 100)
    assert np.bincount(found, minlength=3).tolist() == [70, 0, 30]
    early = np.bincount(found[:10], minlength=3).tolist()
    assert early == [7, 0, 3]  # not one class after the other


def test_without_classes_nothing_is_asked_for():
    assert (sample_labels(real([0, 1]), 0, 4) == -1).all()


def test_classes_of_a_dataset_are_known():
    digits, _ = real_images(base_config().data)
    found = sample_labels(digits, 10, 1437)
    known = digits.training.source.labels
    difference = np.bincount(found, minlength=10) - np.bincount(known, minlength=10)
    assert abs(difference).max() <= 1
