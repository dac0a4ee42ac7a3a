"""Reference files of ADM's evaluation suite: real images and their Inception statistics."""

import zipfile
from pathlib import Path

import numpy as np

from maskgit_jax.configuration import base_config, require
from maskgit_jax.data.batch_reader import read_batches
from maskgit_jax.data.image_sets import Subset, random_subset
from maskgit_jax.evaluation.feature_statistics import compute_statistics
from maskgit_jax.evaluation.features import open_extractor
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import open_real_images
from maskgit_jax.files import atomic_path


def write_reference(
    path: Path, data: str, image_size: int, channels: int, options: EvaluationOptions
) -> None:
    """Writes up to `num_reference` training images of a dataset as one NPZ file.

    The file holds `arr_0`, uint8 [N, H, W, C], and `arr_1`, their labels; with Inception among the
    feature networks also `mu`, `sigma`, `mu_s` and `sigma_s` of the images.

    Args:
        path: File to write, NPZ.
        data: Dataset, as in `config.data.source`.
        image_size: Side of the images in pixels.
        channels: 1 or 3.
        options: Options of the evaluation.

    Raises:
        InputError: The dataset or the size is missing, or there are fewer images than features.
    """
    require(path.suffix == ".npz", f"--write_reference={path} must end in .npz")
    require(bool(data) and image_size > 0, "--write_reference needs --data and --image_size")
    config = base_config().data
    config.source, config.image_size, config.channels = data, image_size, channels
    real, _ = open_real_images(config)
    assert real.training is not None
    images = random_subset(real.training, options.num_reference)
    statistics = {}
    if "inception" in options.features:
        statistics = _inception_statistics(images, data, options)
    with (
        atomic_path(path) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        labels = _write_images(archive, images, real.training.shape, options.batch_size)
        for key, array in {"arr_1": labels, **statistics}.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array)


def _inception_statistics(
    images: Subset, data: str, options: EvaluationOptions
) -> dict[str, np.ndarray]:
    """Returns `mu`, `sigma`, `mu_s` and `sigma_s`."""
    extractor = open_extractor("inception", options, None, 0)
    num_features = max(extractor.network.widths)
    require(
        len(images) > num_features,
        f"{data} has {len(images)} images, fewer than the {num_features} features of inception; "
        "remove inception from --features",
    )
    moments = compute_statistics(extractor, images, options.cache, 0, "training images").moments
    features, spatial = moments["features"].gaussian(), moments["spatial"].gaussian()
    return {
        "mu": features.mean,
        "sigma": features.covariance,
        "mu_s": spatial.mean,
        "sigma_s": spatial.covariance,
    }


def _write_images(
    archive: zipfile.ZipFile, images: Subset, shape: tuple[int, ...], batch_size: int
) -> np.ndarray:
    """Writes `arr_0` batch by batch, in constant memory; returns the labels."""
    labels = []
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *shape)}
    with archive.open("arr_0.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for batch in read_batches(images, batch_size):
            file.write(np.ascontiguousarray(batch.image[: batch.count]).tobytes())
            labels.append(batch.label[: batch.count])
    return np.concatenate(labels)
