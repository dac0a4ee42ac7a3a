import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.autoencoders.latent_paths import (
    interpolate_latents,
    replace_units,
    traverse_latents,
)
from maskgit_jax.autoencoders.vae import VAE
from maskgit_jax.autoencoders.vqvae import VQVAE


def parameters(network, size, channels):
    image = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), image)["params"]


@pytest.mark.parametrize("network", ["convolutional", "linear"])
@pytest.mark.parametrize("posterior", ["gaussian", "none"])
def test_shapes_of_latents_and_outputs(key, network, posterior):
    vae = VAE(12, 3, 5, 7, network, posterior, filters=4, residual_filters=2)
    image = jnp.zeros((2, 12, 12, 3))
    (mean, log_variance, outputs), _ = jax.eval_shape(vae.init_with_output, key, image)
    assert mean.shape == log_variance.shape == (2, 7) and outputs.shape == (2, 12, 12, 5)
    if network == "linear":
        _, log_variance, _ = jax.jit(vae.init_with_output)(key, image)[0]
        assert bool((log_variance == -jnp.inf).all()) == (posterior == "none")


def test_encoder_and_decoder_are_those_of_the_vqvae():
    vae = parameters(VAE(16, 1, 1, 4), 16, 1)
    vqvae = parameters(VQVAE(1, 64, 32), 16, 1)
    assert jax.tree.structure(vae["encoder"]) == jax.tree.structure(vqvae["encoder"])
    assert vae["decoder"].keys() == vqvae["decoder"].keys()


def test_the_linear_network_is_linear_with_one_variance_for_all_images(key):
    vae = VAE(4, 1, 1, 3, "linear")
    rng = np.random.default_rng(0)
    one, other = (jnp.asarray(rng.normal(size=(5, 4, 4, 1)), jnp.float32) for _ in range(2))
    params = jax.jit(vae.init)(key, one)
    encode = jax.jit(lambda x: vae.apply(params, x, method="encode"))
    both, (a, log_variance), (b, _) = encode(one + other)[0], encode(one), encode(other)
    origin = encode(jnp.zeros_like(one))[0]
    np.testing.assert_allclose(both + origin, a + b, atol=1e-5)
    assert float(jnp.ptp(log_variance, axis=0).max()) == 0
    latents = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)
    decode = jax.jit(lambda z: vae.apply(params, z, method="decode"))
    kernel, bias = (params["params"]["from_latents"][name] for name in ("kernel", "bias"))
    expected = np.asarray(latents) @ np.asarray(kernel) + np.asarray(bias)[None]
    np.testing.assert_allclose(decode(latents).reshape(2, -1), expected, atol=1e-5)


def test_interpolations_by_hand():
    start, end = jnp.asarray([[0.0, 2.0]]), jnp.asarray([[4.0, 0.0]])
    expected = [[[0.0, 2.0], [2.0, 1.0], [4.0, 0.0]]]
    np.testing.assert_allclose(interpolate_latents(start, end, 3), expected)


def test_replaced_units_by_hand():
    found = replace_units(jnp.asarray([1.0, 2.0]), jnp.asarray([1]), jnp.asarray([[5.0, 6.0]]))
    np.testing.assert_allclose(found, [[[1.0, 5.0], [1.0, 6.0]]])


@pytest.mark.parametrize("prior", [True, False])
def test_traversals_start_with_the_unit_of_largest_variance(prior):
    rng = np.random.default_rng(0)
    latents = jnp.asarray(rng.normal([0, 5, 0], [0.1, 2.0, 1.0], (500, 3)), jnp.float32)
    rows = np.asarray(traverse_latents(latents, prior, 2, 3))
    assert rows.shape == (2, 3, 3)
    mean, std = latents.mean(axis=0), latents.std(axis=0)
    for row, unit in zip(rows, (1, 2), strict=True):
        ends = [-3, 0, 3] if prior else mean[unit] + std[unit] * jnp.asarray([-3, 0, 3])
        np.testing.assert_allclose(row[:, unit], ends, atol=1e-4)
        others = [other for other in range(3) if other != unit]
        for value in row:
            np.testing.assert_allclose(value[others], latents[0, np.asarray(others)])
    assert len(traverse_latents(latents, prior, 9, 3)) == 3, "not more rows than units"
