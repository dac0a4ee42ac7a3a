"""The stored result of a system; the evaluation itself is tested in tests/evaluation."""

import json

import jax
import numpy as np
import pytest

from maskgit_jax.configuration import base_config
from maskgit_jax.data.image_sets import ImageSet
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.report import Evaluation, Metric
from maskgit_jax.lineage import measure
from maskgit_jax.lineage.systems import SYSTEMS
from maskgit_jax.runs.directory import load_run, write_config
from maskgit_jax.training.sharding import make_mesh
from tests.example import tiny_stage, trainer
from tests.lineage.test_schedule import schedule_in

METRICS = [
    Metric("reconstruction_mse", 0.01, "lower"),
    Metric("novelty_train_copies", 3, "0", real_value=1, count=300, real_count=50),
]


@pytest.fixture
def schedule(tmp_path):
    """A schedule that reuses an autoencoder, with its initial values."""
    changes = {"model__posterior": "none", "training__best_metric": "reconstruction_mse"}
    stage, config, frozen = tiny_stage("vae", **changes)
    run = trainer(stage, config, frozen, tmp_path / "run")
    run.checkpoints.save(2, run.state, run.data.train, config, None)
    run.checkpoints.close()
    write_config(tmp_path / "run", config)
    line = {"step": 2, "split": "train", "steps_per_second": 1.0}
    (tmp_path / "run/metrics.jsonl").write_text(json.dumps(line) + "\n")
    return schedule_in(tmp_path, reused={"autoencoder": str(tmp_path / "run")})


def test_an_autoencoder_is_evaluated_once_and_has_no_samples(schedule, tmp_path, monkeypatch):
    evaluated = []

    def evaluate(run, workdir, *arguments, **options):
        evaluated.append(workdir)
        return Evaluation("run", {}, METRICS, {"elbo": "no prior"})

    monkeypatch.setattr(measure, "evaluate_loaded", evaluate)
    system, mesh = SYSTEMS["autoencoder"], make_mesh(base_config().mesh, jax.devices()[:1])
    options = EvaluationOptions(mesh, tmp_path / "cache", 64)
    assert measure.read_result(schedule, system) is None
    for _ in range(2):
        measure.measure_system(schedule, system, options)
    assert evaluated == [tmp_path / "run"]

    stored = measure.read_result(schedule, system)
    assert stored is not None
    result, examples = stored
    assert result.nfe is None and result.seconds is None and examples.samples is None
    leaves = jax.tree.leaves(load_run(tmp_path / "run", mesh).variables.params)
    assert result.parameters == sum(np.prod(leaf.shape, dtype=int) for leaf in leaves)
    assert result.metrics["novelty_train_copies"] == [0.01, 0.02], "shares"
    assert result.skipped == {"elbo": "no prior"} and result.minutes == {"autoencoder": 2 / 60}
    assert examples.originals.shape == examples.reconstructions.shape == (10, 16, 16, 1)

    (tmp_path / "run/metrics.jsonl").write_text("")  # as if it were another training
    assert measure.read_result(schedule, system) is None


def test_the_images_on_the_page_are_of_all_classes():
    labels = np.asarray([0] * 50 + [1] * 50 + [2] * 3)
    images = np.broadcast_to(labels[:, None, None, None], (103, 2, 2, 1)).astype(np.uint8)
    chosen = measure.select_of_each_class(ImageSet("images", images, (2, 2, 1), labels))
    assert chosen[:3, 0, 0, 0].tolist() == [0, 1, 2]
    assert chosen.shape == (10, 2, 2, 1)
