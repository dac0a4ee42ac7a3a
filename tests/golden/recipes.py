# Random weights and images that can be made again anywhere: weights too large to be stored.
from binascii import crc32
from collections.abc import Mapping

import numpy as np


def state_dict(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Float32 tensors in torch's layout; each depends on its name and shape only."""
    return {name: tensor(name, tuple(shape)) for name, shape in shapes.items()}


def flax_arrays(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Float32 arrays in flax's layout, made as those of `state_dict`."""
    found = {}
    for name, shape in shapes.items():
        word = f"{name}.weight" if name.endswith("scale") else name
        found[name] = np.ascontiguousarray(tensor(word, tuple(shape)[::-1]).T)
    return found


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    uniform = np.random.default_rng(crc32(name.encode())).random(shape, np.float32)
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return uniform + np.float32(0.5)
    if name.startswith("lin"):  # LPIPS: not negative
        return uniform
    centred = (uniform - np.float32(0.5)) * np.float32(12**0.5)  # of variance 1
    if len(shape) == 1:
        return centred * np.float32(0.1)
    # Rectified layers keep their variance at 2 / inputs.
    return centred * np.float32((2 / np.prod(shape[1:])) ** 0.5)


def images(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uint8 images [B, H, W, C]: waves of a random direction and colour, and some noise."""
    random = np.random.default_rng(crc32(name.encode()))
    batch, height, width, channels = shape
    y, x = np.mgrid[:height, :width]
    frequency = random.random((2, batch, 1, 1, channels))
    phase = y[None, :, :, None] * frequency[0] + x[None, :, :, None] * frequency[1]
    noise = random.random(shape)
    return (127.5 + 100 * np.sin(phase) + 50 * (noise - 0.5)).clip(0, 255).astype(np.uint8)
