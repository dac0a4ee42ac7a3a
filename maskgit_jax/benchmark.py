"""Measures speed: `python -m maskgit_jax.benchmark train --config=configs/vqgan.py[:preset]`.

`train`, `sample` and `data` measure a configuration on the devices that are here: its train step
and its input pipeline, its sampler, or the pipeline alone. `--config.key=value` changes any key.
Frozen stages and judges have random weights. The last line printed is JSON; where --out is given
it is added to OUT/benchmark.jsonl. `train --synthetic` needs no data.

`python -m maskgit_jax.benchmark decoding --grids=8,16 --out=benchmark` draws whole maps of tokens
with networks of one width and depth at random weights: GPT with and without memory, and MaskGIT.
It prints a table and writes it to OUT/decoding.md, all numbers to OUT/decoding.json, and curves
over the number of tokens to OUT/decoding.png.
"""

import datetime
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from maskgit_jax import command_line
from maskgit_jax.configuration import InputError, require
from maskgit_jax.files import atomic_path, create_output_directory, write_text
from maskgit_jax.performance.decoding_speed import (
    CACHED,
    FEWEST_PASSES,
    MASKGIT,
    UNCACHED,
    Row,
    Sizes,
    decoding_ways,
    measure,
)
from maskgit_jax.performance.step_record import TimingOptions
from maskgit_jax.performance.step_speed import measure_data, measure_sample, measure_train
from maskgit_jax.stages import stage_module

CONFIG = command_line.define_config(None)  # for train, sample and data
SYNTHETIC = flags.DEFINE_bool("synthetic", False, "Train with one made-up batch: no data needed.")
SAMPLE_BATCH_SIZE = flags.DEFINE_integer(
    "sample_batch_size", 0, "Images that the sampler makes at a time; default: "
    "config.training.batch_size.", lower_bound=0)  # fmt: skip
GRIDS = flags.DEFINE_list("grids", ["8", "16", "24", "32"], "Rows, and as many columns, of the "
                          "maps of tokens.")  # fmt: skip
BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["1", "16"], "Maps drawn at a time.")
WIDTH = flags.DEFINE_integer("width", 128, "Of both networks.", lower_bound=1)
LAYERS = flags.DEFINE_integer("layers", 4, "Of both networks.", lower_bound=1)
HEADS = flags.DEFINE_integer("heads", 4, "Of attention; must divide the width.", lower_bound=1)
MLP_WIDTH = flags.DEFINE_integer("mlp_width", 512, "Hidden width of a layer's network.",
                                 lower_bound=1)  # fmt: skip
CODES = flags.DEFINE_integer("codes", 1024, "Codes of a token.", lower_bound=1)
CLASSES = flags.DEFINE_integer("classes", 10, "Of the images.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 8, "Decoding steps of MaskGIT.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 3, "Runs that are timed, for their median.",
                               lower_bound=1)  # fmt: skip
SECONDS = flags.DEFINE_float("seconds", None, "About how long the runs of one row may take "
                             "together, default 60; of what takes longer, only the first passes "
                             f"are timed, at least {FEWEST_PASSES}. Of train, sample and data: "
                             "all runs, default 20.", lower_bound=0.0)  # fmt: skip
OUT = flags.DEFINE_string("out", "benchmark", "Folder to write; train, sample and data write only "
                          "where it is given.")  # fmt: skip

STYLES = {UNCACHED: ("tab:red", "s"), CACHED: ("tab:blue", "o"), MASKGIT: ("tab:green", "^")}
EXPLANATION = (
    "All networks have random weights and equal width and depth; only tokens are drawn, no image "
    "is decoded. GPT without memory computes all tokens anew for every token that it draws. With "
    "memory it does far fewer operations, but still needs as many passes, one after another, as "
    "there are tokens, and every pass must read the weights and the memory, which grows with the "
    "map. The number of MaskGIT's passes does not grow with the map: a pass computes all tokens "
    "side by side and reads the weights once for all of them. Operations are XLA's count for one "
    "pass of the network, bytes read are the parameters and the memory that one pass needs at "
    "least, both times the number of passes. Where only some passes were timed, the time is "
    "scaled to all of them; every pass is the same program on the same shapes."
)


