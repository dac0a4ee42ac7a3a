"""Training that gets a signal, cannot write, or loses its terminal."""

import os
import signal
import subprocess
import sys

import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.training.variables import saved_steps
from tests.example import ROOT, tiny_stage, trainer

RARELY = {f"training__{name}_every": 1000 for name in ("log", "eval", "preview", "checkpoint")}


@pytest.fixture(scope="module")
def tiny():
    return tiny_stage("vae", training__num_steps=1000, **RARELY)


def send_at_step(run, step: int, number: int) -> None:
    train_step, calls = run.programs.train_step, iter(range(int(run.state.step) + 1, 1000))

    def step_and_signal(*arguments):
        if next(calls) == step:
            os.kill(os.getpid(), number)
        return train_step(*arguments)

    run.programs = run.programs._replace(train_step=step_and_signal)


@pytest.fixture
def not_ignored():
    """Lets SIGHUP end programs, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.usefixtures("not_ignored")
def test_a_signal_is_answered_at_the_next_step(tiny, tmp_path, capsys):
    stage, config, frozen = tiny
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    for step, number in enumerate(before, start=3):
        run = trainer(stage, config, frozen, tmp_path)
        send_at_step(run, step, number)
        run.run()
        assert saved_steps(tmp_path)[-1] == step
        out = capsys.readouterr().out
        assert f"stop requested, saving\nstopped at step {step} of 1000; saved" in out
        assert {number: signal.getsignal(number) for number in before} == before


def test_a_signal_during_an_evaluation_ends_it_and_evaluated_steps_are_saved(tmp_path):
    stage, config, frozen = tiny_stage(
        "vae", **RARELY | {"training__num_steps": 1000, "training__eval_every": 2}
    )
    run, evaluations = trainer(stage, config, frozen, tmp_path), []
    batches = run.data.evaluation

    def evaluation():
        evaluations.append(0)
        for batch in batches():
            evaluations[-1] += 1
            yield batch
            if len(evaluations) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    run.data = run.data._replace(evaluation=evaluation)
    run.run()
    assert evaluations[0] > 10 and evaluations[1:] == [2]
    assert saved_steps(tmp_path) == [2, 4]


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tiny, tmp_path, monkeypatch):
    stage, config, frozen = tiny
    run = trainer(stage, config, frozen, tmp_path)
    send_at_step(run, 2, signal.SIGTERM)
    run.run()
    run = trainer(stage, config, frozen, tmp_path)
    send_at_step(run, 5, signal.SIGTERM)

    def save(*_):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [28]")

    monkeypatch.setattr(run.checkpoints, "save", save)
    with pytest.raises(InputError, match="No space left on device; the last complete checkpoint is "
                                         "step 2; make room"):  # fmt: skip
        run.run()
    assert saved_steps(tmp_path) == [2]


def test_training_goes_on_without_a_reader_of_its_output(tmp_path):
    script = (
        "import sys, pathlib; from maskgit_jax.training.writers import Writers\n"
        "folder = pathlib.Path(sys.argv[1]); writers = Writers(folder, 0, 3000, 1)\n"
        "for step in range(1, 3001): writers.progress(step, {'a/loss': 1.0}, ['a'])\n"
        "writers.close(); (folder / 'done').touch()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], env=environment, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(100) == 0 and (tmp_path / "done").exists()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3000
