"""Feature networks ready to use: images in, features and class probabilities out."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import Array, PyTree, normalize
from maskgit_jax.configuration import InputError
from maskgit_jax.data.reading import ReadBatch, read_batches
from maskgit_jax.interop.feature_weights import load_efficientnet, load_inception
from maskgit_jax.networks.classifier import FEATURES, ImageClassifier
from maskgit_jax.networks.efficientnet import efficientnet_outputs
from maskgit_jax.networks.inception import inception_outputs
from maskgit_jax.pipelines.classifier import Classifier
from maskgit_jax.training import sharding

NUM_FEATURES = {"classifier": FEATURES, "inception": 2048, "efficientnet": 1280}


class Outputs(NamedTuple):
    """What a network says of a batch.

    Attributes:
        features: float32 [B, D].
        logits: float32 [B, K], of whose softmax the Inception Score is made.
        spatial: float32 [B, S] for sFID; [B, 0] where the network has none.
    """

    features: Any
    logits: Any
    spatial: Any


class FeatureNetwork(NamedTuple):
    """A frozen network and what must be said of it beside every figure.

    Attributes:
        name: A key of `NUM_FEATURES`.
        identity: The name with a hash of the weights.
        preprocessing: What is done to pixels first.
        widths: Sizes (D, K, S) of `Outputs`.
        compute: (params, image uint8 [B, H, W, C]) -> Outputs.
        params: Its weights.
    """

    name: str
    identity: str
    preprocessing: str
    widths: tuple[int, int, int]
    compute: Callable[[PyTree, Array], Outputs]
    params: PyTree


def weights_hash(params: PyTree) -> str:
    """Returns 8 hex digits of all weights."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:8]


def inception(path: str) -> FeatureNetwork:
    """Returns the original network of the Frechet Inception distance, from its weight file.

    Raises:
        InputError: The file is missing or holds other weights.
    """

    def compute(params: PyTree, image: Array) -> Outputs:
        found = inception_outputs(params, image)
        return Outputs(found.pool, found.logits, found.spatial)

    params = load_inception(path)
    return FeatureNetwork(
        "inception",
        f"inception-{weights_hash(params)}",
        "bilinear to 299 px as TensorFlow 1 does it, (x - 128) / 128",
        (2048, 1008, 2023),
        compute,
        params,
    )


def efficientnet(path: str | None) -> FeatureNetwork:
    """Returns EfficientNet-Lite0 with ImageNet weights, from a pip package or a file.

    Raises:
        InputError: Neither is there.
    """

    def compute(params: PyTree, image: Array) -> Outputs:
        found = efficientnet_outputs(params, image)
        return Outputs(found.pool, found.logits, jnp.zeros((len(image), 0)))

    params = load_efficientnet(path)
    return FeatureNetwork(
        "efficientnet",
        f"efficientnet-lite0-{weights_hash(params)}",
        "bicubic to 224 px, normalised",
        (1280, 1000, 0),
        compute,
        params,
    )


def small_classifier(classifier: Classifier) -> FeatureNetwork:
    """Returns the features and classes of a classifier trained on the dataset itself."""
    network = ImageClassifier(classifier.num_classes)

    def compute(params: PyTree, image: Array) -> Outputs:
        found = network.apply({"params": params}, normalize(image))
        return Outputs(*found, jnp.zeros((len(image), 0)))

    kind = "rotations" if classifier.rotations else "classes"
    return FeatureNetwork(
        "classifier",
        f"classifier-of-{kind}-{weights_hash(classifier.params)}",
        "pixels to [-1, 1]",
        (FEATURES, classifier.num_classes, 0),
        compute,
        classifier.params,
    )


def parse_names(words: list[str]) -> dict[str, str | None]:
    """Returns network -> weight file, None where none is given, of words NAME or NAME:FILE.

    Raises:
        InputError: A network is unknown, lacks its file, or its file is missing.
    """
    chosen = {}
    for word in words:
        name, _, place = word.partition(":")
        if name not in NUM_FEATURES:
            raise InputError(f"--features has '{name}'; there are: {', '.join(NUM_FEATURES)}")
        if name == "inception" and not place:
            raise InputError(
                "--features=inception needs its weights: inception:FILE, where FILE is "
                "pt_inception-2015-12-05-6726825d.pth from "
                "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights"
            )
        if place and not Path(place).is_file():
            raise InputError(f"--features={word}: there is no file {place}")
        chosen[name] = place or None
    return chosen


class Extractor:
    """A feature network compiled for a mesh.

    Args:
        network: What computes.
        mesh: Devices.
        batch_size: Images at a time; a multiple of the data shards.
    """

    def __init__(self, network: FeatureNetwork, mesh: Mesh, batch_size: int):
        self.network, self.mesh, self.batch_size = network, mesh, batch_size
        everywhere = sharding.replicated(mesh)
        self._params = jax.device_put(network.params, everywhere)
        self._program = sharding.pjit(network.compute, mesh, out_shardings=everywhere)

    def __call__(self, source: Any, start: int = 0) -> Iterator[tuple[ReadBatch, Outputs]]:
        """Yields batches of a source from record `start` on, with what the network says.

        Rows that only fill the last batch are cut off. While a batch is computed the one before
        it is worked on.
        """
        waiting = None
        for batch in read_batches(source, self.batch_size, start=start):
            image = sharding.put_batch({"image": batch.image}, self.mesh)["image"]
            computed = self._program(self._params, image)
            if waiting is not None:
                yield _finished(*waiting)
            waiting = batch, computed
        if waiting is not None:
            yield _finished(*waiting)


def _finished(batch: ReadBatch, computed: Outputs) -> tuple[ReadBatch, Outputs]:
    outputs = Outputs(*(np.asarray(array)[: batch.count] for array in computed))
    return batch._replace(
        image=batch.image[: batch.count], label=batch.label[: batch.count]
    ), outputs
