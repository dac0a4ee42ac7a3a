"""Writes a dataset of tokens: `python -m maskgit_jax.encode --workdir=RUN --out=DIR`.

Train on it with `--config.data.source=tokens:DIR`.
"""

from pathlib import Path

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.files import create_output_directory
from maskgit_jax.model import load
from maskgit_jax.runs.summary import announce

WORKDIR = flags.DEFINE_string("workdir", "runs/vqgan-digits", "Run directory of a tokenizer.")
OUT = flags.DEFINE_string("out", "", "Folder to write; by default WORKDIR/tokens.")
DATA = flags.DEFINE_string(
    "data", "", "Images to encode, as in config.data.source; by default those of the run."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Number of images per batch.", lower_bound=1)


def main() -> None:
    """Encodes both splits of a dataset."""
    model = load(WORKDIR.value)
    folder = create_output_directory(OUT.value or Path(WORKDIR.value) / "tokens")
    announce(model.run, model.workdir, folder)
    counts = model.write_tokens(folder, DATA.value, BATCH_SIZE.value)
    print(f"wrote the tokens of {' + '.join(map(str, counts))} images to {folder}")


if __name__ == "__main__":
    command_line.run(main)
