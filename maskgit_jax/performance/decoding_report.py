"""Measurements of decoding speed as a Markdown table, JSON and a plot."""

import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maskgit_jax.configuration import require
from maskgit_jax.files import atomic_path, write_text
from maskgit_jax.performance.decoding_speed import (
    CACHED,
    MASKGIT,
    UNCACHED,
    Measurement,
    Sizes,
    build_samplers,
    measure,
)

STYLES = {UNCACHED: ("tab:red", "s"), CACHED: ("tab:blue", "o"), MASKGIT: ("tab:green", "^")}
EXPLANATION = (
    "All networks have random weights and equal width and depth; only tokens are sampled, no image "
    "is decoded. GPT without KV cache computes all tokens anew for each token it samples. With "
    "the cache it needs far fewer FLOPs, but still as many network evaluations (NFE), one after "
    "another, as there are tokens, and each must read the weights and the cache, which grows with "
    "the map. The NFE of MaskGIT does not grow with the map: an evaluation computes all tokens in "
    "parallel and reads the weights once for all of them. FLOPs are those of products of arrays, "
    "bytes read are the parameters and the cache that one evaluation needs at least, both times "
    "the NFE. Where only some evaluations were timed, the time is scaled to all of them; each "
    "evaluation is the same program on the same shapes."
)


def compare_decoding(
    folder: Path,
    sizes: Sizes,
    grids: Sequence[int],
    batch_sizes: Sequence[int],
    repeats: int,
    seconds: float,
    log: Callable[[str], None],
) -> list[Measurement]:
    """Measures the three methods and writes decoding.md, decoding.json and decoding.png.

    Args:
        folder: Folder to write to.
        sizes: Sizes of the networks.
        grids: Rows of the token maps, which are square, ascending.
        batch_sizes: Maps at a time.
        repeats: Runs that are timed.
        seconds: Approximate time of all runs of one measurement.
        log: Called with a line for each measurement.

    Raises:
        InputError: The sizes do not fit each other.
    """
    width, heads = sizes.width, sizes.heads
    require(width % heads == 0, f"--width is {width}; it must be a multiple of --heads, {heads}")
    require(
        sizes.steps <= grids[0] ** 2,
        f"--steps is {sizes.steps}; the smallest map has only {grids[0] ** 2} tokens",
    )
    environment, measurements = _environment(), []
    for grid in grids:
        for batch_size in batch_sizes:
            for sampler in build_samplers(sizes, grid, batch_size):
                one = measure(sampler, grid, batch_size, repeats, seconds)
                log(f"{grid}x{grid} tokens, batch of {batch_size}, {one.method}: "
                    f"{_number(one.seconds)} s ({one.measured})")  # fmt: skip
                measurements.append(one)
    settings = {**dataclasses.asdict(sizes), "grids": list(grids), "batch_sizes": list(batch_sizes),
                "repeats": repeats, "seconds": seconds, "dtype": "float32"}  # fmt: skip
    values = {"settings": settings, "environment": environment,
              "measurements": [one._asdict() for one in measurements],
              "ratios": ratios(measurements)}  # fmt: skip
    title = _title(sizes, environment)
    note = f"{title}, median of {repeats} runs, {environment['date']}."
    text = f"# Sampling a token map\n\n{note}\n\n{table(measurements)}\n{EXPLANATION}\n"
    write_text(folder / "decoding.json", json.dumps(values, indent=2) + "\n")
    write_text(folder / "decoding.md", text)
    plot(folder / "decoding.png", measurements, title)
    return measurements


