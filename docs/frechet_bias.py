"""Draws how Frechet distances depend on the number of images: `python docs/frechet_bias.py`.

Held-out Fashion-MNIST images against training images: the true distance is nearly nothing, so
what is seen is bias. Needs matplotlib, which the package itself does not.
"""

from pathlib import Path

import matplotlib
import numpy as np

from maskgit_jax.configuration import base_config
from maskgit_jax.data.image_sets import random_subset
from maskgit_jax.evaluate import default_cache_directory
from maskgit_jax.evaluation.evaluate import EvaluationOptions, open_networks
from maskgit_jax.evaluation.feature_statistics import summarize
from maskgit_jax.evaluation.features import Extractor
from maskgit_jax.evaluation.generation import Limits, real_images
from maskgit_jax.metrics.frechet import frechet_by_count
from maskgit_jax.training.sharding import make_mesh

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

COUNTS = (100, 200, 500, 1000, 2000, 5000, 10_000)


def main() -> None:
    """Writes docs/frechet_bias.png and prints the figures in it."""
    data = base_config().data
    data.source, data.image_size = "idx:/usr/share/datasets/fashion-mnist", 28
    real, _ = real_images(data)
    cache, mesh = default_cache_directory(), make_mesh(base_config().mesh)
    asked = EvaluationOptions({"classifier": None}, None, mesh, cache, 128, Limits())
    (network,) = open_networks(asked, real.training, real.num_classes)
    extractor = Extractor(network, mesh, 128)
    train = random_subset(real.training, 20_000)
    reference = summarize(extractor, train, cache / "bias-training.npz", 0, "training")
    held_out = summarize(extractor, real.held_out, cache / "bias-held-out.npz", 10_000, "held out")
    target = reference.moments.gaussian()
    runs = [frechet_by_count(held_out.kept, target, COUNTS, seed) for seed in range(10)]
    mean, spread = np.mean(runs, axis=0), np.std(runs, axis=0)
    for count, value, error in zip(COUNTS, mean, spread, strict=True):
        print(f"| {count} | {value:.3f} ± {error:.3f} |")
    pyplot.figure(figsize=(6, 3.6), dpi=110)
    pyplot.errorbar(COUNTS, mean, spread, marker="o", capsize=3)
    pyplot.xscale("log")
    pyplot.yscale("log")
    pyplot.xlabel("held-out images")
    pyplot.ylabel("Frechet distance to 20,000 training images")
    pyplot.title("Real against real: all of it is sample-size bias")
    pyplot.grid(alpha=0.3, which="both")
    pyplot.tight_layout()
    pyplot.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
