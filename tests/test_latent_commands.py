"""The public commands on autoencoders and VAEs, run as a user runs them."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.commands import SHORT, refused, succeed
from tests.example import CLASSIFIER_CACHE

TINY_VAE = [
    "--config=configs/vae.py",
    "--config.model.filters=8",
    "--config.model.residual_filters=4",
    "--config.model.num_latents=4",
    *SHORT,
]


@pytest.fixture(scope="module")
def latent_runs(tmp_path_factory):
    """A VAE and a plain autoencoder, both tiny."""
    place = tmp_path_factory.mktemp("latent_runs")
    succeed("train", *TINY_VAE, f"--workdir={place / 'vae'}")
    succeed("train", *TINY_VAE, "--config.model.posterior=none",
            "--config.training.best_metric=reconstruction_mse",
            f"--workdir={place / 'autoencoder'}")  # fmt: skip
    return place


def test_a_vae_is_sampled_and_its_latents_are_shown(latent_runs, tmp_path):
    vae = f"--workdir={latent_runs / 'vae'}"
    out = f"--out={tmp_path}/a.npz"
    succeed("sample", vae, "--num=5", "--temperature=0.5", "--pixels=draw", out)
    with np.load(tmp_path / "a.npz") as file:
        assert file["images"].shape == (5, 16, 16, 1) and file.files == ["images"], "no labels"
    for mode, rows, columns in (("interpolations", 3, 12), ("traversals", 4, 10)):
        path = tmp_path / f"{mode}.png"
        succeed("sample", vae, f"--mode={mode}", f"--num={rows}", f"--out={path}")
        with Image.open(path) as image:
            assert image.size == (columns * 66 + 2, rows * 66 + 2)


def evaluated_metrics(workdir) -> dict[str, float]:
    (evaluation,) = json.loads((workdir / "evaluation.json").read_text()).values()
    return {metric["name"]: metric["value"] for metric in evaluation["metrics"]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_vae_is_evaluated_as_first_stage_and_as_generator(latent_runs):
    workdir = latent_runs / "vae"
    out = succeed("evaluate", f"--workdir={workdir}", "--num=70", "--iw_samples=3",
                  "--num_likelihood=20", CLASSIFIER_CACHE)  # fmt: skip
    values = evaluated_metrics(workdir)
    np.testing.assert_allclose(
        values["elbo"],
        values["elbo_reconstruction"] - values["mutual_information"] - values["marginal_kl"],
        rtol=1e-6,
    )
    assert {
        "reconstruction_mse",
        "reconstruction_mse_shuffled",
        "active_units",
        "precision",
        "collapsed_units_0.1",
        "log_likelihood_bound",
        "bits_per_dimension",
        "interpolation_precision",
        "frechet_distance",
        "novelty_train_copies",
    } <= set(values)
    assert "classification_accuracy_score" not in values and "have no labels" in out
    (plot,) = workdir.glob("evaluation/*/posterior.png")
    with Image.open(plot) as image:
        assert image.width > 500
    numbers = json.loads(plot.with_suffix(".json").read_text())
    assert len(numbers["kl_per_unit"]) == 4 and len(numbers["epsilons"]) == 81


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_autoencoder_is_evaluated_and_generates_no_images(latent_runs, tmp_path):
    workdir = latent_runs / "autoencoder"
    out = succeed("evaluate", f"--workdir={workdir}", CLASSIFIER_CACHE)
    values = evaluated_metrics(workdir)
    assert {"reconstruction_mse_shuffled", "interpolation_precision"} <= set(values)
    assert "elbo" not in values and "neither posteriors nor a prior" in out
    succeed("sample", f"--workdir={workdir}", "--mode=traversals", f"--out={tmp_path}/t.png")
    assert "config.model.posterior is 'none'" in refused("sample", f"--workdir={workdir}")
    assert "--steps has no effect on a run that generates no images" in refused(
        "evaluate", f"--workdir={workdir}", "--steps=3", CLASSIFIER_CACHE
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels=3"], "stage 'vae' has no classes"),
        (["--steps=4"], "has no setting 'steps'; its settings are temperature, pixels"),
        (["--temperature=-1"], "temperature is -1.0"),
        (["--mode=interpolations", "--num=181"], "need 362 held-out images, and there are 360"),
        (["--mode=traversals", "--out=a.npz"], "a.npz; it must end in .png, .jpg"),
        (["--mode=traversals", "--labels=3"], "--labels has no effect on --mode=traversals"),
        (["--mode=traversals", "--steps=3"], "--steps has no effect on --mode=traversals"),
    ],
)
def test_sampling_a_vae_refuses_bad_input_in_one_line(latent_runs, arguments, message):
    assert message in refused("sample", f"--workdir={latent_runs / 'vae'}", *arguments)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_latents_of_a_small_folder_of_images_of_all_sizes(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(60):
        pixels = rng.integers(0, 256, (20 + number % 7, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.png")
    workdir = f"--workdir={tmp_path / 'run'}"
    succeed("train", *TINY_VAE, f"--config.data.source=folder:{tmp_path / 'images'}",
            "--config.data.channels=3", "--config.data.eval_fraction=0.4", workdir)  # fmt: skip
    for mode in ("interpolations", "traversals"):
        succeed("sample", workdir, f"--mode={mode}", "--num=2", "--batch_size=3",
                f"--out={tmp_path}/{mode}.png")  # fmt: skip

    # There are too few images for distances of distributions; everything else is measured.
    out = succeed("evaluate", workdir, f"--cache={tmp_path}", "--iw_samples=2", "--num=20")
    assert "elbo" in out and "skipped: generation" in out
    assert "skipped: interpolation_frechet_distance" in out


def test_an_older_run_is_named_and_a_refused_restart_leaves_it_unchanged(latent_runs, tmp_path):
    shutil.copytree(latent_runs / "vae", tmp_path / "run")
    path, workdir = tmp_path / "run/config.json", f"--workdir={tmp_path / 'run'}"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model": {**config["model"], "filters": 16}}))
    message = refused("sample", workdir)  # edited by hand
    assert "config.model.filters was 8 in training and is 16; change it back" in message
    del config["model"]["likelihood"]
    path.write_text(json.dumps(config))
    assert "config.model.likelihood was 'gaussian' in training" in refused("sample", workdir)
    message = refused("train", *TINY_VAE, workdir)
    assert "config.model.likelihood was 'absent' and is 'gaussian'" in message
    assert "likelihood" not in json.loads(path.read_text())["model"]
    del config["optimizers"]  # as before the keys were renamed
    path.write_text(json.dumps(config))
    for command in (("sample", workdir), ("train", *TINY_VAE, workdir)):
        assert "older version of maskgit_jax" in refused(*command)
