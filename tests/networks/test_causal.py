import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.networks.causal import ShiftedConv, gated
from maskgit_jax.networks.gated import CausalAttention, GatedResidual

AREAS = {
    "above": ((-2, -1), (-1, 1), 0),
    "left": ((0, 0), (-2, -1), 0),
    "left and itself": ((0, 0), (-1, 0), 0),
    "masked": ((-1, 0), (-1, 1), 1),
    "masked with itself": ((-1, 0), (-1, 1), 2),
}


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dense(features_in, features, seed):
    kernel = random(features_in, features, seed=seed)
    return {"kernel": kernel, "bias": random(features, seed=seed + 1)}


def convolve_with_loops(x, kernel, rows, columns, masked):
    """The definition of `ShiftedConv`, position by position."""
    offsets = [(r, c) for r in range(rows[0], rows[1] + 1)
               for c in range(columns[0], columns[1] + 1)]  # fmt: skip
    weights = kernel.reshape(len(offsets), *kernel.shape[2:])
    seen = list(zip(offsets, weights, strict=True))[: len(offsets) - masked]
    batch, height, width, _ = x.shape
    out = np.zeros((batch, height, width, kernel.shape[-1]))
    for row in range(height):
        for column in range(width):
            for (down, right), weight in seen:
                if 0 <= row + down < height and 0 <= column + right < width:
                    out[:, row, column] += x[:, row + down, column + right] @ weight
    return out


@pytest.mark.parametrize("area", AREAS)
def test_shifted_convolution_equals_loops_and_itself_block_by_block(area):
    rows, columns, masked = AREAS[area]
    module, x = ShiftedConv(2, 3, rows, columns, masked), random(2, 4, 5, 2)
    size = (rows[1] - rows[0] + 1, columns[1] - columns[0] + 1)
    kernel = random(*size, 2, 3, seed=1)
    params = {"params": {"kernel": kernel, "bias": random(3, seed=2)}}
    whole, cache = jax.jit(module.apply)(params, x)
    assert cache is None
    expected = convolve_with_loops(x, kernel, rows, columns, masked) + params["params"]["bias"]
    np.testing.assert_allclose(whole, expected, atol=1e-5)

    apply_block = jax.jit(module.apply)
    for height, width in ((1, 5), (2, 5), (1, 1)):
        cache = module.apply(params, 2, (4, 5), method="init_cache")
        for row in range(0, 4, height):
            for column in range(0, 5, width):
                block = np.s_[:, row : row + height, column : column + width]
                position = (jnp.int32(row), jnp.int32(column))
                y, cache = apply_block(params, x[block], cache, position)
                np.testing.assert_allclose(y, whole[block], atol=1e-5)


def test_a_single_position_sees_zeros_around_it():
    module = ShiftedConv(1, 1, (-1, 0), (-1, 1), masked=1)
    params = {"params": {"kernel": jnp.full((2, 3, 1, 1), 7.0), "bias": jnp.ones(1)}}
    y, _ = module.apply(params, jnp.full((1, 1, 1, 1), 2.0))
    assert y.tolist() == [[[[15.0]]]]  # 7 times itself, and 1


def test_a_row_written_to_the_cache_is_convolved_for_the_row_below():
    """The first layer of PixelCNN does this."""
    module, x = ShiftedConv(2, 3, (-1, -1), (-1, 1)), random(2, 4, 5, 2)
    params = {"params": {"kernel": random(1, 3, 2, 3, seed=1), "bias": np.ones(3, np.float32)}}
    whole, _ = module.apply(params, x)
    cache = module.apply(params, 2, (4, 5), method="init_cache")
    cache = module.apply(params, cache, x[:, :1], (0, 0), method="update_cache")
    y = module.apply(params, cache, (1, 0), (1, 5), method="convolve_cache")
    np.testing.assert_allclose(y, whole[:, 1:2], atol=1e-5)


def test_gates_by_hand():
    x = jnp.asarray([[1.0, -2.0, 0.0, 3.0]])
    expected = [np.tanh(1.0) * 0.5, np.tanh(-2.0) / (1 + np.exp(-3.0))]
    np.testing.assert_allclose(gated(x)[0], expected, rtol=1e-6)


