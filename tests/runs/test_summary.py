"""What a training says before it compiles."""

from pathlib import Path

import jax
import pytest

from maskgit_jax.data.sources import open_sources
from maskgit_jax.runs.summary import count_parameters, training_summary
from maskgit_jax.training.sharding import make_mesh
from tests.example import tiny_stage


def summary(stage: str, step: int = 0, **changes) -> list[str]:
    built, config, _ = tiny_stage(stage, **changes)
    mesh = make_mesh(config.mesh, jax.devices()[:2])
    sources = open_sources(config.data)
    return training_summary(config, Path("runs/x"), built, sources, mesh, step).splitlines()


def test_the_summary_names_devices_data_networks_and_folders():
    lines = summary("vqgan")
    assert lines[0] == "devices   2 (cpu), mesh data 2 x fsdp 1 x tensor 1"
    assert lines[1].startswith(
        "data      digits: 1437 training and 360 held-out images, 10 classes"
    )
    assert " parameters, discriminator " in lines[2] and lines[2].endswith(" from step 2")
    assert lines[3] == "training  8 steps of 16 images, 0.0891 epochs"
    assert lines[4] == "run       runs/x; previews in runs/x/previews every 8 steps"
    assert lines[5:] == ["compiling the train step"]


def test_a_network_that_would_never_act_is_warned_about():
    for stage, name, start in (("vqgan", "discriminator", 8), ("gpt", "prior", 1_000)):
        changes = {f"optimizers__{name}__start_step": start}
        (warning,) = (line for line in summary(stage, **changes) if "warning: " in line)
        assert f"the {name} starts at step {start}" in warning
        assert "the training ends at step 8: it never acts" in warning
    without = {"losses__adversarial_weight": 0.0, "optimizers__discriminator__start_step": 99}
    assert not any("discriminator" in line for line in summary("vqgan", **without))


def test_a_resumed_and_a_finished_run_say_so():
    assert "resumes at step 4" in "\n".join(summary("vae", step=4))
    assert summary("vae", step=8)[-1] == "nothing is left to train"


@pytest.mark.parametrize("stage", ["vae", "vqvae2", "maskgit"])
def test_parameters_are_counted_without_computing_them(stage):
    built, config, frozen = tiny_stage(stage)
    counted = count_parameters(built, config)
    assert set(counted) <= set(config.optimizers) and all(size > 100 for size in counted.values())
