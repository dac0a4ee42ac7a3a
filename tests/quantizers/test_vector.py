import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.quantizers.vector import VectorQuantizer, unit_vectors

CODEBOOK = np.asarray([[0.0, 0.0], [1.0, 1.0], [4.0, 0.0]], np.float32)


def quantize(latents, codebook=CODEBOOK):
    module = VectorQuantizer(len(codebook), codebook.shape[1])
    return module.apply({"params": {"codebook": codebook}}, latents)


def test_nearest_code_by_hand():
    quantized = quantize(jnp.asarray([[[0.9, 0.8], [3.0, 0.1]], [[0.1, -0.2], [9.0, 9.0]]]))
    np.testing.assert_array_equal(quantized.tokens, [[1, 2], [0, 2]])
    np.testing.assert_allclose(quantized.codes[0, 1], CODEBOOK[2], atol=1e-6)
    assert quantize(jnp.ones((2, 2)), CODEBOOK[:1]).tokens.tolist() == [0, 0], "one code"


def test_nearest_code_against_numpy():
    rng = np.random.default_rng(0)
    latents, codebook = rng.normal(size=(50, 6)), rng.normal(size=(20, 6))
    distance = ((latents[:, None] - codebook[None]) ** 2).sum(-1)
    tokens = quantize(jnp.asarray(latents, jnp.float32), np.float32(codebook)).tokens
    np.testing.assert_array_equal(tokens, distance.argmin(-1))


def test_quantization_is_idempotent():
    once = quantize(jnp.asarray(np.random.default_rng(0).normal(size=(9, 2)), jnp.float32))
    np.testing.assert_allclose(quantize(once.codes).codes, once.codes, atol=1e-6)


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_gradients_of_a_quantizer_against_numpy(update):
    """The loss a . codes + w * quantizer loss, by latents and by the codebook, derived by hand."""
    rng = np.random.default_rng(0)
    latents, codebook, a = (rng.normal(size=(n, 3)).astype(np.float32) for n in (12, 5, 12))
    beta, weight = 0.25, 0.7

    def loss(latents, codebook):
        module = VectorQuantizer(5, 3, beta, update)
        quantized = module.apply({"params": {"codebook": codebook}}, latents)
        return (quantized.codes * a).sum() + weight * quantized.loss

    by_latents, by_codebook = jax.grad(loss, argnums=(0, 1))(latents, codebook)
    nearest = ((latents[:, None] - codebook[None]) ** 2).sum(-1).argmin(-1)
    slope = 2 * (latents - codebook[nearest]) / latents.size
    # Straight-through: a itself. Commitment: beta * slope. Codebook term: nothing.
    np.testing.assert_allclose(by_latents, a + weight * beta * slope, rtol=1e-4, atol=1e-6)
    expected = np.zeros_like(codebook)
    if update == "gradient":
        np.add.at(expected, nearest, -weight * slope)
    np.testing.assert_allclose(by_codebook, expected, rtol=1e-4, atol=1e-6)


def test_normalized_codes_depend_on_directions_only():
    rng = np.random.default_rng(0)
    latents, codebook = rng.normal(size=(20, 4)), rng.normal(size=(7, 4))
    units, codes = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (latents, codebook))
    module = VectorQuantizer(7, 4, normalize=True)
    params = {"params": {"codebook": np.float32(3 * codebook)}}
    quantized = module.apply(params, jnp.asarray(5 * latents, jnp.float32))
    tokens = (units @ codes.T).argmax(axis=1)
    np.testing.assert_array_equal(quantized.tokens, tokens)
    np.testing.assert_allclose(quantized.codes, codes[tokens], atol=1e-6)
    np.testing.assert_array_equal(module.apply(params, latents, method="nearest"), tokens)
    looked_up = module.apply(params, tokens, method="lookup")
    np.testing.assert_allclose(looked_up, codes[tokens], atol=1e-6)


def test_a_vector_of_length_0_stays_and_has_a_finite_gradient():
    value, slope = jax.value_and_grad(lambda x: unit_vectors(x).sum())(jnp.zeros(3))
    assert value == 0 and jnp.isfinite(slope).all()


def test_unknown_update_is_an_error(key):
    with pytest.raises(ValueError, match="momentum.*gradient, ema"):
        VectorQuantizer(4, 2, update="momentum").init(key, jnp.zeros((1, 2)))
