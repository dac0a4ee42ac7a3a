"""The official MaskGIT networks: parity with their own code, see tests/golden/make_maskgit.py."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding import parallel
from maskgit_jax.decoding.settings import DecodeSettings
from maskgit_jax.interop import maskgit
from maskgit_jax.interop.correspondence import export_tree, import_tree
from maskgit_jax.interop.imported import Imported, imagenet_classes, stage_config, vqgan_shapes
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.losses.masked_tokens import masked_mean, token_cross_entropy
from maskgit_jax.losses.quantization import entropy_loss, quantization_loss
from maskgit_jax.stages.maskgit import build_network
from maskgit_jax.stages.vqgan import build_autoencoder, build_discriminator
from tests.golden_values import assert_close, golden, images, recipes, tokenize

GOLDEN = golden("maskgit")


def official(network: str) -> dict[str, np.ndarray]:
    return recipes.flax_arrays(json.loads(str(GOLDEN[f"{network}_shapes"])))


def weights_of(**networks: str) -> Weights:
    """The official arrays of networks, each below a prefix."""
    arrays = {
        f"{prefix}/{name}": value
        for prefix, network in networks.items()
        for name, value in official(network).items()
    }
    return Weights(Path("official.ckpt"), arrays, {})


@pytest.fixture(scope="module")
def tokenizer() -> Imported:
    weights = weights_of(params="tokenizer")
    assert maskgit.is_tokenizer(weights) and not maskgit.is_generator(weights)
    return maskgit.read_tokenizer(weights, 16, None)


@pytest.fixture(scope="module")
def generator(tokenizer) -> Imported:
    weights = weights_of(params="transformer")
    assert maskgit.is_generator(weights) and not maskgit.is_tokenizer(weights)
    return maskgit.read_generator(weights, 0, tokenizer)


def test_sizes_are_read_off_the_shapes(tokenizer, generator):
    assert tokenizer.changes["model.channel_multipliers"] == (1, 2, 2)
    assert tokenizer.changes["model.mid_blocks"] == 1 and tokenizer.dropped == ()
    assert generator.changes["data.num_classes"] == 3
    assert generator.changes["data.image_size"] == 16 and generator.changes["model.num_heads"] == 2
    assert generator.changes["data.class_names"] == ()
    names = imagenet_classes(1000)
    assert len(names) == 1000 and names[207] == "n02099601"  # golden retriever


def test_tokenizer(tokenizer):
    network = build_autoencoder(stage_config(tokenizer))
    image = images("maskgit", (2, 16, 16, 3))
    latents, tokens, decoded = tokenize(network, tokenizer.params["autoencoder"], image)
    assert_close(latents, GOLDEN["features"], 1e-5)
    np.testing.assert_array_equal(tokens, GOLDEN["tokens"])
    assert_close((decoded + 1) / 2, GOLDEN["reconstruction"], 1e-5)


@pytest.mark.parametrize("kind", ["softmax", "argmax"])
def test_quantizer_gradients(tokenizer, kind):
    codebook = 0.05 * tokenizer.params["autoencoder"]["quantizer"]["codebook"]

    def loss(codebook, latents):
        tokens = nearest(codebook, latents)
        entropy = entropy_loss(latents, codebook, kind, temperature=0.01)
        return quantization_loss(latents, codebook[tokens], 0.25) + 0.1 * entropy

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
    value, gradients = gradient(codebook, 0.05 * GOLDEN["features"])
    np.testing.assert_allclose(value, GOLDEN[f"{kind}_loss"], rtol=1e-5)
    assert_close(gradients[0], GOLDEN[f"{kind}_codebook_gradient"], 1e-5)
    assert_close(gradients[1], GOLDEN[f"{kind}_latents_gradient"], 1e-5)


def nearest(codebook, latents):
    distances = ((latents[..., None, :] - codebook[None, None, None]) ** 2).sum(axis=-1)
    return jax.lax.stop_gradient(distances).argmin(axis=-1)


@pytest.mark.slow
def test_discriminator_in_a_checkpoint_of_a_training():
    weights = weights_of(ema_params="tokenizer", d_params="discriminator")
    weights.arrays["g_params/quantizer/codebook"] = np.zeros(3)
    weights.arrays["g_opt_state/0/mu/quantizer/codebook"] = np.zeros(3)
    found = maskgit.read_tokenizer(weights, 0, None)
    config = stage_config(found)
    assert (config.data.image_size, config.discriminator.filters) == (8, 512)
    assert "g_params/quantizer/codebook" in found.dropped and "batch_stats" in found.state
    image = (images("discriminator", (2, 8, 8, 3)) + 1) / 2
    params = {"params": found.params["discriminator"]}
    network = build_discriminator(config)
    logits = jax.jit(lambda image: network.apply(params, image, train=True))(image)
    assert_close(logits, GOLDEN["logits"], 1e-5)
    with pytest.raises(InputError, match="discriminator of images of 8 pixels, not 16"):
        maskgit.read_tokenizer(weights, 16, None)


def test_transformer_and_its_smoothed_loss(generator):
    network = build_network(stage_config(generator))
    inputs = (GOLDEN["input_tokens"], GOLDEN["mask"], GOLDEN["labels"])
    params = {"params": generator.params["prior"]}
    logits = jax.jit(lambda *x: network.apply(params, *x, False, all_rows=True))(*inputs)
    assert_close(logits, GOLDEN["transformer_logits"][:, 1:], 1e-5)
    errors = token_cross_entropy(logits, GOLDEN["input_tokens"], label_smoothing=0.1)
    loss = masked_mean(errors, jnp.asarray(GOLDEN["mask"])).mean()
    np.testing.assert_allclose(loss, GOLDEN["smoothed_loss"], rtol=1e-5)


def test_every_token_of_a_decoding_with_the_same_random_numbers(generator, monkeypatch):
    network = build_network(stage_config(generator))
    params, labels = {"params": generator.params["prior"]}, jnp.asarray(GOLDEN["labels"])
    token_noise, choice_noise = (jnp.asarray(GOLDEN[f"{x}_noise"]) for x in ("token", "choice"))
    # The step takes the place of the keys, and the stored numbers that of the drawn ones.
    replaced = {
        "fold_in_each": lambda _, step: step,
        "split_each": lambda step, num: (step,) * num,
        "draw_each": lambda _, step, *shape: choice_noise[step],
        "sample_categorical": lambda step, logits: (logits + token_noise[step]).argmax(-1),
        "random_halton_order": lambda *_: None,
    }
    for name, function in replaced.items():
        monkeypatch.setattr(parallel, name, function)

    @jax.jit
    def decode(tokens, mask):
        predict = lambda *x: network.apply(params, *x[:2], labels, False)  # noqa: E731
        settings, keys = DecodeSettings(steps=8, choice_temperature=4.5), jax.random.key(0)
        return parallel.decode(predict, tokens, mask, keys, settings, (4, 4))[1].tokens

    blank = jnp.zeros(GOLDEN["input_tokens"].shape, jnp.int32)
    decoded = decode(blank, jnp.ones(blank.shape, bool))
    np.testing.assert_array_equal(decoded, GOLDEN["decoded"].swapaxes(0, 1))


def test_what_is_exported_is_imported_again(tokenizer, generator):
    config = stage_config(tokenizer)
    shapes = {"autoencoder": vqgan_shapes(config)["autoencoder"]}
    arrays = export_tree(tokenizer.params, maskgit.tokenizer_source(config))
    assert arrays.keys() == official("tokenizer").keys()
    again, dropped = import_tree(arrays, shapes, maskgit.tokenizer_source(config))
    jax.tree.map(np.testing.assert_array_equal, again, tokenizer.params)
    network = build_network(stage_config(generator))
    arrays = export_tree(generator.params["prior"], maskgit.generator_source(network))
    for name, value in official("transformer").items():
        np.testing.assert_array_equal(arrays.pop(name), value)
    assert not arrays and not dropped


def test_files_of_other_networks_are_refused(tokenizer):
    arrays = official("tokenizer")
    block = "encoder/ResBlock_1/Conv_0/kernel"
    for change, message in (
        ({block: None}, f"lacks '{block}'"),
        ({block: np.zeros((3, 3, 32, 65))}, r"\(3, 3, 32, 65\), but \(3, 3, 32, 64\) is expected"),
        ({"encoder/attention": np.zeros(3)}, "do not belong to this network.*encoder/attention"),
    ):
        changed = {k: v for k, v in {**arrays, **change}.items() if v is not None}
        with pytest.raises(InputError, match=message):
            maskgit.read_tokenizer(Weights(Path("x"), changed, {}), 16, None)
    with pytest.raises(InputError, match="lacks 'quantizer/codebook'"):
        maskgit.read_tokenizer(Weights(Path("x"), {"a": np.zeros(3)}, {}), 0, None)
    with pytest.raises(InputError, match="image_size 18 is not a multiple of 4"):
        maskgit.read_tokenizer(Weights(Path("x"), arrays, {}), 18, None)
    words = official("transformer")
    words["Embed_0/word_embeddings/embedding"] = np.zeros((9, 16), np.float32)
    with pytest.raises(InputError, match="9 word and 17 position embeddings"):
        maskgit.read_generator(Weights(Path("x"), words, {}), 0, tokenizer)
