"""Evaluations of images from any source."""

from pathlib import Path

import numpy as np

from maskgit_jax.configuration import base_config, require
from maskgit_jax.data.image_sets import (
    IMAGE_KEYS,
    ImageSet,
    open_images,
    random_subset,
    read_statistics,
)
from maskgit_jax.evaluation import report
from maskgit_jax.evaluation.features import open_extractors
from maskgit_jax.evaluation.generation import GenerationEvaluator
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import RealImages, check_image_sets, open_real_images
from maskgit_jax.evaluation.report import Evaluation
from maskgit_jax.runs.progress import note


def evaluate_images(
    images: str,
    options: EvaluationOptions,
    folder: Path,
    *,
    reference: str = "",
    data: str = "",
    num: int | None = None,
) -> Evaluation:
    """Returns the evaluation of images from any source.

    Args:
        images: NPZ file or folder of the images.
        options: Options of the evaluation.
        folder: Folder for statistics, from which an interrupted evaluation resumes.
        reference: NPZ file or folder of real images, or NPZ file of Inception statistics.
        data: Instead of `reference`: a dataset, as in `config.data.source`.
        num: Number of images to evaluate, a fixed random choice; all by default.

    Raises:
        InputError: A file is missing, or sizes, classes or numbers of images do not fit.
    """
    require(
        bool(reference) != bool(data),
        "--images needs real images: either --data=SOURCE or --reference=FILE.npz or FOLDER",
    )
    generated = open_images(images)
    real, class_names = _open_reference(reference, data, generated)
    generated.labels = match_labels(generated, class_names, real)
    if num is not None:
        require(num <= len(generated), f"--num={num}, but {images} holds {len(generated)} images")
    chosen = random_subset(generated, num)
    check_image_sets(generated.shape, len(chosen), real, options.features, options.num_reference)
    evaluator = GenerationEvaluator(chosen, real, folder, options)
    evaluator.measure_pixels()
    note(report.format_metrics(evaluator.results.metrics))
    extractors = open_extractors(options, real.training, real.num_classes)
    results = evaluator.measure_features(extractors)
    settings = {
        "images": images,
        "reference": reference or data,
        "features": ", ".join(options.features) or "none",
        "num": len(chosen),
    }
    return Evaluation(images, settings, results.metrics, results.skipped)


def _open_reference(
    reference: str, data: str, generated: ImageSet
) -> tuple[RealImages, tuple[str, ...]]:
    """Returns real images to compare with, and the names of their classes."""
    if not reference:
        height, width, channels = generated.shape
        require(
            height == width,
            f"{generated.name} holds images of {width}x{height}, but a dataset yields squares; "
            "give real images of that size with --reference",
        )
        config = base_config().data
        config.source, config.image_size, config.channels = data, height, channels
        real, sources = open_real_images(config)
        return real, sources.class_names
    statistics = read_statistics(reference)
    if statistics and not _has_images(reference):
        return RealImages(reference, None, None, 0, statistics), ()
    images = open_images(reference)
    num_classes = 0 if images.labels is None else int(images.labels.max()) + 1
    return RealImages(reference, images, None, num_classes, statistics), images.class_names


def _has_images(path: str) -> bool:
    with np.load(path) as file:
        return any(key in file for key in IMAGE_KEYS)


def match_labels(
    generated: ImageSet, class_names: tuple[str, ...], real: RealImages
) -> np.ndarray | None:
    """Returns the labels of generated images in the numbering of the real ones, None without.

    Raises:
        InputError: A class or label is missing among the real images.
    """
    labels = generated.labels
    if labels is None or real.num_classes < 2:
        return None
    if generated.class_names and class_names:
        unknown = [name for name in generated.class_names if name not in class_names]
        require(
            not unknown,
            f"{generated.name} has the class '{', '.join(unknown[:3])}', which {real.name} lacks; "
            f"its classes are {', '.join(class_names[:10])}",
        )
        order = [class_names.index(name) for name in generated.class_names]
        return np.asarray(order, np.int32)[labels]
    require(
        labels.min() >= 0 and labels.max() < real.num_classes,
        f"{generated.name} has labels from {labels.min()} to {labels.max()}, but {real.name} has "
        f"{real.num_classes} classes",
    )
    return labels
