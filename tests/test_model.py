"""The Python API: fit, load, sample, encode, decode, edit, evaluate."""

import jax
import numpy as np
import pytest
from PIL import Image

import maskgit_jax
from maskgit_jax.training.sharding import make_mesh
from tests.example import CLASSIFIER_CACHE, tiny_config

INPUT = maskgit_jax.InputError


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tokenizer and a MaskGIT on it, both tiny, trained through the API."""
    place = tmp_path_factory.mktemp("models")
    tokenizer = maskgit_jax.fit(tiny_config("vqvae"), place / "vqvae", training__num_steps=4)
    config = tiny_config("maskgit", tokenizer=str(place / "vqvae"), training__num_steps=4)
    return tokenizer, maskgit_jax.fit(config, place / "maskgit", losses__label_dropout_rate=0.1)


def test_fit_takes_the_name_of_a_configuration_and_resumes(models, tmp_path):
    _, model = models
    assert model.run.step == 4 and model.config.losses.label_dropout_rate == 0.1
    assert "maskgit" in repr(model) and model.class_names == tuple("0123456789")
    with pytest.raises(INPUT, match="no preset 'huge'"):
        maskgit_jax.fit("vqgan:huge", tmp_path)
    with pytest.raises(INPUT, match="num_step"):
        maskgit_jax.fit("vqgan:digits", tmp_path, training__num_step=3)
    with pytest.raises(INPUT, match="holds no run"):
        maskgit_jax.load(tmp_path)


def test_sample_takes_numbers_names_and_single_labels(models):
    _, model = models
    images = model.sample(labels=[0, "3", 7], steps=2, seed=0)
    assert images.shape == (3, 16, 16, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, model.sample(labels=["0", 3, 7], steps=2, seed=0))
    assert model.sample(labels=3, steps=2).shape == (1, 16, 16, 1)
    assert model.labels(None, 12) == [*range(10), 0, 1] and model.labels(["1", 2], 3) == [1, 2, 1]
    with pytest.raises(INPUT, match="--num=2 is smaller than the 4 labels"):
        model.sample(labels=[0, 1, 2, 3], num=2)
    with pytest.raises(INPUT, match="label '3.7' is neither"):
        model.sample(labels=3.7)
    with pytest.raises(INPUT, match="label 10 is out of range"):
        model.sample(labels=[10])
    with pytest.raises(INPUT, match="label 'cat' is neither"):
        model.sample(labels="cat")
    with pytest.raises(INPUT, match="has no setting 'stepz'"):
        model.sample(labels=[0], stepz=3)


def test_the_tokens_of_samples_decode_to_the_samples(models):
    tokenizer, model = models
    tokens = model.sample_tokens(labels=[0, 3, 7], steps=2, seed=5)
    assert tokens.shape == (3, 16) and tokens.dtype == np.int32
    np.testing.assert_array_equal(
        model.decode(tokens), model.sample(labels=[0, 3, 7], steps=2, seed=5)
    )
    np.testing.assert_array_equal(tokenizer.decode(tokens[0]), model.decode(tokens)[:1])
    with pytest.raises(INPUT, match="generates no images"):
        tokenizer.sample()


def test_encode_takes_arrays_pil_images_and_files(models, tmp_path):
    tokenizer, model = models
    images = model.sample(labels=[1, 2], steps=2)
    tokens = tokenizer.encode(images)
    np.testing.assert_array_equal(tokens, model.encode(list(images)))
    np.testing.assert_array_equal(tokenizer.reconstruct(images), tokenizer.decode(tokens))
    pil = Image.fromarray(images[0, ..., 0])
    pil.save(tmp_path / "a.png")
    for image in (images[0], pil, str(tmp_path / "a.png"), images[0, ..., 0], pil.convert("RGB")):
        np.testing.assert_array_equal(tokenizer.encode(image), tokens[:1])
    assert tokenizer.encode(pil.resize((50, 40))).shape == (1, 16)
    for given in (images / 255, (images[0] / 255).astype(np.float16), jax.numpy.asarray(images)):
        np.testing.assert_array_equal(
            tokenizer.encode(given), tokens[: len(given) if given.ndim > 3 else 1]
        )
    photo = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    np.testing.assert_array_equal(tokenizer.encode(photo), tokenizer.encode(Image.fromarray(photo)))
    for wrong, message in (
        (images.astype(np.float32), "floats has values from .* to .*; give floats in"),
        (images[0] / 127.5 - 1, "floats has values from -.* to"),
        (np.full((16, 16, 1), np.nan), "floats has values from nan to nan"),
        (images.astype(np.int32), "an image is int32; give uint8 from 0 to 255, or floats"),
        (images[:, None], r"an array \[H, W, 1\], a PIL image or a file name, not uint8 \[1, 16"),
        (None, "NoneType is no image"),
        ([], "no image is given"),
    ):
        with pytest.raises(INPUT, match=message):
            tokenizer.encode(wrong)
    with pytest.raises(INPUT, match="nowhere.png does not exist"):
        tokenizer.encode("nowhere.png")


def test_only_tokens_of_the_run_are_decoded(models):
    tokenizer, _ = models
    tokens = np.arange(16).reshape(1, 16)
    assert tokenizer.decode(tokens[0].tolist()).shape == (1, 16, 16, 1)
    for wrong, message in (
        (tokens + 1, "token 16 is out of range; this run has the codes 0 to 15"),
        (tokens - 1, "token -1 is out of range"),
        (tokens[:, :15], r"tokens are integers \[N, 16\] here, not int64 \[1, 15\]"),
        (tokens.reshape(1, 4, 4), r"not int64 \[1, 4, 4\]"),
        (tokens / 2, r"not float64 \[1, 16\]"),
        ([], r"not float64 \[1, 0\]"),
    ):
        with pytest.raises(INPUT, match=message):
            tokenizer.decode(wrong)


def test_edits_take_pil_images_masks_and_class_names(models):
    _, model = models
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 32, 1), np.uint8)
    mask = np.zeros((16, 32), bool)
    mask[4:12, 20:28] = True
    result = model.inpaint(image, mask, label=3, num=2, steps=2)
    assert result.images.shape == (2, 16, 32, 1)
    np.testing.assert_array_equal(result.images[:, ~mask], np.stack([image[~mask]] * 2))
    pil = Image.fromarray(image[..., 0])
    white = Image.fromarray(np.uint8(mask) * 255)
    painted = np.full((16, 32, 4), 255, np.uint8) * np.uint8([1, 1, 1, 0])
    painted[mask, 3] = 255  # white on transparency: what is transparent is white, too
    for given in (white, Image.fromarray(painted)):
        named = model.inpaint(pil, given, label="3", num=2, steps=2)
        np.testing.assert_array_equal(named.images, result.images)
    assert model.outpaint(pil, right=8, steps=2).images.shape == (1, 16, 40, 1)
    assert model.replace(pil, (0, 0, 8, 8), "7", steps=2).images.shape == (1, 16, 32, 1)
    assert model.variations(pil, keep=0.5, steps=2).images.shape == (1, 16, 32, 1)
    columns = model.interpolate(pil, pil, columns=3, steps=2).images
    assert columns.shape == (3, 16, 32, 1)
    with pytest.raises(INPUT, match="the mask is 16x16 pixels and the image 32x16"):
        model.inpaint(image, mask[:, :16])
    with pytest.raises(INPUT, match="generates no images; train a prior on it"):
        models[0].inpaint(image, mask)


def test_completions_keep_the_top_of_held_out_images(models):
    _, model = models
    inputs = model.conditioning_images(num=4, keep_top=0.5, num_per_input=2)
    images = model.sample(num=4, inputs=inputs, steps=2)
    originals = inputs.read_input(0)["image"]
    np.testing.assert_array_equal(images[0, :8], originals[:8])
    assert model.conditioning_images() is None
    with pytest.raises(INPUT, match="--input has no effect"):
        model.conditioning_images("held_out")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_evaluate_returns_metrics(models, monkeypatch):
    monkeypatch.setenv("MASKGIT_JAX_CACHE", CLASSIFIER_CACHE.partition("=")[2])
    mesh = make_mesh(models[0].config.mesh, jax.devices()[:1])
    model = maskgit_jax.load(models[0].workdir, mesh=mesh)
    metrics = model.evaluate(features=["none"])
    assert 0 < metrics["reconstruction_mse"] < 1 and metrics["codebook_usage"] > 0
    # Other weights at the same step: nothing that was stored is used.
    other = jax.tree.map(lambda leaf: leaf * 1.5, model.run.variables)
    model.run = model.run._replace(variables=other)
    assert model.evaluate(features=["none"])["reconstruction_mse"] != metrics["reconstruction_mse"]


def test_a_token_dataset_holds_the_tokens_of_both_splits(models, tmp_path):
    tokenizer, model = models
    assert tokenizer.write_tokens(tmp_path) == (1437, 360)
    with pytest.raises(INPUT, match="is not a tokenizer"):
        model.write_tokens(tmp_path)
