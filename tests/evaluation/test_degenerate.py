"""Degenerate generators, each of which must be caught by the figure that exists to catch it."""

import numpy as np
import pytest

from maskgit_jax.configuration import InputError, base_config
from maskgit_jax.data.image_sets import ImageSet
from maskgit_jax.data.sources import open_sources
from maskgit_jax.evaluation.features import Extractor, FeatureNetwork, Outputs, small_classifier
from maskgit_jax.evaluation.generation import GenerationEvaluator, Limits, RealImages, check_sets
from maskgit_jax.evaluation.novelty import Search, count_duplicates, digests, small_pixels
from maskgit_jax.pipelines import classifier
from maskgit_jax.training.sharding import make_mesh

COUNT = 400


def image_set(images: np.ndarray, labels: np.ndarray | None = None) -> ImageSet:
    return ImageSet("some images", images, images.shape[1:], labels)


@pytest.fixture(scope="module")
def digits():
    return open_sources(base_config().data)


@pytest.fixture(scope="module")
def real(digits):
    train, held_out = digits.train, digits.evaluation
    return RealImages(
        "digits",
        image_set(train.images[COUNT:], train.labels[COUNT:].astype(np.int32)),
        image_set(held_out.images, held_out.labels.astype(np.int32)),
        10,
        {},
    )


@pytest.fixture(scope="module")
def network(real):
    before, classifier.STEPS = classifier.STEPS, 200
    try:
        return small_classifier(classifier.fit(real.training, 10, make_mesh(base_config().mesh)))
    finally:
        classifier.STEPS = before


@pytest.fixture
def measure(real, network, tmp_path):
    def figures(images: np.ndarray) -> dict[str, float]:
        mesh = make_mesh(base_config().mesh)
        judge = GenerationEvaluator(
            image_set(images), real, [network], mesh, tmp_path, tmp_path / "cache", 80, Limits()
        )
        judge.run()
        assert "recognised" in judge.left_out, "these images have no labels"
        assert (tmp_path / "closest_pairs.png").exists()
        return {figure.name: figure.value for figure in judge.figures}

    return figures


def test_real_images_pass(measure, digits):
    found = measure(digits.train.images[:COUNT])
    assert found["duplicates"] == found["copies"] == 0
    assert abs(found["novelty_closer_than_heldout_pixels"] - 0.5) < 0.1
    assert found["novelty_memorization_rate_pixels"] < 0.06
    assert min(found[name] for name in ("precision", "recall", "coverage")) > 0.6
    assert 0.8 < found["density"] < 1.2


def test_one_image_repeated_is_caught_by_duplicates_recall_and_coverage(measure, digits):
    found = measure(np.repeat(digits.train.images[:1], COUNT, axis=0))
    assert found["duplicates"] == COUNT - 1
    assert found["recall"] < 0.05 and found["coverage"] < 0.05
    assert found["inception_score"] == pytest.approx(1.0, abs=1e-6)


def test_the_training_set_replayed_is_caught_by_copies_and_novelty(measure, real):
    found = measure(real.training.rows[:COUNT])
    assert found["precision"] > 0.95, "what looks perfect to figures of quality"
    assert found["copies"] == COUNT and found["novelty_memorization_rate_pixels"] == 1.0
    assert found["novelty_closer_than_heldout_pixels"] > 0.99


def test_noise_is_caught_by_precision_and_distances(measure, digits):
    good = measure(digits.train.images[:COUNT])
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 1), np.uint8)
    found = measure(noise)
    assert found["precision"] < 0.05 and found["coverage"] < 0.05
    assert found["frechet_distance"] > 5 * good["frechet_distance"]
    assert found["kernel_distance"] > 5 * abs(good["kernel_distance"])


def test_one_class_only_is_caught_by_coverage_and_recall(measure, digits):
    good = measure(digits.train.images[:COUNT])
    images = digits.train.images[digits.train.labels == 3]
    found = measure(images[np.arange(COUNT) % len(images)])
    assert found["coverage"] < 0.3 and found["recall"] < 0.3
    assert found["inception_score"] < 0.4 * good["inception_score"]


