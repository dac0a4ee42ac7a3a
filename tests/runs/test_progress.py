"""Progress without a terminal."""

import time

from maskgit_jax.runs import progress


def test_a_log_gets_a_line_every_ten_seconds(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.progress_bar(100, "sampling", "image", initial=20) as bar:
        for seconds in (4, 4, 4, 4, 30):
            now[0] += seconds
            bar.update(10)
    assert capsys.readouterr().err.splitlines() == [
        "sampling: 50 of 100 images, 20 s left",
        "sampling: 70 of 100 images, 28 s left",
    ]
