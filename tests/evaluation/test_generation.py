"""Degenerate generators: each is caught by the metrics that exist for it."""

import jax
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.data.image_sets import ImageSet
from maskgit_jax.evaluation.features import (
    FeatureExtractor,
    FeatureNetwork,
    Outputs,
    parse_feature_networks,
)
from maskgit_jax.evaluation.generation import GenerationEvaluator
from maskgit_jax.evaluation.novelty import (
    TrainingSearch,
    count_duplicates,
    downsample_pixels,
    hash_images,
    pixel_reader,
)
from maskgit_jax.evaluation.real_images import RealImages
from maskgit_jax.pipelines import classifier
from tests.evaluation.conftest import COUNT


def image_set(images: np.ndarray, labels: np.ndarray | None = None) -> ImageSet:
    return ImageSet("some images", images, images.shape[1:], labels)


@pytest.fixture
def measure(real, extractor, options, tmp_path):
    def evaluate(images: np.ndarray) -> dict[str, float]:
        evaluator = GenerationEvaluator(image_set(images), real, tmp_path, options)
        results = evaluator.evaluate([extractor])
        reason = results.skipped["classifier_accuracy"]
        assert reason == "the generated images have no labels"
        assert (tmp_path / "closest_pairs.png").exists()
        return {metric.name: metric.value for metric in results.metrics}

    return evaluate


@pytest.mark.slow
def test_real_images_pass(measure, generated):
    metrics = measure(generated)
    assert metrics["sample_duplicates"] == metrics["novelty_train_copies"] == 0
    assert abs(metrics["novelty_closer_than_heldout_pixels"] - 0.5) < 0.1
    assert metrics["novelty_memorization_rate_pixels"] < 0.06
    assert min(metrics[name] for name in ("precision", "recall", "coverage")) > 0.6
    assert 0.8 < metrics["density"] < 1.2


@pytest.mark.slow
def test_one_repeated_image_has_duplicates_and_low_recall_and_coverage(measure, generated):
    metrics = measure(np.repeat(generated[:1], COUNT, axis=0))
    assert metrics["sample_duplicates"] == COUNT - 1
    assert metrics["recall"] < 0.05 and metrics["coverage"] < 0.05
    assert metrics["inception_score"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
def test_training_images_have_copies_and_no_novelty(measure, real):
    metrics = measure(real.training.images[:COUNT])
    assert metrics["precision"] > 0.95, "metrics of fidelity do not notice"
    assert metrics["novelty_train_copies"] == COUNT
    assert metrics["novelty_memorization_rate_pixels"] == 1.0
    assert metrics["novelty_closer_than_heldout_pixels"] > 0.99


@pytest.mark.slow
def test_noise_and_a_single_class_are_caught(measure, digits, generated):
    good = measure(generated)
    noise = measure(np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 1), np.uint8))
    assert noise["precision"] < 0.05 and noise["coverage"] < 0.05
    assert noise["frechet_distance"] > 5 * good["frechet_distance"]
    assert noise["kernel_distance"] > 5 * abs(good["kernel_distance"])
    images = digits.train.images[digits.train.labels == 3]
    single = measure(images[np.arange(COUNT) % len(images)])
    assert single["coverage"] < 0.3 and single["recall"] < 0.3
    assert single["inception_score"] < 0.4 * good["inception_score"]


@pytest.mark.slow
def test_labels_add_classifier_accuracy_and_accuracy_score(
    real, extractor, options, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(classifier, "STEPS", 20)
    labels = digits.train.labels[:COUNT]
    generated = image_set(digits.train.images[:COUNT], labels)
    results = GenerationEvaluator(generated, real, tmp_path, options).evaluate([extractor])
    metrics = {metric.name: metric for metric in results.metrics}
    accuracy = metrics["classifier_accuracy"]
    assert accuracy.value > 0.2 and accuracy.real_count == len(real.held_out)
    score = metrics["classification_accuracy_score"]
    assert score.real_value == accuracy.real_value and not results.skipped


@pytest.mark.slow
def test_classifier_without_labels_learns_rotations(real, mesh, monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 5)
    trained = classifier.fit_classifier(real.training, 0, mesh)
    assert trained.rotations and trained.num_classes == 4
    image = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1).repeat(4, axis=0)
    rotated = classifier.rotate(image, np.arange(4))
    for turns in range(4):
        np.testing.assert_array_equal(rotated[turns], np.rot90(image[0], turns))
    wide = image_set(np.zeros((10, 8, 16, 1), np.uint8))
    with pytest.raises(InputError, match="no labels and are not square"):
        classifier.fit_classifier(wide, 0, mesh)


def test_duplicates_are_counted_across_batches():
    images = np.random.default_rng(0).integers(0, 2, (60, 2, 3, 1), np.uint8)
    expected = len(images) - len({image.tobytes() for image in images})
    assert count_duplicates(image_set(images), 7) == expected > 0


