"""Metrics by which a search for sampling settings compares its candidates."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.image_sets import ImageSet, Subset, fingerprint, random_subset
from maskgit_jax.evaluation.feature_statistics import FeatureStatistics, compute_statistics
from maskgit_jax.evaluation.features import NUM_FEATURES, FeatureExtractor, open_extractor
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import RealImages
from maskgit_jax.evaluation.sampling import Sampling
from maskgit_jax.evaluation.search_candidates import KEPT, RUNGS, rung_sizes
from maskgit_jax.files import write_text
from maskgit_jax.metrics.frechet import frechet_distance
from maskgit_jax.metrics.kernel import kernel_distance
from maskgit_jax.metrics.neighbours import manifold_metrics
from maskgit_jax.settings import setting


class SearchMetric(NamedTuple):
    """A metric of samples.

    Attributes:
        better: "lower" or "higher".
        measure: (statistics of the samples, of the reference) -> value.
    """

    better: str
    measure: Callable[[FeatureStatistics, FeatureStatistics], float]


def _frechet(generated: FeatureStatistics, reference: FeatureStatistics) -> float:
    return frechet_distance(*(s.moments["features"].gaussian() for s in (generated, reference)))


def _kernel(generated: FeatureStatistics, reference: FeatureStatistics) -> float:
    return kernel_distance(_kept(generated), _kept(reference))[0]


def _manifold(name: str) -> SearchMetric:
    def measure(generated: FeatureStatistics, reference: FeatureStatistics) -> float:
        return getattr(manifold_metrics(_kept(reference), _kept(generated)), name)

    return SearchMetric("higher", measure)


def _kept(statistics: FeatureStatistics) -> Any:
    return statistics.kept[: statistics.count]


METRICS = {
    "frechet_distance": SearchMetric("lower", _frechet),
    "kernel_distance": SearchMetric("lower", _kernel),
    "precision": _manifold("precision"),
    "recall": _manifold("recall"),
    "coverage": _manifold("coverage"),
    "classifier_accuracy": SearchMetric("higher", lambda generated, _: generated.accuracy),
}


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search; the fields declare the flags `--search_NAME`."""

    metric: str = setting(
        "frechet_distance", "Metric of --search, of the first of --features.", choices=METRICS
    )
    nfe: int = setting(
        0,
        "MaskGIT: network evaluations per image that --search may use, with guidance; 0: any.",
        minimum=0,
    )
    candidates: int = setting(
        27, "Number of combinations of settings that --search tries.", minimum=2
    )
    write: bool = setting(True, "Whether --search makes the best settings the run's defaults.")


