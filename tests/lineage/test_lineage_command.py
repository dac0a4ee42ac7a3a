"""The lineage command on the digits."""

import json
import signal

import numpy as np
import pytest
from PIL import Image

from tests.commands import refused, start, succeed
from tests.example import CLASSIFIER_CACHE

CHANGES = {
    "vqgan": (
        "model.filters=8",
        "model.codebook_size=16",
        "model.codebook_dim=4",
        "losses.adversarial_weight=0.0",
        "optimizers.autoencoder.optimizer=adam",
    ),
    "maskgit": (
        "model.codebook_size=16",
        "model.width=16",
        "model.num_layers=1",
        "optimizers.prior.optimizer=adamw",
    ),
}
ARGUMENTS = [
    "--systems=vqgan_maskgit",
    "--num_steps=20",
    "--num=200",
    "--num_novelty=100",
    *(f"--set={stage}.{change}" for stage, changes in CHANGES.items() for change in changes),
]


@pytest.mark.slow
def test_a_lineage_resumes_after_sigterm_and_writes_the_page(tmp_path):
    arguments = [*ARGUMENTS, f"--workdir={tmp_path}/lineage", CLASSIFIER_CACHE]
    process = start("lineage", *arguments)
    assert process.stdout is not None and process.stderr is not None
    while "training vqgan" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.splitlines()[-1].startswith("stopped; the same command resumes: python -m ")

    out = succeed("lineage", *arguments)
    assert "[1 of 4] training vqgan" in out and "[4 of 4] evaluating VQGAN + MaskGIT" in out
    page = (tmp_path / "lineage/lineage.md").read_text()
    assert "| metric | real images | VQGAN + MaskGIT |" in page
    systems = json.loads((tmp_path / "lineage/lineage.json").read_text())["systems"]
    result = systems["vqgan_maskgit"]
    assert result["nfe"] == 17 and result["tokens"] == 16 and result["num"] == 200
    assert result["metrics"]["classification_accuracy_score"][1] > 0.9
    assert result["metrics"]["reconstruction_mse"][0] < 0.2
    with Image.open(tmp_path / "lineage/lineage.png") as figure:
        assert len(np.unique(np.asarray(figure))) > 50


def test_errors_are_found_before_anything_runs(tmp_path):
    workdir = f"--workdir={tmp_path}/lineage"
    assert "/nowhere" in refused("lineage", workdir, "--data=idx:/nowhere")
    message = refused("lineage", workdir, "--preset=folder_small")
    assert "'autoencoder' cannot be trained: no preset 'folder_small'" in message
    assert "--systems" in message
    assert not (tmp_path / "lineage").exists()
