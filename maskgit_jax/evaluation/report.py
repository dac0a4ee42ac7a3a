"""Figures with all that must be said of them, as JSON and as a table; comparison of runs.

A figure means nothing without its feature network, its reference, the counts and the
preprocessing. These are its protocol; figures of different protocols never stand in one row.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from maskgit_jax.configuration import InputError
from maskgit_jax.files import write_text


class Metric(NamedTuple):
    """One measured number.

    Attributes:
        name: What was measured.
        value: Of the images that are judged.
        better: "lower", "higher", or a value to be near to, as text; "" for information.
        error: Standard deviation over splits or subsets, None where there is none.
        real: The same figure of held-out real images, None where it has no meaning.
        network: Identity of the feature network; "" for figures of pixels.
        preprocessing: What was done to the pixels for the network.
        reference: Which images it was measured against; "" for none.
        count: Number of images judged.
        real_count: Number of held-out real images behind `real`.
        reference_count: Number of reference images; 0 for unknown.
        source: Paper and details of the method.
    """

    name: str
    value: float
    better: str = ""
    error: float | None = None
    real: float | None = None
    network: str = ""
    preprocessing: str = ""
    reference: str = ""
    count: int = 0
    real_count: int = 0
    reference_count: int = 0
    source: str = ""

    @property
    def protocol(self) -> str:
        """Six hex digits; figures may be compared only if they agree."""
        said = (self.name, self.network, self.preprocessing, self.reference, self.count,
                self.reference_count, self.source)  # fmt: skip
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:6]


class Evaluation(NamedTuple):
    """All figures of one set of images.

    Attributes:
        title: What was judged.
        settings: How the images were made, and what was asked.
        figures: What was measured.
        left_out: Figure -> why it could not be measured.
    """

    title: str
    settings: dict[str, Any]
    figures: list[Metric]
    left_out: dict[str, str]

    @property
    def key(self) -> str:
        """Eight hex digits of the settings; the same settings replace an earlier evaluation."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]


def write(folder: Path, evaluation: Evaluation) -> str:
    """Adds an evaluation to `evaluation.json` and `evaluation.md`; returns its table."""
    path = folder / "evaluation.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    figures = [{**figure._asdict(), "protocol": figure.protocol} for figure in evaluation.figures]
    everything = {
        **{key: value for key, value in before.items() if key != evaluation.key},
        evaluation.key: {**evaluation._asdict(), "figures": figures},
    }
    write_text(path, json.dumps(everything, indent=2) + "\n")
    tables = [_table(_restored(value)) for value in everything.values()]
    write_text(folder / "evaluation.md", "# Evaluations\n\n" + "\n".join(tables))
    return _table(evaluation)


def _restored(value: dict[str, Any]) -> Evaluation:
    figures = [Metric(**{name: each[name] for name in Metric._fields}) for each in value["figures"]]
    return Evaluation(value["title"], value["settings"], figures, value["left_out"])


def read(place: str) -> list[Evaluation]:
    """Returns the evaluations in a run directory, or in a file `evaluation.json`, oldest first.

    Raises:
        InputError: There are none, or the file is damaged.
    """
    path = Path(place)
    path = path / "evaluation.json" if path.is_dir() else path
    if not path.exists():
        raise InputError(
            f"{path} is missing; make it with python -m maskgit_jax.evaluate --workdir={place}"
        )
    try:
        return [_restored(value) for value in json.loads(path.read_text()).values()]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} holds no evaluations ({error})") from error


def _number(value: float | None, error: float | None = None) -> str:
    if value is None:
        return ""
    text = f"{value}" if isinstance(value, int) else f"{value:.4g}"
    return text if error is None else f"{text} ± {error:.2g}"


def _rows(table: list[tuple[str, ...]]) -> str:
    """Returns a Markdown table whose columns are aligned; the first row is the head."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|",
                      *lines[1:]])  # fmt: skip


def _against(figure: Metric) -> str:
    number = f" ({figure.reference_count})" if figure.reference_count else ""
    return f"{figure.reference}{number}" if figure.reference else ""


def _table(evaluation: Evaluation) -> str:
    head = ("figure", "value", "real images", "better", "images", "network", "measured against",
            "protocol")  # fmt: skip
    body = [
        (figure.name, _number(figure.value, figure.error), _number(figure.real), figure.better,
         str(figure.count), figure.network, _against(figure), figure.protocol)
        for figure in evaluation.figures
    ]  # fmt: skip
    settings = ", ".join(f"{name} {value}" for name, value in evaluation.settings.items())
    left_out = [f"- not measured: {name}: {why}" for name, why in evaluation.left_out.items()]
    parts = [f"## {evaluation.title}", "", settings, "", _rows([head, *body]), ""]
    return "\n".join([*parts, *left_out, ""] if left_out else parts)


def compare(places: Iterable[str]) -> str:
    """Returns a table with a column for every evaluation; a row holds one protocol only."""
    columns = [(place, evaluation) for place in places for evaluation in read(place)]
    rows: dict[tuple[str, str], tuple[Metric, dict[int, Metric]]] = {}
    for number, (_, evaluation) in enumerate(columns):
        for figure in evaluation.figures:
            row = rows.setdefault((figure.name, figure.protocol), (figure, {}))
            row[1][number] = figure
    head = ("figure", "better", "protocol", *(f"[{number}]" for number in range(len(columns))))
    body = []
    for (name, protocol), (figure, cells) in sorted(rows.items(), key=lambda row: row[0]):
        found = [cells.get(number) for number in range(len(columns))]
        values = ["" if cell is None else _number(cell.value, cell.error) for cell in found]
        body.append((name, figure.better, protocol, *values))
    legend = [
        f"[{number}] {place}: {evaluation.title} ("
        + ", ".join(f"{name} {value}" for name, value in evaluation.settings.items())
        + ")"
        for number, (place, evaluation) in enumerate(columns)
    ]
    note = (
        "Rows of one name with different protocols differ in network, reference, number of "
        "images or preprocessing: they cannot be compared."
    )
    return "\n".join([*legend, "", _rows([head, *body]), "", note])