@dataclass
class Scorer:
    """Samples with settings and compares the samples with halves of the training images.

    Attributes:
        sampling: Labels, seed and batch size of the samples.
        real: Real images.
        options: Options of the evaluation.
        search: Options of the search.
        weights: Checksum of the run's weights.
        path: File of the scores, from which an interrupted search continues.
    """

    sampling: Sampling
    real: RealImages
    options: EvaluationOptions
    search: SearchOptions
    weights: str
    path: Path

    def __post_init__(self) -> None:
        self.stored = _read(self.path)
        self._statistics: dict[Any, FeatureStatistics] = {}

    @cached_property
    def halves(self) -> tuple[Subset, Subset]:
        """The training images to search with, and those to report with."""
        assert self.real.training is not None
        chosen = random_subset(self.real.training, self.options.num_reference)
        middle = len(chosen) // 2
        first, second = chosen.indices[:middle], chosen.indices[middle:]
        return Subset(self.real.training, first), Subset(self.real.training, second)

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The feature network; trains the classifier unless it is cached."""
        name = next(iter(self.options.features))
        return open_extractor(name, self.options, self.real.training, self.real.num_classes)

    @cached_property
    def references(self) -> list[FeatureStatistics]:
        """The statistics of the halves."""
        cache, kept, title = self.options.cache, self.options.num_neighbours, "training images"
        return [compute_statistics(self.extractor, h, cache, kept, title) for h in self.halves]

    @cached_property
    def identity(self) -> str:
        """What scores depend on beside the metric, the settings and the number of images."""
        limits = self.sampling.seed, self.options.num_neighbours
        half = fingerprint(self.halves[0])
        return f"{self.weights} {self.extractor.network.identity} {half} {limits}"

    def add_samples(self, statistics: FeatureStatistics, sampling: Sampling) -> None:
        """Adds the samples that are not among those counted yet."""
        start = statistics.count
        for images in sampling.batches(start):
            labels = sampling.labels[start : start + len(images)]
            start += len(images)
            for batch in self.extractor(ImageSet("samples", images, images.shape[1:], labels)):
                statistics.add(*batch)

    def loss(self, settings: Any, count: int) -> float:
        """Returns the searched metric of the first `count` samples, lower is better."""
        metric, sampling = METRICS[self.search.metric], self.sampling
        key = f"{self.identity} {count} {settings}"
        scores = self.stored["scores"].setdefault(self.search.metric, {})
        if key not in scores:
            statistics = self._statistics.setdefault(settings, self._empty())
            chosen = dataclasses.replace(
                sampling, settings=settings, labels=sampling.labels[:count]
            )
            self.add_samples(statistics, chosen)
            scores[key] = metric.measure(statistics, self.references[0])
            write_text(self.path, json.dumps(self.stored, indent=1) + "\n")
        return scores[key] if metric.better == "lower" else -scores[key]

    def _empty(self) -> FeatureStatistics:
        kept = min(self.sampling.num, self.options.num_neighbours)
        return FeatureStatistics(self.extractor.network, self.sampling.num, kept)

    def report(self, settings: Any) -> dict[str, float]:
        """Returns all metrics of new samples, compared with the other half."""
        statistics, seed = self._empty(), (self.sampling.seed + 1) % 2**32
        self.add_samples(
            statistics, dataclasses.replace(self.sampling, settings=settings, seed=seed)
        )
        reference = self.references[1]
        impossible = {
            "frechet_distance": min(statistics.count, reference.count) <= reference.kept.shape[1],
            "classifier_accuracy": not self.labelled,
        }
        return {
            name: float(metric.measure(statistics, reference))
            for name, metric in METRICS.items()
            if not impossible.get(name)
        }

    @property
    def labelled(self) -> bool:
        """Whether the feature network is a classifier of the classes of the samples."""
        classes, name = self.sampling.generator.num_classes, next(iter(self.options.features))
        return name == "classifier" and self.real.num_classes == classes > 1

    def check(self) -> None:
        """Raises `InputError` for a metric or a number of images that cannot be searched with."""
        metric, flag = self.search.metric, f"--search_metric={self.search.metric}"
        require(bool(self.options.features), "--search needs a feature network in --features")
        require(
            metric != "classifier_accuracy" or self.labelled,
            f"{flag} needs a generator of classes, and classifier as the first of --features",
        )
        network = next(iter(self.options.features))
        needed = NUM_FEATURES[network] + 1 if metric == "frechet_distance" else 10
        count, half = rung_sizes(self.sampling.num)[0], self.halves[0]
        require(
            count >= needed,
            f"--num is {self.sampling.num}, of which the first of {RUNGS} rungs samples {count} "
            f"images; {metric} in the features of {network} needs {needed}: give "
            f"--num={(needed - 1) * KEPT ** (RUNGS - 1) + 1} or more",
        )
        require(
            len(half) >= needed,
            f"half of the training images of {self.real.name} are {len(half)}; {metric} in the "
            f"features of {network} needs {needed}: use another --search_metric or --features",
        )


def _read(path: Path) -> dict[str, Any]:
    """Returns the scores and the earlier searches of a file `sampling_search.json`."""
    if not path.exists():
        return {"scores": {}, "searches": []}
    try:
        stored = json.loads(path.read_text())
        return {"scores": stored["scores"], "searches": stored["searches"]}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and search again") from error
