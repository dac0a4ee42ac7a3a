import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.networks.causal import ShiftedConv, gated
from maskgit_jax.networks.gated import CausalAttention, GatedResidual

AREAS = {
    "above": ((-2, -1), (-1, 1), 0),
    "left": ((0, 0), (-2, -1), 0),
    "left_and_itself": ((0, 0), (-1, 0), 0),
    "masked": ((-1, 0), (-1, 1), 1),
    "masked_with_itself": ((-1, 0), (-1, 1), 2),
}


def by_loops(x, kernel, rows, columns, masked):
    """The definition, place by place."""
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


@pytest.fixture(params=AREAS)
def conv(request, key):
    rows, columns, masked = AREAS[request.param]
    module = ShiftedConv(2, 3, rows, columns, masked)
    x = jax.random.normal(key, (2, 4, 5, 2))
    return module, module.init(jax.random.key(1), x), x


def test_a_shifted_convolution_by_loops(conv):
    module, params, x = conv
    kernel = np.asarray(params["params"]["kernel"])
    expected = by_loops(np.asarray(x), kernel, module.rows, module.columns, module.masked)
    y, memory = module.apply(params, x)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert memory is None


@pytest.mark.parametrize("block", [(1, 5), (2, 5), (1, 1)])
def test_block_by_block_is_the_whole_map(conv, block):
    module, params, x = conv
    whole, _ = module.apply(params, x)
    memory = module.apply(params, 2, (4, 5), method="empty_memory")

    @jax.jit
    def one(part, memory, place):
        return module.apply(params, part, memory, place)

    for row in range(0, 4, block[0]):
        for column in range(0, 5, block[1]):
            part = x[:, row : row + block[0], column : column + block[1]]
            y, memory = one(part, memory, (jnp.int32(row), jnp.int32(column)))
            own = whole[:, row : row + block[0], column : column + block[1]]
            np.testing.assert_allclose(y, own, atol=1e-5)


def test_gates_by_hand():
    x = jnp.asarray([[1.0, -2.0, 0.0, 3.0]])
    expected = [np.tanh(1.0) * 0.5, np.tanh(-2.0) / (1 + np.exp(-3.0))]
    np.testing.assert_allclose(gated(x)[0], expected, rtol=1e-6)


def test_the_first_place_hears_nothing_and_the_second_the_first(key):
    module = CausalAttention(4, 2, 0.0, "float32")
    asked = jax.random.normal(key, (1, 3, 5))
    told = jax.random.normal(jax.random.key(1), (1, 3, 6))
    params = module.init(jax.random.key(2), asked, told, False)
    heard = module.apply(params, asked, told, False)
    dense = params["params"]["value"]
    value = told @ dense["kernel"] + dense["bias"][None, None]
    np.testing.assert_array_equal(heard[:, 0], np.zeros((1, 4)))
    np.testing.assert_allclose(heard[:, 1], value[:, 0], atol=1e-6)


def test_one_place_sees_zeros_around():
    module = ShiftedConv(1, 1, (-1, 0), (-1, 1), masked=1)
    params = {"params": {"kernel": jnp.full((2, 3, 1, 1), 7.0), "bias": jnp.ones(1)}}
    y, _ = module.apply(params, jnp.full((1, 1, 1, 1), 2.0))
    assert y.tolist() == [[[[15.0]]]]  # 7 times itself, and 1


def test_what_is_stored_is_read_later(key):
    """The first layer of PixelCNN writes a row and reads what the row below sees of it."""
    module, x = ShiftedConv(2, 3, (-1, -1), (-1, 1)), jax.random.normal(key, (2, 4, 5, 2))
    params = module.init(jax.random.key(1), x)
    whole, _ = module.apply(params, x)
    memory = module.apply(params, 2, (4, 5), method="empty_memory")
    memory = module.apply(params, memory, x[:, :1], (0, 0), method="store")
    read = module.apply(params, memory, (1, 0), (1, 5), method="read")
    np.testing.assert_allclose(read, whole[:, 1:2], atol=1e-5)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dense(features_in, features, seed):
    return {
        "kernel": random(features_in, features, seed=seed),
        "bias": random(features, seed=seed + 1),
    }


