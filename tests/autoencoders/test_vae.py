import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.autoencoders.latent_paths import interpolate_latents, traversals, traverse_latents
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
    params = jax.jit(vae.init)(key, image)
    mean, log_variance, outputs = jax.jit(vae.apply)(params, image)
    assert mean.shape == log_variance.shape == (2, 7) and outputs.shape == (2, 12, 12, 5)
    assert bool((log_variance == -jnp.inf).all()) == (posterior == "none")


def test_encoder_and_decoder_are_those_of_the_vqvae():
    own = parameters(VAE(16, 1, 1, 4), 16, 1)
    other = parameters(VQVAE(1, 64, 32), 16, 1)
    assert jax.tree.structure(own["encoder"]) == jax.tree.structure(other["encoder"])
    assert own["decoder"].keys() == other["decoder"].keys()


def test_the_linear_network_is_linear_and_its_variance_the_same_for_all(key):
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


def test_traversals_by_hand():
    found = traversals(jnp.asarray([1.0, 2.0]), jnp.asarray([1]), jnp.asarray([[5.0, 6.0]]))
    np.testing.assert_allclose(found, [[[1.0, 5.0], [1.0, 6.0]]])


@pytest.mark.parametrize("prior", [True, False])
def test_traversals_begin_with_the_unit_that_varies_most(prior):
    rng = np.random.default_rng(0)
    latents = jnp.asarray(rng.normal([0, 5, 0], [0.1, 2.0, 1.0], (500, 3)), jnp.float32)
    rows = np.asarray(traverse_latents(latents, prior, 2, 3))
    assert rows.shape == (2, 3, 3)
    middle, deviation = latents.mean(axis=0), latents.std(axis=0)
    for row, unit in zip(rows, (1, 2), strict=True):
        ends = [-3, 0, 3] if prior else middle[unit] + deviation[unit] * jnp.asarray([-3, 0, 3])
        np.testing.assert_allclose(row[:, unit], ends, atol=1e-4)
        others = [place for place in range(3) if place != unit]
        for value in row:
            np.testing.assert_allclose(value[others], latents[0, np.asarray(others)])
    assert len(traverse_latents(latents, prior, 9, 3)) == 3, "not more rows than units"
