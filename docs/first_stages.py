"""Pictures of the first stages from their runs: `python docs/first_stages.py [RUNS]`.

RUNS (default `runs`) holds the runs that `docs/results.md` names. Writes into `docs/`
    vqgan_judges.png        held-out images, and what VQGAN without and with judges makes of them
    vqgan_judges_curve.png  errors during training, across the start of the discriminator
    interpolations.png      between two held-out images: pixels mixed, autoencoder, VAE
    collapse.png            `posterior.png` of the collapsed and of the cured VAE
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from maskgit_jax.configuration import base_config
from maskgit_jax.data.image_sets import CenterCropped
from maskgit_jax.data.sources import open_sources
from maskgit_jax.images import write_image_grid
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.runs.directory import Run, load_run, read_config
from maskgit_jax.sample import COLUMNS, latent_pictures
from maskgit_jax.training.sharding import make_mesh

DOCS = Path(__file__).parent
ROWS = 6  # pairs of images
GAP = 4  # pixels between the two plots


def held_out(run: Run, places: range) -> np.ndarray:
    """Returns held-out images of a run's data, uint8 [B, H, W, C]."""
    data = run.config.data
    source = CenterCropped(open_sources(data).evaluation, data.image_size, data.channels)
    return np.stack([source[place]["image"] for place in places])


def judges(runs: Path) -> None:
    """Writes `vqgan_judges.png`: columns of originals, without judges, with judges."""
    mesh, columns = make_mesh(base_config().mesh), []
    for name in ("vqgan-fashion_mnist_no_judges", "vqgan-fashion_mnist_perceptual"):
        run = load_run(runs / name, mesh)
        images = held_out(run, range(32))
        columns.append(AutoencoderPipeline(run, mesh).restore(images))
    triples = np.stack([images, *columns], axis=1).reshape(8, 12, *images.shape[1:])
    write_image_grid(DOCS / "vqgan_judges.png", triples)


def curve(runs: Path) -> None:
    """Writes `vqgan_judges_curve.png`."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    pixels, logits = figure.subplots(1, 2)
    names = {"without judges": "vqgan-fashion_mnist_no_judges",
             "with judges": "vqgan-fashion_mnist_perceptual"}  # fmt: skip
    for title, name in names.items():
        lines = [json.loads(line) for line in (runs / name / "metrics.jsonl").open()]
        training = [line for line in lines if line["split"] == "train"]
        steps = [line["step"] for line in training]
        # A quarter of the error on [-1, 1] is the error on [0, 1].
        (drawn,) = pixels.plot(steps, [line["pixel_loss"] / 4 for line in training], label=title)
        measured = [line for line in lines if line["split"] == "eval"]
        pixels.plot([line["step"] for line in measured],
                    [line["reconstruction_mse"] for line in measured], "o",
                    color=drawn.get_color(), label=f"{title}, held out")  # fmt: skip
    start = read_config(runs / name).optimizers.discriminator.start_step
    for kind in ("real", "fake"):
        logits.plot(steps, [line[f"logits_{kind}"] for line in training], label=kind)
    for axes in (pixels, logits):
        axes.axvline(start, color="grey", ls=":", label="the discriminator starts")
        axes.set(xlabel="step")
        axes.legend()
    pixels.set(yscale="log", ylabel="mean squared error, pixels in [0, 1]")
    logits.set(ylabel="mean logit of the discriminator")
    figure.savefig(DOCS / "vqgan_judges_curve.png", dpi=100)


def interpolations(runs: Path) -> None:
    """Writes `interpolations.png`: of each pair three rows, the originals at their ends."""
    mesh, rows = make_mesh(base_config().mesh), []
    for name in ("vae-fashion_mnist_autoencoder", "vae-fashion_mnist"):
        run = load_run(runs / name, mesh)
        rows.append(latent_pictures(run, mesh, "interpolations", ROWS, seed=0, batch_size=64))
    ends = rows[0][:, [0, -1]].astype(np.float32)
    share = np.pad(np.linspace(0, 1, COLUMNS), 1, "edge").reshape(1, -1, 1, 1, 1)
    mixed = (ends[:, :1] * (1 - share) + ends[:, 1:] * share).round().astype(np.uint8)
    everything = np.stack([mixed, *rows], axis=1)
    write_image_grid(DOCS / "interpolations.png", everything.reshape(-1, *mixed.shape[1:]))


def collapse(runs: Path) -> None:
    """Writes `collapse.png`: collapsed above, cured below."""
    plots = []
    for name in ("vae-digits_collapsed", "vae-digits_cured"):
        found = (runs / name).glob("evaluation/*/posterior.png")
        path = max(found, key=lambda path: path.stat().st_mtime)
        plots.append(np.asarray(Image.open(path).convert("RGB")))
    gap = np.full((GAP, *plots[0].shape[1:]), 255, np.uint8)
    Image.fromarray(np.concatenate([plots[0], gap, plots[1]])).save(DOCS / "collapse.png")


def main() -> None:
    """Writes all pictures."""
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    for draw in (judges, curve, interpolations, collapse):
        draw(runs)


if __name__ == "__main__":
    main()
