from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.networks.attention import SelfAttention
from maskgit_jax.networks.discriminators import PatchDiscriminator
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.networks.residual import Downsample, ResidualBlock, Upsample
from maskgit_jax.networks.rotations import axial_rotations, rotate
from maskgit_jax.networks.transformer import stacked_layers


def test_average_downsampling_by_hand():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    y = Downsample("average").apply({}, x)
    np.testing.assert_allclose(y[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


def test_taming_downsampling_pads_right_and_below_only(key):
    x = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(1.0)
    params = {"conv": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}}
    y = Downsample("conv").apply({"params": params}, x)
    np.testing.assert_allclose(y[0, :, :, 0], [[1, 0], [0, 0]])


def test_upsampling_repeats_before_it_convolves():
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    y = Upsample().apply(
        {"params": {"conv": {"kernel": kernel, "bias": jnp.zeros(1)}}},
        jnp.asarray([1.0, 2.0]).reshape(1, 1, 2, 1),
    )
    np.testing.assert_allclose(y[0, :, :, 0], [[1, 1, 2, 2], [1, 1, 2, 2]])


@pytest.mark.parametrize("source", ["input", "output"])
def test_the_shortcut_of_the_output_cuts_the_residual_path(key, source):
    # With all convolutions zero the official shortcut of the output gives zero, whatever x.
    x = jax.random.normal(key, (1, 4, 4, 8))
    block = ResidualBlock(16, bias=False, shortcut_from=source)
    params = jax.jit(block.init)(key, x)["params"]
    params = {**params, **{n: jax.tree.map(jnp.zeros_like, params[n]) for n in ("conv1", "conv2")}}
    y = jax.jit(block.apply)({"params": params}, x)
    assert bool((y == 0).all()) == (source == "output")


def test_patch_discriminator_has_the_published_size():
    discriminator = PatchDiscriminator(norm="batch")
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    shapes = jax.eval_shape(
        lambda k, x: discriminator.init(k, x, train=True), jax.random.key(0), image
    )
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == 2_765_633
    logits = jax.eval_shape(lambda v, x: discriminator.apply(v, x, train=False), shapes, image)
    assert logits.shape == (1, 30, 30, 1)


def test_attention_against_numpy(key):
    x = jax.random.normal(key, (2, 5, 8))
    module = SelfAttention(num_heads=2)
    params = module.init(key, x, train=False)["params"]
    q, k, v = (
        (np.asarray(x) @ np.asarray(params[n]["kernel"])).reshape(2, 5, 2, 4)
        for n in ("query", "key", "value")
    )
    scores = np.einsum("bqnd,bknd->bnqk", q, k) / 2.0
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    attended = np.einsum("bnqk,bknd->bqnd", weights, v).reshape(2, 5, 8)
    expected = attended @ np.asarray(params["out"]["kernel"])
    np.testing.assert_allclose(
        module.apply({"params": params}, x, train=False)[0], expected, atol=1e-5
    )


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_stacked_layers_without_positions_are_permutation_equivariant(key, norm):
    module = stacked_layers(2, False, num_heads=2, mlp_width=16, norm=norm)

    @jax.jit
    def apply(x):
        params = module.init(jax.random.key(1), x, False, None, None, None)
        return module.apply(params, x, False, None, None, None)[0]

    x = jax.random.normal(key, (1, 6, 8))
    order = np.asarray([3, 1, 0, 2, 5, 4])
    np.testing.assert_allclose(apply(x[:, order]), apply(x)[:, order], atol=1e-5)


def test_rotations_depend_on_distances_of_rows_and_columns_only(key):
    rotations = axial_rotations((None, (4, 5)), 8)
    query, key_ = jax.random.normal(key, (2, 1, 1, 1, 8))
    query, key_ = (rotate(jnp.tile(x, (1, 21, 1, 1)), rotations)[0, :, 0] for x in (query, key_))
    scores = np.asarray(query @ key_.T)[1:, 1:].reshape(4, 5, 4, 5)
    np.testing.assert_allclose(scores[1, 1, 2, 3], scores[0, 0, 1, 2], rtol=1e-5)
    np.testing.assert_allclose(scores[2, 4, 1, 0], scores[3, 4, 2, 0], rtol=1e-5)
    assert abs(scores[0, 0, 0, 1] - scores[0, 0, 1, 0]) > 1e-3  # a row is no column
    np.testing.assert_array_equal(query[0], query[1])  # the class token, and row 0, column 0


@pytest.mark.parametrize("mlp", ["gelu", "relu2", "swiglu"])
def test_layers_whose_outputs_start_at_zero_are_the_identity(key, mlp):
    options = LayerOptions("rms", "rope", "head", mlp, zero_init=True)
    module = stacked_layers(2, False, num_heads=2, mlp_width=16, norm="pre", options=options)
    x, rotations = jax.random.normal(key, (1, 6, 8)), axial_rotations(((2, 3),), 4)
    params = module.init(key, x, False, None, None, rotations)
    np.testing.assert_array_equal(module.apply(params, x, False, None, None, rotations)[0], x)
    assert ("mlp_gate" in params["params"]) == (mlp == "swiglu")
    assert set(params["params"]["mlp_norm"]) == {"scale"}  # RMSNorm has no bias


@pytest.mark.parametrize("qk_norm", ["head", "width"])
def test_normalized_queries_and_keys_have_no_scale(key, qk_norm):
    module = SelfAttention(num_heads=2, options=LayerOptions(qk_norm=qk_norm))
    x = jax.random.normal(key, (1, 6, 8))
    params = module.init(key, x, False)["params"]
    scaled = {**params, "query": jax.tree.map(lambda leaf: 5 * leaf, params["query"])}
    first, other = (module.apply({"params": p}, x, False)[0] for p in (params, scaled))
    np.testing.assert_allclose(first, other, atol=1e-4)


def test_a_map_of_another_size_covers_the_trained_one():
    trained, larger = axial_rotations(((2, 3),), 8), axial_rotations(((6, 9),), 8, ((2, 3),))
    for array, other in zip(trained, larger, strict=True):
        centres = other.reshape(6, 9, -1)[1::3, 1::3].reshape(6, -1)
        np.testing.assert_allclose(centres, array, atol=1e-6)


def stack(**options):
    options = LayerOptions(**options)
    return stacked_layers(2, False, num_heads=2, mlp_width=16, norm="pre", options=options)


def test_values_are_mixed_with_those_of_the_first_layer(key):
    x, module = jax.random.normal(key, (1, 6, 8)), stack(value_residual=True)
    apply = jax.jit(lambda p: module.apply({"params": p}, x, False)[0])
    params = jax.jit(lambda k: module.init(k, x, False)["params"])(key)
    attention = params["attention"]
    assert attention["value_residual"].tolist() == [0.5, 0.5]

    def with_layer_two(weight, factor):
        kernel = attention["value"]["kernel"].at[1].multiply(factor)
        changed = {"value_residual": jnp.full(2, weight), "value": {"kernel": kernel}}
        biases = {"bias": attention["value"]["bias"]}
        changed["value"] |= biases
        return apply({**params, "attention": {**attention, **changed}})

    np.testing.assert_array_equal(with_layer_two(1.0, 1.0), with_layer_two(1.0, 5.0))
    assert abs(with_layer_two(0.5, 1.0) - with_layer_two(0.5, 5.0)).max() > 1e-6
    without = {name: attention[name] for name in attention if name != "value_residual"}
    plain = stack().apply({"params": {**params, "attention": without}}, x, False)[0]
    np.testing.assert_allclose(with_layer_two(0.0, 1.0), plain, atol=1e-6)


def test_one_kernel_for_queries_keys_and_values_equals_three(key):
    x = jax.random.normal(key, (2, 5, 8))
    three, fused = (
        SelfAttention(num_heads=2, options=LayerOptions(fused_qkv=value)) for value in (False, True)
    )
    params = three.init(key, x, train=False)["params"]
    parts = [params.pop(name) for name in ("query", "key", "value")]
    parts = [{**part, "bias": jnp.full(8, 0.1 * i)} for i, part in enumerate(parts)]
    joined = {
        "kernel": jnp.stack([part["kernel"] for part in parts], axis=1),
        "bias": jnp.stack([part["bias"] for part in parts]),
    }
    expected = {**params, **dict(zip(("query", "key", "value"), parts, strict=True))}
    np.testing.assert_allclose(
        fused.apply({"params": {**params, "qkv": joined}}, x, train=False)[0],
        three.apply({"params": expected}, x, train=False)[0],
        atol=1e-6,
    )


@pytest.mark.parametrize("zero_init", [False, True])
def test_layers_with_adaptive_norms_start_as_the_identity_and_learn(key, zero_init):
    module = stack(conditioning="adaln", zero_init=zero_init)
    x, condition = jax.random.normal(key, (2, 6, 8)), jax.random.normal(jax.random.key(1), (2, 8))
    params = jax.jit(module.init, static_argnums=2)(key, x, False, condition=condition)["params"]
    apply = jax.jit(lambda p, c: module.apply({"params": p}, x, False, condition=c)[0])
    np.testing.assert_array_equal(apply(params, condition), x)
    gradient = jax.grad(lambda p: (apply(p, condition) ** 2).sum())(params)["modulation"]
    gates = gradient["kernel"].reshape(2, 8, 6, 8)[:, :, jnp.asarray([2, 5])]
    assert (abs(gates).max(axis=(1, 3)) > 0).all(), "the gates of both branches"
    changed = {**params, "modulation": jax.tree.map(lambda leaf: leaf + 0.1, params["modulation"])}
    first, other = apply(changed, condition)[:1], apply(changed, condition[::-1])[:1]
    assert abs(first - other).max() > 1e-3


@pytest.mark.slow
def test_rematerialization_changes_no_gradient(key):
    x = jax.random.normal(key, (1, 6, 8))

    @partial(jax.jit, static_argnums=0)
    def gradient(remat):
        options = LayerOptions(value_residual=True)
        sizes = dict(num_heads=2, mlp_width=16)
        module = stacked_layers(2, remat, **sizes, dropout_rate=0.1, options=options)
        params = module.init(jax.random.key(1), x, False, None, None, None)

        def loss(params):
            rngs = {"dropout": jax.random.key(2)}
            return (module.apply(params, x, True, None, None, None, rngs=rngs)[0] ** 3).sum()

        return jax.grad(loss)(params)

    plain, rematerialised = (jax.tree.leaves(gradient(remat)) for remat in (False, True))
    for expected, value in zip(plain, rematerialised, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)
