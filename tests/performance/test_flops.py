"""FLOPs and bytes against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.performance.flops import count_work, window_pairs
from maskgit_jax.priors.maskgit import MaskGIT


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def count_flops(function, *arguments):
    return count_work(function, *arguments).flops


def product(x, w):
    return x @ w


def test_matrix_product_counts_two_flops_per_multiplication():
    assert count_flops(product, shape(3, 4), shape(4, 5)) == {"float32": 2 * 3 * 4 * 5}


def test_batch_axes_are_not_contracted():
    flops = count_flops(
        lambda x, y: jnp.einsum("bnqd,bnkd->bnqk", x, y), shape(2, 3, 4, 5), shape(2, 3, 6, 5)
    )
    assert flops == {"float32": 2 * 2 * 3 * 4 * 6 * 5}


def test_dtypes_and_precisions_count_separately():
    def several(x, y):
        exact = jnp.dot(y, y, precision="highest")
        return x @ x, jnp.dot(x, x, preferred_element_type=jnp.float32), y @ y, exact

    flops = count_flops(several, shape(4, 4, dtype=jnp.bfloat16), shape(2, 2))
    assert flops == {"bfloat16": 2 * 2 * 4**3, "float32": 2 * 2**3, "float32_highest": 2 * 2**3}


def convolution(x, w, stride=1, padding="VALID", **settings):
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings
    )


def test_convolution_counts_every_tap_of_every_output():
    flops = count_flops(convolution, shape(2, 8, 6, 3), shape(3, 3, 3, 5))
    assert flops == {"float32": 2 * (2 * 6 * 4 * 5) * (3 * 3 * 3)}


def test_padding_does_not_count():
    # Along 8 pixels three taps meet 3 * 8 - 2 of them.
    flops = count_flops(
        lambda x, w: convolution(x, w, padding="SAME"), shape(1, 8, 8, 1), shape(3, 3, 1, 1)
    )
    assert flops == {"float32": 2 * 22**2}


def test_feature_groups_count_their_own_features_only():
    flops = count_flops(
        lambda x, w: convolution(x, w, feature_group_count=4), shape(1, 5, 5, 8), shape(2, 2, 2, 12)
    )
    assert flops == {"float32": 2 * (4 * 4 * 12) * (2 * 2 * 2)}


@pytest.mark.parametrize(
    ("stride", "padding"), [(1, "SAME"), (2, "SAME"), (2, "VALID"), (3, "SAME")]
)
def test_each_gradient_of_a_convolution_counts_as_much_as_the_convolution(stride, padding):
    def loss(x, w):
        return convolution(x, w, stride, padding).sum() ** 2

    x, w = shape(2, 9, 12, 3), shape(3, 3, 3, 4)
    once = count_flops(loss, x, w)["float32"]
    assert count_flops(jax.grad(loss, argnums=0), x, w)["float32"] == 2 * once
    assert count_flops(jax.grad(loss, argnums=(0, 1)), x, w)["float32"] == 3 * once
    assert (
        once
        == jax.jit(lambda x, w: convolution(x, w, stride, padding))
        .lower(x, w)
        .cost_analysis()["flops"]
    )


def test_zeros_of_a_dilated_image_do_not_count():
    flops = count_flops(
        lambda x, w: convolution(x, w, 1, [(0, 0)] * 2, lhs_dilation=(2, 2)),
        shape(1, 4, 4, 1),
        shape(2, 2, 1, 1),
    )
    # 7 places with 3 zeros between 4 pixels: each of 6 outputs meets one pixel along an axis.
    assert flops == {"float32": 2 * 6**2}


def test_window_pairs_equal_a_count_by_hand():
    def by_hand(size, kernel, result, stride, before, stretch, spread):
        real = {i * stretch for i in range(size)}
        return sum(
            o * stride + k * spread - before in real for o in range(result) for k in range(kernel)
        )

    settings = [(5, 3, 5, 1, 1, 1, 1), (5, 3, 2, 2, 0, 1, 1), (4, 3, 8, 1, 1, 2, 1),
                (9, 4, 3, 1, 1, 1, 2), (5, 2, 3, 1, -1, 1, 1), (1, 4, 4, 1, 3, 1, 1)]  # fmt: skip
    for setting in settings:
        assert window_pairs(*setting) == by_hand(*setting)


def test_nested_loops_count_once_per_iteration():
    def inner(x, _):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=3)[0], None

    flops = count_flops(lambda x: jax.lax.scan(inner, x, None, length=5)[0], shape(4, 4))
    assert flops == {"float32": 15 * 2 * 4**3}


def test_backward_pass_of_a_loop_counts_twice_its_forward_pass():
    def loss(w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), jnp.ones((2, 4)), w)[0].sum()

    assert count_flops(jax.grad(loss), shape(6, 4, 4)) == {"float32": 3 * 6 * 2 * 2 * 4 * 4}


def test_rematerialization_counts_again():
    def loss(w1, w2, x, wrap):
        return wrap(lambda x: jnp.tanh(jnp.tanh(x @ w1) @ w2))(x).sum()

    def cost(wrap):
        arguments = shape(4, 4), shape(4, 4), shape(2, 4)
        gradient = jax.value_and_grad(lambda *a: loss(*a, wrap), argnums=(0, 1, 2))
        return count_flops(gradient, *arguments)["float32"] / (2 * 2 * 4 * 4)

    assert cost(lambda f: f) == 2 * 3
    assert cost(jax.checkpoint) == 2 * 3 + 2


def test_equal_values_count_once_and_unused_ones_never():
    def program(x, w):
        unused = w @ w
        del unused
        return x @ w + 1.0, jax.jit(product)(x, w) + 2.0, (x @ w).sum()

    assert count_flops(program, shape(3, 4), shape(4, 4)) == {"float32": 2 * 3 * 4 * 4}


def test_networks_that_share_a_forward_pass_share_its_flops():
    def make(w, v, x):
        return jnp.tanh(x @ w) @ v

    def both(w, v, x):
        # As training does it: one gradient per network, each with the whole forward pass.
        one = jax.value_and_grad(lambda w: (make(w, v, x) ** 2).sum())(w)
        two = jax.value_and_grad(lambda v: (make(w, v, x) ** 2).sum())(v)
        return one, two

    once = 2 * 5 * 4 * 4
    flops = count_flops(both, shape(4, 4), shape(4, 4), shape(5, 4))
    assert flops == {"float32": (2 + 2 + 1) * once}  # two forward; w: through v, w; v: itself


def test_constants_of_equal_value_are_equal():
    def program(x):
        return tuple(x @ jnp.array(np.eye(4, dtype=np.float32)) for _ in range(2))

    assert count_flops(program, shape(3, 4)) == {"float32": 2 * 3 * 4 * 4}


def test_most_expensive_branch_counts():
    def program(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x @ x, lambda x: x @ x, x)

    flops = count_flops(program, shape(dtype=jnp.bool_), shape(4, 4))
    assert flops == {"float32": 2 * 2 * 4**3}


def test_custom_derivatives_count_as_written():
    @jax.custom_vjp
    def square(x):
        return x @ x

    square.defvjp(lambda x: (square(x), x), lambda x, g: (g @ x @ x @ x,))
    flops = count_flops(jax.grad(lambda x: square(x).sum()), shape(4, 4))
    assert flops == {"float32": 3 * 2 * 4**3}  # no result depends on the product itself


def test_loop_of_unknown_length_with_products_is_refused():
    def forever(step):
        return lambda x: jax.lax.while_loop(lambda x: x.sum() < 10, step, x)

    assert count_flops(forever(lambda x: x + 1), shape(2, 2)) == {}
    with pytest.raises(ValueError, match="'while' contains products of arrays"):
        count_flops(forever(lambda x: x @ x), shape(2, 2))


def test_unused_arguments_are_known():
    work = count_work(lambda tree, y: tree["a"] + 0.0 * y.shape[0], {"a": 1.0, "b": 2.0}, shape(3))
    assert work.used == [True, False, False]


def test_products_read_their_factors_and_write_their_results():
    def program(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=5)[0]

    work = count_work(program, shape(3, 4, dtype=jnp.bfloat16), shape(4, 4, dtype=jnp.bfloat16))
    assert work.bytes == 5 * 2 * (3 * 4 + 4 * 4 + 3 * 4)
    assert work.total_flops == 5 * 2 * 3 * 4 * 4


def test_paper_transformer_needs_six_flops_per_weight_and_token(key):
    """6 N D FLOPs for N weights and D tokens: three products, two FLOPs per multiplication."""
    network = MaskGIT(1024, 1000, 256, remat=False)
    tokens, label = shape(2, 256, dtype=jnp.int32), shape(2, dtype=jnp.int32)
    mask = shape(2, 256, dtype=jnp.bool_)
    params = jax.eval_shape(lambda *a: network.init(*a, False), key, tokens, mask, label)

    def loss(params, tokens, mask, label):
        return network.apply(params, tokens, mask, label, False).sum()

    step = jax.value_and_grad(loss)
    flops = count_work(step, params, tokens, mask, label).total_flops
    layers, width, length = 24, 768, 257
    weights = layers * 12 * width**2
    assert flops == pytest.approx(6 * weights * 2 * length, rel=0.07)  # attention is the rest
    attention = layers * 2 * length**2 * width  # scores and mixing, multiplications
    head = 256 * (width**2 + width * 1024)
    assert flops == 6 * 2 * (weights * length + attention + head)
