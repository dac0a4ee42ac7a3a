import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.losses.quantization import codebook_loss, commitment_loss, quantization_loss

LATENTS = np.asarray([[1.0, 2.0], [0.5, -1.0], [3.0, 3.0]], np.float32)
CODES = np.asarray([[0.0, 4.0], [0.5, -2.0], [2.0, 3.5]], np.float32)


def gradients(loss):
    return jax.grad(loss, argnums=(0, 1))(jnp.asarray(LATENTS), jnp.asarray(CODES))


def test_gradients_of_each_term():
    slope = 2 * (LATENTS - CODES) / LATENTS.size
    by_latents, by_codes = gradients(codebook_loss)
    np.testing.assert_array_equal(by_latents, 0)
    np.testing.assert_allclose(by_codes, -slope, rtol=1e-6)
    by_latents, by_codes = gradients(commitment_loss)
    np.testing.assert_allclose(by_latents, slope, rtol=1e-6)
    np.testing.assert_array_equal(by_codes, 0)


@pytest.mark.parametrize("beta", [0.0, 0.25, 2.0])
def test_the_loss_is_the_sum_of_its_terms(beta):
    square = ((LATENTS - CODES) ** 2).mean()
    loss = quantization_loss(jnp.asarray(LATENTS), jnp.asarray(CODES), beta)
    np.testing.assert_allclose(loss, (1 + beta) * square, rtol=1e-6)


@pytest.mark.parametrize("loss", [codebook_loss, commitment_loss])
def test_latents_equal_to_their_codes_have_no_loss_and_other_shapes_are_an_error(loss):
    assert loss(jnp.asarray(CODES), jnp.asarray(CODES)) == 0
    with pytest.raises(AssertionError):
        loss(jnp.zeros((3, 2)), jnp.zeros((2,)))