def _whole_numbers(name: str, words: list[str]) -> list[int]:
    require(len(words) > 0, f"--{name} is empty; give whole numbers, such as 8,16")
    for word in words:
        if not word.strip().isdigit() or int(word) < 1:
            raise InputError(f"--{name} holds '{word}'; it takes whole numbers from 1 on")
    return sorted({int(word) for word in words})


def _checked_sizes(grids: list[int]) -> Sizes:
    width, heads, steps, fewest = WIDTH.value, HEADS.value, STEPS.value, grids[0] ** 2
    require(width % heads == 0, f"--width is {width}, which is no multiple of --heads, {heads}")
    require(
        steps <= fewest,
        f"--steps is {steps}; the smallest map has only {fewest} tokens",
    )
    return Sizes(width, LAYERS.value, heads, MLP_WIDTH.value, CODES.value, CLASSES.value, steps)


def ratios(rows: list[Row]) -> list[dict[str, Any]]:
    """Returns GPT's seconds over those of MaskGIT, for every grid and batch size."""
    seconds = {(row.grid, row.batch_size, row.way): row.seconds for row in rows}
    return [
        {
            "grid": row.grid,
            "tokens": row.tokens,
            "batch_size": row.batch_size,
            "uncached_over_maskgit": seconds[row.grid, row.batch_size, UNCACHED] / row.seconds,
            "cached_over_maskgit": seconds[row.grid, row.batch_size, CACHED] / row.seconds,
        }
        for row in rows
        if row.way == MASKGIT
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def table(rows: list[Row]) -> str:
    """Returns the rows as a Markdown table."""
    maskgit = {(row.grid, row.batch_size): row.seconds for row in rows if row.way == MASKGIT}
    head = ("grid", "batch", "way", "passes", "measured", "seconds", "images/s", "GFLOP",
            "GB read", "compile s", "seconds / MaskGIT's")  # fmt: skip
    cells = [head]
    for row in rows:
        ratio = _number(row.seconds / maskgit[row.grid, row.batch_size])
        cells.append((
            f"{row.grid}x{row.grid}", str(row.batch_size), row.way, str(row.passes), row.measured,
            _number(row.seconds), _number(row.images_per_second), _number(row.operations / 1e9),
            _number(row.bytes_read / 1e9), _number(row.compile_seconds),
            "" if row.way == MASKGIT else ratio,
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[cell.ljust(size) for cell, size in zip(row, widths, strict=True)] for row in cells]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(row)} |" for row in padded) + "\n"


def _environment() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "cpus": os.cpu_count(),
        "jax": jax.__version__,
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _said(sizes: Sizes, environment: dict[str, Any]) -> str:
    named = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in sizes._asdict().items()
    )
    where = f"{environment['device']}, {environment['cpus']} CPUs, JAX {environment['jax']}"
    return f"{named}\nfloat32, {where}"


def _curve(
    axes: Axes, points: list[tuple[int, float, bool]], style: tuple[str, str], label: str
) -> None:
    """Draws a line whose markers are open where the time was scaled."""
    tokens, values, _ = zip(*points, strict=True)
    colour, marker = style
    axes.plot(tokens, values, color=colour, marker=marker, label=label)
    scaled = [point[:2] for point in points if point[2]]
    if scaled:
        axes.plot(*zip(*scaled, strict=True), marker, color=colour, markerfacecolor="white")


def decoding_plot(path: Path, rows: list[Row], title: str) -> None:
    """Writes a PNG: seconds a batch against tokens, below those of GPT over those of MaskGIT.

    A column for every batch size; all axes are logarithmic.

    Args:
        path: The file; it appears when it is complete.
        rows: Of all ways, for some grids and batch sizes.
        title: The settings.
    """
    batch_sizes = sorted({row.batch_size for row in rows})
    tokens = sorted({row.tokens for row in rows})
    figure = Figure(figsize=(max(8, 5 * len(batch_sizes)), 8), layout="constrained")
    FigureCanvasAgg(figure)
    scaled = any(row.measured != "whole" for row in rows)
    note = "\nopen markers: scaled from the first passes" if scaled else ""
    figure.suptitle(f"Drawing a map of tokens\n{title}{note}", fontsize=10)
    panels = figure.subplots(2, len(batch_sizes), squeeze=False, sharex=True, sharey="row")
    for batch_size, above, below in zip(batch_sizes, *panels, strict=True):
        own = [row for row in rows if row.batch_size == batch_size]
        maskgit = {row.tokens: row.seconds for row in own if row.way == MASKGIT}
        for way, style in STYLES.items():
            found = [(row.tokens, row.seconds, row.measured != "whole") for row in own
                     if row.way == way]  # fmt: skip
            _curve(above, found, style, way)
            if way != MASKGIT:
                found = [(count, value / maskgit[count], scaled) for count, value, scaled in found]
                _curve(below, found, style, way)
        below.axhline(1.0, color="grey", linewidth=1, linestyle=":")
        above.set(title=f"batch of {batch_size}", xscale="log", yscale="log")
        below.set(xscale="log", yscale="log", xlabel="tokens of a map")
        below.set_xticks(tokens, [str(count) for count in tokens])
        below.set_xticks([], minor=True)
        for axes in (above, below):
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
    panels[0, 0].set_ylabel("seconds a batch")
    panels[1, 0].set_ylabel("seconds / MaskGIT's")
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)


