"""Which figures stand on the page, and what they say of each step of the lineage."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from maskgit_jax.lineage.measure import Result
from maskgit_jax.lineage.systems import SYSTEMS, System

# Smaller differences, relative to the value before, are not told as such; times vary more.
_EQUAL, _EQUAL_TIMES = 0.02, 0.15
_MILLISECONDS = "milliseconds an image"


class Row(NamedTuple):
    """One figure of all systems.

    Attributes:
        group: What it says something about.
        title: With its unit.
        better: "lower", "higher", or "" where neither is.
        value: Result -> value; None where a system has none.
        real: Result -> that of real images.
    """

    group: str
    title: str
    better: str
    value: Callable[[Result], float | None]
    real: Callable[[Result], float | None] = lambda result: None


def _figure(group: str, title: str, better: str, name: str) -> Row:
    def found(result: Result) -> tuple[float, float | None]:
        # A figure of one feature network has its name behind it where there are several.
        return tuple(result.figures.get(name, (None, None)))

    return Row(
        group, title, better, lambda result: found(result)[0], lambda result: found(result)[1]
    )


def _bits_per_dimension(result: Result) -> float | None:
    # That of a prior is of tokens, and so is no likelihood of pixels.
    return None if result.tokens else result.figures.get("bits_per_dimension", (None,))[0]


def _bits_per_token(result: Result) -> float | None:
    for name in ("bits_per_token", "bits_per_token_bound"):
        if name in result.figures:
            return result.figures[name][0]
    return None


def _bits_of_tokens(result: Result) -> float | None:
    bits = _bits_per_token(result)
    return None if bits is None else bits * result.tokens


_RESTORING, _LIKELIHOOD, _MAKING, _COST = "reconstruction", "likelihood", "generation", "cost"
ROWS = (
    _figure(_RESTORING, "mean square error, pixels in [0, 1]", "lower", "reconstruction_mse"),
    _figure(_RESTORING, "PSNR, dB", "higher", "psnr"),
    _figure(_RESTORING, "SSIM", "higher", "ssim"),
    _figure(_RESTORING, "LPIPS", "lower", "lpips"),
    _figure(_RESTORING, "Frechet distance of reconstructions", "lower",
            "reconstruction_frechet_distance"),
    Row(_LIKELIHOOD, "bits per pixel value, at most", "lower", _bits_per_dimension),
    Row(_LIKELIHOOD, "bits per token (MaskGIT: at most)", "", _bits_per_token),
    Row(_LIKELIHOOD, "bits of an image's tokens", "", _bits_of_tokens),
    _figure(_MAKING, "Frechet distance", "lower", "frechet_distance"),
    _figure(_MAKING, "precision", "higher", "precision"),
    _figure(_MAKING, "recall", "higher", "recall"),
    _figure(_MAKING, "coverage", "higher", "coverage"),
    _figure(_MAKING, "classifier accuracy", "higher", "classifier_accuracy"),
    _figure(_MAKING, "classification accuracy score", "higher", "classification_accuracy_score"),
    _figure(_MAKING, "share copied from training images", "lower", "novelty_train_copies"),
    _figure(_MAKING, "nearer to training images than real ones are (real: 0.5)", "",
            "novelty_closer_than_heldout_features"),
    Row(_COST, "network passes an image", "lower", lambda result: result.passes),
    Row(_COST, _MILLISECONDS, "lower",
        lambda result: None if result.seconds is None else 1000 * result.seconds),
    Row(_COST, "parameters", "", lambda result: result.parameters),
    Row(_COST, "minutes of training", "", lambda result: sum(result.minutes.values())),
)  # fmt: skip


def number(value: float | None) -> str:
    """Returns a value as it stands in a table."""
    if value is None or not math.isfinite(value):
        return "–"
    if value >= 10_000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.4g}"


def table(results: Mapping[str, Result]) -> list[tuple[str, str, list[str]]]:
    """Returns (group, title, cells) of each figure that any system has.

    The first cell is that of real images, then there is one for each result; the best ones are
    bold, in Markdown.
    """
    lines = []
    for row in ROWS:
        values = [row.value(result) for result in results.values()]
        known = [value for value in values if value is not None]
        if not known:
            continue
        real = next(
            (row.real(each) for each in results.values() if row.real(each) is not None), None
        )
        best = {"lower": min, "higher": max}.get(row.better, lambda found: None)(known)
        several = len(set(known)) > 1
        cells = [
            f"**{number(value)}**" if several and value == best and value is not None
            else number(value)
            for value in values
        ]  # fmt: skip
        lines.append((row.group, row.title, [number(real), *cells]))
    return lines


def sentences(system: System, results: Mapping[str, Result]) -> str:
    """Returns what a system changes, and what of that was measured to be better and what not.

    It is compared with the system before it, or the nearest one before that was evaluated.
    """
    own, told = results[system.name], [system.idea]
    told += _decoder(system, own)
    name = system.before
    while name and name not in results:
        name = SYSTEMS[name].before
    if not name:
        return " ".join(told)
    before, same_first = results[name], SYSTEMS[name].first == system.first
    better, worse, equal, new = [], [], [], []
    for row in ROWS:
        now, then = row.value(own), row.value(before)
        if now is None or row.better == "" or (same_first and row.group == _RESTORING):
            continue
        if then is None:
            new.append(f"{row.title} {number(now)}")
        elif abs(now - then) <= abs(then) * (
            _EQUAL_TIMES if row.title == _MILLISECONDS else _EQUAL
        ):
            equal += [row.title] * bool(now)  # nothing copied before or now needs no words
        else:
            group = better if (now < then) == (row.better == "lower") else worse
            group.append(f"{row.title} {number(now)} instead of {number(then)}")
    title = SYSTEMS[name].title
    for opening, found in (
        (f"Better than {title}", better),
        ("Not better", worse),
        ("Equal, or nearly", equal),
        ("New", new),
    ):
        if found:
            told.append(f"{opening}: {'; '.join(found)}.")
    return " ".join(told)


def _decoder(system: System, own: Result) -> list[str]:
    if not own.decoder:
        return []
    if not system.revises or not own.tried:
        return [f"Decoder: {own.decoder}."]
    tried = ", ".join(
        f"{name} {number(value)}"
        for name, value in sorted(own.tried.items(), key=lambda item: item[1])
    )
    return [
        f"Decoder: {own.decoder}, the best of those that revise, by the Frechet distance of other "
        f"samples ({tried})."
    ]
