"""Plots the bias of Fréchet distances over the number of images: `python docs/frechet_bias.py`.

It compares held-out Fashion-MNIST images with training images. Their true distance is almost 0, so
the plot shows the bias.
"""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maskgit_jax.configuration import base_config
from maskgit_jax.data.image_sets import random_subset
from maskgit_jax.evaluation.feature_statistics import compute_statistics
from maskgit_jax.evaluation.features import open_extractor
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import open_real_images
from maskgit_jax.metrics.frechet import frechet_by_count
from maskgit_jax.training.sharding import make_mesh

COUNTS = (100, 200, 500, 1000, 2000, 5000, 10_000)
NUM_REFERENCE = 20_000


def main() -> None:
    """Writes docs/frechet_bias.png and prints its values."""
    data = base_config().data
    data.source, data.image_size = "idx:/usr/share/datasets/fashion-mnist", 28
    real, _ = open_real_images(data)
    assert real.training is not None and real.held_out is not None
    options = EvaluationOptions(make_mesh(base_config().mesh))
    extractor = open_extractor("classifier", options, real.training, real.num_classes)
    train = random_subset(real.training, NUM_REFERENCE)
    reference = compute_statistics(extractor, train, options.cache, 0, "training images")
    held_out = compute_statistics(
        extractor, real.held_out, options.cache, 10_000, "held-out images"
    )
    target = reference.moments["features"].gaussian()
    curves = [frechet_by_count(held_out.kept, target, COUNTS, seed) for seed in range(10)]
    mean, deviation = np.mean(curves, axis=0), np.std(curves, axis=0)
    for count, value, error in zip(COUNTS, mean, deviation, strict=True):
        print(f"| {count} | {value:.3f} ± {error:.3f} |")
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.errorbar(COUNTS, mean, deviation, marker="o", capsize=3)
    axes.set(xscale="log", yscale="log", xlabel="held-out images",
             ylabel=f"Frechet distance to {NUM_REFERENCE:,} training images",
             title="Real images against real images: only the bias is left")  # fmt: skip
    axes.grid(alpha=0.3, which="both")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
