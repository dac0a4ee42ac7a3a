"""Several processes as one program: the commands as users start them on two hosts."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from maskgit_jax.distributed import PEER_DIED
from maskgit_jax.training.variables import checkpoint_folder, saved_steps
from tests.commands import refused
from tests.example import ROOT, TINY

SHORT = {"training.batch_size": 16, "training.log_every": 2, "training.eval_every": 4,
         "training.preview_every": 4, "training.checkpoint_every": 4}  # fmt: skip


def command(module: str, *arguments: str, devices: int) -> subprocess.Popen:
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        [sys.executable, "-m", f"maskgit_jax.{module}", *arguments],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


# Without evaluations and previews, which would be compiled, too.
ENDLESS = [f"--config.training.{name}_every=100_000" for name in ("eval", "preview")]


def training(stage: str, workdir, steps: int, *more: str) -> list[str]:
    changes = {**TINY[stage], **SHORT, "training.num_steps": steps}
    settings = [f"--config.{key}={value}" for key, value in changes.items()]
    return [f"--config=configs/{stage}.py", *settings, f"--workdir={workdir}", *more]


def pair(module: str, *arguments: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = [f"--coordinator=localhost:{port}", "--num_processes=2"]
    return [
        command(module, *arguments, *flags, f"--process_id={number}", devices=4)
        for number in range(2)
    ]


def finish(*processes: subprocess.Popen) -> list[str]:
    """Waits until all processes succeed and returns their output."""
    try:
        output = ["\n".join(process.communicate(timeout=300)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), output
    return output


def losses(workdir) -> dict[int, dict[str, float]]:
    steps: dict[int, dict[str, float]] = {}
    for line in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()):
        steps.setdefault(line["step"], {}).update(
            (key, value)
            for key, value in line.items()
            if isinstance(value, float) and "per_second" not in key
        )
    return steps


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tokenizer and a MaskGIT, trained by one process of 8 devices and by two of 4."""
    # MaskGIT goes on from one process to two; from two to one: the test of SIGTERM.
    root = tmp_path_factory.mktemp("processes")
    one, two = root / "one", root / "two"
    # Muon takes longer to compile, five times.
    frozen = [f"--config.tokenizer={one}/vqvae", "--config.optimizers.prior.optimizer=adamw"]
    finish(command("train", *training("vqvae", one / "vqvae", 8), devices=8))
    finish(*pair("train", *training("vqvae", two / "vqvae", 8)))
    mesh = "--config.mesh.fsdp=4"
    finish(command("train", *training("maskgit", one / "maskgit", 8, *frozen), devices=8))
    shutil.copytree(one / "maskgit", two / "maskgit")
    shutil.rmtree(checkpoint_folder(two / "maskgit") / "8")
    finish(*pair("train", *training("maskgit", two / "maskgit", 8, *frozen, mesh)))  # one, then two
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vqvae", "maskgit"])
def test_two_processes_train_like_one(runs, stage):
    one, two = (losses(root / stage) for root in runs)
    assert list(one) == list(two) == [2, 4, 6, 8]
    for step, expected in one.items():
        for key, value in expected.items():
            np.testing.assert_allclose(two[step][key], value, rtol=1e-5, atol=1e-5, err_msg=key)
    assert len(list((runs[1] / stage / "previews").iterdir())) >= 1


@pytest.mark.slow
def test_two_processes_sample_like_one(runs, tmp_path):
    flags = ["--num=24", "--labels=0,3,7", f"--workdir={runs[1] / 'maskgit'}"]
    finish(command("sample", *flags, f"--out={tmp_path / 'one.npz'}", devices=8))
    output = finish(*pair("sample", *flags, f"--out={tmp_path / 'two.npz'}"))
    assert [text.count("wrote 24 images") for text in output] == [1, 0]
    one, two = (np.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    np.testing.assert_array_equal(one["images"], two["images"])


def until_step(processes, workdir, step: int) -> None:
    deadline = time.monotonic() + 240
    path = workdir / "metrics.jsonl"
    while not (path.exists() and f'"step": {step}' in path.read_text()):
        assert time.monotonic() < deadline and processes[0].poll() is None, finish(*processes)
        time.sleep(0.1)


@pytest.mark.slow
def test_sigterm_to_one_process_stops_both_at_one_step(tmp_path):
    processes = pair("train", *training("vae", tmp_path, 100_000, *ENDLESS))
    until_step(processes, tmp_path, 6)
    processes[1].send_signal(signal.SIGTERM)
    output = finish(*processes)
    (stopped,) = saved_steps(tmp_path)[-1:]
    assert f"stopped at step {stopped} of 100000; saved" in output[0]
    process = command("train", *training("vae", tmp_path, stopped + 2, *ENDLESS), devices=8)
    assert f"at step {stopped}" in finish(process)[0]
    assert saved_steps(tmp_path)[-1] == stopped + 2


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_process_dies_the_other_ends(tmp_path, victim):
    processes = pair("train", *training("vae", tmp_path, 100_000, *ENDLESS))
    until_step(processes, tmp_path, 4)
    processes[victim].kill()
    other = processes[1 - victim]
    _, errors = other.communicate(timeout=120)
    processes[victim].communicate()
    # Ended by itself with one line of ours, or aborted by JAX if JAX noticed it first.
    assert other.returncode == PEER_DIED or other.returncode < 0, errors
    if other.returncode == PEER_DIED:
        assert "error: another process of this run died" in errors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=2"], "go together"),
        (["--coordinator=here", "--num_processes=2", "--process_id=0"], "not HOST:PORT"),
        (["--coordinator=here:1", "--num_processes=2", "--process_id=2"], "at most 1"),
    ],
)
def test_invalid_process_flags_are_refused(flags, message):
    assert message in refused("train", *flags)
