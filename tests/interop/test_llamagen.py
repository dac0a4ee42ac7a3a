"""Tokenizers of LlamaGen: features, tokens and images with random weights, and wrong files."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError, load_config
from maskgit_jax.interop.correspondence import export_tree
from maskgit_jax.interop.formats import choose_format, read_format
from maskgit_jax.interop.imported import Imported
from maskgit_jax.interop.llamagen import tokenizer_source
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.losses.quantization import entropy_loss
from maskgit_jax.quantizers.vector import VectorQuantizer, unit_vectors
from maskgit_jax.stages.vqgan import build_autoencoder
from tests.golden_values import assert_close, golden, images, state_dict

STORED = golden("llamagen")
WEIGHTS = Weights(Path("vq.pt"), state_dict(STORED["shapes"]), {})
PARAMS = "params"


def read(weights: Weights = WEIGHTS, image_size: int = 16) -> Imported:
    chosen = choose_format(weights, "tokenizer")
    assert chosen.name == "llamagen"
    return read_format(weights, chosen, image_size)


def test_features_tokens_and_images_equal_those_of_llamagen():
    imported = read()
    module = build_autoencoder(load_config(imported.preset, dtype="float32", **imported.changes))

    @jax.jit
    def run(params, image):
        latents = module.apply({PARAMS: params}, image, method="latents")
        tokens = module.apply({PARAMS: params}, image, method="encode")
        return latents, tokens, module.apply({PARAMS: params}, tokens, method="decode")

    params = imported.params["autoencoder"]
    latents, tokens, decoded = run(params, images("llamagen", (2, 8, 8, 3)))
    assert_close(np.asarray(latents), STORED["latents"], 1e-5)
    np.testing.assert_array_equal(tokens, STORED["tokens"])
    assert_close(np.asarray(decoded), STORED["image"], 1e-5)


@pytest.mark.parametrize("name", ["plain", "entropy"])
def test_losses_and_gradients_of_the_quantizer_equal_those_of_llamagen(name):
    """Gradients pass through the normalization of latents and codes, and through the codes."""
    codebook = WEIGHTS.arrays["quantize.embedding.weight"]
    module = VectorQuantizer(*codebook.shape, normalize=True)

    def loss(latents, codebook):
        quantized = module.apply({PARAMS: {"codebook": codebook}}, latents)
        value = quantized.loss
        if name == "entropy":
            units = unit_vectors(latents), unit_vectors(codebook)
            value = 0.1 * entropy_loss(*units, "softmax", 0.01)
        return (quantized.codes * STORED["weights"]).sum() + value, value

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, value), slopes = grad(jnp.asarray(STORED["latents"]), codebook)
    assert_close(np.asarray(value), STORED[f"{name}_loss"], 1e-5)
    assert_close(np.asarray(slopes[0]), STORED[f"{name}_latents_slope"], 1e-5)
    assert_close(np.asarray(slopes[1]), STORED[f"{name}_codebook_slope"], 1e-5)


def test_sizes_follow_from_the_shapes_and_nothing_is_lost():
    imported = read()
    expected = {
        "data.image_size": 16,
        "model.filters": 64,
        "model.channel_multipliers": (1, 2),
        "model.blocks_per_level": 1,
        "model.attention_sizes": (8,),
        "model.latent_width": 12,
        "model.codebook_size": 32,
        "model.codebook_dim": 4,
        "model.normalize_codes": True,
    }
    assert expected.items() <= imported.changes.items()
    assert imported.dropped == ("quantize.codebook_used",)
    exported = export_tree(imported.params["autoencoder"], lambda path: tokenizer_source(path, 2))
    assert exported.keys() == WEIGHTS.arrays.keys() - {"quantize.codebook_used"}
    for key, array in exported.items():
        np.testing.assert_array_equal(array, WEIGHTS.arrays[key], err_msg=key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decoder.conv_blocks.0.attn.0.k.weight": None},
            "lacks 'decoder.conv_blocks.0.attn.0.k.weight'",
        ),
        ({"quant_conv.weight": None}, "lacks 'quant_conv.weight', a convolution"),
        (
            {"encoder.mid.0.conv1.bias": np.zeros(9, np.float32)},
            r"has 'encoder.mid.0.conv1.bias' of shape \(9,\), but \(128,\) is expected",
        ),
        ({"decoder.conv_blocks.2.res.0.conv1.bias": np.zeros(64, np.float32)}, "do not belong to"),
    ],
)
def test_wrong_files_are_refused_in_one_line(changes, message):
    arrays = {key: x for key, x in {**WEIGHTS.arrays, **changes}.items() if x is not None}
    with pytest.raises(InputError, match=message) as caught:
        read(WEIGHTS._replace(arrays=arrays))
    assert str(caught.value).startswith("vq.pt, read as tokenizer of format 'llamagen', ")
    assert "\n" not in str(caught.value)