@pytest.fixture(scope="module")
def attention():
    """A layer, its parameters, and what six places ask and tell."""
    layer = CausalAttention(4, num_heads=2, dropout_rate=0.0, dtype="float32")
    params = {"query": dense(3, 4, 1), "key": dense(5, 4, 3), "value": dense(5, 4, 5)}
    return layer, {"params": params}, random(2, 6, 3), random(2, 6, 5, seed=8)


def test_attention_to_the_places_before_by_hand(attention):
    layer, params, asked, told = attention
    y = jax.jit(lambda a, t: layer.apply(params, a, t, False))(asked, told)
    query, key, value = (
        (x @ params["params"][name]["kernel"] + params["params"][name]["bias"]).reshape(2, 6, 2, 2)
        for name, x in (("query", asked), ("key", told), ("value", told))
    )
    np.testing.assert_array_equal(y[:, 0], 0.0)  # there is nothing before
    for place in range(1, 6):
        scores = np.einsum("bnd,bknd->bnk", query[:, place], key[:, :place]) / np.sqrt(2)
        weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        mixed = np.einsum("bnk,bknd->bnd", weights, value[:, :place]).reshape(2, 4)
        np.testing.assert_allclose(y[:, place], mixed, rtol=1e-4, atol=1e-5)


def test_recalling_place_by_place_is_the_whole(attention):
    layer, params, asked, told = attention
    whole = jax.jit(lambda a, t: layer.apply(params, a, t, False))(asked, told)

    def one_place(memory, index):
        before = jnp.maximum(index - 1, 0)
        own, last = (
            jax.lax.dynamic_slice_in_dim(x, start, 1, axis=1)
            for x, start in ((asked, index), (told, before))
        )
        memory = layer.apply(params, memory, last, before, method="remember")
        return memory, layer.apply(params, own, memory, index, method="recall")[:, 0]

    memory = layer.apply(params, 2, 6, method="empty_memory")
    _, y = jax.jit(lambda m: jax.lax.scan(one_place, m, jnp.arange(6)))(memory)
    np.testing.assert_allclose(y.swapaxes(0, 1), whole, atol=1e-5)


def test_the_first_place_of_attention_has_no_gradient_and_no_nan(attention):
    layer, params, asked, told = attention

    def first(told):
        return layer.apply(params, asked, told, False)[:, 0].sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(first))(told), np.zeros_like(told))


def residual(kernel_radius, auxiliary=False):
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


def test_a_gated_residual_of_one_place_by_hand():
    layer, params = residual(kernel_radius=0, auxiliary=True)
    x, auxiliary, condition = random(2, 1, 2, 2), random(2, 1, 2, 2, seed=9), random(2, 1, 1, 2)
    y, _ = jax.jit(layer.apply)(params, x, condition, auxiliary)
    own = params["params"]

    def elu(x):
        return np.where(x > 0, x, np.expm1(x))

    h = elu(x) @ own["conv_1"]["kernel"][0, 0] + own["conv_1"]["bias"]
    h = h + elu(auxiliary) @ own["mix_auxiliary"]["kernel"] + own["mix_auxiliary"]["bias"]
    h = elu(h) @ own["conv_2"]["kernel"][0, 0] + own["conv_2"]["bias"]
    h = h + condition @ own["mix_condition"]["kernel"]
    expected = x + h[..., :2] / (1 + np.exp(-h[..., 2:]))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_gated_residual_place_by_place_is_the_whole_map():
    layer, params = residual(kernel_radius=1)
    x, condition = random(2, 4, 5, 2), random(2, 1, 1, 2)
    whole, _ = jax.jit(layer.apply)(params, x, condition)

    def one_place(memory, index):
        place = jnp.divmod(index, 5)
        own = jax.lax.dynamic_slice(x, (0, *place, 0), (2, 1, 1, 2))
        y, memory = layer.apply(params, own, condition, memory=memory, place=place)
        return memory, y[:, 0, 0]

    memory = layer.apply(params, 2, (4, 5), method="empty_memory")
    _, y = jax.jit(lambda m: jax.lax.scan(one_place, m, jnp.arange(20)))(memory)
    np.testing.assert_allclose(y.swapaxes(0, 1).reshape(whole.shape), whole, atol=1e-5)
