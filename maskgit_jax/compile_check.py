"""Compiles programs for TPUs without one: `python -m maskgit_jax.compile_check --config=CONFIG`.

Compiles the train step and the sampler of a stage for `--topology`, such as v5e:16x16, from shapes
alone: no data, no trained tokenizer, no accelerator. Prints the memory of a device, FLOPs, memory
traffic, collectives, and lower bounds of the time. It needs `libtpu`, the compiler of TPUs
(`pip install libtpu`). For GPUs (h100:8) nothing is compiled: memory covers weights, optimizer
state and batch. `--out` writes the estimates as JSON and Markdown.
"""

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.files import create_output_directory
from maskgit_jax.performance import report
from maskgit_jax.performance.checks import PROGRAMS, Check, CheckOptions, check_config
from maskgit_jax.performance.machines import EXAMPLES
from maskgit_jax.performance.programs import DEFAULT_CLASSES

CONFIG = command_line.define_config("configs/maskgit.py")
TOPOLOGY = flags.DEFINE_list("topology", ["v5e:4x4"], f"Chips, one or several of {EXAMPLES}.")
PROGRAM_NAMES = flags.DEFINE_list(
    "programs", [], f"Programs to check: {', '.join(PROGRAMS)}; default: all of the stage."
)
SAMPLE_BATCH_SIZE = flags.DEFINE_integer(
    "sample_batch_size", 0, "Images that the sampler generates at a time; default: the batch size "
    "of training.", lower_bound=0)  # fmt: skip
IMAGES_PER_DEVICE = flags.DEFINE_integer(
    "images_per_device", 0, "Batch size per device, instead of config.training.batch_size.",
    lower_bound=0)  # fmt: skip
NUM_CLASSES = flags.DEFINE_integer(
    "num_classes", DEFAULT_CLASSES, "Number of classes where config.data.num_classes is 0, because "
    "the data are not opened.", lower_bound=1)  # fmt: skip
OUT = flags.DEFINE_string("out", "", "Folder for compile_check.json and .md; default: none.")


def main() -> None:
    """Checks the programs of a configuration on each topology."""
    config = command_line.chosen_config(CONFIG)
    folder = create_output_directory(OUT.value) if OUT.value else None
    options = CheckOptions(
        PROGRAM_NAMES.value, SAMPLE_BATCH_SIZE.value, IMAGES_PER_DEVICE.value, NUM_CLASSES.value
    )

    def show(check: Check) -> None:
        print(f"\n{report.text(check, config.training.num_steps)}", flush=True)

    run, checks = check_config(config, TOPOLOGY.value, options, report=show)
    print(f"\n{report.headline(run)}\n{report.DISCLAIMER}")
    if folder:
        report.write_report(folder, run, checks)
        print(f"wrote compile_check.json and compile_check.md to {folder}")


if __name__ == "__main__":
    command_line.run(main)
