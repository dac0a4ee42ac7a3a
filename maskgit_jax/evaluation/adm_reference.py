"""Reference files as ADM's evaluation suite has them: real images and Inception statistics."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_jax.configuration import base_config, require
from maskgit_jax.data.image_sets import random_subset
from maskgit_jax.data.reading import read_batches
from maskgit_jax.evaluation.evaluate import EvaluationOptions, open_networks
from maskgit_jax.evaluation.feature_statistics import summarize
from maskgit_jax.evaluation.features import Extractor
from maskgit_jax.evaluation.generation import real_images
from maskgit_jax.files import atomic_path


def write_reference(
    path: Path, data: str, image_size: int, channels: int, asked: EvaluationOptions
) -> None:
    """Writes up to `asked.limits.reference` training images of a dataset as one NPZ.

    It holds `arr_0` uint8 [N, H, W, C] and `arr_1`, their labels; with Inception among the
    feature networks also `mu`, `sigma`, `mu_s` and `sigma_s` of the same images.

    Raises:
        InputError: No dataset or size is given, or there are fewer images than features.
    """
    require(path.suffix == ".npz", f"--write_reference={path} must end in .npz")
    require(bool(data) and image_size > 0, "--write_reference needs --data and --image_size")
    config = base_config().data
    config.source, config.image_size, config.channels = data, image_size, channels
    real, _ = real_images(config)
    images = random_subset(real.training, asked.limits.reference)
    statistics = {}
    if "inception" in asked.networks:
        only = asked._replace(networks={"inception": asked.networks["inception"]})
        (network,) = open_networks(only, None, 0)
        needed = max(network.widths)
        require(
            len(images) > needed,
            f"{data} has {len(images)} images, fewer than the {needed} features of inception",
        )
        extractor = Extractor(network, asked.mesh, asked.batch_size)
        summary = summarize(extractor, images, asked.cache, 0, "training images")
        for part, keys in (("moments", ("mu", "sigma")), ("spatial", ("mu_s", "sigma_s"))):
            gaussian = getattr(summary, part).gaussian()
            statistics |= dict(zip(keys, (gaussian.mean, gaussian.covariance), strict=True))
    with (
        atomic_path(path) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        labels = _write_images(archive, images, asked.batch_size)
        for key, array in {"arr_1": labels, **statistics}.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array)


def _write_images(archive: zipfile.ZipFile, images: Any, batch_size: int) -> np.ndarray:
    """Writes `arr_0` batch by batch, so that memory does not grow; returns the labels."""
    labels = []
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *images.shape)}
    with archive.open("arr_0.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for batch in read_batches(images, batch_size):
            file.write(np.ascontiguousarray(batch.image[: batch.count]).tobytes())
            labels.append(batch.label[: batch.count])
    return np.concatenate(labels)
