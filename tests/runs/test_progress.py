"""Progress without a terminal."""

import time

from maskgit_jax.runs import progress


def test_a_log_gets_a_line_every_ten_seconds(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.progress_bar(100, "sampling", "image", initial=20) as bar:
        for seconds in (14, 5, 5, 10, 30):
            now[0] += seconds
            bar.update(10)
    assert capsys.readouterr().err.splitlines() == [
        "sampling: 30 of 100 images",  # the first update may compile
        "sampling: 50 of 100 images, 25 s left",
        "sampling: 60 of 100 images, 27 s left",
        "sampling: 70 of 100 images, 38 s left",
    ]
