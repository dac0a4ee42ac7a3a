"""Stored outputs of other projects' networks, and the weights and images that gave them."""

import importlib.util
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

GOLDEN = Path(__file__).parent / "golden"


def _recipes():
    # The folder is no package: its scripts also run in an environment without this one.
    spec = importlib.util.spec_from_file_location("recipes", GOLDEN / "recipes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipes = _recipes()


def golden(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / f"{name}.npz"))


def state_dict(shapes: np.ndarray) -> dict[str, np.ndarray]:
    """The torch tensors of stored shapes."""
    return recipes.state_dict(json.loads(str(shapes)))


def images(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 images [B, H, W, C] in [-1, 1]."""
    return recipes.images(name, shape).astype(np.float32) / 127.5 - 1.0


def linen_params(state: dict[str, np.ndarray]):
    """A torch state dict of convolutions and dense layers as a tree of linen."""
    params = {}
    for name, value in state.items():
        layer, leaf = name.replace(".", "/").rsplit("/", 1)
        if leaf == "weight":
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        params[f"{layer}/{'kernel' if leaf == 'weight' else leaf}"] = value
    return unflatten_dict(params, sep="/")


@partial(jax.jit, static_argnums=0)
def tokenize(network, params, image):
    """Latents, tokens and reconstruction of images, by the networks of a tokenizer."""
    variables = {"params": params}
    latents = network.apply(variables, image, method="latents")
    tokens = network.apply(variables, image, method="encode")
    return latents, tokens, network.apply(variables, tokens, method="decode")


def assert_close(found, expected, tolerance=1e-4):
    """Compares with a tolerance relative to the largest value."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
