"""Several processes as one program: the commands as a user starts them on two hosts."""

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

from maskgit_jax.distributed import _FILTER, _PEER_LINE, PEER_DIED
from maskgit_jax.training.checkpoint import checkpoint_folder, saved_steps
from tests.example import ROOT, TINY
from tests.test_commands import refused

SHORT = {"training.batch_size": 16, "training.log_every": 2, "training.eval_every": 4,
         "training.preview_every": 4, "training.checkpoint_every": 4}  # fmt: skip


def command(module: str, *arguments: str, devices: int) -> subprocess.Popen:
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        [sys.executable, "-m", f"maskgit_jax.{module}", *arguments],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


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


def finish(*processes: subprocess.Popen, code: int = 0) -> list[str]:
    """Waits for all, and returns what they wrote; none is left behind."""
    try:
        written = ["\n".join(process.communicate(timeout=120)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [code] * len(processes), written
    return written


def losses(workdir) -> dict[int, dict[str, float]]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    found: dict[int, dict[str, float]] = {}
    for line in lines:
        found.setdefault(line["step"], {}).update(
            {
                key: value
                for key, value in line.items()
                if isinstance(value, float) and "per_second" not in key
            }
        )
    return found


def samples(workdir, out, *flags: str) -> list[str]:
    return ["--num=24", "--labels=0,3,7", f"--workdir={workdir}", f"--out={out}", *flags]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Tokenizer and MaskGIT, trained by one process of 8 devices, and in parts by two of 4."""
    root = tmp_path_factory.mktemp("processes")
    one, two = root / "one", root / "two"
    frozen = f"--config.tokenizer={one}/vqgan"
    finish(command("train", *training("vqgan", one / "vqgan", 8), devices=8))
    finish(*pair("train", *training("vqgan", two / "vqgan", 4)))
    finish(command("train", *training("vqgan", two / "vqgan", 8), devices=8))  # by two, then one
    mesh = "--config.mesh.fsdp=4"
    finish(command("train", *training("maskgit", one / "maskgit", 8, frozen), devices=8))
    shutil.copytree(one / "maskgit", two / "maskgit")
    shutil.rmtree(checkpoint_folder(two / "maskgit") / "8")
    finish(*pair("train", *training("maskgit", two / "maskgit", 8, frozen, mesh)))  # and reverse
    return one, two


@pytest.mark.parametrize("stage", ["vqgan", "maskgit"])
def test_two_processes_learn_what_one_learns(runs, stage):
    one, two = (losses(root / stage) for root in runs)
    assert list(one) == list(two) == [2, 4, 6, 8]
    for step, expected in one.items():
        for key, value in expected.items():
            np.testing.assert_allclose(two[step][key], value, rtol=1e-5, atol=1e-5, err_msg=key)
    assert len(list((runs[1] / stage / "previews").iterdir())) >= 1


def test_two_processes_draw_what_one_draws(runs, tmp_path):
    workdir = runs[1] / "maskgit"
    finish(command("sample", *samples(workdir, tmp_path / "one.npz"), devices=8))
    written = finish(*pair("sample", *samples(workdir, tmp_path / "two.npz")))
    assert [text.count("wrote 24 images") for text in written] == [1, 0]
    one, two = (np.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    np.testing.assert_array_equal(one["images"], two["images"])


def until_step(processes, workdir, step: int) -> None:
    deadline = time.monotonic() + 90
    path = workdir / "metrics.jsonl"
    while not (path.exists() and f'"step": {step}' in path.read_text()):
        assert time.monotonic() < deadline and processes[0].poll() is None, finish(*processes)
        time.sleep(0.1)


def test_sigterm_to_one_saves_one_step_on_both_and_one_process_goes_on(tmp_path):
    processes = pair("train", *training("vae", tmp_path, 100_000))
    until_step(processes, tmp_path, 6)
    processes[1].send_signal(signal.SIGTERM)
    written = finish(*processes)
    (stopped,) = saved_steps(tmp_path)[-1:]
    assert f"stopped at step {stopped} of 100000; saved" in written[0]
    process = command("train", *training("vae", tmp_path, stopped + 2), devices=8)
    assert f"at step {stopped}" in finish(process)[0]
    assert saved_steps(tmp_path)[-1] == stopped + 2


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_dies_the_other_ends_with_one_line(tmp_path, victim):
    processes = pair("train", *training("vae", tmp_path, 100_000))
    until_step(processes, tmp_path, 4)
    processes[victim].kill()
    begin = time.monotonic()
    other = processes[1 - victim]
    _, errors = other.communicate(timeout=60)
    processes[victim].communicate()
    assert time.monotonic() - begin < 60
    # By itself, or aborted by JAX, if that found out first: in the middle of whatever it did.
    assert other.returncode == PEER_DIED or other.returncode < 0
    lines = [line for line in errors.splitlines() if "Gloo]" not in line]
    assert len(lines) == 1, lines
    (line,) = lines
    assert line.startswith("error: another process of this run ended")


def test_a_process_that_falls_silent_is_told_in_one_line_too():
    """What process 0 of JAX 0.10.2 wrote 30 s after the other was stopped, between lines of ours.

    The record of the silence has three lines, of which only the first says whose it is.
    """
    place = "E1126 19:41:53.903673    2559 coordination_service"
    written = [
        "warning: ours",
        f"{place}.cc:1549] [1019344725602722269] Use error polling to propagate the "
        "following error to all tasks: UNAVAILABLE: The following tasks are unhealthy (stopped "
        "sending heartbeats):",
        "1",
        "The tasks have crashed. Check the task logs for an earlier error, or scheduler events "
        "(e.g. preemption, eviction) to debug further. "
        "[type.googleapis.com/tensorflow.CoordinationServiceError='']",
        f"{place}_agent.cc:289] Polled an error from coordination service (this can be an error "
        "from this or another task).",
        "*** Check failure stack trace: ***",
    ]
    command = [sys.executable, "-S", "-c", _FILTER, _PEER_LINE]
    shown = subprocess.run(command, input="\n".join(written), text=True, capture_output=True)
    assert shown.stderr.splitlines() == ["warning: ours", _PEER_LINE]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=2"], "go together"),
        (["--coordinator=here", "--num_processes=2", "--process_id=0"], "not HOST:PORT"),
        (["--coordinator=here:1", "--num_processes=2", "--process_id=2"], "at most 1"),
    ],
)
def test_processes_that_cannot_meet_are_refused(flags, message):
    assert message in refused("train", *flags)
