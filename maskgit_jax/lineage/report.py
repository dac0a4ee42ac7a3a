"""The page: HTML with its pictures inside, one PNG, and Markdown."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from maskgit_jax.files import atomic_path, write_text
from maskgit_jax.images import image_grid
from maskgit_jax.lineage.comparison import sentences, table
from maskgit_jax.lineage.measure import SHOWN_MADE, Pictures, Result
from maskgit_jax.lineage.systems import SYSTEMS

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


class Page(NamedTuple):
    """What is written.

    Attributes:
        title: Says which data.
        notes: Sentences under it: budget, machine, date, how it was measured.
        results: System -> its result, in the order of the lineage.
        pictures: System -> its pictures.
        waiting: Titles of systems that are not evaluated yet.
        commands: That made it.
    """

    title: str
    notes: Sequence[str]
    results: Mapping[str, Result]
    pictures: Mapping[str, Pictures]
    waiting: Sequence[str]
    commands: Sequence[str]


def write_page(folder: Path, page: Page) -> list[Path]:
    """Writes `lineage.html`, `.png`, `.md` and `.json`; returns the files."""
    names = [folder / f"lineage.{ending}" for ending in ("html", "png", "md", "json")]
    write_text(names[0], _html(page))
    _png(names[1], page)
    write_text(names[2], markdown(page))
    found = {name: result._asdict() for name, result in page.results.items()}
    said = {"title": page.title, "notes": page.notes, "systems": found, "commands": page.commands}
    write_text(names[3], json.dumps(said, indent=2) + "\n")
    return names


def _waiting(page: Page) -> list[str]:
    return [f"Not evaluated yet: {', '.join(page.waiting)}."] if page.waiting else []


def markdown_table(results: Mapping[str, Result]) -> str:
    """Returns the figures of all systems in Markdown; the best of each row are bold."""
    head = ["figure", "real images", *(SYSTEMS[name].title for name in results)]
    lines = [head, ["---"] * len(head)]
    lines += [[title, *cells] for _, title, cells in table(results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def markdown(page: Page) -> str:
    """Returns the page as Markdown, with its picture beside it."""
    steps = [
        f"- **{SYSTEMS[name].title}**: {sentences(SYSTEMS[name], page.results)}"
        for name in page.results
    ]
    commands = "\n".join(page.commands)
    parts = [
        f"# {page.title}",
        *page.notes,
        *_waiting(page),
        markdown_table(page.results),
        "## What each step changed",
        "\n".join(steps),
        "![Held-out images, what each system restores of them, and what it makes](lineage.png)",
        "## Commands",
        f"```bash\n{commands}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _html(page: Page) -> str:
    head = "".join(f"<th>{html.escape(SYSTEMS[name].title)}</th>" for name in page.results)
    body, last = [], ""
    for group, title, cells in table(page.results):
        if group != last:
            columns = len(page.results) + 2
            body.append(f'<tr class="group"><td colspan="{columns}">{group}</td></tr>')
            last = group
        shown = "".join(f"<td>{_bold(cell)}</td>" for cell in cells)
        body.append(f"<tr><td>{html.escape(title)}</td>{shown}</tr>")
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in [*page.notes, *_waiting(page)])
    sections = "".join(_section(name, page) for name in page.results)
    commands = html.escape("\n".join(page.commands))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(page.title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{html.escape(page.title)}</h1>{notes}\n"
        f'<div class="wide"><table><tr><th></th><th>real images</th>{head}</tr>\n'
        + "\n".join(body)
        + f"</table></div>\n{sections}\n<h2>Commands</h2><pre>{commands}</pre></body></html>\n"
    )


def _bold(cell: str) -> str:
    return f"<b>{cell.strip('*')}</b>" if cell.startswith("**") else cell


def _section(name: str, page: Page) -> str:
    system, pictures = SYSTEMS[name], page.pictures[name]
    shown = [("held-out images, and what is left of them", _pairs(pictures))]
    if pictures.made is not None:
        shown.append(("made", _rows(pictures.made, SHOWN_MADE // 2)))
    figures = "".join(
        f'<figure><img alt="{caption}" src="data:image/png;base64,{_encoded(picture)}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for caption, picture in shown
    )
    text = html.escape(sentences(system, page.results))
    return f"<h2>{html.escape(system.title)}</h2><p>{text}</p>{figures}\n"


def _pairs(pictures: Pictures) -> np.ndarray:
    images = np.concatenate([pictures.originals, pictures.restored])
    return _rows(images, len(pictures.originals))


def _rows(images: np.ndarray, columns: int) -> np.ndarray:
    scale = max(1, round(48 / images.shape[1]))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    grid = image_grid(images, columns, gap=2)
    return grid[..., 0] if grid.shape[-1] == 1 else grid


def _encoded(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _png(path: Path, page: Page) -> None:
    """Draws a line for each system: its name and main figures, restored and made images."""
    names = list(page.results)
    figure = Figure(figsize=(12, 0.6 + 1.35 * max(1, len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(page.title, fontsize=12)
    panels = figure.subplots(max(1, len(names)), 3, squeeze=False, width_ratios=(1, 1.6, 1.6))
    for name, (left, middle, right) in zip(names, panels, strict=False):
        left.text(0, 0.5, _label(page.results[name]), va="center", fontsize=9)
        _draw(middle, _pairs(page.pictures[name]))
        made = page.pictures[name].made
        if made is None:
            _draw(right, np.full_like(_pairs(page.pictures[name]), 255))
            right.text(0.5, 0.5, "makes none", ha="center", va="center", color="grey", fontsize=9,
                       transform=right.transAxes)  # fmt: skip
        else:
            _draw(right, _rows(made, SHOWN_MADE // 2))
    panels[0][1].set_title("held-out images above, restored below", fontsize=9)
    panels[0][2].set_title("made", fontsize=9)
    for axes in panels.flat:
        axes.set_axis_off()
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=100)


def _draw(axes: object, picture: np.ndarray) -> None:
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if picture.ndim == 2 else {}
    axes.imshow(picture, interpolation="nearest", **grey)  # type: ignore[attr-defined]


def _label(result: Result) -> str:
    lines = [SYSTEMS[result.name].title]
    for name, title in (
        ("reconstruction_mse", "square error {:.4f}"),
        ("frechet_distance", "Frechet distance {:.2f}"),
        ("classification_accuracy_score", "accuracy score {:.1%}"),
    ):
        if name in result.figures:
            lines.append(title.format(result.figures[name][0]))
    if result.passes is not None:
        lines.append(f"{result.passes} network pass{'es' * (result.passes > 1)}")
    return "\n".join(lines)
