"""Loads the networks in whose features images can be compared."""

from maskgit_jax.arrays import PyTree
from maskgit_jax.interop.feature_weights import load_efficientnet, load_lpips, load_resnet50
from maskgit_jax.networks.perceptual import check_perceptual_network


def load_perceptual_network(name: str, path: str = "") -> PyTree:
    """Returns the parameters of a judge, float32 arrays of numpy, for `perceptual_distance(name)`.

    Args:
        name: One of `networks.judges.PERCEPTUAL_NETWORKS`.
        path: The file of the weights, see `load_lpips`, `load_resnet50`, `load_efficientnet`.
            "" takes those of an installed package; for ResNet-50 there is none.

    Raises:
        InputError: There is no such judge, or its weights are missing, damaged or of another
            network; the message says where to get them.
    """
    check_perceptual_network(name)
    if name == "lpips":
        return load_lpips(path or None)
    if name.startswith("resnet50"):
        return load_resnet50(path)
    return load_efficientnet(path or None)
