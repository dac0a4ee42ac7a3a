import jax
import jax.numpy as jnp
import numpy as np

from maskgit_jax.quantizers.gumbel import GumbelQuantizer


def variables(kernel, codebook):
    proj = {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(len(codebook))}
    return {"params": {"proj": proj, "codebook": jnp.asarray(codebook)}}


def test_codes_loss_and_gradient_of_two_codes():
    # Logits z and 0: code 0 where z > 0, and the gradient of the codes is that of the softmax.
    quantizer = GumbelQuantizer(codebook_size=2, codebook_dim=1)
    params, latents = variables([[1.0, 0.0]], [[5.0], [1.0]]), jnp.asarray([[2.0], [-1.0], [0.0]])
    found = quantizer.apply(params, latents)
    np.testing.assert_allclose(found.codes, [[5.0], [1.0], [5.0]], rtol=1e-6)
    np.testing.assert_array_equal(found.tokens, [0, 1, 0])
    np.testing.assert_array_equal(quantizer.apply(params, latents, method="nearest"), [0, 1, 0])
    share = 1 / (1 + np.exp(-np.array([2.0, -1.0, 0.0])))
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    np.testing.assert_allclose(found.loss, (np.log(2) - entropy).mean(), rtol=1e-5)
    slope = jax.grad(lambda x: quantizer.apply(params, x).codes.sum())(latents)
    np.testing.assert_allclose(slope[:, 0], 4.0 * share * (1 - share), rtol=1e-5)


def test_only_the_chosen_codes_have_a_gradient():
    quantizer = GumbelQuantizer(codebook_size=2, codebook_dim=1)
    params = variables([[1.0, 0.0]], [[5.0], [1.0]])
    slopes = jax.grad(lambda p: quantizer.apply(p, jnp.ones((3, 1))).codes.sum())(params)
    np.testing.assert_allclose(slopes["params"]["codebook"], [[3.0], [0.0]], atol=1e-6)
