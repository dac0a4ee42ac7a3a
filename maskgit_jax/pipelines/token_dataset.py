"""Token datasets: both splits of a dataset, encoded by a tokenizer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.loader import eval_batches
from maskgit_jax.data.protocol import Source
from maskgit_jax.data.sources import absolute_source, open_image_sources
from maskgit_jax.data.tokens import SPLITS, write_description, write_split
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.runs.directory import Run
from maskgit_jax.runs.progress import progress_bar
from maskgit_jax.stage import Tokenizer
from maskgit_jax.training.sharding import check_batch_size
from maskgit_jax.training.variables import weights_checksum


def write_token_dataset(
    run: Run, workdir: str | Path, mesh: Mesh, folder: Path, data_source: str, batch_size: int
) -> tuple[int, int]:
    """Writes the tokens of center crops, without augmentation; returns the sizes of both splits.

    Args:
        run: A run of a tokenizer.
        workdir: Its directory, noted in the dataset.
        mesh: The devices.
        folder: The folder to write.
        data_source: As `config.data.source`; "" for that of the run.
        batch_size: Images per batch.

    Raises:
        InputError: The run is not a tokenizer, or the data are tokens already.
    """
    exports, data = run.stage.exports, run.config.data.copy_and_resolve_references()
    check_batch_size(batch_size, mesh, "--batch_size")
    if not isinstance(exports, Tokenizer):
        raise InputError(
            f"this run holds stage '{run.config.stage}', which is not a tokenizer; give the "
            "--workdir of a run of configs/vqgan.py"
        )
    if data_source:
        with data.unlocked():
            data.source = absolute_source(data_source)
    require(not data.source.startswith("tokens:"), f"{data.source} is encoded already")
    sources, tokenizer = open_image_sources(data), AutoencoderPipeline(run, mesh)

    def encode(source: Source, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with progress_bar(len(source), f"encoding {split} images", "image") as bar:
            for batch in eval_batches(source, data, batch_size):
                valid = batch["valid"] > 0
                yield tokenizer.encode(batch["image"])[valid], batch["label"][valid]
                bar.update(int(valid.sum()))

    (folder / "tokens.json").unlink(missing_ok=True)  # incomplete from here to the end
    splits = (sources.train, sources.evaluation)
    for split, source in zip(SPLITS, splits, strict=True):
        write_split(folder, split, encode(source, split), len(source), exports.codebook_size)
    write_description(
        folder,
        {
            "codebook_size": exports.codebook_size,
            "grids": [list(grid) for grid in exports.grids],
            "class_names": list(sources.class_names),
            "data": data.source,
            "input": data.input,
            "tokenizer": str(Path(workdir).absolute()),
            "step": run.step,
            "weights": weights_checksum(run.variables, mesh),
        },
    )
    return len(splits[0]), len(splits[1])
