"""Evaluations of runs and of image files in process."""

import dataclasses

import jax
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.evaluation import report
from maskgit_jax.evaluation.decoder_comparison import compare_decoders, compare_inpainting
from maskgit_jax.evaluation.evaluate import evaluate_loaded
from maskgit_jax.evaluation.generated_images import evaluate_images
from maskgit_jax.pipelines import classifier
from maskgit_jax.runs.directory import Run
from tests.example import digits_batch, tiny_stage


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 20)


def untrained_run(name: str) -> Run:
    stage, config, frozen = tiny_stage(name)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    stages = {} if not frozen else {"tokenizer": tiny_stage("vqgan")[0]}
    return Run(config, stage, variables._replace(frozen=frozen), 3, stages)


@pytest.mark.slow
def test_vae_is_evaluated_without_a_run_directory(options):
    options = dataclasses.replace(options, num_likelihood=40, iw_samples=2, num_neighbours=100)
    evaluation = evaluate_loaded(untrained_run("vae"), None, options, num=80)
    names = {metric.name for metric in evaluation.metrics}
    assert {
        "reconstruction_mse", "reconstruction_frechet_distance", "reconstruction_mse_shuffled",
        "elbo", "active_units", "bits_per_dimension", "interpolation_precision",
        "frechet_distance", "novelty_train_copies",
    } <= names  # fmt: skip
    assert evaluation.title == "vae" and evaluation.settings["num"] == 80
    assert len(names) == len(evaluation.metrics), "every metric once"


@pytest.mark.slow
def test_maskgit_is_evaluated_and_its_decoders_compared(options, tmp_path):
    run = untrained_run("maskgit")
    evaluation = evaluate_loaded(run, tmp_path, options, num=80, settings={"steps": 2})
    names = {metric.name for metric in evaluation.metrics}
    assert {
        "classifier_accuracy", "classification_accuracy_score", "unigram_bits_per_token",
        "token_accuracy", "sample_duplicates",
    } <= names  # fmt: skip
    assert evaluation.settings["steps"] == 2
    report.write(tmp_path, evaluation)
    assert report.read(tmp_path)[0].metrics == evaluation.metrics
    with pytest.raises(InputError, match="has no setting 'pixels'"):
        evaluate_loaded(run, tmp_path, options, num=80, settings={"pixels": "mean"})
    decoders = {"decoders": ["halton"], "num": 80}
    table = compare_decoders(run, tmp_path, options, nfe=[2], guidances=[0.0], **decoders)
    assert len(table.splitlines()) == 4
    assert (tmp_path / "decoder_comparison.md").read_text() == table
    table = compare_inpainting(run, tmp_path, options, nfe=2, **decoders)
    assert "| mean of training images |" in table and (tmp_path / "inpainting.png").exists()


@pytest.mark.slow
def test_runs_without_a_generator_refuse_sampling_settings(options):
    run = untrained_run("vqvae")
    with pytest.raises(InputError, match="--steps has no effect on a run that generates no images"):
        evaluate_loaded(run, None, options, settings={"steps": 2})


def test_images_are_evaluated_without_a_network(
    real, generated, options, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(classifier, "fit_classifier", None)
    np.savez(tmp_path / "mine.npz", images=generated[:20], labels=np.arange(20) % 10)
    np.savez(tmp_path / "real.npz", images=real.training.images, labels=real.training.labels)
    evaluation = evaluate_images(
        str(tmp_path / "mine.npz"),
        dataclasses.replace(options, features={}),
        tmp_path,
        reference=str(tmp_path / "real.npz"),
    )
    names = [metric.name for metric in evaluation.metrics]
    assert names == ["sample_duplicates", "novelty_train_copies"]
    assert evaluation.settings["features"] == "none"
    assert "--features=none" in evaluation.skipped.values()
    assert "| novelty_train_copies | 0     |" in capsys.readouterr().err


@pytest.mark.slow
def test_images_are_evaluated_against_images(real, generated, options, tmp_path):
    np.savez(tmp_path / "mine.npz", images=generated[:80])
    np.savez(tmp_path / "real.npz", images=real.training.images, labels=real.training.labels)
    evaluation = evaluate_images(
        str(tmp_path / "mine.npz"), options, tmp_path, reference=str(tmp_path / "real.npz"), num=70
    )
    metrics = {metric.name: metric for metric in evaluation.metrics}
    assert metrics["novelty_train_copies"].value == 0 and metrics["recall"].count == 70
    assert "novelty_closer_than_heldout" in evaluation.skipped
    with pytest.raises(InputError, match="--num=90, but"):
        evaluate_images(str(tmp_path / "mine.npz"), options, tmp_path, data="digits", num=90)
