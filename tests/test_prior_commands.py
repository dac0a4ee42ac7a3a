"""Autoregressive priors by the public commands: completion, conditions, sizes, rejection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from maskgit_jax.files import write_arrays
from maskgit_jax.networks.classifier import ImageClassifier
from tests.commands import SHORT, TINY_GPT, TINY_TOKENIZER, refused, succeed

TINY_EDGES = [*TINY_TOKENIZER, "--config.data.input=edges"]
TINY_PIXELCNN = [
    "--config=configs/pixelcnn.py",
    "--config.optimizers.prior.optimizer=adam",
    "--config.model.codebook_size=16",
    "--config.model.features=8",
    "--config.model.num_layers=2",
    "--config.model.head_features=8",
    *SHORT,
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tokenizer, one of edges, a PixelCNN, and a GPT that generates digits from edges."""
    place = tmp_path_factory.mktemp("runs")
    succeed("train", *TINY_TOKENIZER, f"--workdir={place / 'tokenizer'}")
    tokenizer = f"--config.tokenizer={place / 'tokenizer'}"
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
    assert originals[:, 8:].std(axis=1).max() > 0, "the whole image, including the masked part"
    assert (originals[2] != originals[3]).any() and labels[0] == labels[2]
    assert (images[0, 8:] != images[1, 8:]).any(), "samples differ"
    succeed(*sample, "--keep_top=0.5", f"--out={tmp_path / 'a.png'}")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > image.height  # two rows of an original and three samples


def test_a_prior_generates_images_from_conditions_of_any_size(runs, tmp_path):
    assert (runs / "gpt/previews/condition_original_and_samples-0000004.png").exists()
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


def test_rejection_keeps_the_samples_of_highest_confidence(runs, tmp_path):
    network = ImageClassifier(10)
    params = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))["params"]
    leaves = jax.tree.leaves(params)
    write_arrays(tmp_path / "classifier.npz", {f"{i:03d}": leaf for i, leaf in enumerate(leaves)})
    sample = ("sample", f"--workdir={runs / 'pixelcnn'}", "--num=4", "--labels=1,2")
    classifier = f"--classifier={tmp_path / 'classifier.npz'}"
    succeed(*sample, "--rejection_keep=0.5", classifier, f"--out={tmp_path / 'a.npz'}")
    with np.load(tmp_path / "a.npz") as file:
        assert file["labels"].tolist() == [1, 2, 1, 2] and len(file["images"]) == 4
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    other = f"--classifier={tmp_path / 'other.npz'}"
    assert "holds no classifier" in refused(*sample, "--rejection_keep=0.5", other)
    assert "above 0 and at most 1" in refused(*sample, "--rejection_keep=1.5", classifier)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("pixelcnn", ["--size=16x32"], "stage 'pixelcnn' has no setting 'size'"),
        ("pixelcnn", ["--keep_top=1"], "--keep_top is 1.0; it is a share of the rows"),
        ("gpt", ["--input=nowhere"], "nowhere does not exist"),
        ("gpt", ["--size=wide"], "--size is 'wide'; it is written HEIGHTxWIDTH"),
        ("gpt", ["--rejection_keep=0.5"], "--rejection_keep selects among samples of classes"),
    ],
)
def test_sampling_refuses_bad_input_in_one_line(runs, name, arguments, message):
    assert message in refused("sample", f"--workdir={runs / name}", *arguments)


def test_training_refuses_conditions_that_do_not_fit(runs, tmp_path):
    place, tokenizer = f"--workdir={tmp_path / 'run'}", f"--config.tokenizer={runs / 'tokenizer'}"
    edges = f"--config.condition_tokenizer={runs / 'edges'}"
    gpt = ("train", *TINY_GPT, tokenizer, place)
    assert "set both for image-conditional generation" in refused(
        *gpt, "--config.data.condition=edges"
    )
    assert "was trained with data.input edges, but this run needs grey_levels" in refused(
        *gpt, edges, "--config.data.condition=grey_levels"
    )
    assert "--config.data.input=edges" in refused(
        *gpt,
        f"--workdir={tmp_path / 'other'}",
        "--config.data.condition=edges",
        f"--config.condition_tokenizer={tmp_path / 'none'}",
    )
    assert "is conditional on classes only" in refused(
        "train", *TINY_PIXELCNN, tokenizer, place, "--config.data.condition=edges"
    )
    assert "config.data.input is 'cubes'; allowed: image, edges" in refused(
        "train", *TINY_TOKENIZER, "--config.data.input=cubes", place
    )
