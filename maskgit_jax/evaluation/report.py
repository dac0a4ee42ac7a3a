"""Evaluations as JSON and Markdown, and comparisons of several evaluations.

A metric is meaningful only together with its feature network, reference, number of images and
preprocessing. These form its protocol; values of different protocols never share a row.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from maskgit_jax.configuration import InputError
from maskgit_jax.files import write_text


class Metric(NamedTuple):
    """A named value of an evaluation.

    Attributes:
        name: Name of the metric.
        value: Its value for the evaluated images.
        better: "lower", "higher", or the ideal value as text; "" if neither is better.
        error: Standard deviation over splits or subsets, None if there is none.
        real_value: The metric of held-out real images, None if it is meaningless.
        network: Identity of the feature network; "" for metrics of pixels.
        preprocessing: Preprocessing of the pixels for the network.
        reference: Images that the evaluated ones are compared with; "" for none.
        count: Number of evaluated images.
        real_count: Number of held-out real images behind `real_value`.
        reference_count: Number of reference images; 0 if unknown.
        source: Paper and details of the method.
    """

    name: str
    value: float
    better: str = ""
    error: float | None = None
    real_value: float | None = None
    network: str = ""
    preprocessing: str = ""
    reference: str = ""
    count: int = 0
    real_count: int = 0
    reference_count: int = 0
    source: str = ""

    @property
    def protocol(self) -> str:
        """Six hex digits; values are comparable only if they agree."""
        parts = (self.name, self.network, self.preprocessing, self.reference, self.count,
                 self.reference_count, self.source)  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:6]


@dataclass
class Measurements:
    """Metrics, and the reasons why others are skipped.

    Attributes:
        metrics: The metrics, in the order of the table.
        skipped: Metric -> reason.
    """

    metrics: list[Metric] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def update(self, other: "Measurements") -> None:
        """Appends all metrics and reasons of another set."""
        self.metrics += other.metrics
        self.skipped |= other.skipped


class Evaluation(NamedTuple):
    """All metrics of a run or of a set of images.

    Attributes:
        title: Run directory or image file.
        settings: Settings of sampling and evaluation.
        metrics: The metrics.
        skipped: Metric -> reason why it is skipped.
    """

    title: str
    settings: dict[str, Any]
    metrics: list[Metric]
    skipped: dict[str, str]

    @property
    def key(self) -> str:
        """Eight hex digits of the settings; a new evaluation replaces one with the same key."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]


def write(folder: Path, evaluation: Evaluation) -> str:
    """Adds an evaluation to `evaluation.json` and `evaluation.md`; returns its Markdown table.

    Raises:
        InputError: The folder holds an `evaluation.json` that is damaged or of another version.
    """
    path = folder / "evaluation.json"
    known = {each.key: each for each in read(path)} if path.exists() else {}
    known.pop(evaluation.key, None)
    evaluations = [*known.values(), evaluation]
    contents = {
        each.key: {
            **each._asdict(),
            "metrics": [
                {**metric._asdict(), "protocol": metric.protocol} for metric in each.metrics
            ],
        }
        for each in evaluations
    }
    write_text(path, json.dumps(contents, indent=2) + "\n")
    tables = [_format_evaluation(each) for each in evaluations]
    write_text(folder / "evaluation.md", "# Evaluations\n\n" + "\n".join(tables))
    return _format_evaluation(evaluation)


def read(path: str | Path) -> list[Evaluation]:
    """Returns the evaluations of a run directory or of a file `evaluation.json`, oldest first.

    Raises:
        InputError: The file is missing, damaged or of another version.
    """
    file = Path(path) / "evaluation.json" if Path(path).is_dir() else Path(path)
    if not file.exists():
        raise InputError(f"{file} is missing; run python -m maskgit_jax.evaluate --workdir={path}")
    try:
        return [_parse(value) for value in json.loads(file.read_text()).values()]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is damaged or of another version ({type(error).__name__}: {error}); delete it "
            "and evaluate again"
        ) from error


def compare(paths: Iterable[str | Path]) -> str:
    """Returns a table with one column per evaluation and one row per metric and protocol.

    Args:
        paths: Run directories or `evaluation.json` files.

    Raises:
        InputError: A file is missing, damaged or of another version.
    """
    columns = [(path, evaluation) for path in paths for evaluation in read(path)]
    rows: dict[tuple[str, str], tuple[str, dict[int, Metric]]] = {}
    for column, (_, evaluation) in enumerate(columns):
        for metric in evaluation.metrics:
            row = rows.setdefault((metric.name, metric.protocol), (metric.better, {}))
            row[1][column] = metric
    table = [("metric", "better", "protocol", *(f"[{i}]" for i in range(len(columns))))]
    for (name, protocol), (better, cells) in sorted(rows.items(), key=lambda row: row[0]):
        values = [
            _format_value(cells[i].value, cells[i].error) if i in cells else ""
            for i in range(len(columns))
        ]
        table.append((name, better, protocol, *values))
    legend = [
        f"[{i}] {path}: {evaluation.title} ({_format_settings(evaluation.settings)})"
        for i, (path, evaluation) in enumerate(columns)
    ]
    note = (
        "Rows of one metric with different protocols differ in network, reference, number of "
        "images or preprocessing; do not compare them."
    )
    return "\n".join([*legend, "", format_table(table), "", note])


def _parse(value: dict[str, Any]) -> Evaluation:
    metrics = [Metric(**{name: item[name] for name in Metric._fields}) for item in value["metrics"]]
    return Evaluation(value["title"], value["settings"], metrics, value["skipped"])


def _format_value(value: float | None, error: float | None = None) -> str:
    if value is None:
        return ""
    text = f"{value}" if isinstance(value, int) else f"{value:.4g}"
    return text if error is None else f"{text} ± {error:.2g}"


def _format_settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def format_table(table: Sequence[tuple[str, ...]]) -> str:
    """Returns an aligned Markdown table; the first row is the head."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    head, *body = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([head, rule, *body])


def format_metrics(metrics: Iterable[Metric]) -> str:
    """Returns a short table of metrics, without their protocols."""
    rows = [
        (metric.name, _format_value(metric.value, metric.error), _format_value(metric.real_value),
         metric.better)
        for metric in metrics
    ]  # fmt: skip
    return format_table([("metric", "value", "real images", "better"), *rows])


def _format_reference(metric: Metric) -> str:
    count = f" ({metric.reference_count})" if metric.reference_count else ""
    return f"{metric.reference}{count}" if metric.reference else ""


def _format_evaluation(evaluation: Evaluation) -> str:
    head = ("metric", "value", "real images", "better", "images", "network", "reference",
            "protocol")  # fmt: skip
    body = [
        (metric.name, _format_value(metric.value, metric.error), _format_value(metric.real_value),
         metric.better, str(metric.count), metric.network, _format_reference(metric),
         metric.protocol)
        for metric in evaluation.metrics
    ]  # fmt: skip
    skipped = [f"- skipped: {name}: {reason}" for name, reason in evaluation.skipped.items()]
    parts = [f"## {evaluation.title}", "", _format_settings(evaluation.settings), "",
             format_table([head, *body]), ""]  # fmt: skip
    return "\n".join([*parts, *skipped, ""] if skipped else parts)
