"""The page from nothing, by the public command, on the embedded digits."""

import json
import signal

import numpy as np
from PIL import Image

from tests.example import CLASSIFIER_CACHE
from tests.test_commands import refused, run, start

SMALL = {
    "vqgan": (
        "model.filters=8",
        "model.codebook_size=16",
        "model.codebook_dim=4",
        "losses.adversarial_weight=0.0",
    ),
    "maskgit": ("model.codebook_size=16", "model.width=16", "model.num_layers=1"),
}
WORDS = [
    "--systems=vqgan_maskgit",
    "--budget=0.02",
    "--num=200",
    "--num_novelty=100",
    *(f"--set={stage}.{change}" for stage, changes in SMALL.items() for change in changes),
]


def test_the_page_is_made_in_two_sittings(tmp_path):
    words = [*WORDS, f"--workdir={tmp_path}/lineage", CLASSIFIER_CACHE]
    process = start("lineage", *words)
    while "training vqgan" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and out.splitlines()[-1].startswith("stopped;"), err
    steps = json.loads((tmp_path / "lineage/steps.json").read_text())

    code, out, err = run("lineage", *words)
    assert code == 0, err
    assert "measuring how fast vqgan train here: done" in out and "[6 of 6] evaluating" in out
    decided = json.loads((tmp_path / "lineage/steps.json").read_text())
    assert set(decided) == {"vqgan", "maskgit"} and decided["vqgan"] == steps["vqgan"]

    page = (tmp_path / "lineage/lineage.md").read_text()
    assert "| figure | real images | VQGAN + MaskGIT |" in page
    found = json.loads((tmp_path / "lineage/lineage.json").read_text())["systems"]["vqgan_maskgit"]
    assert found["passes"] == 9 and found["tokens"] == 16 and found["num"] == 200
    assert found["figures"]["classification_accuracy_score"][1] > 0.9
    assert found["figures"]["reconstruction_mse"][0] < 0.2
    with Image.open(tmp_path / "lineage/lineage.png") as picture:
        assert len(np.unique(np.asarray(picture))) > 50


def test_what_cannot_work_is_refused_before_anything_runs(tmp_path):
    place = f"--workdir={tmp_path}/lineage"
    assert "/nowhere" in refused("lineage", place, "--data=idx:/nowhere")
    message = refused("lineage", place, "--preset=folder_small")
    assert "'autoencoder' cannot be trained: no preset 'folder_small'" in message
    assert "--systems" in message
    assert not (tmp_path / "lineage").exists()
