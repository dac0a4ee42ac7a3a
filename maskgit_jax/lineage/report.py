"""The page of a lineage: HTML that contains its images, PNG, Markdown and JSON."""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from maskgit_jax.files import atomic_path, write_text
from maskgit_jax.images import image_grid
from maskgit_jax.lineage.commands import training_commands
from maskgit_jax.lineage.comparison import describe, table
from maskgit_jax.lineage.measure import NUM_SAMPLES, Examples, Result, read_result
from maskgit_jax.lineage.schedule import Schedule
from maskgit_jax.lineage.systems import SYSTEMS, System, needed_trainings

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd }
th { vertical-align: bottom } th:first-child, td:first-child { text-align: left }
td b { color: #06c } .group td { border: 0; padding-top: .8rem; color: #777 }
.wide { overflow-x: auto } figure { display: inline-block; margin: .5rem 1.5rem .5rem 0 }
figcaption { color: #777; font-size: 13px } img { image-rendering: pixelated; max-width: 100% }
pre { overflow-x: auto; background: #f4f4f4; padding: .7rem; font-size: 12px }
"""


class Report(NamedTuple):
    """The contents of the page.

    Attributes:
        title: Title with the name of the data.
        notes: Paragraphs: machine, date, protocol, budget.
        results: System -> result, in the order of the lineage.
        examples: System -> images.
        commands: Commands that reproduce the page.
    """

    title: str
    notes: Sequence[str]
    results: Mapping[str, Result]
    examples: Mapping[str, Examples]
    commands: Sequence[str]


def build_report(schedule: Schedule, systems: Sequence[System], command: str) -> Report:
    """Returns the report of the systems that are evaluated already.

    Args:
        schedule: The schedule of the lineage.
        systems: The systems to compare.
        command: The command that runs the whole lineage.
    """
    stored = {system.name: read_result(schedule, system) for system in systems}
    results = {name: found[0] for name, found in stored.items() if found}
    examples = {name: found[1] for name, found in stored.items() if found}
    notes = _notes(schedule, systems, results.values())
    if pending := [SYSTEMS[name].title for name in stored if name not in results]:
        notes.append(f"Not evaluated yet: {', '.join(pending)}.")
    commands = [f"# all of it: {command}", *training_commands(schedule, systems)]
    title = f"From autoencoder to MaskGIT: {schedule.data}"
    return Report(title, notes, results, examples, commands)


def _notes(schedule: Schedule, systems: Iterable[System], results: Iterable[Result]) -> list[str]:
    machines = "; ".join(sorted({result.machine for result in results}))
    num = max((result.num for result in results), default=0)
    notes = [
        f"Evaluated: {machines}. For its metrics each system generated {num:,} images; feature "
        f"network: {', '.join(schedule.features)}. The best value of each row is bold."
    ]
    if any(training.name not in schedule.reused for training in needed_trainings(systems)):
        notes.append(
            f"{schedule.num_steps} steps of each training."
            if schedule.num_steps
            else f"{schedule.minutes:g} minutes of training for each system, half of them for the "
            "tokenizer if it has one; the table lists the actual minutes, compilation included."
        )
    if schedule.reused:
        reused = ", ".join(sorted(schedule.reused))
        notes.append(f"Trained before, for the minutes in the table: {reused}.")
    return notes


def write_report(folder: Path, report: Report) -> list[Path]:
    """Writes `lineage.html`, `.png`, `.md` and `.json`; returns the files."""
    files = [folder / f"lineage.{suffix}" for suffix in ("html", "png", "md", "json")]
    write_text(files[0], _html(report))
    _write_figure(files[1], report)
    write_text(files[2], _markdown(report))
    contents = {
        "title": report.title,
        "notes": report.notes,
        "systems": {name: result._asdict() for name, result in report.results.items()},
        "commands": report.commands,
    }
    write_text(files[3], json.dumps(contents, indent=2) + "\n")
    return files


def markdown_table(results: Mapping[str, Result]) -> str:
    """Returns the metrics of all systems in Markdown; the best value of each row is bold."""
    head = ["metric", "real images", *(SYSTEMS[name].title for name in results)]
    lines = [head, ["---"] * len(head)]
    lines += [[title, *cells] for _, title, cells in table(results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _markdown(report: Report) -> str:
    steps = [
        f"- **{SYSTEMS[name].title}**: {describe(SYSTEMS[name], report.results)}"
        for name in report.results
    ]
    commands = "\n".join(report.commands)
    parts = [
        f"# {report.title}",
        *report.notes,
        markdown_table(report.results),
        "## What each step changed",
        "\n".join(steps),
        "![Held-out images, their reconstructions and samples of each system](lineage.png)",
        "## Commands",
        f"```bash\n{commands}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _html(report: Report) -> str:
    head = "".join(f"<th>{html.escape(SYSTEMS[name].title)}</th>" for name in report.results)
    body, last = [], ""
    for group, title, cells in table(report.results):
        if group != last:
            columns = len(report.results) + 2
            body.append(f'<tr class="group"><td colspan="{columns}">{group}</td></tr>')
            last = group
        values = "".join(f"<td>{_bold(cell)}</td>" for cell in cells)
        body.append(f"<tr><td>{html.escape(title)}</td>{values}</tr>")
    rows, title = "\n".join(body), html.escape(report.title)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in report.notes)
    sections = "".join(_section(name, report) for name in report.results)
    commands = html.escape("\n".join(report.commands))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n<h1>{title}</h1>{notes}\n"
        f'<div class="wide"><table><tr><th></th><th>real images</th>{head}</tr>\n{rows}'
        f"</table></div>\n{sections}\n<h2>Commands</h2><pre>{commands}</pre></body></html>\n"
    )


def _bold(cell: str) -> str:
    return f"<b>{cell.strip('*')}</b>" if cell.startswith("**") else cell


def _section(name: str, report: Report) -> str:
    examples = report.examples[name]
    grids = {"held-out images and their reconstructions": _reconstruction_grid(examples)}
    if examples.samples is not None:
        grids["samples"] = _grid(examples.samples, NUM_SAMPLES // 2)
    figures = "".join(
        f'<figure><img alt="{caption}" src="data:image/png;base64,{_base64_png(grid)}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for caption, grid in grids.items()
    )
    text = html.escape(describe(SYSTEMS[name], report.results))
    return f"<h2>{html.escape(SYSTEMS[name].title)}</h2><p>{text}</p>{figures}\n"


def _reconstruction_grid(examples: Examples) -> np.ndarray:
    images = np.concatenate([examples.originals, examples.reconstructions])
    return _grid(images, len(examples.originals))


def _grid(images: np.ndarray, columns: int) -> np.ndarray:
    scale = max(1, round(48 / images.shape[1]))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    grid = image_grid(images, columns, gap=2)
    return grid[..., 0] if grid.shape[-1] == 1 else grid


def _base64_png(grid: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(grid).save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _write_figure(path: Path, report: Report) -> None:
    """Draws a row for each system: its main metrics, reconstructions and samples."""
    num_rows = max(1, len(report.results))
    figure = Figure(figsize=(12, 0.6 + 1.35 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(report.title, fontsize=12)
    panels = figure.subplots(num_rows, 3, squeeze=False, width_ratios=(1, 1.6, 1.6))
    for (name, result), (left, middle, right) in zip(report.results.items(), panels, strict=False):
        examples = report.examples[name]
        left.text(0, 0.5, _label(result), va="center", fontsize=9)
        reconstructions = _reconstruction_grid(examples)
        _draw(middle, reconstructions)
        if examples.samples is not None:
            _draw(right, _grid(examples.samples, NUM_SAMPLES // 2))
        else:
            _draw(right, np.full_like(reconstructions, 255))  # equal size, so that titles align
            right.text(0.5, 0.5, "no samples", ha="center", va="center", color="grey", fontsize=9,
                       transform=right.transAxes)  # fmt: skip
    panels[0][1].set_title("held-out images (above) and their reconstructions", fontsize=9)
    panels[0][2].set_title("samples", fontsize=9)
    for axes in panels.flat:
        axes.set_axis_off()
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=100)


def _draw(axes: Any, grid: np.ndarray) -> None:
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if grid.ndim == 2 else {}
    axes.imshow(grid, interpolation="nearest", **grey)


def _label(result: Result) -> str:
    lines = [SYSTEMS[result.name].title]
    for name, text in (
        ("reconstruction_mse", "squared error {:.4f}"),
        ("frechet_distance", "Frechet distance {:.2f}"),
        ("classification_accuracy_score", "accuracy score {:.1%}"),
    ):
        if name in result.metrics:
            lines.append(text.format(result.metrics[name][0]))
    if result.nfe is not None:
        lines.append(f"NFE {result.nfe}")
    return "\n".join(lines)
