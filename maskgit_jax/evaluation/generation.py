"""Figures of generated images: faithful, diverse, and not copies of the training set."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.image_sets import CenterCropped, fingerprint, random_subset
from maskgit_jax.data.sources import Sources, image_data, open_sources
from maskgit_jax.evaluation.feature_statistics import Summary, summarize
from maskgit_jax.evaluation.features import (
    NUM_FEATURES,
    Extractor,
    FeatureNetwork,
    small_classifier,
)
from maskgit_jax.evaluation.novelty import closest_pairs, count_duplicates, search_training_images
from maskgit_jax.evaluation.report import Metric
from maskgit_jax.images import write_png
from maskgit_jax.metrics.frechet import Gaussian, frechet_distance
from maskgit_jax.metrics.kernel import kernel_distance
from maskgit_jax.metrics.neighbours import manifold_metrics, novelty
from maskgit_jax.pipelines.classifier import fit_cached


class RealImages(NamedTuple):
    """What generated images are measured against.

    Attributes:
        name: Of the dataset.
        training: What a generator could have learnt, or copied; None where a reference file has
            nothing but statistics.
        held_out: Real images that it has not seen; None where there are none.
        num_classes: Labels are 0 .. num_classes - 1; below 2 there are no labels.
        statistics: `mu`, `sigma`, `mu_s`, `sigma_s` of a reference file.
    """

    name: str
    training: Any | None
    held_out: Any | None
    num_classes: int
    statistics: dict[str, np.ndarray]


class Limits(NamedTuple):
    """How much is looked at, where more would cost too much.

    Attributes:
        reference: Training images behind distances of distributions, a fixed random subset.
        neighbours: Images of each kind behind precision, recall, density, coverage and the
            kernel distance; also images behind the figures of latents.
        originality: Images of each kind whose nearest training image is looked for.
        likelihood: Held-out images whose likelihood is bounded with many draws.
    """

    reference: int = 50_000
    neighbours: int = 10_000
    originality: int = 5_000
    likelihood: int = 1_000


def real_images(config: ConfigDict) -> tuple[RealImages, Sources]:
    """Returns the images of a dataset as squares of `config.image_size`, and the dataset.

    For a dataset of tokens these are the images that the tokens were made of.
    """
    config = image_data(config)
    sources = open_sources(config)
    training, held_out = (
        CenterCropped(source, config.image_size, config.channels, config.view)
        for source in (sources.train, sources.evaluation)
    )
    view = "" if config.view == "image" else f", {config.view}"
    name = f"{config.source} at {config.image_size} px{view}"
    return RealImages(name, training, held_out, len(sources.class_names), {}), sources


def sample_labels(real: RealImages, num_classes: int, num: int) -> np.ndarray:
    """Returns the labels of images to be made, int32 [N], all of them -1 without classes.

    Each class comes as often as among the training images, where that can be known without
    reading them, otherwise equally often; the classes alternate.
    """
    if not num_classes:
        return np.full(num, -1, np.int32)
    shares = np.full(num_classes, 1 / num_classes)
    known = getattr(getattr(real.training, "source", None), "labels", None)
    if known is not None:
        shares = np.bincount(known, minlength=num_classes)[:num_classes] / len(known)
    labels, owed = np.zeros(num, np.int32), np.zeros(num_classes)
    for index in range(num):
        owed += shares
        # Rounded, so that classes of equal shares come in their order.
        labels[index] = np.argmax(np.round(owed, 6))
        owed[labels[index]] -= 1
    return labels


class GenerationEvaluator:
    """Measures one set of generated images.

    Args:
        generated: A source with `shape` and labels (-1 where they are unknown).
        real: What to measure against.
        networks: Feature networks; the first one serves the search for copies.
        mesh: Devices.
        folder: For what a broken-off evaluation shall find again.
        cache: For what other evaluations can use too.
        batch_size: Images at a time.
        limits: How much is looked at.
    """

    def __init__(
        self,
        generated: Any,
        real: RealImages,
        networks: list[FeatureNetwork],
        mesh: Mesh,
        folder: Path,
        cache: Path,
        batch_size: int,
        limits: Limits,
    ):
        self.generated, self.real, self.mesh, self.limits = generated, real, mesh, limits
        self.extractors = [Extractor(network, mesh, batch_size) for network in networks]
        self.folder, self.cache, self.batch_size = folder, cache, batch_size
        self.figures: list[Metric] = []
        self.left_out: dict[str, str] = {}

    def run(self) -> None:
        """Fills `figures` and `left_out`; writes `closest_pairs.png`."""
        for extractor in self.extractors:
            self.distributions(extractor)
        self._originality(self.extractors[0])
        self._accuracy_score()

    def _summary(self, extractor: Extractor, source: Any, folder: Path, title: str) -> Summary:
        return summarize(extractor, source, folder, self.limits.neighbours, title)

    def distributions(self, extractor: Extractor) -> None:
        """Adds the figures of one network that compare sets of images."""
        network, real = extractor.network, self.real
        generated = self._summary(extractor, self.generated, self.folder, "judged images")
        held_out = reference = None
        if real.training is not None:
            chosen = random_subset(real.training, self.limits.reference)
            reference = self._summary(extractor, chosen, self.cache, "training images")
        if real.held_out is not None:
            held_out = self._summary(extractor, real.held_out, self.cache, "held-out images")
        said = dict(
            network=network.identity,
            preprocessing=network.preprocessing,
            count=generated.count,
            real_count=held_out.count if held_out else 0,
        )
        self._frechet(generated, held_out, reference, said)
        self._scores(generated, held_out, said)
        if reference is None:
            why = f"{real.name} holds statistics only, no images"
            for name in ("kernel_distance", "precision", "recall", "density", "coverage"):
                self.left_out[f"{name} ({network.name})"] = why
            return
        said |= dict(
            reference=f"{real.name}, training",
            count=len(generated.kept),
            reference_count=len(reference.kept),
            real_count=len(held_out.kept) if held_out else 0,
        )
        self._kept_features(generated, held_out, reference, said)

    def _frechet(
        self, generated: Summary, held_out: Summary | None, reference: Summary | None, said: dict
    ) -> None:
        statistics = self.real.statistics if said["network"].startswith("inception-") else {}
        for name, part, keys in (
            ("frechet_distance", "moments", ("mu", "sigma")),
            ("spatial_frechet_distance", "spatial", ("mu_s", "sigma_s")),
        ):
            if getattr(generated, part) is None:
                continue
            if keys[0] in statistics:
                target = Gaussian(statistics[keys[0]], statistics[keys[1]], 0)
                against = f"{self.real.name}, its statistics"
            elif reference is not None:
                target = getattr(reference, part).gaussian()
                against = f"{self.real.name}, training"
            else:
                self.left_out[name] = f"{self.real.name} lacks {keys[0]} and {keys[1]}"
                continue
            value = frechet_distance(getattr(generated, part).gaussian(), target)
            real = _if_enough(held_out, part, target)
            self.figures.append(
                Metric(name, value, "lower", real=real, **{**said, "reference": against},
                       reference_count=target.count, source="Heusel et al. 2017"
                       if part == "moments" else "Nash et al. 2021")
            )  # fmt: skip

    def _scores(self, generated: Summary, held_out: Summary | None, said: dict) -> None:
        score, error = generated.scores.score()
        self.figures.append(
            Metric("inception_score", score, "higher", error, held_out and
                   held_out.scores.score()[0], **said, source="Salimans et al. 2016, 10 splits")
        )  # fmt: skip

    def _kept_features(
        self, generated: Summary, held_out: Summary | None, reference: Summary, said: dict
    ) -> None:
        distance, error = kernel_distance(generated.kept, reference.kept)
        real = None if held_out is None else kernel_distance(held_out.kept, reference.kept)[0]
        self.figures.append(
            Metric("kernel_distance", distance, "lower", error, real, **said,
                   source="Binkowski et al. 2018, subsets of 1000")
        )  # fmt: skip
        found = manifold_metrics(reference.kept, generated.kept)
        normal = None if held_out is None else manifold_metrics(reference.kept, held_out.kept)
        sources = {
            "precision": "Kynkaanniemi et al. 2019, k = 3",
            "recall": "Kynkaanniemi et al. 2019, k = 3",
            "density": "Naeem et al. 2020, k = 5",
            "coverage": "Naeem et al. 2020, k = 5",
        }
        for name, source in sources.items():
            real = normal and getattr(normal, name)
            better = "1" if name == "density" else "higher"
            value = getattr(found, name)
            self.figures.append(Metric(name, value, better, real=real, **said, source=source))

    def _originality(self, extractor: Extractor) -> None:
        training, network = self.real.training, extractor.network
        names = ("copies", "novelty_closer_than_heldout", "novelty_memorization_rate")
        duplicates = count_duplicates(self.generated, self.batch_size)
        self.figures.append(
            Metric("duplicates", duplicates, "0", count=len(self.generated), source="equal pixels")
        )
        if training is None:
            self.left_out |= dict.fromkeys(names, f"{self.real.name} holds no images")
            return
        sample = random_subset(self.generated, self.limits.originality)
        held_out = self.real.held_out
        if held_out is not None:
            held_out = random_subset(held_out, self.limits.originality)
        sets = [part for part in (sample, held_out, training) if part is not None]
        prints = "-".join(map(fingerprint, sets))
        path = self.folder / f"originality-{prints}-{network.identity}.npz"
        found = search_training_images(extractor, sample, held_out, training, path)
        write_png(self.folder / "closest_pairs.png", closest_pairs(found, sample, training), 8)
        said = dict(
            reference=f"{self.real.name}, training",
            reference_count=len(training),
            count=len(sample),
            real_count=0 if held_out is None else len(held_out),
        )
        copies, normal = (int(part.sum()) for part in found.both(found.copies))
        self.figures.append(
            Metric("copies", copies, "0", real=None if held_out is None else normal, **said,
                   source="equal pixels")
        )  # fmt: skip
        if held_out is None:
            why = f"{self.real.name} has no held-out images to say what distance is normal"
            self.left_out |= dict.fromkeys(names[1:], why)
            return
        for space, nearest, seen in (
            ("pixels", found.pixels, dict(preprocessing="at most 32 pixels wide")),
            ("features", found.features,
             dict(network=network.identity, preprocessing=network.preprocessing)),
        ):  # fmt: skip
            figures = novelty(*found.both(nearest.distance))
            for name, value, normal in (
                ("novelty_closer_than_heldout", figures.novelty_closer_than_heldout, 0.5),
                ("novelty_memorization_rate", figures.novelty_memorization_rate, 0.01),
            ):
                self.figures.append(
                    Metric(f"{name}_{space}", value, f"{normal}", real=normal, **said, **seen,
                           source="distance to the nearest training image")
                )  # fmt: skip

    def _accuracy_score(self) -> None:
        """Recognition of what was asked for, and training on generated images alone."""
        real, names = self.real, ("recognised", "classification_accuracy_score")
        labels = getattr(self.generated, "labels", None)
        if labels is not None and min(labels) < 0:
            labels = None
        if real.num_classes < 2 or real.training is None or labels is None:
            which = "the judged images have" if labels is None else f"{real.name} has"
            self.left_out |= dict.fromkeys(names, f"{which} no labels")
            return
        test = real.training if real.held_out is None else real.held_out
        judge = fit_cached(
            real.training, real.num_classes, self.mesh, self.cache, "classifier of real images"
        )
        network = small_classifier(judge)
        extractor = Extractor(network, self.mesh, self.batch_size)
        classifier_accuracy = accuracy(
            self._summary(extractor, self.generated, self.folder, "judged images")
        )
        normal = accuracy(self._summary(extractor, test, self.cache, "held-out images"))
        said = dict(
            count=len(self.generated),
            real_count=len(test),
            preprocessing=network.preprocessing,
            reference=f"{real.name}, labels",
        )
        self.figures.append(
            Metric("recognised", classifier_accuracy, "higher", real=normal, **said,
                   network=network.identity, source="share taken for the class asked for")
        )  # fmt: skip
        pupil = fit_cached(
            self.generated, real.num_classes, self.mesh, self.folder, "classifier of judged images"
        )
        extractor = Extractor(small_classifier(pupil), self.mesh, self.batch_size)
        value = accuracy(self._summary(extractor, test, self.folder, "real images"))
        tested = "training" if real.held_out is None else "held-out"
        self.figures.append(
            Metric("classification_accuracy_score", value, "higher", real=normal, **said,
                   reference_count=len(test), network="small classifier, trained on the judged "
                   "images only", source=f"Ravuri and Vinyals 2019, tested on {tested} images")
        )  # fmt: skip


def accuracy(summary: Summary) -> float:
    """Returns the share of images recognised as their label."""
    if summary.num_right is None:
        raise ValueError("these images have no labels")
    return summary.num_right / summary.count


def _if_enough(summary: Summary | None, part: str, target: Gaussian) -> float | None:
    """Returns the Frechet distance of held-out images, None for fewer images than features."""
    if summary is None or summary.count <= len(target.mean):
        return None
    return frechet_distance(getattr(summary, part).gaussian(), target)


def check_sets(
    shape: tuple[int, ...], count: int, real: RealImages, networks: Iterable[str], limits: Limits
) -> None:
    """Refuses, before anything is trained or computed, what cannot give a figure.

    Args:
        shape: (H, W, C) of the images to judge.
        count: Their number.
        real: What they are measured against.
        networks: Names of feature networks.
        limits: How much of the reference is looked at.

    Raises:
        InputError: Sizes differ, or there are fewer images than features.
    """
    for which in (real.training, real.held_out):
        if which is not None and tuple(which.shape) != tuple(shape):
            raise InputError(
                f"the judged images are {_size(shape)}, but those of {real.name} are "
                f"{_size(which.shape)}; bring them to one size first"
            )
    sets = [("images to judge", count)]
    if real.training is not None:
        known = min(len(real.training), limits.reference)
        sets.append((f"reference images in {real.name}", known))
    for network in networks:
        for which, number in sets:
            needed = NUM_FEATURES[network]
            require(
                number > needed,
                f"there are {number} {which}, fewer than the {needed} features of {network} need "
                f"for a covariance; give at least {needed + 1} images or choose a network with "
                "fewer features (--features=classifier has 64)",
            )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} with {shape[2]} channel" + ("s" if shape[2] > 1 else "")
