import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.losses.adversarial import (
    LecamAverages,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    init_lecam_averages,
    lecam_penalty,
    r1_penalty,
    update_lecam_averages,
)
from maskgit_jax.losses.reconstruction import pixel_loss
from maskgit_jax.networks.discriminators import StyleGANDiscriminator
from tests.golden_values import (
    assert_close,
    golden,
    images,
    linen_params,
    recipes,
    state_dict,
)


@pytest.fixture(scope="module")
def stored():
    return golden("adversarial")


@pytest.fixture(scope="module")
def params(stored):
    return linen_params(state_dict(stored["shapes_32"]))


def logits_of(params, image):
    network = StyleGANDiscriminator(32, filters=8, max_width=16)
    return network.apply({"params": params}, image, True)


def test_r1_of_a_linear_discriminator_is_its_squared_slope():
    # D(x) = 3 sum x: a gradient of 3 at each of 2 * 2 * 1 pixels, whatever the batch.
    image = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 2, 1)))
    penalty = r1_penalty(lambda x: 3 * x.sum(axis=(1, 2, 3)), image)
    np.testing.assert_allclose(penalty, 36.0, rtol=1e-6)
    assert r1_penalty(lambda x: jnp.zeros((5, 1)), image) == 0


def test_r1_of_a_quadratic_discriminator_and_its_gradient():
    # D(x) = a sum x^2: the norm is 4 a^2 sum x^2, its derivative by a is 8 a sum x^2.
    image = jnp.asarray([1.0, 2.0, 3.0, 0.0]).reshape(2, 2, 1, 1)
    penalty, slope = jax.value_and_grad(
        lambda a: r1_penalty(lambda x: (a * x**2).sum(axis=(1, 2, 3)), image)
    )(0.5)
    np.testing.assert_allclose(penalty, (5.0 + 9.0) / 2, rtol=1e-6)
    np.testing.assert_allclose(slope, 4.0 * (5.0 + 9.0) / 2, rtol=1e-6)


def test_r1_sums_the_logits_of_patches():
    image = jnp.ones((2, 3, 3, 1))
    patches = r1_penalty(lambda x: 2 * x[..., 0], image)
    np.testing.assert_allclose(patches, 4 * 9)


def test_r1_and_its_second_derivative_against_torch(stored, params):
    image = images("real", (3, 32, 32, 3))

    @jax.jit
    @jax.value_and_grad
    def penalty_fn(params):
        return r1_penalty(lambda x: logits_of(params, x), image)

    penalty, slopes = penalty_fn(params)
    np.testing.assert_allclose(penalty, stored["r1"], rtol=1e-5)
    found = slopes["block_0"]["conv_0"]["kernel"].transpose(3, 2, 0, 1)
    assert_close(found, stored["r1_slope"], 1e-5)


def test_adaptive_weight_against_torch(stored, params):
    image, features = images("real", (3, 32, 32, 3)), images("hidden", (3, 32, 32, 5))
    kernel = recipes.tensor("last.weight", (3, 5, 3, 3)).transpose(2, 3, 1, 0)

    def to_image(kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            features, kernel, (1, 1), "SAME", dimension_numbers=layout
        )

    @jax.jit
    def weight_fn(params, kernel):
        return adaptive_weight(
            lambda decoded: pixel_loss(image, decoded, "l1").mean(),
            lambda decoded: generator_loss(logits_of(params, decoded), "hinge"),
            to_image,
            kernel,
        )

    np.testing.assert_allclose(weight_fn(params, kernel), stored["adaptive_weight"], rtol=1e-5)


def test_lecam_against_numpy():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 4, 3, 3, 1)).astype(np.float32)
    averages = LecamAverages(jnp.asarray(0.7), jnp.asarray(-0.3))
    expected = ((real + 0.3) ** 2).mean() + ((fake - 0.7) ** 2).mean()
    np.testing.assert_allclose(lecam_penalty(real, fake, averages), expected, rtol=1e-5)
    rectified = (np.maximum(real + 0.3, 0) ** 2).mean() + (np.maximum(0.7 - fake, 0) ** 2).mean()
    found = lecam_penalty(real, fake, averages, rectified=True)
    np.testing.assert_allclose(found, rectified, rtol=1e-5)
    assert rectified < expected


def test_lecam_gradients_pull_logits_to_the_other_average():
    averages = LecamAverages(jnp.asarray(1.0), jnp.asarray(-1.0))
    slopes = jax.grad(lecam_penalty, argnums=(0, 1, 2))(jnp.ones(2), -jnp.ones(2), averages)
    assert slopes[0].min() > 0 > slopes[1].max()  # descent lowers real logits, raises fake ones
    assert slopes[2] == LecamAverages(0.0, 0.0)
    assert lecam_penalty(-jnp.ones(2), jnp.ones(2), averages) == 0


def test_lecam_averages_by_hand():
    averages = init_lecam_averages()
    assert averages == LecamAverages(0.0, 0.0) and averages.lecam_real.dtype == jnp.float32
    real, fake = jnp.asarray([[1.0], [3.0]]), jnp.asarray([[-4.0], [0.0]], jnp.bfloat16)
    averages = update_lecam_averages(averages, real, fake, 0.75)
    np.testing.assert_allclose(averages, (0.5, -0.5))
    averages = update_lecam_averages(averages, real, fake, 0.75)
    np.testing.assert_allclose(averages, (0.875, -0.875))
    np.testing.assert_allclose(update_lecam_averages(averages, real, fake, 0.0), (2.0, -2.0))
    assert averages.lecam_fake.dtype == jnp.float32
    slope = jax.grad(lambda x: update_lecam_averages(averages, x, fake, 0.5).lecam_real)(real)
    assert not slope.any()


def test_a_decay_of_1_is_an_error():
    with pytest.raises(ValueError, match="decay of LeCam's averages is 1.0"):
        update_lecam_averages(init_lecam_averages(), jnp.zeros(1), jnp.zeros(1), 1.0)


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [  # softplus(0) = log 2, softplus(log 3) = log 4
        ("hinge", 0.5 * (1.0 + (1.0 + np.log(3))), -np.log(3)),
        ("hinge_sum", 1.0 + (1.0 + np.log(3)), -np.log(3)),
        ("vanilla", 0.5 * (np.log(2) + np.log(4)), -np.log(3)),
        ("non_saturating", np.log(2) + np.log(4), np.log(4 / 3)),
    ],
)
def test_adversarial_losses_of_known_logits(kind, discriminator, generator):
    real, fake = jnp.zeros((2, 2)), jnp.full((3,), np.log(3.0))
    np.testing.assert_allclose(discriminator_loss(real, fake, kind), discriminator, rtol=1e-6)
    np.testing.assert_allclose(generator_loss(fake, kind), generator, rtol=1e-6)


def test_an_unknown_adversarial_loss_names_the_allowed_ones():
    with pytest.raises(ValueError, match="none of: hinge, hinge_sum, vanilla, non_saturating"):
        generator_loss(jnp.zeros(1), "wasserstein")
