import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from maskgit_jax.networks.discriminators import ActNorm, HalvingBlock, StyleGANDiscriminator
from maskgit_jax.training.sharding import make_mesh, tree_shardings
from tests.golden_values import assert_close, golden, images, linen_params, state_dict


def shapes_of(network, side, channels, key):
    variables = jax.eval_shape(network.init, key, np.zeros((1, side, side, channels)), False)
    return flatten_dict(variables["params"], sep="/")


def test_the_default_is_the_official_network_of_256_px(key):
    shapes = shapes_of(StyleGANDiscriminator(256), 256, 3, key)
    assert sum(leaf.size for leaf in shapes.values()) == 23_998_017
    assert len(shapes) == 38
    assert shapes["head_dense/kernel"].shape == (8192, 512)
    assert shapes["block_1/shortcut/kernel"].shape == (1, 1, 128, 256)


@pytest.mark.parametrize("image_size", [18, 32])
@pytest.mark.parametrize("blur", [True, False])
def test_logits_against_torch_at_even_and_odd_sides(image_size, blur):
    stored = golden("adversarial")
    params = linen_params(state_dict(stored[f"shapes_{image_size}"]))
    network = StyleGANDiscriminator(image_size, filters=8, max_width=16, blur=blur)
    image = images("real", (3, image_size, image_size, 3))
    found = jax.jit(network.apply, static_argnums=2)({"params": params}, image, False)
    assert_close(found, stored[f"{'blur' if blur else 'mean'}_{image_size}"], 1e-5)


@pytest.mark.parametrize(("image_size", "last"), [(28, 7), (7, 7), (8, 4), (9, 5), (1, 1)])
def test_sides_are_halved_down_to_4_at_least(image_size, last, key):
    network = StyleGANDiscriminator(image_size, filters=2, max_width=2)
    shapes = shapes_of(network, image_size, 1, key)
    assert shapes["head_dense/kernel"].shape == (last * last * 2, 2)
    logits = jax.eval_shape(
        lambda key, image: network.init_with_output(key, image, True)[0],
        key,
        np.zeros((5, image_size, image_size, 1), np.float32),
    )
    assert logits.shape == (5, 1) and logits.dtype == np.float32


@pytest.mark.parametrize("blur", [True, False])
def test_downsampling_of_a_constant_by_hand(blur):
    # Only the shortcut, whose kernel is one: its input is the halved map over sqrt(2).
    params = {
        name: {"kernel": np.zeros((3, 3, 1, 1)), "bias": np.zeros(1)}
        for name in ("conv_0", "conv_1")
    }
    params["shortcut"] = {"kernel": np.ones((1, 1, 1, 1))}
    found = HalvingBlock(1, blur).apply({"params": params}, np.ones((1, 8, 8, 1), np.float32))
    line = np.asarray([7 / 8, 1, 1, 7 / 8] if blur else np.ones(4))
    np.testing.assert_allclose(found[0, ..., 0], np.outer(line, line) / 2**0.5, rtol=1e-6)


def test_logits_of_bfloat16_are_float32():
    stored = golden("adversarial")
    params = linen_params(state_dict(stored["shapes_18"]))
    network = StyleGANDiscriminator(18, filters=8, max_width=16, dtype="bfloat16")
    apply = jax.jit(network.apply, static_argnums=2)
    found = apply({"params": params}, images("real", (3, 18, 18, 3)), True)
    assert found.dtype == np.float32
    assert_close(found, stored["blur_18"], 0.05)


def test_every_parameter_matches_a_row_of_the_sharding_table(key):
    network = StyleGANDiscriminator(16, filters=8, max_width=16)
    variables = jax.eval_shape(network.init, key, np.zeros((1, 16, 16, 3)), False)
    mesh = make_mesh(ConfigDict({"layout": "data", "data": 1, "fsdp": 8, "tensor": 1}))
    shardings = tree_shardings(variables, mesh)
    assert shardings["params"]["head_dense"]["kernel"].spec[0] == "fsdp"


def test_images_of_another_size_are_an_error(key):
    network = StyleGANDiscriminator(16, filters=8)
    for shape in ((1, 32, 32, 3), (1, 16, 32, 3), (16, 16, 3)):
        with pytest.raises(ValueError, match="discriminator of 16 px reads"):
            network.init(key, np.zeros(shape), True)


def test_actnorm_normalizes_the_batch_of_the_initialization(key):
    x = 3.0 + 2.0 * jax.random.normal(key, (4, 5, 5, 2))
    found, variables = ActNorm().init_with_output(key, x)
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(found.std((0, 1, 2), ddof=1), 1.0, atol=1e-5)
    again = ActNorm().apply(variables, x + 1.0)
    shift = np.asarray(variables["params"]["scale"])
    np.testing.assert_allclose(again, np.asarray(found) + shift, rtol=1e-4, atol=1e-5)
