"""Figures of the first stages from their runs: `python docs/first_stages.py [RUNS]`.

RUNS (default `runs`) holds the runs that `docs/results/vqgan.md` and `autoencoders.md` name. The
script writes into `docs/`
    vqgan_perceptual.png        held-out images and their reconstructions by VQGAN without and with
                                perceptual and adversarial losses
    vqgan_perceptual_curve.png  errors during training, before and after the discriminator starts
    interpolations.png          interpolations of two held-out images: pixels, autoencoder, VAE
    collapse.png                `posterior.png` of the collapsed and of the cured VAE
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from maskgit_jax.configuration import base_config
from maskgit_jax.evaluation.real_images import open_real_images
from maskgit_jax.images import write_image_grid
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.pipelines.latents import COLUMNS, latent_walks
from maskgit_jax.runs.directory import load_run, read_config
from maskgit_jax.training.sharding import make_mesh

DOCS = Path(__file__).parent
NUM_PAIRS = 6
GAP = 4  # pixels between the two plots
VQGAN_RUNS = {
    "reconstruction loss only": "vqgan-fashion_mnist_reconstruction_only",
    "with perceptual and adversarial losses": "vqgan-fashion_mnist_perceptual",
}


def plot_reconstructions(runs: Path) -> None:
    """Writes `vqgan_perceptual.png`: columns of originals and reconstructions."""
    mesh = make_mesh(base_config().mesh)
    images, columns = np.zeros(0), []
    for name in VQGAN_RUNS.values():
        run = load_run(runs / name, mesh)
        held_out = open_real_images(run.config.data)[0].held_out
        assert held_out is not None
        images = np.stack([held_out[index]["image"] for index in range(32)])
        columns.append(AutoencoderPipeline(run, mesh).reconstruct(images))
    triples = np.stack([images, *columns], axis=1).reshape(8, 12, *images.shape[1:])
    write_image_grid(DOCS / "vqgan_perceptual.png", triples)


def plot_training(runs: Path) -> None:
    """Writes `vqgan_perceptual_curve.png`."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    pixels, logits = figure.subplots(1, 2)
    for title, name in VQGAN_RUNS.items():
        lines = [json.loads(line) for line in (runs / name / "metrics.jsonl").open()]
        train = [line for line in lines if line["split"] == "train"]
        steps = [line["step"] for line in train]
        # A quarter of the squared error on [-1, 1] is that on [0, 1].
        (curve,) = pixels.plot(steps, [line["pixel_loss"] / 4 for line in train], label=title)
        held_out = [line for line in lines if line["split"] == "eval"]
        pixels.plot([line["step"] for line in held_out],
                    [line["reconstruction_mse"] for line in held_out], "o",
                    color=curve.get_color(), label=f"{title}, held out")  # fmt: skip
    # The last run has a discriminator.
    start = read_config(runs / name).optimizers.discriminator.start_step
    for kind in ("real", "fake"):
        logits.plot(steps, [line[f"logits_{kind}"] for line in train], label=kind)
    for axes in (pixels, logits):
        axes.axvline(start, color="grey", ls=":", label="the discriminator starts")
        axes.set(xlabel="step")
        axes.legend()
    pixels.set(yscale="log", ylabel="mean squared error, pixels in [0, 1]")
    logits.set(ylabel="mean logit of the discriminator")
    figure.savefig(DOCS / "vqgan_perceptual_curve.png", dpi=100)


def plot_interpolations(runs: Path) -> None:
    """Writes `interpolations.png`: three rows per pair, with the originals at their ends."""
    mesh, rows = make_mesh(base_config().mesh), []
    for name in ("vae-fashion_mnist_autoencoder", "vae-fashion_mnist"):
        run = load_run(runs / name, mesh)
        rows.append(latent_walks(run, mesh, "interpolations", NUM_PAIRS, seed=0, batch_size=64))
    ends = rows[0][:, [0, -1]].astype(np.float32)
    weight = np.pad(np.linspace(0, 1, COLUMNS), 1, "edge").reshape(1, -1, 1, 1, 1)
    mixed = (ends[:, :1] * (1 - weight) + ends[:, 1:] * weight).round().astype(np.uint8)
    grid = np.stack([mixed, *rows], axis=1)
    write_image_grid(DOCS / "interpolations.png", grid.reshape(-1, *mixed.shape[1:]))


def plot_collapse(runs: Path) -> None:
    """Writes `collapse.png`: the collapsed VAE above the cured one."""
    plots = []
    for name in ("vae-digits_collapsed", "vae-digits_cured"):
        paths = (runs / name).glob("evaluation/*/posterior.png")
        newest = max(paths, key=lambda path: path.stat().st_mtime)
        plots.append(np.asarray(Image.open(newest).convert("RGB")))
    gap = np.full((GAP, *plots[0].shape[1:]), 255, np.uint8)
    Image.fromarray(np.concatenate([plots[0], gap, plots[1]])).save(DOCS / "collapse.png")


def main() -> None:
    """Writes all figures."""
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    for plot in (plot_reconstructions, plot_training, plot_interpolations, plot_collapse):
        plot(runs)


if __name__ == "__main__":
    main()
