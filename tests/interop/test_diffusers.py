import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from maskgit_jax.configuration import InputError, load_config
from maskgit_jax.interop import diffusers_vqmodel
from maskgit_jax.interop.formats import choose_format, read_format
from maskgit_jax.interop.weight_files import Weights, read_weights
from maskgit_jax.stage import Variables
from maskgit_jax.stages.vqgan import build_autoencoder
from tests.golden_values import assert_close, golden, images, state_dict

IMAGES = images("diffusers", (2, 8, 8, 3))


def read(weights):
    return read_format(weights, choose_format(weights, "tokenizer"), 8)


def config_of(imported):
    return load_config(imported.preset, dtype="float32", **imported.changes)


def decode(imported, image):
    """Latents, tokens and images of the tokens."""
    autoencoder = build_autoencoder(config_of(imported))
    params = {"params": imported.params["autoencoder"]}

    def method(name, *inputs):
        return autoencoder.apply(params, *inputs, method=name)

    tokens = method("encode", image)
    return method("latents", image), tokens, method("decode", tokens)


@pytest.fixture(scope="module")
def stored():
    return golden("diffusers")


@pytest.fixture(scope="module")
def weights(stored):
    config = {"_class_name": "VQModel", **json.loads(str(stored["config"]))}
    return Weights(Path("model.safetensors"), state_dict(stored["shapes"]), config)


@pytest.fixture(scope="module")
def imported(weights):
    return read(weights)


@pytest.fixture(scope="module")
def folder(imported, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "vqvae"
    variables = Variables(imported.params, imported.state, {})
    diffusers_vqmodel.write_folder(config_of(imported), variables, path)
    return path


def test_the_network_agrees_with_diffusers(imported, stored):
    latents, tokens, image = jax.jit(lambda image: decode(imported, image))(IMAGES)
    assert_close(latents, stored["latents"], 1e-5)
    np.testing.assert_array_equal(tokens, stored["tokens"])
    assert_close(image, stored["image"], 1e-5)


def test_an_exported_folder_is_read_again_to_the_last_bit(folder, imported, weights):
    arrays = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert arrays.keys() == weights.arrays.keys()
    for place in (folder, folder.parent):  # a model, and a pipeline
        again = read(read_weights(place))
        assert again.changes == imported.changes
        jax.tree.map(np.testing.assert_array_equal, again.params, imported.params)


def test_diffusers_loads_an_exported_folder_and_decodes_the_same(folder, imported):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    model = diffusers.VQModel.from_pretrained(folder)
    with torch.no_grad():
        latents = model.encode(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)).latents
        image = model.decode(latents).sample.permute(0, 2, 3, 1).numpy()
    assert_close(np.asarray(decode(imported, IMAGES)[2]), image, 1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_type": "spatial"}, "has norm_type 'spatial' in its config.json, but only 'group'"),
        ({"norm_num_groups": 16}, "has norm_num_groups 16"),
        ({"_class_name": "AutoencoderKL"}, "is of class AutoencoderKL; only VQModel"),
        ({"layers_per_block": 2}, "lacks 'encoder.down_blocks.0.resnets.1.norm1"),
        ({"num_vq_embeddings": 64}, r"has 'quantize.embedding.weight' of shape \(32, 6\)"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 2}, "blocks in its config.json"),
    ],
)
def test_other_models_are_an_error_of_one_line(changes, message, weights):
    with pytest.raises(InputError, match=message) as caught:
        read(weights._replace(config={**weights.config, **changes}))
    assert "\n" not in str(caught.value)


def test_other_networks_cannot_be_exported(tmp_path):
    config = load_config("vqgan:digits")
    with pytest.raises(InputError, match=r"config\.model\.architecture is 'maskgit', but VQModel"):
        diffusers_vqmodel.write_folder(config, Variables({}, {}, {}), tmp_path / "x")
    assert not (tmp_path / "x").exists()
