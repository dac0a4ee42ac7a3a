import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.autoencoders.vqgan import ARCHITECTURES, TAMING, VQGAN


def num_params(tree) -> int:
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
    assert num_params(params) == 54_515_587
    assert num_params(params["encoder"]) == 23_775_104
    assert num_params(params["decoder"]) + num_params(params["conv_out"]) == 30_478_339


def test_the_taming_tokenizer_has_its_published_size():
    params = shapes_of(VQGAN(image_size=256, architecture=TAMING), 256)
    # 72,141,699 with the 1x1 projections: they belong to encoder and decoder here.
    assert num_params(params) == 72_141_699
    assert num_params(params["encoder"]) == 29_298_176 + 256 * 256 + 256


def test_the_shortcut_shape_tells_official_from_repaired():
    official, repaired = (
        shapes_of(small(architecture=ARCHITECTURES[name]), 16)["encoder"]["level1_0"]["shortcut"][
            "kernel"
        ]
        for name in ("maskgit", "maskgit_fixed")
    )
    assert official.shape == (1, 1, 16, 16)
    assert repaired.shape == (1, 1, 8, 16)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("size", [16, 32])
def test_encode_and_decode_agree_on_shapes_at_any_size(key, name, size):
    module = small(
        architecture=ARCHITECTURES[name]._replace(latent_width=4 if name == "taming" else 0)
    )
    image = jax.random.uniform(key, (2, size, size, 1))
    params = module.init(key, image)
    tokens = module.apply(params, image, method="encode")
    assert tokens.shape == (2, size // 2, size // 2)
    assert tokens.dtype == jnp.int32
    assert module.apply(params, tokens, method="decode").shape == image.shape


def test_decoding_the_tokens_equals_the_reconstruction(key):
    module = small()
    image = jax.random.uniform(key, (2, 16, 16, 1))
    params = module.init(key, image)
    decoded, quantized = module.apply(params, image)
    np.testing.assert_allclose(
        decoded, module.apply(params, quantized.tokens, method="decode"), atol=1e-5
    )


def test_rematerialisation_changes_no_gradient(key):
    image = jax.random.uniform(key, (2, 16, 16, 1))
    params = small().init(key, image)

    def gradient(module):
        return jax.grad(lambda p: (module.apply(p, image)[0] ** 2).sum())(params)

    for one, other in zip(
        jax.tree.leaves(gradient(small())), jax.tree.leaves(gradient(small(remat=True))),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_bfloat16_keeps_parameters_and_codes_in_float32(key):
    module = small(dtype="bfloat16")
    image = jax.random.uniform(key, (1, 16, 16, 1))
    params = module.init(key, image)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    decoded, quantized = module.apply(params, image)
    assert decoded.dtype == quantized.codes.dtype == jnp.float32