def test_images_of_another_size_and_too_few_are_refused(real):
    with pytest.raises(InputError, match="are 28x28 with 3 channels, but those of digits"):
        check_sets((28, 28, 3), 500, real, ["classifier"], Limits())
    with pytest.raises(InputError, match="there are 64 images to judge, fewer than the 64"):
        check_sets((16, 16, 1), 64, real, ["classifier"], Limits())
    with pytest.raises(InputError, match="reference images in digits, fewer than the 2048"):
        check_sets((16, 16, 1), 5000, real, ["inception"], Limits())
    check_sets((16, 16, 1), 65, real, ["classifier"], Limits())


def test_a_classifier_without_labels_learns_rotations(real, monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 5)
    mesh = make_mesh(base_config().mesh)
    trained = classifier.fit(real.training, 0, mesh)
    assert trained.rotations and trained.num_classes == 4
    image = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1).repeat(4, axis=0)
    turned = classifier.rotated(image, np.arange(4))
    for turns in range(4):
        np.testing.assert_array_equal(turned[turns], np.rot90(image[0], turns))
    wide = image_set(np.zeros((10, 8, 16, 1), np.uint8))
    with pytest.raises(InputError, match="no labels and its images are not square"):
        classifier.fit(wide, 0, mesh)


def test_duplicates_are_counted_over_batches():
    images = np.random.default_rng(0).integers(0, 2, (60, 2, 3, 1), np.uint8)
    expected = len(images) - len({image.tobytes() for image in images})
    assert count_duplicates(image_set(images), 7) == expected > 0


def test_a_search_goes_on_to_the_same_bits(real, network, tmp_path):
    mesh = make_mesh(base_config().mesh)
    extractor = Extractor(network, mesh, 80)
    names = digests(real.held_out.rows)
    points = small_pixels(real.held_out.rows)
    features = np.concatenate([outputs.features for _, outputs in extractor(real.held_out)])
    batches = list(extractor(real.training))
    whole, half = Search(points, features, names), Search(points, features, names)
    for number, (batch, outputs) in enumerate(batches):
        whole.add(batch, outputs)
        if number == 3:
            np.savez(tmp_path / "half.npz", **half.to_arrays())
            half = Search(points, features, names)
            with np.load(tmp_path / "half.npz") as file:
                half.restore({name: file[name] for name in file.files})
        half.add(batch, outputs)
    for name, array in whole.to_arrays().items():
        np.testing.assert_array_equal(array, half.to_arrays()[name])


def test_statistics_of_a_reference_file_stand_in_for_its_images(digits, tmp_path):
    def compute(params, image):
        features = image.astype("float32").reshape(len(image), 8, 2, 16).mean(axis=(2, 3))
        return Outputs(features, features, features[:, :6] * 2)

    network = FeatureNetwork("inception", "inception-fake", "none", (8, 8, 6), compute, {})
    images = digits.train.images[:COUNT]
    features = np.asarray(compute({}, images).features, np.float64)
    mean, covariance = features.mean(axis=0) + 3.0, np.cov(features, rowvar=False)
    statistics = {"mu": mean, "sigma": covariance}
    statistics |= {"mu_s": 2 * mean[:6], "sigma_s": 4 * covariance[:6, :6]}
    real = RealImages("file", None, None, 0, statistics)
    mesh = make_mesh(base_config().mesh)
    place = (tmp_path, tmp_path / "cache")
    judge = GenerationEvaluator(image_set(images), real, [network], mesh, *place, 80, Limits())
    judge.run()
    found = {figure.name: figure.value for figure in judge.figures}
    # Only the means differ: by 3 in 8 features, by 6 in 6 of them.
    assert found["frechet_distance"] == pytest.approx(8 * 9, rel=1e-4)
    assert found["spatial_frechet_distance"] == pytest.approx(6 * 36, rel=1e-4)
    assert {"precision (inception)", "copies", "recognised"} <= judge.left_out.keys()
