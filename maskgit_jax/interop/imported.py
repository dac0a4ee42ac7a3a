"""What a format of another project is, and what reading one gives."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, PyTree
from maskgit_jax.configuration import load_config
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.quantizers.codebook import init_codebook_state
from maskgit_jax.stage import Variables
from maskgit_jax.stages.vqgan import build_autoencoder, build_discriminator, validate


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
        frozen: Name -> a stage in the same file that this one uses, besides the tokenizer.
    """

    stage: str
    preset: str
    changes: dict[str, Any]
    params: dict[str, PyTree]
    state: PyTree
    dropped: tuple[str, ...] = ()
    frozen: Mapping[str, "Imported"] = MappingProxyType({})

    @property
    def downsampling(self) -> int:
        """Of a tokenizer: pixels of the images for each token of a side of the map."""
        return 2 ** (len(self.changes["model.channel_multipliers"]) - 1)


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


def stage_config(imported: Imported, **changes: Any) -> ConfigDict:
    """Returns the configuration of a stage, with more changes. Its type is float32."""
    return load_config(imported.preset, **{"dtype": "float32", **imported.changes, **changes})


def imagenet_classes(num_classes: int) -> tuple[str, ...]:
    """Returns the names of the 1,000 classes of ImageNet as TFDS and its folders have them.

    For another number of classes there are none: it is unknown which ones they are.
    """
    package = find_spec("tensorflow_datasets")
    folders = (package and package.submodule_search_locations) or ()
    files = [Path(folder) / "datasets/imagenet2012/labels.txt" for folder in folders]
    names = [tuple(file.read_text().split()) for file in files if file.is_file()]
    return names[0] if num_classes == 1000 and names else ()


class Export(NamedTuple):
    """A format in which runs are written.

    Attributes:
        name: As in --format.
        write: (configuration, variables as numpy arrays, file) -> None. Raises `InputError` for a
            run that the format cannot hold.
    """

    name: str
    write: Callable[[ConfigDict, Variables, Path], None]


def vqgan_shapes(config: ConfigDict) -> PyTree:
    """Returns the shapes of the parameters of a VQGAN: of "autoencoder" and "discriminator".

    Raises:
        InputError: The sizes cannot be those of a network.
    """
    validate(config)
    data = config.data
    image = jax.ShapeDtypeStruct((1, data.image_size, data.image_size, data.channels), np.float32)
    autoencoder, discriminator = build_autoencoder(config), build_discriminator(config)

    def init(image: Array) -> Any:
        key = jax.random.key(0)
        return autoencoder.init(key, image), discriminator.init(key, image, train=True)

    first, second = jax.eval_shape(init, image)
    return {"autoencoder": first["params"], "discriminator": second["params"]}


def vqgan_state(params: Mapping[str, PyTree], batch_stats: PyTree = None) -> PyTree:
    """Returns the state of a VQGAN before the first step.

    Args:
        params: "autoencoder" and, perhaps, "discriminator".
        batch_stats: The discriminator's statistics, if it has any.
    """
    codebook = jnp.asarray(params["autoencoder"]["quantizer"]["codebook"])
    state = {**init_codebook_state(codebook, "gradient")}
    return {**state, "batch_stats": batch_stats or {}} if "discriminator" in params else state
