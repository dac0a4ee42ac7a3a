"""Feature networks: images in, features and class logits out."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import Array, PyTree, normalize
from maskgit_jax.configuration import InputError
from maskgit_jax.data.batch_reader import ReadBatch, read_batches
from maskgit_jax.data.protocol import Source
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.interop.feature_weights import load_efficientnet, load_inception
from maskgit_jax.networks.classifier import FEATURES
from maskgit_jax.networks.efficientnet import efficientnet_outputs
from maskgit_jax.networks.inception import inception_outputs
from maskgit_jax.pipelines.classifier import Classifier, classifier_outputs, fit_cached
from maskgit_jax.training import sharding

NUM_FEATURES = {"classifier": FEATURES, "inception": 2048, "efficientnet": 1280}


class Outputs(NamedTuple):
    """Outputs of a feature network.

    Attributes:
        features: float32 [B, D].
        logits: float32 [B, K], for the Inception Score.
        spatial: float32 [B, S] for sFID; [B, 0] for networks without spatial features.
    """

    features: Any
    logits: Any
    spatial: Any


class FeatureNetwork(NamedTuple):
    """A frozen feature network with the description that accompanies each of its metrics.

    Attributes:
        name: A key of `NUM_FEATURES`.
        identity: The name with a hash of the weights.
        preprocessing: Description of the preprocessing of pixels.
        widths: Sizes (D, K, S) of `Outputs`.
        compute: (params, image uint8 [B, H, W, C]) -> Outputs.
        params: The weights.
    """

    name: str
    identity: str
    preprocessing: str
    widths: tuple[int, int, int]
    compute: Callable[[PyTree, Array], Outputs]
    params: PyTree


def inception_network(path: str) -> FeatureNetwork:
    """Returns the original network of the Fréchet Inception distance.

    Raises:
        InputError: The weight file is missing or holds other weights.
    """

    def compute(params: PyTree, image: Array) -> Outputs:
        outputs = inception_outputs(params, image)
        return Outputs(outputs.pool, outputs.logits, outputs.spatial)

    params = load_inception(path)
    return FeatureNetwork(
        "inception",
        f"inception-{_hash_weights(params)}",
        "bilinear to 299 px as TensorFlow 1 does it, (x - 128) / 128",
        (2048, 1008, 2023),
        compute,
        params,
    )


def efficientnet_network(path: str | None) -> FeatureNetwork:
    """Returns EfficientNet-Lite0 with ImageNet weights, from a file or, by default, a pip package.

    Raises:
        InputError: The weights are missing.
    """

    def compute(params: PyTree, image: Array) -> Outputs:
        outputs = efficientnet_outputs(params, image)
        return Outputs(outputs.pool, outputs.logits, jnp.zeros((len(image), 0)))

    params = load_efficientnet(path)
    return FeatureNetwork(
        "efficientnet",
        f"efficientnet-lite0-{_hash_weights(params)}",
        "bicubic to 224 px, normalised",
        (1280, 1000, 0),
        compute,
        params,
    )


def classifier_network(classifier: Classifier) -> FeatureNetwork:
    """Returns a classifier that was trained on the dataset itself as a feature network."""
    num_classes = classifier.num_classes

    def compute(params: PyTree, image: Array) -> Outputs:
        features, logits = classifier_outputs(params, normalize(image), num_classes)
        return Outputs(features, logits, jnp.zeros((len(image), 0)))

    kind = "rotations" if classifier.rotations else "classes"
    return FeatureNetwork(
        "classifier",
        f"classifier-of-{kind}-{_hash_weights(classifier.params)}",
        "pixels to [-1, 1]",
        (FEATURES, num_classes, 0),
        compute,
        classifier.params,
    )


def _hash_weights(params: PyTree) -> str:
    """Returns 8 hex digits of all weights."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:8]


def parse_feature_networks(words: Sequence[str]) -> dict[str, str | None]:
    """Returns {network: weight file or None} for words NAME or NAME:FILE; {} for "none" or no word.

    Raises:
        InputError: A network is unknown, or its weight file is missing.
    """
    features = {}
    if list(words) in (["none"], [""]):
        return features
    for word in words:
        name, _, path = word.partition(":")
        if name not in NUM_FEATURES:
            raise InputError(
                f"--features has '{name}'; choose from {', '.join(NUM_FEATURES)}, or none alone"
            )
        if name == "inception" and not path:
            raise InputError(
                "--features=inception needs its weights: inception:FILE, where FILE is "
                "pt_inception-2015-12-05-6726825d.pth from "
                "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights"
            )
        if path and not Path(path).is_file():
            raise InputError(f"--features={word}: the file {path} is missing")
        features[name] = path or None
    return features


class FeatureExtractor:
    """A feature network compiled for a mesh.

    Args:
        network: The feature network.
        mesh: Devices.
        batch_size: Images per batch, a multiple of the data shards.
    """

    def __init__(self, network: FeatureNetwork, mesh: Mesh, batch_size: int):
        self.network, self.mesh, self.batch_size = network, mesh, batch_size
        replicated = sharding.replicated(mesh)
        self._params = jax.device_put(network.params, replicated)
        self._program = sharding.pjit(network.compute, mesh, out_shardings=replicated)

    def __call__(self, source: Source, start: int = 0) -> Iterator[tuple[ReadBatch, Outputs]]:
        """Yields batches of a source from record `start` on, with the outputs of the network.

        Padding of the last batch is removed. The devices compute one batch ahead.
        """
        previous = None
        for batch in read_batches(source, self.batch_size, start=start):
            image = sharding.put_batch({"image": batch.image}, self.mesh)["image"]
            computed = self._program(self._params, image)
            if previous is not None:
                yield _fetch(*previous)
            previous = batch, computed
        if previous is not None:
            yield _fetch(*previous)


def _fetch(batch: ReadBatch, computed: Outputs) -> tuple[ReadBatch, Outputs]:
    """Returns a batch and its outputs as NumPy arrays without padding."""
    outputs = Outputs(*(np.asarray(array)[: batch.count] for array in computed))
    image, label = batch.image[: batch.count], batch.label[: batch.count]
    return batch._replace(image=image, label=label), outputs


def open_extractors(
    options: EvaluationOptions, training: Source | None, num_classes: int
) -> list[FeatureExtractor]:
    """Returns the feature networks of `options.features`, see `open_extractor`."""
    return [open_extractor(name, options, training, num_classes) for name in options.features]


def open_extractor(
    name: str, options: EvaluationOptions, training: Source | None, num_classes: int
) -> FeatureExtractor:
    """Returns a feature network ready to run; trains the classifier unless it is cached.

    Args:
        name: A key of `NUM_FEATURES`.
        options: Weight files, devices and cache.
        training: Training images of the classifier, with labels.
        num_classes: Classes of these images; below 2 the classifier learns rotations.

    Raises:
        InputError: Weights or training images are missing.
    """
    path = options.features.get(name)
    if name == "inception":
        network = inception_network(str(path))
    elif name == "efficientnet":
        network = efficientnet_network(path)
    elif training is None:
        raise InputError(
            "the reference holds no images to train the classifier on; use "
            "--features=inception:FILE"
        )
    else:
        title = "classifier of real images"
        hint = "; skip with --features=none"
        classifier = fit_cached(training, num_classes, options.mesh, options.cache, title, hint)
        network = classifier_network(classifier)
    return FeatureExtractor(network, options.mesh, options.batch_size)
