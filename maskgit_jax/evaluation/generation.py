"""Metrics of generated images: fidelity, diversity, novelty, and agreement with their labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskgit_jax.data.image_sets import fingerprint, random_subset
from maskgit_jax.data.protocol import Source
from maskgit_jax.evaluation.feature_statistics import FeatureStatistics, compute_statistics
from maskgit_jax.evaluation.features import (
    FeatureExtractor,
    classifier_network,
    open_extractor,
)
from maskgit_jax.evaluation.novelty import (
    NearestImages,
    closest_pairs,
    count_duplicates,
    find_nearest_training_images,
    pixel_reader,
)
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import RealImages
from maskgit_jax.evaluation.report import Measurements, Metric
from maskgit_jax.images import write_png
from maskgit_jax.metrics.frechet import Gaussian, frechet_distance
from maskgit_jax.metrics.kernel import kernel_distance
from maskgit_jax.metrics.neighbours import manifold_metrics, novelty_metrics
from maskgit_jax.pipelines.classifier import fit_cached

_FRECHET = {
    "features": ("frechet_distance", ("mu", "sigma"), "Heusel et al. 2017"),
    "spatial": ("spatial_frechet_distance", ("mu_s", "sigma_s"), "Nash et al. 2021"),
}
_MANIFOLD = {
    "precision": ("higher", "Kynkaanniemi et al. 2019, k = 3"),
    "recall": ("higher", "Kynkaanniemi et al. 2019, k = 3"),
    "density": ("1", "Naeem et al. 2020, k = 5"),
    "coverage": ("higher", "Naeem et al. 2020, k = 5"),
}
_NOVELTY = ("novelty_closer_than_heldout", "novelty_memorization_rate")


@dataclass
class _Statistics:
    """Statistics of one network's features; None for images that do not exist."""

    generated: FeatureStatistics
    held_out: FeatureStatistics | None
    training: FeatureStatistics | None


