"""Rejection sampling: keeps the samples of which a classifier is most confident.

Source: Razavi et al. 2019, VQ-VAE-2, section 3.3, "classifier based rejection sampling".
"""

import math
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, PyTree, normalize
from maskgit_jax.configuration import require
from maskgit_jax.data.image_sets import CenterCropped
from maskgit_jax.data.sources import image_data, match_classes, open_image_sources
from maskgit_jax.files import default_cache_directory
from maskgit_jax.pipelines.classifier import (
    Classifier,
    classifier_outputs,
    fit_cached,
    load_classifier,
)
from maskgit_jax.pipelines.generator import GeneratorPipeline, collect_batches
from maskgit_jax.training import sharding


def candidate_labels(labels: Sequence[int], keep: float) -> list[int]:
    """Returns the labels to sample, of which the share `keep` of each class is at least `labels`.

    Raises:
        InputError: The share is not above 0 and at most 1.
    """
    require(0 < keep <= 1, f"--rejection_keep is {keep}; it must be above 0 and at most 1")
    return [
        label for label, count in Counter(labels).items() for _ in range(math.ceil(count / keep))
    ]


def most_confident(
    confidence: np.ndarray, candidates: Sequence[int], labels: Sequence[int]
) -> list[int]:
    """Returns the index of the sample to keep for each label, in order of confidence.

    Args:
        confidence: Probability of each sample's class, [N].
        candidates: Classes of the samples, from `candidate_labels`.
        labels: Classes to return.
    """
    queues: dict[int, deque[int]] = {label: deque() for label in set(labels)}
    for index in np.argsort(-np.asarray(confidence), kind="stable"):
        queues[candidates[index]].append(int(index))
    return [queues[label].popleft() for label in labels]


def sample_most_confident(
    generator: GeneratorPipeline,
    data: ConfigDict,
    labels: Sequence[int],
    keep: float,
    classifier: str,
    seed: int,
    settings: Any,
    batch_size: int,
) -> np.ndarray:
    """Returns the most confident samples of each class, uint8 [N, H, W, C].

    Args:
        generator: A generator of classes.
        data: `config.data` of its run.
        labels: N labels.
        keep: Share of the samples to keep.
        classifier: See `open_classifier`.
        seed: Random seed.
        settings: Sampling settings.
        batch_size: Images per batch.

    Raises:
        InputError: The share is out of range, or the classifier does not fit.
    """
    candidates, mesh = candidate_labels(labels, keep), generator.mesh
    model = open_classifier(data, mesh, classifier)
    images = collect_batches(generator(candidates, seed, settings, batch_size), len(candidates))
    size = sharding.round_up_to_shards(batch_size, mesh)
    confidence = class_probabilities(model, images, candidates, mesh, size)
    return images[most_confident(confidence, candidates, labels)]


def class_probabilities(
    classifier: Classifier, images: np.ndarray, labels: Sequence[int], mesh: Mesh, batch_size: int
) -> np.ndarray:
    """Returns the probability that a classifier assigns to each image's label, float32 [N].

    Args:
        classifier: A classifier of these classes.
        images: uint8 [N, H, W, C].
        labels: N labels.
        mesh: Devices.
        batch_size: Images per batch, a multiple of the data shards.
    """

    def probability(params: PyTree, batch: dict[str, Array]) -> Array:
        image = normalize(batch["image"])
        _, logits = classifier_outputs(params, image, classifier.num_classes)
        return jax.nn.softmax(logits)[jnp.arange(len(logits)), batch["label"]]

    program = sharding.pjit(probability, mesh, out_shardings=sharding.replicated(mesh))
    label, probabilities = np.asarray(labels, np.int32), []
    for start in range(0, len(images), batch_size):
        rows = np.arange(start, min(start + batch_size, len(images)))
        padded = np.resize(rows, (batch_size,))
        batch = sharding.put_batch({"image": images[padded], "label": label[padded]}, mesh)
        probabilities.append(np.asarray(program(classifier.params, batch))[: len(rows)])
    return np.concatenate(probabilities)


def open_classifier(data: ConfigDict, mesh: Mesh, path: str = "") -> Classifier:
    """Returns the classifier of a file, or by default one of a run's training images, cached.

    Args:
        data: `config.data` of the run.
        mesh: Devices.
        path: File that `fit_cached` wrote.

    Raises:
        InputError: The file is missing, or its classifier does not fit the images.
    """
    data = image_data(data)
    if path:
        shape = (data.image_size, data.image_size, data.channels)
        return load_classifier(Path(path), shape, data.num_classes, data.class_names)
    sources = match_classes(data.source, open_image_sources(data), data.class_names)
    training = CenterCropped(
        sources.train, data.image_size, data.channels, data.input, sources.class_names
    )
    title = "classifier of real images"
    return fit_cached(training, data.num_classes, mesh, default_cache_directory(), title)
