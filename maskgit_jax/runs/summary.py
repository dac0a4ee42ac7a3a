"""What a command is about to do, in a few lines: what it reads, what it writes, and where."""

import math
import sys
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax import distributed
from maskgit_jax.data.protocol import Sources
from maskgit_jax.data.sources import describe_sources
from maskgit_jax.runs.directory import Run, abstract_variables
from maskgit_jax.stage import Stage
from maskgit_jax.training.sharding import AXES


def training_summary(
    config: ConfigDict, workdir: Path, stage: Stage, sources: Sources, mesh: Mesh, step: int
) -> str:
    """Returns the lines that precede a training.

    Args:
        config: The resolved configuration.
        workdir: The run directory.
        stage: The stage to train.
        sources: Its images.
        mesh: Its devices.
        step: The step from which it goes on; 0 for a new run.
    """
    training, data = config.training, config.data
    kind = mesh.devices.flat[0].device_kind
    axes = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in AXES)
    channels = "grey" if data.channels == 1 else "RGB"
    epochs = training.num_steps * training.batch_size / len(sources.train)
    networks = count_parameters(stage, config)
    starts = {name: config.optimizers[name].start_step for name in networks}
    rows = {
        "devices": f"{mesh.size} ({kind}), mesh {axes}",
        "data": f"{describe_sources(data.source, sources)}; used at "
        f"{data.image_size}x{data.image_size} pixels, {channels}",
        "networks": ", ".join(
            f"{name} {size:,} parameters" + (f" from step {starts[name]}" if starts[name] else "")
            for name, size in networks.items()
        ),
        "training": f"{training.num_steps} steps of {training.batch_size} images, {epochs:.3g} "
        "epochs" + (f"; resumes at step {step}" if step else ""),
        "run": f"{workdir}; previews in {workdir / 'previews'} every "
        f"{min(training.preview_every, training.num_steps)} steps",
    }
    lines = [f"{name:<9} {text}" for name, text in rows.items()]
    lines += [
        f"warning: the {name} starts at step {start}, but the training ends at step "
        f"{training.num_steps}: it never acts; lower config.optimizers.{name}.start_step"
        for name, start in starts.items()
        if start >= training.num_steps
    ]
    finished = step >= training.num_steps
    return "\n".join(
        [*lines, "nothing is left to train" if finished else "compiling the train step"]
    )


def count_parameters(stage: Stage, config: ConfigDict) -> dict[str, int]:
    """Returns the number of parameters of each network of a stage."""
    params = abstract_variables(stage, config).params
    return {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for name, tree in params.items()
    }


def announce(run: Run, workdir: str | Path, written: str | Path) -> None:
    """Prints on stderr which run a command reads and what it writes."""
    if distributed.is_main():
        text = f"{workdir}: {run.config.stage} at step {run.step}, trained on"
        guide = f"; guided by {run.guide}" * bool(run.guide)
        text = f"{text} {run.config.data.source}{guide}; writes {written}"
        print(text, file=sys.stderr, flush=True)
