"""Real images that generated ones are compared with, and the labels to sample."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.image_sets import CenterCropped, ImageSet
from maskgit_jax.data.protocol import Sources
from maskgit_jax.data.sources import image_data, match_classes, open_image_sources
from maskgit_jax.evaluation.features import NUM_FEATURES

Images = CenterCropped | ImageSet


class RealImages(NamedTuple):
    """Real images and their statistics.

    Attributes:
        name: Name of the dataset or file.
        training: Images that a generator may have learned, or copied; None if a reference file
            holds statistics only.
        held_out: Images that were not used for training, None if there are none.
        num_classes: Labels are 0 .. num_classes - 1; below 2 there are no labels.
        statistics: `mu`, `sigma`, `mu_s`, `sigma_s` of a reference file.
    """

    name: str
    training: Images | None
    held_out: Images | None
    num_classes: int
    statistics: dict[str, np.ndarray]


def open_real_images(
    data: ConfigDict, class_names: Sequence[str] = ()
) -> tuple[RealImages, Sources]:
    """Returns the images of a dataset, cropped to `data.image_size`, and the dataset.

    A dataset of tokens yields the images that were encoded.

    Args:
        data: `config.data`.
        class_names: Classes whose numbers are the labels, see `match_classes`; by default those
            of the dataset.

    Raises:
        InputError: The dataset cannot be opened, or has a class that is not in `class_names`.
    """
    data = image_data(data)
    sources = match_classes(data.source, open_image_sources(data), class_names)
    training, held_out = (
        CenterCropped(source, data.image_size, data.channels, data.input, sources.class_names)
        for source in (sources.train, sources.evaluation)
    )
    suffix = "" if data.input == "image" else f", {data.input}"
    name = f"{data.source} at {data.image_size} px{suffix}"
    return RealImages(name, training, held_out, len(sources.class_names), {}), sources


def sample_labels(known: np.ndarray | None, num_classes: int, num: int) -> np.ndarray:
    """Returns the labels of images to sample, int32 [N]; all are -1 without classes.

    Classes are as frequent as among the training labels, or equally if those are unknown; they
    alternate.

    Args:
        known: Labels of the training images, None if unknown.
        num_classes: Classes of the generator; 0 for none.
        num: N.
    """
    if not num_classes:
        return np.full(num, -1, np.int32)
    shares = np.full(num_classes, 1 / num_classes)
    if known is not None:
        shares = np.bincount(known, minlength=num_classes)[:num_classes] / len(known)
    labels, owed = np.zeros(num, np.int32), np.zeros(num_classes)
    for index in range(num):
        owed += shares
        # Rounded, so that equally frequent classes alternate in order.
        labels[index] = np.argmax(np.round(owed, 6))
        owed[labels[index]] -= 1
    return labels


def check_image_sets(
    shape: tuple[int, ...],
    count: int,
    real: RealImages,
    networks: Iterable[str],
    num_reference: int,
) -> None:
    """Refuses sets of images that cannot be evaluated, before anything is computed.

    Args:
        shape: (H, W, C) of the generated images.
        count: Number of generated images.
        real: Real images to compare with.
        networks: Names of feature networks.
        num_reference: Maximum number of training images to use.

    Raises:
        InputError: Image sizes differ, or there are fewer images than features.
    """
    for images in (real.training, real.held_out):
        if images is not None and images.shape != tuple(shape):
            raise InputError(
                f"the generated images are {_format_shape(shape)}, but those of {real.name} are "
                f"{_format_shape(images.shape)}; resize one of the sets first"
            )
    counts = {"generated images": count}
    if real.training is not None:
        counts[f"reference images in {real.name}"] = min(len(real.training), num_reference)
    for network in networks:
        needed = NUM_FEATURES[network]
        for kind, number in counts.items():
            require(
                number > needed,
                f"there are {number} {kind}, but the covariance of the {needed} features of "
                f"{network} needs at least {needed + 1}; use more images, or a network with fewer "
                "features (--features=classifier has 64)",
            )


def _format_shape(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} with {shape[2]} channel" + ("s" if shape[2] > 1 else "")
