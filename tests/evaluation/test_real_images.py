import numpy as np
import pytest

from maskgit_jax.configuration import InputError, base_config
from maskgit_jax.data.image_sets import ImageSet
from maskgit_jax.evaluation.generated_images import match_labels
from maskgit_jax.evaluation.real_images import (
    RealImages,
    check_image_sets,
    open_real_images,
    sample_labels,
)


@pytest.mark.parametrize("known", [None, [2, 0, 1], [0] * 6000 + [1] * 6000 + [2] * 6000])
def test_equally_frequent_classes_alternate(known):
    labels = sample_labels(None if known is None else np.asarray(known), 3, 7)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_classes_have_the_frequencies_of_the_training_labels():
    labels = sample_labels(np.asarray([0] * 7 + [2] * 3), 3, 100)
    assert np.bincount(labels, minlength=3).tolist() == [70, 0, 30]
    assert np.bincount(labels[:10], minlength=3).tolist() == [7, 0, 3]  # not one after the other
    assert (sample_labels(np.asarray([0, 1]), 0, 4) == -1).all(), "a generator without classes"


def test_labels_of_a_dataset_are_known():
    _, sources = open_real_images(base_config().data)
    known = sources.train.labels
    labels = sample_labels(known, 10, 1437)
    difference = np.bincount(labels, minlength=10) - np.bincount(known, minlength=10)
    assert abs(difference).max() <= 1


def test_real_images_have_the_labels_of_a_run():
    names = ("none", *"9876543210")
    own, _ = open_real_images(base_config().data)
    real, sources = open_real_images(base_config().data, names)
    assert real.num_classes == 11 and sources.class_names == real.training.class_names == names
    assert (real.training.labels == 10 - own.training.labels).all()
    assert real.held_out[3]["label"] == 10 - own.held_out[3]["label"]
    with pytest.raises(InputError, match="digits has classes that the run lacks .0, 1"):
        open_real_images(base_config().data, ("2", "3"))


def test_images_of_another_size_and_too_few_images_are_refused(real):
    with pytest.raises(InputError, match="are 28x28 with 3 channels, but those of digits"):
        check_image_sets((28, 28, 3), 500, real, ["classifier"], 50_000)
    with pytest.raises(InputError, match="there are 64 generated images, but .* at least 65"):
        check_image_sets((16, 16, 1), 64, real, ["classifier"], 50_000)
    with pytest.raises(InputError, match="reference images in digits, but .* the 2048 features"):
        check_image_sets((16, 16, 1), 5000, real, ["inception"], 50_000)
    check_image_sets((16, 16, 1), 65, real, ["classifier"], 50_000)


def test_labels_are_matched_by_class_names():
    def images(labels, names=()):
        labels = np.asarray(labels, np.int32)
        pixels = np.zeros((len(labels), 2, 2, 1), np.uint8)
        return ImageSet("mine", pixels, (2, 2, 1), labels, names)

    real = RealImages("real", None, None, 3, {})
    names = ("a", "b", "c")
    assert match_labels(images([0, 1, 1], ("c", "a")), names, real).tolist() == [2, 0, 0]
    assert match_labels(images([0, 2]), names, real).tolist() == [0, 2]
    assert match_labels(images([0, 2]), (), real._replace(num_classes=0)) is None
    with pytest.raises(InputError, match="the class 'd', which real lacks"):
        match_labels(images([0, 1], ("a", "d")), names, real)
    with pytest.raises(InputError, match="labels from 0 to 3, but real has 3 classes"):
        match_labels(images([0, 3]), names, real)
