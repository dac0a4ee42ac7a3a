"""The jobs of a lineage: order, progress, interruption."""

import jax
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.lineage.jobs import Job, list_jobs, run_jobs
from maskgit_jax.lineage.systems import select_systems
from maskgit_jax.training.sharding import all_devices
from tests.lineage.test_schedule import schedule_in


class Recorder:
    """Jobs that note their titles; a job is done after it ran, if it finishes."""

    def __init__(self):
        self.ran = []

    def job(self, title: str, finishes: bool = True, error: type | None = None) -> Job:
        def run() -> None:
            self.ran.append(title)
            if error is not None:
                raise error("message")

        return Job(title, run, lambda: finishes and title in self.ran, lambda: 2.0)


def titles(schedule, *names: str) -> list[str]:
    options = EvaluationOptions(all_devices(), schedule.workdir / "cache")
    return [job.title for job in list_jobs(schedule, select_systems(names), options, "command")]


def test_jobs_are_in_an_order_that_works(tmp_path):
    assert titles(schedule_in(tmp_path), "vae", "vqgan_gpt") == [
        "measuring the training speed of vae, vqgan",
        "training vae",
        "training vqgan",
        "encoding the images with vqgan",
        "measuring the training speed of gpt",
        "training gpt",
        "evaluating VAE",
        "evaluating VQGAN + GPT",
    ]


def test_given_lengths_and_reused_runs_need_no_jobs(tmp_path):
    schedule = schedule_in(tmp_path, num_steps=3, reused={"vqgan": "elsewhere"})
    assert titles(schedule, "vqgan_maskgit") == [
        "encoding the images with vqgan",
        "training maskgit",
        "evaluating VQGAN + MaskGIT",
    ]


def test_finished_jobs_are_skipped_and_compiled_programs_released(capsys, monkeypatch):
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(True))
    recorder = Recorder()
    jobs = [recorder.job("first"), recorder.job("second"), recorder.job("third")]
    recorder.ran.append("first")
    assert run_jobs(jobs)
    assert recorder.ran == ["first", "second", "third"] and len(cleared) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1 of 3] first: done"
    assert lines[1].startswith("[2 of 3] second, about 2.0 minutes; training left: 4.0 minutes")


@pytest.mark.parametrize("stopped", [{"finishes": False}, {"error": KeyboardInterrupt}])
def test_jobs_after_a_stopped_one_do_not_run(stopped):
    recorder = Recorder()
    assert not run_jobs([recorder.job("stopped", **stopped), recorder.job("next")])
    assert recorder.ran == ["stopped"]


def test_errors_of_a_job_end_the_lineage():
    recorder = Recorder()
    with pytest.raises(InputError, match="message"):
        run_jobs([recorder.job("failing", error=InputError), recorder.job("next")])
    assert recorder.ran == ["failing"]
