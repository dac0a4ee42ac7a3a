"""Imports published weights: `python -m maskgit_jax.import_weights --tokenizer=FILE --workdir=RUN`.

docs/ready_models.md lists the files, and where to get them.
"""

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.hints import python_command
from maskgit_jax.interop.formats import AUTO, format_names
from maskgit_jax.runs.foreign import import_run

TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    "",
    "Weights of a tokenizer: a file or folder; without them those in the file of the generator.",
)
GENERATOR = flags.DEFINE_string(
    "generator", "", "Weights of a prior on its tokens; without them the run is the tokenizer."
)
WORKDIR = flags.DEFINE_string("workdir", "", "Run directory to write.")
FORMAT = flags.DEFINE_enum(
    "format",
    AUTO,
    [AUTO, *format_names()],
    "Project of the weights; auto: by the names and shapes of their arrays.",
)
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 0, "Side of the images in pixels; 0: that of the published model.", lower_bound=0
)


def main() -> None:
    """Imports a tokenizer, or a tokenizer and a generator."""
    words = (TOKENIZER.value, GENERATOR.value, WORKDIR.value, FORMAT.value, IMAGE_SIZE.value)
    folder = import_run(*words)
    command, data = ("sample", []) if GENERATOR.value else ("evaluate", ["--data=folder:images"])
    print(f"wrote {folder}; next: {python_command(command, [f'--workdir={folder}', *data])}")


if __name__ == "__main__":
    command_line.run(main)