def test_search_of_training_images_resumes_bit_for_bit(real, tmp_path):
    digests = hash_images(real.held_out.images)
    pixels = downsample_pixels(real.held_out.images)
    whole, half = (TrainingSearch(pixels, digests) for _ in range(2))
    for number, (batch, outputs) in enumerate(pixel_reader(80)(real.training)):
        whole.add(batch, outputs)
        if number == 3:
            np.savez(tmp_path / "half.npz", **half.to_arrays())
            half = TrainingSearch(pixels, digests)
            with np.load(tmp_path / "half.npz") as file:
                half.restore(dict(file))
        half.add(batch, outputs)
    for name, array in whole.to_arrays().items():
        np.testing.assert_array_equal(array, half.to_arrays()[name])


def test_metrics_of_pixels_need_no_network(real, generated, options, tmp_path):
    images = np.concatenate([generated[:30], generated[:2], real.training.images[:3]])
    evaluator = GenerationEvaluator(image_set(images), real, tmp_path, options)
    evaluator.measure_pixels()
    metrics = {metric.name: metric.value for metric in evaluator.results.metrics}
    assert metrics["sample_duplicates"] == 2 and metrics["novelty_train_copies"] == 3
    pixels = real.training.images.reshape(len(real.training), -1).astype(float)
    points = images.reshape(len(images), -1).astype(float)
    nearest = [np.sqrt(((point - pixels) ** 2).sum(-1).min()) / 255 for point in points]
    found = np.load(next(tmp_path.glob("nearest-pixels-*.npz")))["squares"][: len(images)]
    np.testing.assert_allclose(np.sort(np.sqrt(found)), np.sort(nearest), atol=1e-5)
    results = evaluator.measure_features([])
    assert list(results.skipped.values()) == ["--features=none"]
    assert {metric.network for metric in results.metrics} == {""}


@pytest.mark.parametrize("words", [["none"], [], [""]])
def test_no_feature_network_can_be_chosen(words):
    assert parse_feature_networks(words) == {}
    with pytest.raises(InputError, match="choose from classifier, .* or none alone"):
        parse_feature_networks(["classifier", "none"])


def test_an_interrupted_classifier_resumes_and_small_sets_take_fewer_steps(
    real, mesh, tmp_path, monkeypatch
):
    lengths = [classifier.training_length(count) for count in (32, 463, 1437, 50_000)]
    assert lengths == [(30, 32), (435, 32), (1000, 128), (1000, 128)]
    monkeypatch.setattr(classifier, "STEPS", 4)
    monkeypatch.setattr(classifier, "SAVE_EVERY", 0.0)
    whole = classifier.fit_classifier(real.training, 10, mesh)
    batches = classifier._training_batches

    def interrupted(*arguments):
        yield next(batches(*arguments))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(classifier, "_training_batches", interrupted)
        classifier.fit_cached(real.training, 10, mesh, tmp_path)
    (unfinished,) = tmp_path.glob("*.training.npz")
    assert np.load(unfinished)["step"] == 1
    resumed = classifier.fit_cached(real.training, 10, mesh, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    assert not unfinished.exists() and len(list(tmp_path.glob("classifier-*.npz"))) == 1


def test_statistics_of_a_reference_file_replace_its_images(generated, mesh, options, tmp_path):
    def compute(params, image):
        features = image.astype("float32").reshape(len(image), 8, 2, 16).mean(axis=(2, 3))
        return Outputs(features, features, features[:, :6] * 2)

    network = FeatureNetwork("inception", "inception-fake", "none", (8, 8, 6), compute, {})
    features = np.asarray(compute({}, generated).features, np.float64)
    mean, covariance = features.mean(axis=0) + 3.0, np.cov(features, rowvar=False)
    statistics = {"mu": mean, "sigma": covariance}
    statistics |= {"mu_s": 2 * mean[:6], "sigma_s": 4 * covariance[:6, :6]}
    real = RealImages("file", None, None, 0, statistics)
    extractor = FeatureExtractor(network, mesh, options.batch_size)
    evaluator = GenerationEvaluator(image_set(generated), real, tmp_path, options)
    results = evaluator.evaluate([extractor])
    metrics = {metric.name: metric.value for metric in results.metrics}
    # Only the means differ: by 3 in 8 features, by 6 in 6 spatial ones.
    assert metrics["frechet_distance"] == pytest.approx(8 * 9, rel=1e-4)
    assert metrics["spatial_frechet_distance"] == pytest.approx(6 * 36, rel=1e-4)
    skipped = {"precision (inception)", "novelty_train_copies", "classifier_accuracy"}
    assert skipped <= results.skipped.keys()