def _seconds(default: float) -> float:
    return default if SECONDS.value is None else SECONDS.value


def decoding() -> None:
    """Times GPT with and without memory and MaskGIT, and writes what was found."""
    seconds = _seconds(60.0)
    require(CONFIG.value is None, "decoding takes no --config; its sizes are flags")
    grids = _whole_numbers("grids", GRIDS.value)
    batch_sizes = _whole_numbers("batch_sizes", BATCH_SIZES.value)
    sizes, folder = _checked_sizes(grids), create_output_directory(OUT.value)
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is timed, too
    environment, rows = _environment(), []
    for grid in grids:
        for batch_size in batch_sizes:
            for way in decoding_ways(sizes, grid, batch_size):
                row = measure(way, grid, batch_size, REPEATS.value, seconds)
                print(f"{grid}x{grid} tokens, batch of {batch_size}, {row.way}: "
                      f"{_number(row.seconds)} s ({row.measured})", file=sys.stderr)  # fmt: skip
                rows.append(row)
    settings = {**sizes._asdict(), "grids": grids, "batch_sizes": batch_sizes,
                "repeats": REPEATS.value, "seconds": seconds, "dtype": "float32"}  # fmt: skip
    found = {"settings": settings, "environment": environment,
             "rows": [row._asdict() for row in rows], "ratios": ratios(rows)}  # fmt: skip
    said = _said(sizes, environment)
    note = f"{said}, median of {REPEATS.value} runs, {environment['date']}."
    write_text(folder / "decoding.json", json.dumps(found, indent=2) + "\n")
    text = f"# Drawing a map of tokens\n\n{note}\n\n{table(rows)}\n{EXPLANATION}\n"
    write_text(folder / "decoding.md", text)
    decoding_plot(folder / "decoding.png", rows, said)
    print(table(rows))
    print(f"wrote decoding.md, decoding.json and decoding.png to {folder}")


def _config() -> tuple[ConfigDict, str]:
    """Returns the configuration of the flags, and its file."""
    config = command_line.chosen_config(CONFIG)
    stage_module(config.stage)
    return config, flags.FLAGS["config"].config_filename.partition(":")[0]


def of_config(command: str) -> None:
    """Measures a configuration; prints one line of JSON, after all else that there is to say."""
    config, file = _config()
    folder = create_output_directory(OUT.value) if flags.FLAGS["out"].present else None
    require(
        not SYNTHETIC.value or command != "data",
        "data measures how real data are read; leave out --synthetic",
    )
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is timed, too
    effort = TimingOptions(REPEATS.value, _seconds(20.0), lambda text: print(text, file=sys.stderr))
    place = Path(file).parent
    if command == "train":
        found = measure_train(config, place, effort, SYNTHETIC.value)
    elif command == "sample":
        found = measure_sample(config, place, effort, SAMPLE_BATCH_SIZE.value)
    else:
        found = measure_data(config, effort)
    for note in found["notes"]:
        print(f"note: {note}", file=sys.stderr)
    line = json.dumps({"command": command, "config": file, **found})
    if folder:
        with open(folder / "benchmark.jsonl", "a") as lines:
            lines.write(line + "\n")
    print(line, flush=True)


COMMANDS = {
    "decoding": decoding,
    **{name: partial(of_config, name) for name in ("train", "sample", "data")},
}


def main(command: str) -> None:
    """Measures what the word says."""
    COMMANDS[command]()


if __name__ == "__main__":
    command_line.run(main, commands=tuple(COMMANDS))
