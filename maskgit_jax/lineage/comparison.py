"""The table of metrics, and sentences that compare each system with its predecessor."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from maskgit_jax.lineage.measure import Result
from maskgit_jax.lineage.systems import SYSTEMS, System

_EQUAL, _EQUAL_TIMES = 0.02, 0.15  # smaller relative differences count as equal; times vary more
_RECONSTRUCTION, _LIKELIHOOD = "reconstruction", "likelihood"
_GENERATION, _COST = "generation", "cost"


class Row(NamedTuple):
    """One row of the table.

    Attributes:
        group: Heading of the row.
        title: Title with the unit.
        better: "lower", "higher", or "" if neither is.
        metric: A key of `_values`.
    """

    group: str
    title: str
    better: str
    metric: str


ROWS = (
    Row(_RECONSTRUCTION, "mean squared error, pixels in [0, 1]", "lower", "reconstruction_mse"),
    Row(_RECONSTRUCTION, "PSNR, dB", "higher", "psnr"),
    Row(_RECONSTRUCTION, "SSIM", "higher", "ssim"),
    Row(_RECONSTRUCTION, "LPIPS", "lower", "lpips"),
    Row(_RECONSTRUCTION, "Frechet distance of reconstructions", "lower",
        "reconstruction_frechet_distance"),
    Row(_LIKELIHOOD, "bits per dimension (upper bound)", "lower", "bits_per_dimension"),
    Row(_LIKELIHOOD, "bits per token (MaskGIT: upper bound)", "", "bits_per_token"),
    Row(_LIKELIHOOD, "bits per image (tokens)", "", "token_bits_per_image"),
    Row(_GENERATION, "Frechet distance", "lower", "frechet_distance"),
    Row(_GENERATION, "precision", "higher", "precision"),
    Row(_GENERATION, "recall", "higher", "recall"),
    Row(_GENERATION, "coverage", "higher", "coverage"),
    Row(_GENERATION, "classifier accuracy", "higher", "classifier_accuracy"),
    Row(_GENERATION, "classification accuracy score", "higher", "classification_accuracy_score"),
    Row(_GENERATION, "copies of training images", "lower", "novelty_train_copies"),
    Row(_GENERATION, "closer to the training set than held-out images (real: 0.5)", "",
        "novelty_closer_than_heldout_features"),
    Row(_COST, "network evaluations (NFE) per image", "lower", "nfe"),
    Row(_COST, "milliseconds per image", "lower", "milliseconds"),
    Row(_COST, "parameters", "", "parameters"),
    Row(_COST, "minutes of training", "", "minutes"),
)  # fmt: skip


def _values(result: Result) -> dict[str, float]:
    """Returns the metrics and costs of a system, as far as it has them."""
    values: dict[str, float | None] = {name: pair[0] for name, pair in result.metrics.items()}
    bits = values.get("bits_per_token", values.get("bits_per_token_bound"))
    values |= {
        "bits_per_token": bits,
        "token_bits_per_image": None if bits is None else bits * result.tokens,
        "nfe": result.nfe,
        "milliseconds": None if result.seconds is None else 1000 * result.seconds,
        "parameters": result.parameters,
        "minutes": sum(result.minutes.values()),
    }
    return {name: value for name, value in values.items() if value is not None}


def format_number(value: float | None) -> str:
    """Returns a value as text for the table."""
    if value is None or not math.isfinite(value):
        return "–"
    if value >= 10_000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.4g}"


def table(results: Mapping[str, Result]) -> list[tuple[str, str, list[str]]]:
    """Returns (group, title, cells) of each metric that any system has.

    The first cell is that of real images, the others those of the results. The best value is bold,
    in Markdown.
    """
    lines = []
    pairs = [pair for result in results.values() for pair in result.metrics.items()]
    real = {name: pair[1] for name, pair in reversed(pairs) if pair[1] is not None}
    columns = [_values(result) for result in results.values()]
    for row in ROWS:
        values = [column.get(row.metric) for column in columns]
        known = [value for value in values if value is not None]
        if not known:
            continue
        best = {"lower": min, "higher": max, "": lambda known: None}[row.better](known)
        cells = [format_number(real.get(row.metric))]
        for value in values:
            bold = "**" if value == best and len(set(known)) > 1 and value is not None else ""
            cells.append(f"{bold}{format_number(value)}{bold}")
        lines.append((row.group, row.title, cells))
    return lines


def describe(system: System, results: Mapping[str, Result]) -> str:
    """Returns sentences: the idea of a system, and what is better and worse than before.

    It is compared with its predecessor, or the nearest earlier system that has a result.
    """
    result, name = results[system.name], system.predecessor
    sentences = [system.idea, *_describe_decoder(system, result)]
    while name and name not in results:
        name = SYSTEMS[name].predecessor
    if not name:
        return " ".join(sentences)
    before, same_first_stage = results[name], SYSTEMS[name].first_stage == system.first_stage
    better, worse, equal, new = [], [], [], []
    old_values, values = _values(before), _values(result)
    for row in ROWS:
        if (
            row.metric not in values
            or not row.better
            or (same_first_stage and row.group == _RECONSTRUCTION)
        ):
            continue
        value, old = values[row.metric], old_values.get(row.metric)
        tolerance = _EQUAL_TIMES if row.metric == "milliseconds" else _EQUAL
        if old is None:
            new.append(f"{row.title} {format_number(value)}")
        elif abs(value - old) <= abs(old) * tolerance:
            equal += [row.title] * bool(value)  # two zeros, such as no copies, are not mentioned
        else:
            changed = better if (value < old) == (row.better == "lower") else worse
            changed.append(f"{row.title} {format_number(value)} instead of {format_number(old)}")
    groups = {
        f"Better than {SYSTEMS[name].title}": better,
        "Worse": worse,
        "About equal": equal,
        "New": new,
    }
    sentences += [f"{title}: {'; '.join(group)}." for title, group in groups.items() if group]
    return " ".join(sentences)


def _describe_decoder(system: System, result: Result) -> list[str]:
    if not result.decoder:
        return []
    if not system.remasking or not result.decoder_distances:
        return [f"Decoder: {result.decoder}."]
    distances = sorted(result.decoder_distances.items(), key=lambda item: item[1])
    listed = ", ".join(f"{name} {format_number(distance)}" for name, distance in distances)
    return [
        f"Decoder: {result.decoder}, the best remasking decoder by the Frechet distance of other "
        f"samples ({listed})."
    ]