def test_causal_attention_by_hand_and_position_by_position():
    layer = CausalAttention(4, num_heads=2, dropout_rate=0.0, dtype="float32")
    inputs_q, inputs_kv = random(2, 6, 3), random(2, 6, 5, seed=8)
    params = {"query": dense(3, 4, 1), "key": dense(5, 4, 3), "value": dense(5, 4, 5)}
    variables = {"params": params}

    @jax.jit
    def attend(inputs_kv):
        whole = layer.apply(variables, inputs_q, inputs_kv, False)
        return whole[:, 0].sum(), whole

    (_, whole), gradient = jax.value_and_grad(attend, has_aux=True)(inputs_kv)
    np.testing.assert_array_equal(gradient, np.zeros_like(inputs_kv))  # neither NaN
    np.testing.assert_array_equal(whole[:, 0], 0.0)  # no position is before the first
    query, key, value = (
        (x @ params[name]["kernel"] + params[name]["bias"]).reshape(2, 6, 2, 2)
        for name, x in (("query", inputs_q), ("key", inputs_kv), ("value", inputs_kv))
    )
    for position in range(1, 6):
        scores = np.einsum("bnd,bknd->bnk", query[:, position], key[:, :position]) / np.sqrt(2)
        weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        attended = np.einsum("bnk,bknd->bnd", weights, value[:, :position]).reshape(2, 4)
        np.testing.assert_allclose(whole[:, position], attended, rtol=1e-4, atol=1e-5)

    def decode_step(cache, index):
        before = jnp.maximum(index - 1, 0)
        x_q, x_kv = (
            jax.lax.dynamic_slice_in_dim(x, start, 1, axis=1)
            for x, start in ((inputs_q, index), (inputs_kv, before))
        )
        cache = layer.apply(variables, cache, x_kv, before, method="update_cache")
        return cache, layer.apply(variables, x_q, cache, index, method="attend")[:, 0]

    cache = layer.apply(variables, 2, 6, method="init_cache")
    _, steps = jax.jit(lambda cache: jax.lax.scan(decode_step, cache, jnp.arange(6)))(cache)
    np.testing.assert_allclose(steps.swapaxes(0, 1), whole, atol=1e-5)


def gated_residual(kernel_radius, auxiliary=False):
    layer = GatedResidual(2, 3, kernel_radius, 0.0, auxiliary, "float32")
    area = (kernel_radius + 1, 2 * kernel_radius + 1)
    params = {
        "conv_1": {"kernel": random(*area, 2, 3, seed=1), "bias": random(3, seed=2)},
        "conv_2": {"kernel": random(*area, 3, 4, seed=3), "bias": random(4, seed=4)},
        "mix_condition": {"kernel": random(2, 4, seed=5)},
    }
    if auxiliary:
        params["mix_auxiliary"] = dense(2, 3, 6)
    return layer, {"params": params}


def test_a_gated_residual_of_radius_0_by_hand():
    layer, variables = gated_residual(kernel_radius=0, auxiliary=True)
    x, auxiliary, condition = random(2, 1, 2, 2), random(2, 1, 2, 2, seed=9), random(2, 1, 1, 2)
    y, _ = jax.jit(layer.apply)(variables, x, condition, auxiliary)
    params = variables["params"]

    def elu(x):
        return np.where(x > 0, x, np.expm1(x))

    h = elu(x) @ params["conv_1"]["kernel"][0, 0] + params["conv_1"]["bias"]
    h = h + elu(auxiliary) @ params["mix_auxiliary"]["kernel"] + params["mix_auxiliary"]["bias"]
    h = elu(h) @ params["conv_2"]["kernel"][0, 0] + params["conv_2"]["bias"]
    h = h + condition @ params["mix_condition"]["kernel"]
    expected = x + h[..., :2] / (1 + np.exp(-h[..., 2:]))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_gated_residual_position_by_position_equals_the_whole_map():
    layer, variables = gated_residual(kernel_radius=1)
    x, condition = random(2, 4, 5, 2), random(2, 1, 1, 2)
    whole, _ = jax.jit(layer.apply)(variables, x, condition)

    def decode_step(cache, index):
        position = jnp.divmod(index, 5)
        block = jax.lax.dynamic_slice(x, (0, *position, 0), (2, 1, 1, 2))
        y, cache = layer.apply(variables, block, condition, cache=cache, position=position)
        return cache, y[:, 0, 0]

    cache = layer.apply(variables, 2, (4, 5), method="init_cache")
    _, y = jax.jit(lambda cache: jax.lax.scan(decode_step, cache, jnp.arange(20)))(cache)
    np.testing.assert_allclose(y.swapaxes(0, 1).reshape(whole.shape), whole, atol=1e-5)
