import jax
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.networks.efficientnet import (
    EfficientNetLite,
    efficientnet_distance,
    efficientnet_outputs,
)
from maskgit_jax.networks.lpips import LAYERS, VGG16, WIDTHS
from maskgit_jax.networks.perceptual import PERCEPTUAL_NETWORKS, min_image_size, perceptual_distance
from maskgit_jax.networks.resnet import ResNet50
from tests.golden_values import assert_close, images

SIDE = 24


def random_params(network):
    """Weights that keep the variance of rectified layers, biases of 0.1."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 64, 64, 3)))["params"]
    rng = np.random.default_rng(0)

    def values(leaf):
        if len(leaf.shape) == 1:
            return np.full(leaf.shape, 0.1, np.float32)
        scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return rng.normal(scale=scale, size=leaf.shape).astype(np.float32)

    return jax.tree.map(values, shapes)


def params_of(name):
    if name == "lpips":
        weights = {layer: np.ones(width) for layer, width in zip(LAYERS, WIDTHS, strict=True)}
        return {"vgg16": random_params(VGG16()), "weights": weights}
    return random_params(ResNet50() if name.startswith("resnet50") else EfficientNetLite())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lpips", "efficientnet_logits"])
def test_distances_are_zero_for_equal_images_and_have_finite_gradients(name):
    params, distance_fn = params_of(name), perceptual_distance(name)

    def total(params, image, other):
        distance = distance_fn(params, image, other)
        return distance.sum(), distance

    total_fn = jax.jit(jax.value_and_grad(total, argnums=1, has_aux=True))
    scene, scenes = images("scene", (1, SIDE, SIDE, 3)), images("other", (1, SIDE, SIDE, 3))
    black, bright = np.full_like(scene, -1.0), np.full_like(scene, 1.5)
    image = np.concatenate([scene, scene, black, black, bright])
    other = np.concatenate([scene, scenes, black, scene, scene])
    (_, distance), slope = total_fn(params, image, other)
    assert distance.shape == (5,) and distance.dtype == np.float32
    assert np.isfinite(slope).all()
    distance, size = np.asarray(distance), np.abs(slope).max(axis=(1, 2, 3))
    # Features of equal images may differ by rounding, because their batch indices differ.
    assert distance[[0, 2]].max() < 1e-6 * distance[1] and size[[0, 2]].max() < 1e-3 * size[1]
    assert distance[[1, 3, 4]].min() > 0 and size[[1, 3, 4]].min() > 0

    # Dead features: all maps are zero; distances and gradients are 0, not NaN.
    (_, distance), slope = total_fn(jax.tree.map(np.zeros_like, params), image, other)
    assert not distance.any() and not slope.any()


@pytest.mark.parametrize("name", ["lpips", "resnet50_logits", "efficientnet_features"])
def test_distances_are_symmetric_and_repeat_grey_images(name):
    params, distance_fn = params_of(name), jax.jit(perceptual_distance(name))
    image, other = images("scene", (1, SIDE, SIDE, 1)), images("other", (1, SIDE, SIDE, 1))
    grey = distance_fn(params, image, other)
    image, other = (np.repeat(x, 3, axis=-1) for x in (image, other))
    np.testing.assert_allclose(distance_fn(params, other, image), grey, rtol=1e-4)


def test_efficientnet_distance_is_the_mean_squared_difference_of_logits():
    params = random_params(EfficientNetLite())
    # Constant images: the interpolation does not overshoot, so that clipping has no effect.
    colors = np.asarray([[0, 100, 255], [50, 60, 70]], np.uint8)
    pixels = np.broadcast_to(colors[:, None, None], (2, 8, 8, 3))
    logits = jax.jit(efficientnet_outputs)(params, pixels).logits
    image = pixels.astype(np.float32) / 127.5 - 1.0
    found = jax.jit(efficientnet_distance, static_argnums=3)(params, image[:1], image[1:], "logits")
    assert_close(found, ((logits[:1] - logits[1:]) ** 2).mean(axis=1))


def test_only_lpips_has_a_minimum_size():
    assert min_image_size("lpips") == 16
    assert {min_image_size(name) for name in PERCEPTUAL_NETWORKS if name != "lpips"} == {1}
    tiny = jax.ShapeDtypeStruct((2, 1, 1, 1), np.float32)
    params = jax.eval_shape(lambda: random_params(ResNet50()))
    distance = jax.eval_shape(perceptual_distance("resnet50_logits"), params, tiny, tiny)
    assert distance.shape == (2,)


@pytest.mark.parametrize("function", [perceptual_distance, min_image_size])
def test_an_unknown_network_is_an_error(function):
    with pytest.raises(InputError, match="no perceptual network 'vgg'; allowed: lpips"):
        function("vgg")


def test_efficientnet_distance_refuses_other_shapes_and_layers():
    image = np.zeros((1, 8, 8, 3), np.float32)
    with pytest.raises(InputError, match="of one shape"):
        efficientnet_distance({}, image, image[..., :1], "logits")
    with pytest.raises(InputError, match="'pool' is neither"):
        efficientnet_distance({}, image, image, "pool")
