"""Weight files of other projects as named arrays, whatever their file format.

Nothing in a file is executed, and no other framework is imported.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict
from safetensors import safe_open
from safetensors.numpy import load_file

from maskgit_jax.configuration import InputError, require
from maskgit_jax.files import user_path
from maskgit_jax.interop.pickles import open_untrusted
from maskgit_jax.interop.torch_files import read_state_dict

_WEIGHTS_IN_FOLDERS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_MODELS_IN_PIPELINES = ("vqvae", "vqmodel", "movq", "vae")


class Weights(NamedTuple):
    """The arrays of a file.

    Attributes:
        path: The file; in a folder, the file of the weights.
        arrays: Name -> array. Names of nested dictionaries are joined by "/" (flax), those of
            state dicts are as in the file ("a.b.weight").
        config: The description of the weights: `config.json` (diffusers), or a YAML file
            (taming-transformers) beside them, of the same name, or the only one of a model in
            ../configs; for safetensors without one, the metadata of the file; empty otherwise.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    config: dict[str, Any]


def read_weights(path: str | Path) -> Weights:
    """Returns the arrays of a file or folder.

    Reads msgpack of flax (`.ckpt`, `.msgpack`, or no suffix), both formats of `torch.save`,
    safetensors, and folders of diffusers: of one model or of a pipeline.

    Raises:
        InputError: It is missing, damaged, or of another kind.
    """
    path = Path(user_path(path))
    require(path.exists(), f"{path} does not exist")
    config: dict[str, Any] = {}
    if path.is_dir():
        folder = _model_folder(path)
        config = _read_description(folder / "config.json")
        path = _weights_in(folder)
    else:
        config = _description_beside(path)
    arrays, metadata = _read_arrays(path)
    require(bool(arrays), f"{path} holds no arrays")
    return Weights(path, arrays, config or metadata)


def count(arrays: Mapping[str, np.ndarray], pattern: str) -> int:
    """Returns how many different numbers the group of a pattern finds at the start of the names."""
    matches = (re.match(pattern, name) for name in arrays)
    return len({match[1] for match in matches if match})


def _model_folder(folder: Path) -> Path:
    """Returns the folder of the model: `folder` itself, or its part of a pipeline."""
    candidates = [folder, *(folder / name for name in _MODELS_IN_PIPELINES)]
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            return candidate
    raise InputError(
        f"{folder} is a folder without config.json, also in {', '.join(_MODELS_IN_PIPELINES)}; "
        "give a file, or a folder in the layout of diffusers"
    )


def _weights_in(folder: Path) -> Path:
    for name in _WEIGHTS_IN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder} lacks its weights: {' or '.join(_WEIGHTS_IN_FOLDERS)}")


def _description_beside(path: Path) -> dict[str, Any]:
    for candidate in (path.with_suffix(".yaml"), path.with_suffix(".yml")):
        if candidate.is_file() and candidate != path:
            return _read_description(candidate)
    if path.parent.name != "checkpoints":
        return {}
    files = sorted(path.parent.parent.glob("configs/*.yaml"))
    found = [content for file in files if "model" in (content := _read_description(file))]
    return found[0] if len(found) == 1 else {}


def _read_description(path: Path) -> dict[str, Any]:
    with open_untrusted(path, f"{path.suffix.removeprefix('.').upper()} file") as file:
        content = json.load(file) if path.suffix == ".json" else yaml.safe_load(file)
        require(isinstance(content, dict), "holds no dictionary")
        return content


def _read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays of a file and its metadata."""
    with open_untrusted(path, "file of weights") as file:
        start = file.read(9)
    if _is_safetensors(start):
        return _read_safetensors(path)
    if _is_msgpack(start):
        return _read_msgpack(path), {}
    is_torch = start[:4] == b"PK\x03\x04" or start[:1] == b"\x80"
    require(
        is_torch,
        f"{path} is none of: msgpack of flax, torch file, safetensors; it begins with {start!r}",
    )
    return read_state_dict(path), {}


def _is_safetensors(start: bytes) -> bool:
    """Eight bytes of the header's length, then JSON."""
    return len(start) == 9 and start[8:] == b"{" and start[5:8] == bytes(3)


def _is_msgpack(start: bytes) -> bool:
    """A map that is not empty; 0x80, an empty one, is how pickles begin."""
    return bool(start) and (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF))


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with open_untrusted(path, "safetensors file"), safe_open(path, framework="np") as file:
        return load_file(path), file.metadata() or {}


def _read_msgpack(path: Path) -> dict[str, np.ndarray]:
    with open_untrusted(path, "msgpack file of flax") as file:
        content: Any = msgpack_restore(file.read())
        require(isinstance(content, Mapping), "holds no dictionary")
        flat: Any = flatten_dict(_with_words(content), sep="/")
    return {name: value for name, value in flat.items() if isinstance(value, np.ndarray)}


def _with_words(content: Any) -> Any:
    """Makes all keys of nested dictionaries strings."""
    if not isinstance(content, Mapping):
        return content
    return {str(key): _with_words(value) for key, value in content.items()}
