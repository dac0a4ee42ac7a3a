"""Compiles for TPUs without one: `python -m maskgit_jax.compile_check --config=configs/maskgit.py`.

The train step and the sampler of any stage are compiled for `--topology`, such as v5e:16x16, from
shapes alone: no data, no trained tokenizer, no accelerator. It tells the memory of a device, what
is computed, read and sent, and the time that this takes at least. Of GPUs (h100:8) the same is
reckoned for weights, optimiser and gradients, without compiling. It needs `libtpu`, the compiler
of TPUs: `pip install libtpu`. With `--out` the figures are written there as JSON and Markdown.
"""

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from maskgit_jax import command_line
from maskgit_jax.configuration import require
from maskgit_jax.files import create_output_directory, write_text
from maskgit_jax.performance import report
from maskgit_jax.performance.checks import Check, check_program
from maskgit_jax.performance.machines import EXAMPLES, prepare_environment, read_machine
from maskgit_jax.performance.operations import count_operations
from maskgit_jax.performance.programs import (
    DEFAULT_CLASSES,
    Program,
    System,
    build_system,
    parameters_of,
    sample_program,
    sampler_of,
    train_program,
    without_recomputation,
)
from maskgit_jax.stages import stage_module
from maskgit_jax.training import sharding

CONFIG = config_flags.DEFINE_config_file("config", "configs/maskgit.py", "Stage and preset.")
TOPOLOGY = flags.DEFINE_list("topology", ["v5e:4x4"], f"Chips, or several: {EXAMPLES}.")
PROGRAMS = flags.DEFINE_list("programs", [], "train, sample; default: all that the stage has.")
SAMPLE_BATCH_SIZE = flags.DEFINE_integer(
    "sample_batch_size", 0, "Images that the sampler makes at a time; default: as many as the "
    "train step reads.", lower_bound=0)  # fmt: skip
IMAGES_PER_DEVICE = flags.DEFINE_integer(
    "images_per_device", 0, "Instead of config.training.batch_size: so many times the devices.",
    lower_bound=0)  # fmt: skip
NUM_CLASSES = flags.DEFINE_integer(
    "num_classes", DEFAULT_CLASSES, "Classes, where config.data.num_classes is 0: read from the "
    "data, which are not opened here.", lower_bound=1)  # fmt: skip
OUT = flags.DEFINE_string("out", "", "Folder to write; default: none.")

KNOWN = ("train", "sample")


def main() -> None:
    """Checks what the flags say."""
    config = _config()
    asked = tuple(PROGRAMS.value)
    for name in asked:
        require(name in KNOWN, f"--programs holds '{name}'; allowed: {', '.join(KNOWN)}")
    folder = create_output_directory(OUT.value) if OUT.value else None
    prepare_environment(TOPOLOGY.value)
    machines = [read_machine(name) for name in TOPOLOGY.value]
    require(bool(machines), f"--topology is empty; give one or several of {EXAMPLES}")
    place = Path(flags.FLAGS["config"].config_filename.partition(":")[0]).parent
    system = build_system(config, place)
    plain = build_system(without_recomputation(config), place)
    if not asked:
        asked = KNOWN if sampler_of(system) else KNOWN[:1]
    print(f"{config.stage}:{config.preset}, {_said(parameters_of(system))}\n{report.DISCLAIMER}")
    checks = []
    for machine in machines:
        mesh = sharding.make_mesh(config.mesh, machine.devices)
        for name in asked:
            program, model = (_program(name, which, mesh) for which in (system, plain))
            operations = count_operations(model.function, *model.arguments)
            checks.append(check_program(program, machine, mesh, operations))
            print(f"\n{report.text(checks[-1], config.training.num_steps)}", flush=True)
    if folder:
        _write(folder, system, checks)


def _config() -> ConfigDict:
    """Returns the configuration of the flags, in which the number of classes is known."""
    config = command_line.chosen_config(CONFIG).copy_and_resolve_references()
    stage_module(config.stage)
    with config.unlocked():
        config.data.num_classes = config.data.num_classes or NUM_CLASSES.value
    return config


def _program(name: str, system: System, mesh: jax.sharding.Mesh) -> Program:
    """Returns a program of the batch size that the flags ask for."""
    config = system.config.copy_and_resolve_references()
    with config.unlocked():
        if IMAGES_PER_DEVICE.value:
            config.training.batch_size = IMAGES_PER_DEVICE.value * mesh.size
    if name == "train":
        return train_program(system._replace(config=config), mesh)
    size = SAMPLE_BATCH_SIZE.value or config.training.batch_size
    return sample_program(system, mesh, size)


def _said(parameters: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,} parameters" for name, count in parameters.items())


def _write(folder: Path, system: System, checks: list[Check]) -> None:
    config, parameters = system.config, parameters_of(system)
    steps = config.training.num_steps
    versions = {name: version(name) for name in ("jax", "jaxlib")}
    versions["libtpu"] = version("libtpu") if find_spec("libtpu") else "not installed"
    found = {
        "stage": config.stage,
        "preset": config.preset,
        "config": json.loads(config.to_json()),
        "parameters": parameters,
        "versions": versions,
        "warning": report.DISCLAIMER,
        "checks": [report.record(check, steps) for check in checks],
    }
    write_text(folder / "compile_check.json", json.dumps(found, indent=2) + "\n")
    title = f"# {config.stage}:{config.preset}\n\n{_said(parameters)}; {steps:,} steps; "
    title += ", ".join(f"{name} {number}" for name, number in versions.items())
    text = f"{title}.\n\n{report.table(checks, steps)}\n{report.EXPLANATION}"
    write_text(folder / "compile_check.md", text)
    print(f"\nwrote compile_check.json and compile_check.md to {folder}")


if __name__ == "__main__":
    command_line.run(main)
