import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.autoencoders.vqvae import VQVAE


def small(**changes) -> VQVAE:
    options = dict(channels=1, filters=8, residual_filters=4, codebook_size=8, codebook_dim=4)
    return VQVAE(**{**options, **changes})


def count_params(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("size,halvings", [(16, 1), (28, 2), (32, 3)])
def test_each_halving_halves_the_map(size, halvings):
    module = small(num_downsamplings=halvings)
    image = jax.ShapeDtypeStruct((3, size, size, 1), jnp.float32)
    (decoded, quantized), params = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    side = size // 2**halvings
    assert decoded.shape == image.shape and decoded.dtype == jnp.float32
    assert quantized.tokens.shape == (3, side, side) and quantized.tokens.dtype == jnp.int32
    assert quantized.codes.shape == (3, side, side, 4)
    tokens = jax.eval_shape(lambda p, x: module.apply(p, x, method="encode"), params, image)
    assert tokens.shape == (3, side, side)


def test_the_number_of_parameters_by_hand():
    # filters 8, residual 4, D 4, K 8; kernels and biases in the order of the layers.
    stack = 2 * ((9 * 8 * 4 + 4) + (4 * 8 + 8))
    encoder = (16 * 1 * 4 + 4) + (16 * 4 * 8 + 8) + (9 * 8 * 8 + 8) + stack
    decoder = (9 * 4 * 8 + 8) + stack + (16 * 8 * 4 + 4) + (16 * 4 * 1 + 1)
    image = jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32)
    params = jax.eval_shape(small().init, jax.random.key(0), image)["params"]
    assert count_params(params) == encoder + decoder + (8 * 4 + 4) + 8 * 4


@pytest.mark.parametrize("remat", [False, True])
def test_decoded_tokens_are_the_reconstruction(key, remat):
    module = small(remat=remat)
    image = jax.random.uniform(key, (2, 16, 16, 1), minval=-1.0)

    @jax.jit
    def run(image):
        params = module.init(jax.random.key(1), image)
        reconstruction, quantized = module.apply(params, image)
        tokens = module.apply(params, image, method="encode")
        decoded = module.apply(params, tokens, method="decode")
        return reconstruction, quantized.tokens, tokens, decoded

    reconstruction, quantized_tokens, tokens, decoded = run(image)
    np.testing.assert_array_equal(tokens, quantized_tokens)
    np.testing.assert_allclose(decoded, reconstruction, atol=1e-5)


def test_bfloat16_leaves_codebook_and_image_in_float32():
    image = jax.ShapeDtypeStruct((2, 16, 16, 1), jnp.float32)
    init = small(dtype="bfloat16").init_with_output
    (reconstruction, quantized), params = jax.eval_shape(init, jax.random.key(1), image)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert reconstruction.dtype == quantized.codes.dtype == quantized.loss.dtype == jnp.float32