class GenerationEvaluator:
    """Evaluates one set of generated images.

    Args:
        generated: The images, with their labels if known.
        real: Real images to compare with.
        folder: Folder for intermediate results, from which an interrupted evaluation resumes.
        options: Options of the evaluation.

    Attributes:
        results: The metrics measured so far.
    """

    def __init__(
        self, generated: Source, real: RealImages, folder: Path, options: EvaluationOptions
    ):
        self.generated, self.real = generated, real
        self.folder, self.options = folder, options
        self.results = Measurements()

    def evaluate(self, extractors: list[FeatureExtractor]) -> Measurements:
        """Returns all metrics; the first network serves the search for nearest images."""
        self.measure_pixels()
        return self.measure_features(extractors)

    def measure_pixels(self) -> None:
        """Adds the metrics that need no network; writes `closest_pairs.png` into the folder."""
        duplicates = count_duplicates(self.generated, self.options.batch_size)
        self._add("sample_duplicates", duplicates, "0", count=len(self.generated),
                  source="equal pixels")  # fmt: skip
        if self.real.training is None:
            self._skip(["novelty_train_copies", *_NOVELTY], f"{self.real.name} holds no images")
            return
        self._measure_novelty(self.real.training, None)

    def measure_features(self, extractors: list[FeatureExtractor]) -> Measurements:
        """Returns the metrics measured so far and those of feature networks."""
        for extractor in extractors:
            self.compare_distributions(extractor)
        if not extractors:
            self._skip(["metrics of features and labels"], "--features=none")
            return self.results
        if self.real.training is not None:
            self._measure_novelty(self.real.training, extractors[0])
        self._measure_label_agreement()
        return self.results

    def _add(self, name: str, value: float, better: str, **details: Any) -> None:
        self.results.metrics.append(Metric(name, value, better, **details))

    def _skip(self, names: list[str], reason: str) -> None:
        self.results.skipped |= dict.fromkeys(names, reason)

    def _statistics(
        self, extractor: FeatureExtractor, source: Source, folder: Path, title: str
    ) -> FeatureStatistics:
        return compute_statistics(extractor, source, folder, self.options.num_neighbours, title)

    def compare_distributions(self, extractor: FeatureExtractor) -> None:
        """Adds the metrics that compare sets of images in one network's features."""
        network, real, cache = extractor.network, self.real, self.options.cache
        generated = self._statistics(extractor, self.generated, self.folder, "generated images")
        held_out = training = None
        if real.training is not None:
            chosen = random_subset(real.training, self.options.num_reference)
            training = self._statistics(extractor, chosen, cache, "training images")
        if real.held_out is not None:
            held_out = self._statistics(extractor, real.held_out, cache, "held-out images")
        statistics = _Statistics(generated, held_out, training)
        details = {"network": network.identity, "preprocessing": network.preprocessing}
        self._add_frechet_distances(statistics, network.name, details)
        score, error = generated.score.score()
        self._add("inception_score", score, "higher", error=error,
                  real_value=held_out and held_out.score.score()[0], count=generated.count,
                  real_count=held_out.count if held_out else 0,
                  source="Salimans et al. 2016, 10 splits", **details)  # fmt: skip
        if training is None:
            names = [f"{name} ({network.name})" for name in ("kernel_distance", *_MANIFOLD)]
            self._skip(names, f"{real.name} holds statistics only, no images")
            return
        self._add_sample_metrics(statistics, training, details)

    def _add_frechet_distances(
        self, statistics: _Statistics, network: str, details: dict[str, Any]
    ) -> None:
        generated, held_out, real = statistics.generated, statistics.held_out, self.real
        stored = real.statistics if network == "inception" else {}
        for space, moments in generated.moments.items():
            name, (mean, covariance), source = _FRECHET[space]
            if mean in stored:
                target = Gaussian(stored[mean], stored[covariance], 0)
                reference = f"{real.name}, its statistics"
            elif statistics.training is not None:
                target = statistics.training.moments[space].gaussian()
                reference = f"{real.name}, training"
            else:
                self._skip([name], f"{real.name} lacks {mean} and {covariance}")
                continue
            real_value = None
            if held_out is not None and held_out.count > len(target.mean):
                real_value = frechet_distance(held_out.moments[space].gaussian(), target)
            self._add(name, frechet_distance(moments.gaussian(), target), "lower",
                      real_value=real_value, reference=reference, count=generated.count,
                      real_count=held_out.count if held_out else 0,
                      reference_count=target.count, source=source, **details)  # fmt: skip

    def _add_sample_metrics(
        self, statistics: _Statistics, training: FeatureStatistics, details: dict[str, Any]
    ) -> None:
        """Adds the metrics of the features of single images, up to `num_neighbours` of them."""
        generated, reference = statistics.generated.kept, training.kept
        held_out = None if statistics.held_out is None else statistics.held_out.kept
        details = details | {
            "reference": f"{self.real.name}, training",
            "count": len(generated),
            "reference_count": len(reference),
            "real_count": 0 if held_out is None else len(held_out),
        }
        distance, error = kernel_distance(generated, reference)
        real_value = None if held_out is None else kernel_distance(held_out, reference)[0]
        self._add("kernel_distance", distance, "lower", error=error, real_value=real_value,
                  source="Binkowski et al. 2018, subsets of 1000", **details)  # fmt: skip
        values = manifold_metrics(reference, generated)._asdict()
        real_values = {}
        if held_out is not None:
            real_values = manifold_metrics(reference, held_out)._asdict()
        for name, (better, source) in _MANIFOLD.items():
            self._add(name, values[name], better, real_value=real_values.get(name), source=source,
                      **details)  # fmt: skip

    def _measure_novelty(self, training: Source, extractor: FeatureExtractor | None) -> None:
        """Adds the metrics of nearest training images, in pixels without an extractor."""
        real, options = self.real, self.options
        sample = random_subset(self.generated, options.num_novelty)
        held_out = real.held_out and random_subset(real.held_out, options.num_novelty)
        space, reader = "pixels", pixel_reader(options.batch_size)
        preprocessing: dict[str, Any] = {"preprocessing": "at most 32 pixels wide"}
        if extractor is not None:
            network, space, reader = extractor.network, "features", extractor
            preprocessing = {"network": network.identity, "preprocessing": network.preprocessing}
        prints = map(fingerprint, filter(None, (sample, held_out, training)))
        name = "-".join([space, *prints, preprocessing.get("network", "")]).strip("-")
        path = self.folder / f"nearest-{name}.npz"
        nearest = find_nearest_training_images(reader, sample, held_out, training, path)
        details = {
            "reference": f"{real.name}, training",
            "reference_count": len(training),
            "count": len(sample),
            "real_count": len(held_out) if held_out else 0,
        }
        if extractor is None:
            self._add_copies(nearest, sample, training, details)
        if held_out is None:
            self._skip(list(_NOVELTY), f"{real.name} has no held-out images to compare with")
            return
        values = novelty_metrics(*nearest.split(nearest.distance))
        rates = (values.closer_than_heldout, 0.5), (values.memorization_rate, 0.01)
        for name, (value, expected) in zip(_NOVELTY, rates, strict=True):
            self._add(f"{name}_{space}", value, f"{expected}", real_value=expected,
                      source="distance to the nearest training image", **details,
                      **preprocessing)  # fmt: skip

    def _add_copies(
        self, nearest: NearestImages, sample: Source, training: Source, details: dict[str, Any]
    ) -> None:
        """Adds the number of copies of training images; writes the closest pairs."""
        pairs = closest_pairs(nearest, sample, training)
        write_png(self.folder / "closest_pairs.png", pairs, 8)
        copies, real_copies = (int(part.sum()) for part in nearest.split(nearest.copies))
        real_value = real_copies if details["real_count"] else None
        self._add("novelty_train_copies", copies, "0", real_value=real_value,
                  source="equal pixels", **details)  # fmt: skip

    def _measure_label_agreement(self) -> None:
        """Adds the accuracies of classifiers trained on real and on generated images."""
        real, options, labels = self.real, self.options, self.generated.labels
        unlabelled = labels is None or min(labels) < 0
        if real.num_classes < 2 or real.training is None or unlabelled:
            owner = "the generated images have" if unlabelled else f"{real.name} has"
            names = ["classifier_accuracy", "classification_accuracy_score"]
            self._skip(names, f"{owner} no labels")
            return
        test = real.training if real.held_out is None else real.held_out
        extractor = open_extractor("classifier", options, real.training, real.num_classes)
        generated = self._statistics(extractor, self.generated, self.folder, "generated images")
        tested = self._statistics(extractor, test, options.cache, "held-out images")
        details = {
            "real_value": tested.accuracy,
            "preprocessing": extractor.network.preprocessing,
            "reference": f"{real.name}, labels",
            "count": len(self.generated),
            "real_count": len(test),
        }
        self._add("classifier_accuracy", generated.accuracy, "higher", **details,
                  network=extractor.network.identity,
                  source="share classified as the class asked for")  # fmt: skip
        classifier = fit_cached(
            self.generated, real.num_classes, options.mesh, self.folder,
            "classifier of generated images",
        )  # fmt: skip
        extractor = FeatureExtractor(
            classifier_network(classifier), options.mesh, options.batch_size
        )
        score = self._statistics(extractor, test, self.folder, "real images").accuracy
        split = "training" if real.held_out is None else "held-out"
        self._add("classification_accuracy_score", score, "higher", **details,
                  reference_count=len(test),
                  network="small classifier, trained on the generated images only",
                  source=f"Ravuri and Vinyals 2019, tested on {split} images")  # fmt: skip
