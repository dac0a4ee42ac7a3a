"""Quality of samples against network evaluations and time, as in docs/results/learning_faster.md.

`python docs/quality_against_time.py MASKGIT_RUN GPT_RUN DATA FOLDER [NUM]` samples NUM images with
each number of steps, measures them and the milliseconds per image, and writes the results to
FOLDER/quality.json and FOLDER/quality.png. An interrupted measurement goes on where it was.
"""

import json
import sys
import time
from pathlib import Path

import maskgit_jax
from maskgit_jax.evaluation.evaluate import evaluation_options
from maskgit_jax.evaluation.sampling import open_run_images, plan_sampling
from maskgit_jax.evaluation.search_scores import Scorer, SearchOptions
from maskgit_jax.model import Model

STEPS = (2, 4, 8, 16)
TIMED = 384  # images; the first batch compiles


def measure(
    run: str, data: str, num: int, settings: dict, folder: Path, guide: str = ""
) -> dict[str, float]:
    """Returns the metrics of a search for one of its candidates, and milliseconds per image."""
    model = maskgit_jax.load(run, guide=guide)
    options = evaluation_options(model.mesh)
    config, real, sources = open_run_images(model.run, data)
    sampling = plan_sampling(model.run, sources, config, options, num, 0, settings)
    assert sampling is not None
    scorer = Scorer(sampling, real, options, SearchOptions(), "", folder / "scores.json")
    return {**scorer.report(sampling.settings), "milliseconds": milliseconds(model, settings)}


def milliseconds(model: Model, settings: dict) -> float:
    """Returns the time per image of a second call, decoder included."""
    for _ in range(2):
        start = time.monotonic()
        model.sample(num=TIMED, batch_size=128, **settings)
    return 1000 * (time.monotonic() - start) / TIMED


def plot(results: dict[str, dict[str, float]], path: Path) -> None:
    """Draws the Frechet distance against network evaluations and against time."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, key, label in (
        (axes[0], "evaluations", "network evaluations per image"),
        (axes[1], "milliseconds", "milliseconds per image"),
    ):
        for name, style in (("MaskGIT", "o-"), ("GPT", "s")):
            rows = [row for title, row in results.items() if title.startswith(name)]
            axis.plot(
                [r[key] for r in rows], [r["frechet_distance"] for r in rows], style, label=name
            )
        axis.set(xlabel=label, ylim=(0, None))
    axes[0].set_ylabel("Frechet distance")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(maskgit: str, gpt: str, data: str, folder: Path, num: int = 2000) -> None:
    """Measures what is missing, prints the table and draws the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "quality.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    length = maskgit_jax.load(gpt).config.model.grid
    todo = {f"MaskGIT, {steps} steps": (maskgit, {"steps": steps}, steps + 1) for steps in STEPS}
    todo["GPT"] = (gpt, {}, length[0] * length[1] + 1)
    for title, (run, settings, evaluations) in todo.items():
        if title not in results:
            found = measure(run, data, num, settings, folder)
            results[title] = {"evaluations": evaluations, **found}
            file.write_text(json.dumps(results, indent=1))
        cells = [f"{value:.4g}" for value in results[title].values()]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)
    plot(results, folder / "quality.png")


if __name__ == "__main__":
    main(*sys.argv[1:4], Path(sys.argv[4]), *map(int, sys.argv[5:]))
