import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.autoencoders.vqvae2 import VQVAE2


def small(**changes) -> VQVAE2:
    options = dict(channels=1, filters=8, residual_filters=4, codebook_size=32, codebook_dim=4)
    return VQVAE2(**{**options, "bottom_downsamplings": 1, **changes})


@pytest.mark.parametrize(
    "size,bottom,levels,sides",
    [(28, 1, 2, (7, 14)), (32, 2, 2, (4, 8)), (16, 1, 3, (2, 4, 8)), (256, 2, 2, (32, 64))],
)
def test_each_level_is_half_of_the_next_finer(size, bottom, levels, sides):
    module = small(bottom_downsamplings=bottom, num_levels=levels)
    image = jax.ShapeDtypeStruct((3, size, size, 1), jnp.float32)
    (decoded, parts), _ = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    assert decoded.shape == image.shape and decoded.dtype == jnp.float32
    assert [part.quantized.tokens.shape for part in parts] == [(3, n, n) for n in sides]
    assert [part.latents.shape for part in parts] == [(3, n, n, 4) for n in sides]


@pytest.fixture(scope="module", params=[2, 3])
def model(request):
    """The module, its compiled methods, parameters, images and their tokens."""
    module = small(num_levels=request.param)
    image = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1), minval=-1.0)
    params = jax.jit(module.init)(jax.random.key(1), image)
    # Codes as large as the latents, so that more than one is used.
    for name in module.level_names:
        params["params"][f"quantizer_{name}"]["codebook"] *= 3.0
    methods = {
        name: jax.jit(lambda p, x, name=name: module.apply(p, x, method=name))
        for name in ("__call__", "levels", "encode", "decode")
    }
    return module, methods, params, image, methods["encode"](params, image)


def test_decoded_tokens_are_the_reconstruction(model):
    module, methods, params, image, tokens = model
    reconstruction, levels = methods["__call__"](params, image)
    assert len(tokens) == module.num_levels
    for level_tokens, level in zip(tokens, levels, strict=True):
        np.testing.assert_array_equal(level_tokens, level.quantized.tokens)
    np.testing.assert_allclose(methods["decode"](params, tokens), reconstruction, atol=1e-5)


def test_the_image_depends_on_every_level(model):
    module, methods, params, _, tokens = model
    decoded = methods["decode"](params, tokens)
    for level in range(module.num_levels):
        changed = list(tokens)
        changed[level] = (changed[level] + 1) % 32
        other = methods["decode"](params, tuple(changed))
        assert float(abs(other - decoded).max()) > 1e-4


def test_finer_latents_are_conditioned_on_the_coarser_codes(model):
    """Another top codebook changes the latents of every level but the top one."""
    _, methods, params, image, _ = model
    changed = jax.tree.map(lambda leaf: leaf, params)
    changed["params"]["quantizer_top"]["codebook"] += 1.0
    before, after = methods["levels"](params, image), methods["levels"](changed, image)
    np.testing.assert_array_equal(after[0].latents, before[0].latents)
    for old, new in zip(before[1:], after[1:], strict=True):
        assert float(abs(new.latents - old.latents).max()) > 1e-3
    assert bool((after[1].quantized.tokens != before[1].quantized.tokens).any())


def test_a_wrong_number_of_token_maps_is_an_error(model):
    module, _, params, _, tokens = model
    with pytest.raises(ValueError, match="zip"):
        module.apply(params, tokens[:1], method="decode")
