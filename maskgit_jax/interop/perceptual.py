"""Loads the pretrained networks of perceptual losses."""

from maskgit_jax.arrays import PyTree
from maskgit_jax.interop.feature_weights import load_efficientnet, load_lpips, load_resnet50
from maskgit_jax.networks.perceptual import check_perceptual_network


def load_perceptual_network(name: str, path: str = "") -> PyTree:
    """Returns the parameters of a network, float32 numpy arrays, for `perceptual_distance(name)`.

    Args:
        name: One of `networks.perceptual.PERCEPTUAL_NETWORKS`.
        path: The file of the weights, see `load_lpips`, `load_resnet50`, `load_efficientnet`.
            "": the weights of an installed package; there is none for ResNet-50.

    Raises:
        InputError: There is no such network, or its weights are missing, damaged or of another
            network; the message says where to get them.
    """
    check_perceptual_network(name)
    if name == "lpips":
        return load_lpips(path or None)
    if name.startswith("resnet50"):
        return load_resnet50(path)
    return load_efficientnet(path or None)
