"""The command that compiles programs for TPUs without one, as a user runs it."""

import json
from importlib.util import find_spec

import pytest

from maskgit_jax.performance.chips import GIBIBYTE
from tests.commands import TINY_MASKGIT, refused, run

needs_libtpu = pytest.mark.skipif(
    find_spec("libtpu") is None, reason="libtpu, the compiler of TPUs, is not installed"
)
# The codebook size of runs/vqgan-digits, which does not exist: its preset replaces it.
SMALL = [*TINY_MASKGIT, "--config.model.codebook_size=128", "--config.sampling.steps=2"]


@needs_libtpu
@pytest.mark.slow
def test_train_step_and_sampler_compile_for_a_tpu(tmp_path):
    out = tmp_path / "new/folder"
    code, printed, err = run(
        "compile_check", *SMALL, "--topology=v5e:2x2", "--images_per_device=4", f"--out={out}",
        "--config.mesh.data=2", "--config.mesh.fsdp=2",
    )  # fmt: skip
    assert code == 0, err[-3000:]
    values = json.loads((out / "compile_check.json").read_text())
    assert values["stage"] == "maskgit" and "nothing ran" in values["warning"]
    assert [check["program"] for check in values["checks"]] == ["train", "sample"]
    for check in values["checks"]:
        memory = check["memory_bytes"]
        assert check["chip"] == "v5e" and check["chips"] == 4
        assert check["compiled"] and check["compile_seconds"] > 0 and check["batch_size"] == 16
        assert check["fits"] and memory["capacity"] == 15.75 * GIBIBYTE
        assert 0 < memory["arguments"] < memory["total"] < memory["capacity"]
        executed = sum(check["flops_per_device"].values()) * 4
        assert executed == pytest.approx(sum(check["model_flops"].values()), rel=0.01)
        assert check["hbm_bytes_per_device"] > memory["outputs"] and not check["notes"]
        assert f"{check['program']} on v5e:2x2 (data 2, fsdp 2), 16 images (4 a device)" in printed
    train, sample = values["checks"]
    kinds = {row["kind"] for row in train["collectives"]}
    assert kinds & {"all-reduce", "reduce-scatter"} and "all-gather" in kinds
    gradients = 4 * values["parameters"]["prior"]
    # Each gradient is summed over all four devices, most of them in halves first.
    assert 0.3 * gradients < train["sent_bytes_per_device"] < 4 * gradients
    assert train["memory_bytes"]["aliased"] > 0 and sample["memory_bytes"]["aliased"] == 0
    assert train["training_seconds"]["overlapped"] > 0 and "training_seconds" not in sample
    text = (out / "compile_check.md").read_text()
    assert text.count("| v5e:2x2 |") == 2 and "nothing ran" in text and "nothing ran" in printed


def test_gpus_need_no_compiler(tmp_path):
    code, printed, err = run(
        "compile_check", "--config=vqvae", "--topology=h100:2,a100:4", f"--out={tmp_path}"
    )
    assert code == 0, err[-3000:]
    assert printed.count("not compiled") == 2 and "train on a100:4 (data 4)" in printed
    assert "sample on" not in printed  # a tokenizer generates no images
    values = json.loads((tmp_path / "compile_check.json").read_text())
    assert [check["machine"] for check in values["checks"]] == ["h100:2", "a100:4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v5e"], "--topology is 'v5e'; it must be a chip (v4, v5e, v5p, v6e, a100"),
        (["--topology=h100:8", "--programs=train,eval"], "--programs holds 'eval'; allowed: train"),
        (["--topology=h100:6"], "is 64, not a multiple of the 6 data shards"),
        (["--topology=h100:8", "--config.tokenizer=runs/mine"], "neither a run nor named after"),
        (["--topology=h100:8", "--out=setup.py"], "--out=setup.py"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused_in_one_line(arguments, message):
    assert message in refused("compile_check", *arguments)


@needs_libtpu
def test_unknown_topology_is_refused_in_one_line():
    line = refused("compile_check", "--topology=v5e:99x2")
    assert "--topology is 'v5e:99x2', which libtpu does not know" in line
    assert "use one such as v5e:4x4, v5e:16x16" in line
