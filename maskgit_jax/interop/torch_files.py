"""Weights in PyTorch's file formats, read without PyTorch and without running their code."""

import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from maskgit_jax.configuration import require
from maskgit_jax.interop.pickles import RestrictedUnpickler, open_untrusted

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_WRAPPERS = ("state_dict", "model_state_dict", "ema", "model")
_STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a `.pth`, `.pt` or `.ckpt` file by name, as contiguous arrays.

    Reads both formats of `torch.save`: the zip archive (since torch 1.6) and the older stream of
    pickles. Types are preserved, except bfloat16, which becomes float32. If a checkpoint has one of
    the keys "state_dict", "model_state_dict", "ema" and "model", its tensors are returned. Nothing
    in the file is executed: it may contain only tensors and plain containers.

    Raises:
        InputError: The file is missing, damaged, of another kind, or holds other objects.

    Source: the format as written by pytorch/pytorch torch/serialization.py.
    """
    with open_untrusted(path, "torch file") as file:
        magic = file.read(len(_ZIP_MAGIC))
        file.seek(0)
        content = _read_archive(file) if magic == _ZIP_MAGIC else _read_stream(file)
        return {name: _contiguous(tensor) for name, tensor in _tensors(content).items()}


class _Dict(OrderedDict):
    """An ordered dictionary that ignores the attributes of a module's state dict."""

    def __setstate__(self, state: Any) -> None:
        del state


def _rebuild_tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """Returns a view of a storage; its content may follow later."""
    require(isinstance(storage, np.ndarray), "holds a tensor without a storage")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    inside = min((offset, *strides, *shape)) >= 0 and last < len(storage)
    require(inside, "is damaged: a tensor reaches beyond its storage")
    strides = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides)


_ALLOWED = {
    ("collections", "OrderedDict"): _Dict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{(m, name): dtype for m in ("torch", "torch.storage") for name, dtype in _STORAGES.items()},
}


class _Unpickler(RestrictedUnpickler):
    """Reads tensors as views of `storages`, which are zero until they are filled."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, _ALLOWED, "tensors")
        self.storages: dict[str, np.ndarray] = {}

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, length, *view = pid
        require(kind == "storage", f"holds a reference to '{kind}'; only tensors can be read")
        require(view in ([], [None]), "holds storages that are views; save it again")
        if key not in self.storages:
            self.storages[key] = np.zeros(int(length), dtype)
        return self.storages[key]


def _read_archive(file: BinaryIO) -> Any:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    index = next((name for name in names if name.endswith("/data.pkl")), "")
    require(index != "", "is a zip archive, but not one of torch: it has no data.pkl")
    root = index.removesuffix("data.pkl")
    if f"{root}byteorder" in names:
        _require_little_endian(archive.read(f"{root}byteorder") == b"little")
    with archive.open(index) as pickled:
        unpickler = _Unpickler(pickled)
        content = unpickler.load()
    for key, storage in unpickler.storages.items():
        _fill(storage, archive.read(f"{root}data/{key}"), key)
    return content


def _read_stream(file: BinaryIO) -> Any:
    require(
        _Unpickler(file).load() == _LEGACY_MAGIC and _Unpickler(file).load() == 1001,
        "is a pickle, but not one of torch",
    )
    _require_little_endian(_Unpickler(file).load()["little_endian"])
    unpickler = _Unpickler(file)
    content = unpickler.load()
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        (length,) = struct.unpack("<q", file.read(8))
        _fill(storage, file.read(length * storage.itemsize), key)
    return content


def _require_little_endian(condition: bool) -> None:
    require(condition, "was written on a big-endian machine; save it again on another")


def _fill(storage: np.ndarray, content: bytes, key: str) -> None:
    require(len(content) == storage.nbytes, f"is cut off in storage '{key}'")
    storage[:] = np.frombuffer(content, storage.dtype)


def _tensors(content: Any) -> Mapping[str, np.ndarray]:
    require(isinstance(content, Mapping), f"holds a {type(content).__name__}, not a state dict")
    wrapper = next((key for key in _WRAPPERS if key in content), "")
    state = content[wrapper] if wrapper else content
    require(isinstance(state, Mapping), f"has a '{wrapper}' that is no state dict")
    for name, tensor in state.items():
        kind = type(tensor).__name__
        require(isinstance(tensor, np.ndarray), f"holds a {kind} under '{name}', not a tensor")
    return state


def _contiguous(tensor: np.ndarray) -> np.ndarray:
    dtype = np.float32 if tensor.dtype == jnp.bfloat16 else tensor.dtype
    return np.array(tensor, dtype, order="C")
