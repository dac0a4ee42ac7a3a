import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.networks.causal import ShiftedConv, gated
from maskgit_jax.networks.gated import CausalAttention

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


@pytest.mark.parametrize("block", [(1, 5), (1, 1)])
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
    value = told @ params["params"]["value"]["kernel"] + params["params"]["value"]["bias"][None, None]
    np.testing.assert_array_equal(heard[:, 0], np.zeros((1, 4)))
    np.testing.assert_allclose(heard[:, 1], value[:, 0], atol=1e-6)
