"""Runs as one safetensors file: the parameters by our own names, and the configuration.

Every stage can be written, and what is read again is equal to the last bit.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import empty_node, flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from maskgit_jax.config_keys import flat_values
from maskgit_jax.configuration import require
from maskgit_jax.interop.imported import Imported
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.stage import Variables

CONFIG_KEY = "maskgit_jax"
"""Of the metadata of the file: the configuration as JSON."""
_EMPTY_KEY = "empty"  # names of dictionaries without arrays
_PARTS = ("params", "state")


def is_tokenizer(weights: Weights) -> bool:
    """Returns whether the file holds a tokenizer's run."""
    return CONFIG_KEY in weights.config and "tokenizer" not in _values(weights)


def is_generator(weights: Weights) -> bool:
    """Returns whether the file holds a run on the tokens of a tokenizer."""
    return CONFIG_KEY in weights.config and "tokenizer" in _values(weights)


def _values(weights: Weights) -> dict[str, Any]:
    return json.loads(weights.config[CONFIG_KEY])


def read_run(weights: Weights, image_size: int, tokenizer: Imported | None) -> Imported:
    """Returns the stage of a run that was exported."""
    del tokenizer
    config = ConfigDict(_values(weights))
    require(
        image_size in (0, config.data.image_size),
        f"is of images of {config.data.image_size} pixels, not {image_size}",
    )
    empty = dict.fromkeys(json.loads(weights.config[_EMPTY_KEY]), empty_node)
    tree = unflatten_dict({**weights.arrays, **empty}, sep="/")
    require(set(tree) <= set(_PARTS) and "params" in tree, "holds other arrays than a run")
    changes = {key: _tuples(value) for key, value in flat_values(config).items() if key != "stage"}
    return Imported(config.stage, config.stage, changes, tree["params"], tree.get("state", {}))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def write_run(config: ConfigDict, variables: Variables, path: Path) -> None:
    """Writes the parameters (averages where they are kept) and the state of a run."""
    tree = {"params": dict(variables.params), "state": variables.state}
    flat: dict[str, Any] = flatten_dict(tree, sep="/", keep_empty_nodes=True)
    empty = [name for name, array in flat.items() if array is empty_node]
    arrays = {name: np.ascontiguousarray(x) for name, x in flat.items() if name not in empty}
    save_file(arrays, path, {CONFIG_KEY: config.to_json(), _EMPTY_KEY: json.dumps(empty)})
