import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.autoencoders.vqvae2 import VQVAE2


def small(**changes) -> VQVAE2:
    options = dict(channels=1, filters=8, residual_filters=4, codebook_size=32, codebook_dim=4)
    return VQVAE2(**{**options, "bottom_downsamplings": 1, **changes})


def ready(key, **changes):
    module = small(**changes)
    image = jax.random.uniform(key, (2, 16, 16, 1), minval=-1.0)
    params = module.init(jax.random.key(1), image)
    # Codes of the size of the latents, so that more than one is used.
    for name in module.level_names:
        params["params"][f"quantizer_{name}"]["codebook"] *= 3.0
    return module, params, image


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


@pytest.mark.parametrize("levels", [2, 3])
def test_decoding_the_tokens_equals_the_reconstruction(key, levels):
    module, params, image = ready(key, num_levels=levels)
    decoded, parts = module.apply(params, image)
    tokens = module.apply(params, image, method="encode")
    assert len(tokens) == levels
    for own, part in zip(tokens, parts, strict=True):
        np.testing.assert_array_equal(own, part.quantized.tokens)
    again = module.apply(params, tokens, method="decode")
    np.testing.assert_allclose(again, decoded, atol=1e-5)


@pytest.mark.parametrize("levels", [2, 3])
def test_every_level_reaches_the_image(key, levels):
    module, params, image = ready(key, num_levels=levels)
    tokens = module.apply(params, image, method="encode")
    decoded = module.apply(params, tokens, method="decode")
    for number in range(levels):
        changed = list(tokens)
        changed[number] = (changed[number] + 1) % 32
        other = module.apply(params, tuple(changed), method="decode")
        assert float(abs(other - decoded).max()) > 1e-4


@pytest.mark.parametrize("levels", [2, 3])
def test_finer_latents_are_conditioned_on_the_coarser_codes(key, levels):
    """Another top codebook changes no top latents, but those of every finer level."""
    module, params, image = ready(key, num_levels=levels)
    changed = jax.tree.map(lambda leaf: leaf, params)
    changed["params"]["quantizer_top"]["codebook"] += 1.0
    before = module.apply(params, image, method="levels")
    after = module.apply(changed, image, method="levels")
    np.testing.assert_array_equal(after[0].latents, before[0].latents)
    for old, new in zip(before[1:], after[1:], strict=True):
        assert float(abs(new.latents - old.latents).max()) > 1e-3
    assert bool((after[1].quantized.tokens != before[1].quantized.tokens).any())


def test_a_number_of_maps_other_than_the_levels_is_refused(key):
    module, params, image = ready(key)
    tokens = module.apply(params, image, method="encode")
    with pytest.raises(ValueError, match="zip"):
        module.apply(params, tokens[:1], method="decode")
