"""What a format of another project is, and what reading one gives."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_jax.arrays import PyTree
from maskgit_jax.configuration import load_config
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.quantizers.codebook import init_codebook_state
from maskgit_jax.stages.vqgan import build_autoencoder


class Imported(NamedTuple):
    """A stage made of weights of another project.

    Attributes:
        stage: Its name, such as "vqgan".
        preset: The preset whose values hold, such as "vqgan:imagenet256".
        changes: Dotted key -> value, where the configuration differs: sizes, read off the shapes.
            "data.image_size" is always among them.
        params: Network -> parameters, float32 numpy arrays.
        state: The stage's state, see `Variables`.
        dropped: Names of arrays of the file that were dropped on purpose.
    """

    stage: str
    preset: str
    changes: dict[str, Any]
    params: dict[str, PyTree]
    state: PyTree
    dropped: tuple[str, ...] = ()


class Format(NamedTuple):
    """A format of published weights.

    Attributes:
        name: As in --format; a tokenizer and a generator of one project share it.
        part: "tokenizer" or "generator".
        detect: Whether weights are of this format, by their names and shapes only.
        read: (weights, image size or 0 for the format's own, the tokenizer of a generator or None)
            -> the stage. Raises `InputError` without the name of the file.
    """

    name: str
    part: str
    detect: Callable[[Weights], bool]
    read: Callable[[Weights, int, Imported | None], Imported]


def tokenizer_shapes(preset: str, changes: Mapping[str, Any]) -> PyTree:
    """Returns the shapes of the parameters of a VQGAN's autoencoder.

    Raises:
        InputError: The sizes in `changes` cannot be those of a network.
    """
    config = load_config(preset, **changes)
    autoencoder, data = build_autoencoder(config), config.data
    image = jax.ShapeDtypeStruct((1, data.image_size, data.image_size, data.channels), np.float32)
    shapes: Any = jax.eval_shape(lambda image: autoencoder.init(jax.random.key(0), image), image)
    return shapes["params"]


def tokenizer_state(codebook: np.ndarray) -> PyTree:
    """Returns the state of a VQGAN without a discriminator before the first step."""
    return {**init_codebook_state(jnp.asarray(codebook), "gradient")}