def ratios(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Returns GPT's seconds divided by those of MaskGIT, for each grid and batch size."""
    seconds = {(one.grid, one.batch_size, one.method): one.seconds for one in measurements}
    return [
        {
            "grid": one.grid,
            "tokens": one.tokens,
            "batch_size": one.batch_size,
            "uncached_over_maskgit": seconds[one.grid, one.batch_size, UNCACHED] / one.seconds,
            "cached_over_maskgit": seconds[one.grid, one.batch_size, CACHED] / one.seconds,
        }
        for one in measurements
        if one.method == MASKGIT
    ]


def table(measurements: Sequence[Measurement]) -> str:
    """Returns a Markdown table."""
    maskgit = {(one.grid, one.batch_size): one.seconds for one in measurements
               if one.method == MASKGIT}  # fmt: skip
    head = ("grid", "batch", "method", "NFE", "measured", "seconds", "images/s", "GFLOP",
            "GB read", "compile s", "seconds / MaskGIT's")  # fmt: skip
    cells: list[tuple[str, ...]] = [head]
    for one in measurements:
        ratio = _number(one.seconds / maskgit[one.grid, one.batch_size])
        cells.append((
            f"{one.grid}x{one.grid}", str(one.batch_size), one.method, str(one.nfe), one.measured,
            _number(one.seconds), _number(one.images_per_second), _number(one.flops / 1e9),
            _number(one.bytes_read / 1e9), _number(one.compile_seconds),
            "" if one.method == MASKGIT else ratio,
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[cell.ljust(size) for cell, size in zip(row, widths, strict=True)] for row in cells]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(row)} |" for row in padded) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _environment() -> dict[str, Any]:
    device = jax.devices()[0]
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "cpus": os.cpu_count(),
        "jax": jax.__version__,
        "matmul_precision": precision or "default",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _title(sizes: Sizes, environment: dict[str, Any]) -> str:
    values = dataclasses.asdict(sizes).items()
    named = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values)
    where = f"{environment['device']}, {environment['cpus']} CPUs, JAX {environment['jax']}"
    return f"{named}\nfloat32, {where}"


def plot(path: Path, measurements: Sequence[Measurement], title: str) -> None:
    """Writes a PNG: seconds per batch against tokens; below, those of GPT over those of MaskGIT.

    There is a column for each batch size; all axes are logarithmic.

    Args:
        path: The file.
        measurements: All methods, for some grids and batch sizes.
        title: The settings.
    """
    batch_sizes = sorted({one.batch_size for one in measurements})
    figure = Figure(figsize=(max(8, 5 * len(batch_sizes)), 8), layout="constrained")
    FigureCanvasAgg(figure)
    scaled = any(one.measured != "whole" for one in measurements)
    note = "\nopen markers: scaled from the first network evaluations" if scaled else ""
    figure.suptitle(f"Sampling a token map\n{title}{note}", fontsize=10)
    panels = figure.subplots(2, len(batch_sizes), squeeze=False, sharex=True, sharey="row")
    for batch_size, upper, lower in zip(batch_sizes, *panels, strict=True):
        _plot_column(upper, lower, [one for one in measurements if one.batch_size == batch_size])
        upper.set(title=f"batch of {batch_size}", xscale="log", yscale="log")
    panels[0, 0].set_ylabel("seconds per batch")
    panels[1, 0].set_ylabel("seconds / MaskGIT's")
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)


def _plot_column(upper: Axes, lower: Axes, measurements: Sequence[Measurement]) -> None:
    maskgit = {one.tokens: one.seconds for one in measurements if one.method == MASKGIT}
    for method in STYLES:
        points = [(one.tokens, one.seconds, one.measured != "whole") for one in measurements
                  if one.method == method]  # fmt: skip
        _plot_curve(upper, points, method)
        if method != MASKGIT:
            relative = [(count, value / maskgit[count], scaled) for count, value, scaled in points]
            _plot_curve(lower, relative, method)
    lower.axhline(1.0, color="grey", linewidth=1, linestyle=":")
    lower.set(xscale="log", yscale="log", xlabel="tokens of a map")
    lower.set_xticks(sorted(maskgit), [str(count) for count in sorted(maskgit)])
    lower.set_xticks([], minor=True)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


def _plot_curve(axes: Axes, points: list[tuple[int, float, bool]], method: str) -> None:
    """Draws a line whose markers are open where the time was scaled."""
    tokens, values, _ = zip(*points, strict=True)
    color, marker = STYLES[method]
    axes.plot(tokens, values, color=color, marker=marker, label=method)
    scaled = [point[:2] for point in points if point[2]]
    if scaled:
        axes.plot(*zip(*scaled, strict=True), marker, color=color, markerfacecolor="white")
