"""Writes weights for others: `python -m maskgit_jax.export_weights --workdir=RUN --out=FILE`.

The tokenizer of a run is RUN/frozen/tokenizer.
"""

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.interop.formats import EXPORTS
from maskgit_jax.runs.foreign import export_weights
from maskgit_jax.training.sharding import all_devices

WORKDIR = flags.DEFINE_string("workdir", "", "Run directory, or RUN/frozen/tokenizer.")
OUT = flags.DEFINE_string("out", "", "File to write; with --format=diffusers a folder.")
FORMAT = flags.DEFINE_enum(
    "format",
    "safetensors",
    [each.name for each in EXPORTS],
    "safetensors: any run, by the names of this package; others: for the code of that project.",
)


def main() -> None:
    """Exports the averages of the parameters where they are kept."""
    path = export_weights(WORKDIR.value, OUT.value, FORMAT.value, all_devices())
    size = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
    print(f"wrote {path} ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    command_line.run(main)
