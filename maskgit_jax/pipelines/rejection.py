"""Rejection sampling: of many samples, those that a classifier recognises best."""

import math
from collections import Counter, deque
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import Array, PyTree, normalize
from maskgit_jax.configuration import require
from maskgit_jax.networks.classifier import ImageClassifier
from maskgit_jax.pipelines.classifier import Classifier
from maskgit_jax.training import sharding


def candidates(labels: Sequence[int], share: float) -> list[int]:
    """Returns the labels to sample so that `share` of each class are as many as `labels` has.

    Raises:
        InputError: The share is not above 0 and at most 1.
    """
    require(0 < share <= 1, f"the share kept is {share}; it must be above 0 and at most 1")
    return [
        label for label, count in Counter(labels).items() for _ in range(math.ceil(count / share))
    ]


def most_confident(sure: np.ndarray, made: Sequence[int], labels: Sequence[int]) -> list[int]:
    """Returns for each of `labels` which sample to take: the surest of its class first.

    Args:
        sure: How likely each sample's class is by the classifier, [N].
        made: Their classes, as `candidates` gives them.
        labels: The classes that are wanted.

    Source: Razavi et al. 2019, VQ-VAE-2, section 3.3, "classifier based rejection sampling".
    """
    order = np.argsort(-np.asarray(sure), kind="stable")
    queues = {label: deque() for label in set(labels)}
    for index in order:
        queues[made[index]].append(int(index))
    return [queues[label].popleft() for label in labels]


def class_probabilities(
    classifier: Classifier, images: np.ndarray, labels: Sequence[int], mesh: Mesh, batch_size: int
) -> np.ndarray:
    """Returns the probability of each image's own class, float32 [N].

    Args:
        classifier: Of these classes.
        images: uint8 [N, H, W, C].
        labels: [N].
        mesh: Devices.
        batch_size: Images at a time; a multiple of the data shards.
    """
    network = ImageClassifier(classifier.num_classes)

    def probability(params: PyTree, batch: dict[str, Array]) -> Array:
        logits = network.apply({"params": params}, normalize(batch["image"]))[1]
        return jax.nn.softmax(logits)[jax.numpy.arange(len(logits)), batch["label"]]

    program = sharding.pjit(probability, mesh, out_shardings=sharding.replicated(mesh))
    labels, found = np.asarray(labels, np.int32), []
    for start in range(0, len(images), batch_size):
        chosen = np.arange(start, min(start + batch_size, len(images)))
        padded = np.resize(chosen, (batch_size,))
        batch = sharding.put_batch({"image": images[padded], "label": labels[padded]}, mesh)
        found.append(np.asarray(program(classifier.params, batch))[: len(chosen)])
    return np.concatenate(found)
