"""What is kept of an evaluated system; the evaluation itself is tested where it is done."""

import jax
import numpy as np
import pytest

from maskgit_jax.configuration import base_config
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.report import Evaluation, Metric
from maskgit_jax.lineage import measure
from maskgit_jax.lineage.systems import SYSTEMS
from maskgit_jax.runs.directory import load_run, write_config
from maskgit_jax.training.sharding import make_mesh
from tests.example import tiny_stage, trainer
from tests.lineage.test_schedule import plan_in

FIGURES = [
    Metric("reconstruction_mse", 0.01, "lower"),
    Metric("novelty_train_copies", 3, "0", real_value=1, count=300, real_count=50),
]


@pytest.fixture
def plan(tmp_path):
    """Of an autoencoder that was trained for two steps."""
    changes = {"model__posterior": "none", "training__best_metric": "reconstruction_mse"}
    stage, config, frozen = tiny_stage("vae", training__num_steps=2, **changes)
    run = trainer(stage, config, frozen, tmp_path / "run")
    write_config(tmp_path / "run", config)
    run.run()
    return plan_in(tmp_path, reused={"autoencoder": str(tmp_path / "run")})


def test_a_system_that_makes_no_images(plan, tmp_path, monkeypatch):
    settings = []

    def evaluated(*arguments, **options):
        settings.append(arguments)
        return Evaluation("run", {}, FIGURES, {"elbo": "none"})

    monkeypatch.setattr(measure, "evaluate_run", evaluated)
    system, mesh = SYSTEMS["autoencoder"], make_mesh(base_config().mesh, jax.devices()[:1])
    asked = EvaluationOptions(mesh, tmp_path / "cache", 64)
    assert measure.read_result(plan, system) is None
    for _ in range(2):
        measure.measure_system(plan, system, asked, lambda text: None)
    assert len(settings) == 1, "evaluated once"

    result, pictures = measure.read_result(plan, system)
    assert result.passes is None and result.seconds is None and pictures.made is None
    run = load_run(tmp_path / "run", mesh)
    leaves = jax.tree.leaves(run.variables.params)
    assert result.parameters == sum(np.prod(leaf.shape, dtype=int) for leaf in leaves)
    assert result.figures["novelty_train_copies"] == [0.01, 0.02], "shares"
    assert result.left_out == {"elbo": "none"} and result.minutes["autoencoder"] > 0
    assert pictures.originals.shape == pictures.restored.shape == (10, 16, 16, 1)

    (tmp_path / "run/metrics.jsonl").write_text("")  # as if it were another training
    assert measure.read_result(plan, system) is None


def test_some_of_each_class_are_shown():
    labels = np.asarray([0] * 50 + [1] * 50 + [2] * 3)
    source = [{"label": label, "image": np.full((2, 2, 1), label, np.uint8)} for label in labels]

    class Source(list):
        shape = (2, 2, 1)

    shown = measure._one_of_each(Source(source))
    assert shown[:3, 0, 0, 0].tolist() == [0, 1, 2]
    assert shown.shape == (10, 2, 2, 1)
