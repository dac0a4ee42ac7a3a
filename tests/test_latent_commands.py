"""The public commands on autoencoders and VAEs, run as a user runs them."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.example import CLASSIFIER_CACHE
from tests.test_commands import refused, run

TINY_VAE = [
    "--config=configs/vae.py",
    "--config.model.filters=8",
    "--config.model.residual_filters=4",
    "--config.model.num_latents=4",
    "--config.training.batch_size=16",
    "--config.training.num_steps=4",
]


@pytest.fixture(scope="module")
def latent_runs(tmp_path_factory):
    """A VAE and a plain autoencoder, both tiny."""
    place = tmp_path_factory.mktemp("latent_runs")
    code, _, err = run("train", *TINY_VAE, f"--workdir={place / 'vae'}")
    assert code == 0, err[-3000:]
    code, _, err = run(
        "train", *TINY_VAE, "--config.model.posterior=none",
        "--config.training.best_metric=reconstruction_mse", f"--workdir={place / 'autoencoder'}",
    )  # fmt: skip
    assert code == 0, err[-3000:]
    return place


def test_a_vae_is_sampled_and_its_latents_are_shown(latent_runs, tmp_path):
    vae = f"--workdir={latent_runs / 'vae'}"
    code, _, err = run(
        "sample", vae, "--num=5", "--temperature=0.5", "--pixels=draw", f"--out={tmp_path}/a.npz"
    )
    assert code == 0, err[-3000:]
    with np.load(tmp_path / "a.npz") as file:
        assert file["images"].shape == (5, 16, 16, 1) and file.files == ["images"], "no labels"
    for what, rows, columns in (("interpolations", 3, 12), ("traversals", 4, 10)):
        out = tmp_path / f"{what}.png"
        code, _, err = run("sample", vae, f"--mode={what}", f"--num={rows}", f"--out={out}")
        assert code == 0, err[-3000:]
        with Image.open(out) as picture:
            assert picture.size == (columns * 66 + 2, rows * 66 + 2)


def figures_of(workdir) -> dict[str, float]:
    (evaluation,) = json.loads((workdir / "evaluation.json").read_text()).values()
    return {figure["name"]: figure["value"] for figure in evaluation["figures"]}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_vae_is_evaluated_as_first_stage_and_as_generator(latent_runs, tmp_path):
    workdir = latent_runs / "vae"
    code, out, err = run(
        "evaluate", f"--workdir={workdir}", "--num=70", "--iw_samples=3", "--num_likelihood=20",
        CLASSIFIER_CACHE,
    )  # fmt: skip
    assert code == 0, err[-3000:]
    found = figures_of(workdir)
    np.testing.assert_allclose(
        found["elbo"],
        found["elbo_reconstruction"] - found["mutual_information"] - found["marginal_kl"],
        rtol=1e-6,
    )
    assert {"reconstruction_mse", "reconstruction_mse_shuffled", "active_units", "precision",
            "collapsed_units_0.1", "log_likelihood_bound", "bits_per_dimension",
            "interpolation_precision", "frechet_distance", "copies"} <= set(found)  # fmt: skip
    assert "classification_accuracy_score" not in found and "have no labels" in out
    (plot,) = workdir.glob("evaluation/*/posterior.png")
    with Image.open(plot) as picture:
        assert picture.width > 500
    numbers = json.loads(plot.with_suffix(".json").read_text())
    assert len(numbers["kl_per_unit"]) == 4 and len(numbers["epsilons"]) == 81


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_autoencoder_is_evaluated_and_makes_no_images(latent_runs, tmp_path):
    workdir = latent_runs / "autoencoder"
    code, out, err = run("evaluate", f"--workdir={workdir}", CLASSIFIER_CACHE)
    assert code == 0, err[-3000:]
    found = figures_of(workdir)
    assert {"reconstruction_mse_shuffled", "interpolation_precision"} <= set(found)
    assert "elbo" not in found and "neither posteriors nor a prior" in out
    code, _, err = run(
        "sample", f"--workdir={workdir}", "--mode=traversals", f"--out={tmp_path}/t.png"
    )
    assert code == 0, err[-3000:]
    assert "config.model.posterior is 'none'" in refused("sample", f"--workdir={workdir}")
    assert "--steps says nothing to a run that makes no images" in refused(
        "evaluate", f"--workdir={workdir}", "--steps=3", CLASSIFIER_CACHE
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels=3"], "stage 'vae' knows no classes"),
        (["--steps=4"], "has no setting 'steps'; its settings are temperature, pixels"),
        (["--temperature=-1"], "temperature is -1.0"),
        (["--mode=interpolations", "--num=181"], "need 362 held-out images, and there are 360"),
        (["--mode=traversals", "--out=a.npz"], "traversals are written as .png"),
        (["--mode=traversals", "--labels=3"], "--labels says nothing to --mode=traversals"),
        (["--mode=traversals", "--steps=3"], "--steps says nothing to --mode=traversals"),
    ],
)
def test_sampling_a_vae_refuses_bad_input_in_one_line(latent_runs, arguments, message):
    assert message in refused("sample", f"--workdir={latent_runs / 'vae'}", *arguments)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_latents_of_a_small_folder_of_images_of_all_sizes(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(60):
        size = (20 + number % 7, 24)
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.png")
    run_of = f"--workdir={tmp_path / 'run'}"
    code, _, err = run(
        "train", *TINY_VAE, f"--config.data.source=folder:{tmp_path / 'images'}",
        "--config.data.channels=3", "--config.data.eval_fraction=0.4", run_of,
    )  # fmt: skip
    assert code == 0, err[-3000:]
    for what in ("interpolations", "traversals"):
        code, _, err = run(
            "sample", run_of, f"--mode={what}", "--num=2", "--batch_size=3",
            f"--out={tmp_path}/{what}.png",
        )  # fmt: skip
        assert code == 0, err[-3000:]

    # Too few images for distances of distributions; all else is measured.
    code, out, err = run("evaluate", run_of, f"--cache={tmp_path}", "--iw_samples=2", "--num=20")
    assert code == 0, err[-3000:]
    assert "elbo" in out and "not measured: generation" in out
    assert "not measured: interpolation_frechet_distance" in out


def test_an_older_run_is_named_and_a_refused_restart_leaves_the_run_as_it_was(
    latent_runs, tmp_path
):
    shutil.copytree(latent_runs / "vae", tmp_path / "run")
    path = tmp_path / "run/config.json"
    config = json.loads(path.read_text())
    del config["model"]["likelihood"]
    path.write_text(json.dumps(config))
    assert "written by another version" in refused("sample", f"--workdir={tmp_path / 'run'}")
    message = refused("train", *TINY_VAE, f"--workdir={tmp_path / 'run'}")
    assert "config.model.likelihood was unknown and is gaussian" in message
    assert "likelihood" not in json.loads(path.read_text())["model"]
