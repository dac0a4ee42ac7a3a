import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.autoencoders.vqgan import ARCHITECTURES, TAMING, VQGAN


def count_params(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(module: VQGAN, size: int):
    image = jax.ShapeDtypeStruct((1, size, size, module.channels), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), image)["params"]


def small(**changes) -> VQGAN:
    options = dict(
        image_size=16, channels=1, filters=8, channel_multipliers=(1, 2), blocks_per_level=1
    )
    return VQGAN(**{**options, "codebook_size": 8, "codebook_dim": 4, **changes})


def test_the_official_maskgit_tokenizer_has_54515587_parameters():
    params = shapes_of(VQGAN(image_size=256), 256)
    assert count_params(params) == 54_515_587
    assert count_params(params["encoder"]) == 23_775_104
    assert count_params(params["decoder"]) + count_params(params["conv_out"]) == 30_478_339


def test_the_taming_tokenizer_has_its_published_size():
    params = shapes_of(VQGAN(image_size=256, architecture=TAMING), 256)
    # 72,141,699 with the 1x1 projections: they belong to encoder and decoder here.
    assert count_params(params) == 72_141_699
    assert count_params(params["encoder"]) == 29_298_176 + 256 * 256 + 256


def test_the_shortcut_reads_the_output_in_maskgit_and_the_input_in_maskgit_fixed():
    maskgit, fixed = (
        shapes_of(small(architecture=ARCHITECTURES[name]), 16)["encoder"]["level1_0"]["shortcut"][
            "kernel"
        ]
        for name in ("maskgit", "maskgit_fixed")
    )
    assert maskgit.shape == (1, 1, 16, 16)
    assert fixed.shape == (1, 1, 8, 16)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("size", [16, 32])
def test_shapes_of_tokens_and_images_at_any_size(name, size):
    architecture = ARCHITECTURES[name]._replace(latent_width=4 if name == "taming" else 0)
    module = small(architecture=architecture)

    def encode_and_decode(image):
        params = module.init(jax.random.key(0), image)
        tokens = module.apply(params, image, method="encode")
        return tokens, module.apply(params, tokens, method="decode")

    image = jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32)
    tokens, decoded = jax.eval_shape(encode_and_decode, image)
    assert tokens.shape == (2, size // 2, size // 2) and tokens.dtype == jnp.int32
    assert decoded.shape == image.shape


@pytest.mark.slow
def test_decoded_tokens_are_the_reconstruction_and_remat_changes_no_gradient(key):
    module, remat = (small(channel_multipliers=(1,), remat=remat) for remat in (False, True))
    image = jax.random.uniform(key, (2, 16, 16, 1))

    @jax.jit
    def run(image):
        params = module.init(jax.random.key(1), image)
        reconstruction, quantized = module.apply(params, image)
        decoded = module.apply(params, quantized.tokens, method="decode")
        gradients = [
            jax.grad(lambda p, m=m: (m.apply(p, image)[0] ** 2).sum())(params)
            for m in (module, remat)
        ]
        return reconstruction, decoded, gradients

    reconstruction, decoded, (plain, recomputed) = run(image)
    np.testing.assert_allclose(decoded, reconstruction, atol=1e-5)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(recomputed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_bfloat16_leaves_parameters_and_codes_in_float32():
    module = small(dtype="bfloat16")
    image = jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32)
    init = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    (reconstruction, quantized), params = init
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert reconstruction.dtype == quantized.codes.dtype == jnp.float32
