"""One training in a run directory at a time."""

import os
import socket
import subprocess
import sys
import time

import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.runs import lock
from maskgit_jax.runs.lock import lock_run
from tests.example import ROOT


def test_a_second_training_is_refused_while_the_first_one_lasts(tmp_path):
    (tmp_path / "config.json").touch()
    with lock_run(tmp_path):
        owner = f"process {os.getpid()} on {socket.gethostname()}; wait for it"
        with pytest.raises(InputError, match=owner), lock_run(tmp_path):
            pass
    with lock_run(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    script = (
        "import os, sys, pathlib; from maskgit_jax.runs.lock import lock_run\n"
        "with lock_run(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, tmp_path], env=environment)
    assert (tmp_path / "lock").read_text().startswith(socket.gethostname())
    with lock_run(tmp_path):
        pass


def test_another_host_keeps_its_lock_while_it_renews_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.3)
    (tmp_path / "config.json").touch()
    (tmp_path / "lock").write_text("elsewhere 7\n")
    with lock_run(tmp_path):  # It is not renewed.
        pass
    assert "waiting" in capsys.readouterr().out
    (tmp_path / "lock").write_text("elsewhere 7\n")
    later = (time.time() + 1,) * 2
    monkeypatch.setattr(lock.time, "sleep", lambda _: os.utime(tmp_path / "lock", later))
    with pytest.raises(InputError, match="process 7 on elsewhere"), lock_run(tmp_path):
        pass


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(InputError, match="lock cannot be written: Not a directory"):
        (tmp_path / "file").touch()
        with lock_run(tmp_path / "file"):
            pass
