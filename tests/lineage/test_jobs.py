"""The commands behind the page, and how they are stopped."""

import os
import signal
import threading

import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.lineage.jobs import Stopped, Task, run_all, tasks
from maskgit_jax.lineage.systems import SYSTEMS, chosen_systems
from tests.lineage.test_schedule import plan_in


def task(*command: str, done: bool = False) -> Task:
    return Task("something", lambda: list(command), lambda: None, lambda: done)


def titles(plan, *names: str) -> list[str]:
    return [each.title for each in tasks(plan, chosen_systems(names), ["--flag"])]


def test_all_is_done_in_an_order_that_works(tmp_path):
    assert titles(plan_in(tmp_path), "vae", "vqgan_gpt") == [
        "measuring how fast vae, vqgan train here",
        "training vae",
        "training vqgan",
        "encoding the images by vqgan",
        "measuring how fast gpt train here",
        "training gpt",
        "evaluating all systems and writing the page",
    ]


def test_nothing_is_measured_that_needs_not_be(tmp_path):
    steps = plan_in(tmp_path, num_steps=3, reused={"vqgan": "elsewhere"})
    assert titles(steps, "vqgan_maskgit") == [
        "encoding the images by vqgan",
        "training maskgit",
        "evaluating all systems and writing the page",
    ]


def test_commands_say_all_that_differs_from_a_preset(tmp_path):
    plan = plan_in(tmp_path, num_steps=3)
    todo = {each.title: each for each in tasks(plan, list(SYSTEMS.values()), ["--flag"])}
    command = todo["training autoencoder"].command()
    assert command[:2] == ["maskgit_jax.train", "--config=configs/vae.py:digits"]
    assert "--config.model.posterior=none" in command
    assert f"--workdir={plan.workdir}/autoencoder" in command
    last = todo["evaluating all systems and writing the page"].command()
    assert last == ["maskgit_jax.lineage", "--flag", "--task=evaluate"]


def test_what_is_done_is_not_done_again(capsys):
    run_all([task("no_such_module", done=True)])
    assert "[1 of 1] something: done" in capsys.readouterr().out


def test_a_command_that_fails_is_named():
    with pytest.raises(InputError, match=r"failed \(exit code 1\): python -m no_such_module -x"):
        run_all([task("no_such_module", "-x")])


def test_a_training_that_was_stopped_by_others_is_not_taken_for_finished():
    with pytest.raises(InputError, match="something ended before its end; start this command"):
        run_all([task("site")])
    run_all([task("site")._replace(keeps_going=True)])


def test_a_wish_to_stop_reaches_the_command(tmp_path, monkeypatch):
    # The command says that it runs, and ends well when it is asked to.
    (tmp_path / "waits.py").write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        f"pathlib.Path({str(tmp_path)!r}, 'runs').touch()\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def ask() -> None:
        while not (tmp_path / "runs").exists():
            stopped.wait(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    stopped = threading.Event()
    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(Stopped):
        run_all([task("waits"), task("no_such_module")])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
