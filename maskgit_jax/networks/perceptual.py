"""The pretrained networks of perceptual losses, by name."""

from collections.abc import Callable
from functools import partial

from maskgit_jax.arrays import Array, PyTree
from maskgit_jax.configuration import require
from maskgit_jax.networks import lpips
from maskgit_jax.networks.efficientnet import efficientnet_distance
from maskgit_jax.networks.resnet import resnet50_distance

Distance = Callable[[PyTree, Array, Array], Array]

_DISTANCES: dict[str, Distance] = {
    "lpips": lpips.lpips_distance,
    "resnet50_logits": partial(resnet50_distance, layer="logits"),
    "resnet50_features": partial(resnet50_distance, layer="features"),
    "efficientnet_logits": partial(efficientnet_distance, layer="logits"),
    "efficientnet_features": partial(efficientnet_distance, layer="features"),
}
PERCEPTUAL_NETWORKS = tuple(_DISTANCES)


def perceptual_distance(name: str) -> Distance:
    """Returns the function (params, image, other) -> distances, float32 [B].

    Both images are float [B, H, W, C] in [-1, 1], C = 1 or 3. Distances are 0 for equal images
    and differentiable with respect to either; their scales differ by orders of magnitude between
    networks, and so must their weights in a loss.

    Args:
        name: One of `PERCEPTUAL_NETWORKS`; `interop.perceptual.load_perceptual_network` loads
            the parameters.

    Raises:
        InputError: There is no such network.
    """
    check_perceptual_network(name)
    return _DISTANCES[name]


def min_image_size(name: str) -> int:
    """Returns the smallest height and width of images that a network can compare, in pixels.

    Raises:
        InputError: There is no such network.
    """
    check_perceptual_network(name)
    return lpips.MIN_IMAGE_SIZE if name == "lpips" else 1


def check_perceptual_network(name: str) -> None:
    """Raises `InputError` unless the name is one of `PERCEPTUAL_NETWORKS`."""
    require(
        name in PERCEPTUAL_NETWORKS,
        f"there is no perceptual network '{name}'; allowed: {', '.join(PERCEPTUAL_NETWORKS)}",
    )
