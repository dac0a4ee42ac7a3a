import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.autoencoders.quantizers import (
    VectorQuantizer,
    draw_codes,
    record_use,
    revive,
    unused_codebook,
)

CODEBOOK = np.asarray([[0.0, 0.0], [1.0, 1.0], [4.0, 0.0]], np.float32)


def apply(latents, codebook=CODEBOOK):
    module = VectorQuantizer(len(codebook), codebook.shape[1])
    return module.apply({"params": {"codebook": codebook}}, latents)


def test_nearest_code_by_hand():
    quantized = apply(jnp.asarray([[[0.9, 0.8], [3.0, 0.1]], [[0.1, -0.2], [9.0, 9.0]]]))
    np.testing.assert_array_equal(quantized.tokens, [[1, 2], [0, 2]])
    np.testing.assert_allclose(quantized.codes[0, 1], CODEBOOK[2], atol=1e-6)


def test_nearest_code_against_numpy():
    rng = np.random.default_rng(0)
    latents, codebook = rng.normal(size=(50, 6)), rng.normal(size=(20, 6))
    distance = ((latents[:, None] - codebook[None]) ** 2).sum(-1)
    tokens = apply(jnp.asarray(latents, jnp.float32), np.float32(codebook)).tokens
    np.testing.assert_array_equal(tokens, distance.argmin(-1))


def test_quantizing_twice_changes_nothing():
    once = apply(jnp.asarray(np.random.default_rng(0).normal(size=(9, 2)), jnp.float32))
    np.testing.assert_allclose(apply(once.codes).codes, once.codes, atol=1e-6)


def test_the_gradient_passes_straight_through():
    weight = jnp.asarray([[2.0, -3.0]])
    gradient = jax.grad(lambda z: (apply(z).codes * weight).sum())(jnp.asarray([[0.7, 0.6]]))
    np.testing.assert_allclose(gradient, weight)


def test_a_codebook_of_one_code():
    assert apply(jnp.ones((2, 2)), CODEBOOK[:1]).tokens.tolist() == [0, 0]


@pytest.mark.parametrize("patience", [0, 2])
def test_idle_codes_are_revived_after_patience(key, patience):
    use = unused_codebook(3, 2)
    latents = jnp.asarray([[0.9, 0.8], [3.5, 0.0]])  # codes 1 and 2; code 0 is idle
    for step in range(2):
        tokens = apply(latents).tokens
        step_key = jax.random.fold_in(key, step)
        use = record_use(use, latents, tokens, step_key, jnp.int32(step), patience)
        book = revive(CODEBOOK, use, jnp.int32(step))
        if step == 0 or not patience:
            np.testing.assert_array_equal(book, CODEBOOK)
    np.testing.assert_array_equal(book[1:], CODEBOOK[1:])
    if patience:
        assert any((book[0] == row).all() for row in latents)
        assert use["idle"].tolist() == [0, 0, 0]


def test_revival_happens_once(key):
    use = record_use(
        unused_codebook(3, 2), jnp.ones((4, 2)), jnp.ones((4,), jnp.int32), key, jnp.int32(5), 1
    )
    np.testing.assert_array_equal(revive(CODEBOOK, use, jnp.int32(6)), CODEBOOK)
    assert not np.array_equal(revive(CODEBOOK, use, jnp.int32(5)), CODEBOOK)


@pytest.mark.parametrize("num_codes", [4, 10])
def test_codes_are_drawn_from_the_data(key, num_codes):
    vectors = jnp.arange(12.0).reshape(2, 3, 2)
    codes = draw_codes(vectors, num_codes, key)
    known = {tuple(row) for row in vectors.reshape(-1, 2).tolist()}
    assert {tuple(row) for row in codes.tolist()} <= known
    if num_codes == 4:
        assert len({tuple(row) for row in codes.tolist()}) == 4
