"""Writes a dataset of tokens: `python -m maskgit_jax.encode --workdir=RUN --out=DIR`.

Train on it with `--config.data.source=tokens:DIR`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from maskgit_jax import command_line
from maskgit_jax.configuration import InputError, base_config, require
from maskgit_jax.data.loader import eval_batches
from maskgit_jax.data.sources import Source, open_sources
from maskgit_jax.data.tokens import SPLITS, write_description, write_split
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.runs.directory import load_run
from maskgit_jax.stage import Tokenizer
from maskgit_jax.training.sharding import check_batch_size, make_mesh

WORKDIR = flags.DEFINE_string("workdir", "runs/vqgan-digits", "Run of a tokenizer.")
OUT = flags.DEFINE_string("out", "", "Folder to write; default WORKDIR/tokens.")
DATA = flags.DEFINE_string("data", "", "Images to encode, as in config.data.source; default "
                           "those of the run.")  # fmt: skip
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images at a time.", lower_bound=1)


def encoded(
    tokenizer: AutoencoderPipeline, source: Source, data: ConfigDict, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields tokens [B, L] and labels [B] of all images in order, middle squares, unflipped."""
    for batch in eval_batches(source, data, batch_size):
        valid = batch["valid"] > 0
        yield tokenizer.encode(batch["image"])[valid], batch["label"][valid]


def main() -> None:
    """Encodes both splits of a dataset."""
    place = Path(OUT.value or Path(WORKDIR.value) / "tokens")
    mesh = make_mesh(base_config().mesh)
    check_batch_size(BATCH_SIZE.value, mesh, "--batch_size")
    run = load_run(WORKDIR.value, mesh)
    exports = run.stage.exports
    if not isinstance(exports, Tokenizer):
        raise InputError(
            f"this run holds stage '{run.config.stage}', which is no tokenizer; give the --workdir "
            "of a run of configs/vqgan.py"
        )
    tokenizer = AutoencoderPipeline(run, mesh)
    data = run.config.data
    if DATA.value:
        with data.unlocked():
            data.source = DATA.value
    require(not data.source.startswith("tokens:"), f"{data.source} is encoded already")
    sources = open_sources(data)
    for split, source in zip(SPLITS, (sources.train, sources.evaluation), strict=True):
        batches = encoded(tokenizer, source, data, BATCH_SIZE.value)
        total = -(-len(source) // BATCH_SIZE.value)
        progress = tqdm(batches, desc=split, total=total, unit="batch", disable=None)
        write_split(place, split, progress, len(source), exports.codebook_size)
    write_description(
        place,
        {
            "codebook_size": exports.codebook_size,
            "grids": [list(grid) for grid in exports.grids],
            "class_names": list(sources.class_names),
            "data": data.source,
            "view": data.input,
            "tokenizer": str(WORKDIR.value),
            "step": run.step,
        },
    )
    counts = f"{len(sources.train)} + {len(sources.evaluation)}"
    print(f"wrote tokens of {counts} images to {place}")


if __name__ == "__main__":
    command_line.run(main)
