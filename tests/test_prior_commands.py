"""Autoregressive priors by the public commands: completion, conditions, sizes, rejection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from maskgit_jax.files import write_arrays
from maskgit_jax.networks.classifier import ImageClassifier
from maskgit_jax.pipelines.rejection import candidates, most_confident
from tests.test_commands import TINY_VQGAN, refused, run, train_vqgan

SHORT = [
    "--config.training.batch_size=16",
    "--config.training.num_steps=3",
    "--config.training.preview_every=3",
]
TINY_EDGES = [
    "--config=configs/vqvae.py",
    "--config.data.input=edges",
    "--config.model.filters=8",
    "--config.model.residual_filters=4",
    "--config.model.codebook_size=16",
    "--config.model.codebook_dim=4",
    *SHORT,
]
TINY_GPT = [
    "--config=configs/gpt.py",
    "--config.model.codebook_size=16",
    "--config.model.width=16",
    "--config.model.num_layers=1",
    "--config.model.num_heads=2",
    "--config.model.mlp_width=32",
    *SHORT,
]
TINY_PIXELCNN = [
    "--config=configs/pixelcnn.py",
    "--config.model.codebook_size=16",
    "--config.model.features=8",
    "--config.model.num_layers=2",
    "--config.model.head_features=8",
    *SHORT,
]


def succeed(module: str, *arguments) -> str:
    code, out, err = run(module, *arguments)
    assert code == 0, err[-3000:]
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tokenizer, one of edges, a PixelCNN, and a GPT that makes digits from edges."""
    place = tmp_path_factory.mktemp("runs")
    code, _, err = train_vqgan(place / "vqgan", 3)
    assert code == 0, err[-3000:]
    tokenizer = f"--config.tokenizer={place / 'vqgan'}"
    succeed("train", *TINY_EDGES, f"--workdir={place / 'edges'}")
    succeed("train", *TINY_PIXELCNN, tokenizer, f"--workdir={place / 'pixelcnn'}")
    succeed(
        "train", *TINY_GPT, tokenizer, "--config.data.condition=edges",
        f"--config.condition_tokenizer={place / 'edges'}", f"--workdir={place / 'gpt'}",
    )  # fmt: skip
    return place


def test_a_prior_completes_images(runs, tmp_path):
    out = tmp_path / "a.npz"
    sample = ("sample", f"--workdir={runs / 'pixelcnn'}", "--num=6", "--num_per_input=3")
    succeed(*sample, "--keep_top=0.5", f"--out={out}")
    with np.load(out) as file:
        images, originals, labels = file["images"], file["image"], file["labels"]
    np.testing.assert_array_equal(images[:, :8], originals[:, :8])
    np.testing.assert_array_equal(originals[0], originals[2])
    assert originals[:, 8:].std(axis=1).max() > 0, "the whole picture, also what was masked"
    assert (originals[2] != originals[3]).any() and labels[0] == labels[2]
    assert (images[0, 8:] != images[1, 8:]).any(), "variants differ"
    succeed(*sample, "--keep_top=0.5", f"--out={tmp_path / 'a.png'}")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > picture.height  # two rows of an original and three variants


def test_a_prior_makes_images_from_others_of_any_size(runs, tmp_path):
    assert (runs / "gpt/previews/condition_original_and_samples-0000003.png").exists()
    out = tmp_path / "a.npz"
    succeed("sample", f"--workdir={runs / 'gpt'}", "--num=5", f"--out={out}")
    with np.load(out) as file:
        assert file["images"].shape == file["condition"].shape == (5, 16, 16, 1)
        assert set(np.unique(file["condition"])) == {0, 255}
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 70, 3), np.uint8)).save(tmp_path / "mine.png")
    succeed(
        "sample", f"--workdir={runs / 'gpt'}", "--num=2", f"--input={tmp_path / 'mine.png'}",
        "--size=16x32", "--top_k=4", "--top_p=0.9", "--labels=3", f"--out={out}",
    )  # fmt: skip
    with np.load(out) as file:
        assert file["images"].shape == file["condition"].shape == (2, 16, 32, 1)
        assert file["labels"].tolist() == [3, 3]


def test_the_surest_samples_are_kept(runs, tmp_path):
    network = ImageClassifier(10)
    params = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))["params"]
    leaves = jax.tree.leaves(params)
    write_arrays(tmp_path / "judge.npz", {f"{i:03d}": leaf for i, leaf in enumerate(leaves)})
    sample = ("sample", f"--workdir={runs / 'pixelcnn'}", "--num=4", "--labels=1,2")
    judge = f"--classifier={tmp_path / 'judge.npz'}"
    succeed(*sample, "--rejection_keep=0.5", judge, f"--out={tmp_path / 'a.npz'}")
    with np.load(tmp_path / "a.npz") as file:
        assert file["labels"].tolist() == [1, 2, 1, 2] and len(file["images"]) == 4
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    other = f"--classifier={tmp_path / 'other.npz'}"
    assert "holds no classifier" in refused(*sample, "--rejection_keep=0.5", other)
    assert "above 0 and at most 1" in refused(*sample, "--rejection_keep=1.5", judge)


def test_surest_by_hand():
    made = candidates([7, 3, 7], 0.5)
    assert made == [7, 7, 7, 7, 3, 3]
    assert most_confident(np.asarray([0.1, 0.9, 0.3, 0.8, 0.2, 0.6]), made, [7, 3, 7]) == [1, 5, 3]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("pixelcnn", ["--size=16x32"], "stage 'pixelcnn' has no setting 'size'"),
        ("pixelcnn", ["--keep_top=1"], "--keep_top is 1.0; it is a share of the rows"),
        ("gpt", ["--input=nowhere"], "nowhere does not exist"),
        ("gpt", ["--size=wide"], "--size is 'wide'; it is written HEIGHTxWIDTH"),
        ("gpt", ["--rejection_keep=0.5"], "--rejection_keep chooses among samples of classes"),
    ],
)
def test_sampling_refuses_bad_input_in_one_line(runs, name, arguments, message):
    assert message in refused("sample", f"--workdir={runs / name}", *arguments)


def test_training_refuses_conditions_that_do_not_fit(runs, tmp_path):
    place, tokenizer = f"--workdir={tmp_path / 'run'}", f"--config.tokenizer={runs / 'vqgan'}"
    edges = f"--config.condition_tokenizer={runs / 'edges'}"
    gpt = ("train", *TINY_GPT, tokenizer, place)
    assert "images made from others need both" in refused(*gpt, "--config.data.condition=edges")
    assert "was trained with data.input edges, but this run needs grey_levels" in refused(
        *gpt, edges, "--config.data.condition=grey_levels"
    )
    assert "--config.data.input=edges" in refused(
        *gpt,
        f"--workdir={tmp_path / 'other'}",
        "--config.data.condition=edges",
        f"--config.condition_tokenizer={tmp_path / 'none'}",
    )
    assert "makes images of a class only" in refused(
        "train", *TINY_PIXELCNN, tokenizer, place, "--config.data.condition=edges"
    )
    assert "config.data.input is 'cubes'; allowed: image, edges" in refused(
        "train", *TINY_VQGAN, "--config.data.input=cubes", place
    )
