"""The networks in whose features images can be compared, by name."""

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
JUDGES = tuple(_DISTANCES)


def judge_distance(name: str) -> Distance:
    """Returns the function (params, image, other) -> distances, float32 [B].

    Both images are float [B, H, W, C] in [-1, 1], C = 1 or 3. Distances are 0 for equal images
    and can be differentiated with respect to either; their scales differ by orders of magnitude
    from one judge to the next, and so must their weights in a loss.

    Args:
        name: One of `JUDGES`; `interop.judges.load_judge` loads its parameters.

    Raises:
        InputError: There is no such judge.
    """
    require_judge(name)
    return _DISTANCES[name]


def smallest_side(name: str) -> int:
    """Returns the smallest height and width of images that a judge can compare, in pixels.

    Raises:
        InputError: There is no such judge.
    """
    require_judge(name)
    return lpips.SMALLEST_SIDE if name == "lpips" else 1


def require_judge(name: str) -> None:
    """Raises `InputError` unless the name is one of `JUDGES`."""
    require(name in JUDGES, f"there is no judge '{name}'; allowed: {', '.join(JUDGES)}")
