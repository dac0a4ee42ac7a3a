"""Measures speed: `python -m maskgit_jax.benchmark train --config=configs/vqgan.py[:preset]`.

`train`, `sample` and `data` measure a configuration here: the train step with its input pipeline,
the sampler, or the pipeline alone. Frozen stages have random weights. The last line printed is
JSON; with --out it is also appended to OUT/benchmark.jsonl. `train --synthetic` needs no data.

`python -m maskgit_jax.benchmark decoding --grids=8,16 --out=benchmark` samples whole token maps by
GPT with and without a KV cache and by MaskGIT, with random weights; it prints a table and writes
OUT/decoding.md, OUT/decoding.json and OUT/decoding.png.
"""

import json
import sys
from functools import partial
from typing import Any

import jax
from absl import flags

from maskgit_jax import command_line
from maskgit_jax.configuration import require
from maskgit_jax.files import create_output_directory
from maskgit_jax.performance.decoding_report import compare_decoding, table
from maskgit_jax.performance.decoding_speed import MIN_TIMED_NFE, Sizes
from maskgit_jax.performance.step_record import TimingOptions
from maskgit_jax.performance.step_speed import measure_data, measure_sample, measure_train

CONFIG = command_line.define_config(None)  # for train, sample and data
SYNTHETIC = flags.DEFINE_bool("synthetic", False, "Train on one random batch; needs no data.")
SAMPLE_BATCH_SIZE = flags.DEFINE_integer(
    "sample_batch_size", 0, "Images that the sampler generates at a time; default: "
    "config.training.batch_size.", lower_bound=0)  # fmt: skip
GRIDS = flags.DEFINE_list("grids", ["8", "16", "24", "32"], "Rows of the square token maps.")
BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["1", "16"], "Token maps sampled at a time.")
SIZES = {
    name: flags.DEFINE_integer(name, getattr(Sizes, name), field.metadata["help"], lower_bound=1)
    for name, field in Sizes.__dataclass_fields__.items()
}
REPEATS = flags.DEFINE_integer("repeats", 3, "Timed runs, for the median.", lower_bound=1)
SECONDS = flags.DEFINE_float(
    "seconds", None, "Approximate time of all runs (default 20); of `decoding`, of the runs of one "
    "row (default 60): if a whole map takes longer, only the first network evaluations are timed, "
    f"at least {MIN_TIMED_NFE}.", lower_bound=0.0)  # fmt: skip
OUT = flags.DEFINE_string("out", "benchmark", "Folder; train, sample and data write only with it.")
log = partial(print, file=sys.stderr)


def _numbers(name: str, words: list[str]) -> list[int]:
    """Returns the numbers of a list flag, ascending."""
    valid = bool(words) and all(word.strip().isdigit() and int(word) for word in words)
    require(valid, f"--{name} is '{','.join(words)}'; it takes numbers of at least 1, such as 8,16")
    return sorted({int(word) for word in words})


def decoding(seconds: float) -> None:
    """Compares the decoding speed of GPT and MaskGIT."""
    require(CONFIG.value is None, "decoding takes no --config; its sizes are flags")
    grids, batch_sizes = _numbers("grids", GRIDS.value), _numbers("batch_sizes", BATCH_SIZES.value)
    sizes: dict[str, Any] = {name: flag.value for name, flag in SIZES.items()}
    folder = create_output_directory(OUT.value)
    rows = compare_decoding(folder, Sizes(**sizes), grids, batch_sizes, REPEATS.value, seconds, log)
    print(f"{table(rows)}\nwrote decoding.md, decoding.json and decoding.png to {folder}")


def measure_config(command: str, seconds: float) -> None:
    """Measures a configuration and prints one line of JSON."""
    config = command_line.chosen_config(CONFIG)
    require(
        not SYNTHETIC.value or command != "data",
        "--synthetic has no effect on data, which measures how real data are read; remove it",
    )
    folder = create_output_directory(OUT.value) if flags.FLAGS["out"].present else None
    options = TimingOptions(REPEATS.value, seconds, log)
    measure = {
        "train": lambda: measure_train(config, "configs", options, SYNTHETIC.value),
        "sample": lambda: measure_sample(config, "configs", options, SAMPLE_BATCH_SIZE.value),
        "data": lambda: measure_data(config, options),
    }
    measured = measure[command]()
    for note in measured["notes"]:
        log(f"note: {note}")
    if folder:
        with open(folder / "benchmark.jsonl", "a") as lines:
            lines.write(json.dumps(measured) + "\n")
    print(json.dumps(measured), flush=True)


def main(command: str) -> None:
    """Runs a subcommand."""
    jax.config.update("jax_enable_compilation_cache", False)  # because compilation is timed
    seconds = SECONDS.value
    if command == "decoding":
        decoding(60.0 if seconds is None else seconds)
    else:
        measure_config(command, 20.0 if seconds is None else seconds)


if __name__ == "__main__":
    command_line.run(main, commands=("decoding", "train", "sample", "data"))
