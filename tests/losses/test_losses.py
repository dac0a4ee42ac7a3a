import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.losses.adversarial import adaptive_weight, discriminator_loss, generator_loss
from maskgit_jax.losses.masked_tokens import (
    any_order_nll_bits,
    masked_mean,
    reduce_masked,
    token_cross_entropy,
    unigram_entropy_bits,
)
from maskgit_jax.losses.quantization import quantization_loss
from maskgit_jax.losses.reconstruction import pixel_loss


def test_pixel_losses_by_hand():
    image = jnp.zeros((2, 1, 2, 1))
    decoded = jnp.asarray([1.0, -3.0, 0.0, 2.0]).reshape(2, 1, 2, 1)
    np.testing.assert_allclose(pixel_loss(image, decoded, "l1"), [2.0, 1.0])
    np.testing.assert_allclose(pixel_loss(image, decoded, "l2"), [5.0, 2.0])
    assert pixel_loss(image, image, "l2").sum() == 0


def test_pixel_loss_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="l3"):
        pixel_loss(jnp.zeros((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1)), "l3")


def test_quantization_gradients_put_beta_on_the_commitment_term():
    # The value cannot tell which term carries beta; the gradients can (mean over 2 elements).
    latents, codes, beta = jnp.asarray([1.0, 2.0]), jnp.asarray([0.0, 4.0]), 0.25
    by_latents, by_codes = jax.grad(quantization_loss, argnums=(0, 1))(latents, codes, beta)
    difference = np.asarray([1.0, -2.0])
    np.testing.assert_allclose(by_latents, beta * 2 * difference / 2)
    np.testing.assert_allclose(by_codes, -2 * difference / 2)
    np.testing.assert_allclose(quantization_loss(latents, codes, beta), 1.25 * 2.5)


@pytest.mark.parametrize("kind", ["hinge", "non_saturating"])
def test_adversarial_losses_against_numpy(kind):
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 4, 3, 3, 1)).astype(np.float32)
    if kind == "hinge":
        discriminator = 0.5 * (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean())
        generator = -fake.mean()
    else:
        discriminator = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean()
        generator = np.log1p(np.exp(-fake)).mean()
    np.testing.assert_allclose(discriminator_loss(real, fake, kind), discriminator, rtol=1e-5)
    np.testing.assert_allclose(generator_loss(fake, kind), generator, rtol=1e-5)


def test_an_unknown_adversarial_loss_is_refused():
    with pytest.raises(ValueError, match="hinge"):
        discriminator_loss(jnp.zeros(1), jnp.zeros(1), "wasserstein")


def test_adaptive_weight_is_the_ratio_of_gradient_norms():
    # image = 3 k; d reconstruction / d k = 3 * 2 k * 3, d adversarial / d k = 5 * 3.
    kernel = jnp.asarray([2.0])
    weight = adaptive_weight(
        lambda image: (image**2).sum(), lambda image: 5 * image.sum(), lambda k: 3 * k, kernel
    )
    np.testing.assert_allclose(weight, 36.0 / (15.0 + 1e-4), rtol=1e-6)


def test_adaptive_weight_is_clipped_and_carries_no_gradient():
    def loss(scale):
        return adaptive_weight(
            lambda image: 1e9 * image.sum(), lambda image: 0.0 * image.sum(), lambda k: scale * k,
            jnp.ones(1),
        )  # fmt: skip

    assert loss(1.0) == 1e4
    assert jax.grad(loss)(1.0) == 0


def test_cross_entropy_with_smoothing_against_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 5)).astype(np.float32)
    tokens = np.asarray([[0, 1, 2], [3, 4, 0]])
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    target = 0.9 * np.eye(5)[tokens] + 0.1 / 5
    expected = -(target * np.log(probability)).sum(-1)
    np.testing.assert_allclose(token_cross_entropy(logits, tokens, 0.1), expected, rtol=1e-5)


def test_uniform_logits_have_cross_entropy_log_k_with_any_smoothing():
    loss = token_cross_entropy(jnp.zeros((1, 2, 7)), jnp.zeros((1, 2), jnp.int32), 0.3)
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-6)


def test_masked_mean_is_per_example_and_0_for_an_empty_mask():
    values = jnp.asarray([[1.0, 3.0], [5.0, 7.0], [9.0, 9.0]])
    selected = jnp.asarray([[True, True], [False, True], [False, False]])
    np.testing.assert_allclose(masked_mean(values, selected), [2.0, 7.0, 0.0])


def test_reduction_over_examples_or_tokens():
    values = jnp.asarray([[1.0, 3.0, 8.0], [5.0, 7.0, 9.0]])
    selected = jnp.asarray([[True, True, False], [False, True, False]])
    assert reduce_masked(values, selected, "examples") == (2.0 + 7.0) / 2
    np.testing.assert_allclose(reduce_masked(values, selected, "tokens"), 11.0 / 3, rtol=1e-6)


def test_any_order_bits_are_exact_for_independent_tokens():
    # For independent tokens every order gives the same likelihood.
    probabilities = np.asarray([[0.5, 0.25, 0.125]])
    mask = np.asarray([[[1, 1, 1]], [[1, 0, 0]], [[0, 1, 0]], [[0, 0, 1]]], bool)
    bits = [
        float(any_order_nll_bits(jnp.log(1 / jnp.asarray(probabilities)), row)[0]) for row in mask
    ]
    np.testing.assert_allclose(bits[0], 2.0, rtol=1e-6)
    np.testing.assert_allclose(bits[1:], [1.0, 2.0, 3.0], rtol=1e-6)


def test_unigram_entropy_of_known_frequencies():
    same, even = jnp.zeros((4, 8), jnp.int32), jnp.arange(4096).reshape(64, 64) % 16
    assert unigram_entropy_bits(same, 16) == 0
    np.testing.assert_allclose(unigram_entropy_bits(even, 16), 4.0, rtol=1e-6)
    np.testing.assert_allclose(unigram_entropy_bits(even, 64), 4.0, atol=0.01)
    frequencies = np.asarray([0.5, 0.25, 0.125, 0.125])
    draw = np.random.default_rng(0).choice(4, (200, 40), p=frequencies)  # 40 tokens at a time
    bits = jax.jit(jax.vmap(lambda row: unigram_entropy_bits(row, 4)))(jnp.asarray(draw))
    np.testing.assert_allclose(bits.mean(), 1.75, atol=0.02)
