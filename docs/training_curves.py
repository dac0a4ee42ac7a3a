"""Curves of healthy and of failing trainings: `python docs/training_curves.py [RUNS]`.

RUNS (default `runs`) holds the tokenizer `vqgan-digits` of the README; the other runs are trained
there, in a few minutes. Writes `docs/training_curves.png`: a prior that memorizes its images, and
a discriminator that does not learn.
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maskgit_jax.configuration import base_config, load_config
from maskgit_jax.data.sources import open_sources
from maskgit_jax.images import write_png
from maskgit_jax.runs.fit import fit

DOCS = Path(__file__).parent
FEW = (100, 500)  # training images
PRIOR = {
    "model.dropout_rate": 0.0,
    "training.num_steps": 240,
    "training.log_every": 10,
    "training.eval_every": 20,
    "training.preview_every": 240,
    "training.checkpoint_every": 240,
}
DEAD = {
    "training.num_steps": 300,
    "optimizers.discriminator.start_step": 200,
    "training.log_every": 10,
    "training.eval_every": 50,
    "training.checkpoint_every": 50,
    "optimizers.discriminator.learning_rate": 1e-8,
}


def write_few_digits(folder: Path, count: int) -> None:
    """Writes the first `count` training digits, and all held-out ones, as a folder of images."""
    sources = open_sources(base_config().data)
    for split, source, number in (
        ("train", sources.train, count),
        ("val", sources.evaluation, len(sources.evaluation)),
    ):
        for index in range(number):
            record = source[index]
            path = folder / split / str(record["label"]) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, record["image"][None], 1)


def metrics(run: Path, split: str, name: str) -> tuple[list[int], list[float]]:
    """Returns the steps and the values of a metric of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    chosen = [line for line in lines if line["split"] == split]
    return [line["step"] for line in chosen], [line[name] for line in chosen]


def plot_memorization(axes: Any, runs: dict[int, Path]) -> None:
    """Plots the cross-entropy of a GPT by the number of training images."""
    for count, run in runs.items():
        label = f"{count} images, training"
        (line,) = axes.plot(*metrics(run, "train", "bits_per_token"), label=label)
        color = line.get_color()
        axes.plot(*metrics(run, "eval", "bits_per_token"), "--", color=color, label="held out")
    run = next(iter(runs.values()))
    for name, style in (("unigram", ":"), ("uniform", "-.")):
        curve = metrics(run, "train", f"bits_per_token_{name}")
        axes.plot(*curve, color="grey", ls=style, label=name)
    axes.set(title="GPT, cross-entropy", xlabel="step", ylabel="bits per token", ylim=(0, 12))
    axes.legend(fontsize=8, ncols=3, loc="upper center")


def plot_discriminators(axes: Any, runs: dict[str, Path]) -> None:
    """Plots how far the discriminators separate originals from reconstructions."""
    for label, run in runs.items():
        steps, real = metrics(run, "train", "logits_real")
        fake = metrics(run, "train", "logits_fake")[1]
        axes.plot(steps, [a - b for a, b in zip(real, fake, strict=True)], label=label)
    axes.axvline(200, color="grey", ls=":", label="start step")
    axes.set(title="discriminator", xlabel="step", ylabel="mean logit, original - reconstruction")
    axes.legend(fontsize=8)


def main() -> None:
    """Trains what is missing and writes the figure."""
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    tokenizer = runs / "vqgan-digits"
    prior = {**PRIOR, "tokenizer": str(tokenizer)}
    priors = {1437: fit(load_config("gpt:digits", **prior), runs / "curves-gpt-all")}
    for count in reversed(FEW):
        folder = runs / f"curves-digits-{count}"
        write_few_digits(folder, count)
        changes = {**prior, "data.source": f"folder:{folder}", "data.crop": "center"}
        priors[count] = fit(load_config("gpt:digits", **changes), runs / f"curves-gpt-{count}")
    dead = fit(load_config("vqgan:digits", **DEAD), runs / "curves-dead")
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    plot_memorization(left, priors)
    plot_discriminators(right, {"learning rate 1e-3": tokenizer, "1e-8: dead": dead})
    figure.savefig(DOCS / "training_curves.png", dpi=80)


if __name__ == "__main__":
    main()
