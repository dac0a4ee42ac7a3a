"""Weights in PyTorch's file formats, read without PyTorch and without running their code."""

import io
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_jax.configuration import InputError, require

_ZIP_START = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_DAMAGE = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, zlib.error, OSError,
    EOFError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError,
    MemoryError,
)  # fmt: skip


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a `.pth`, `.pt` or `.ckpt` file by name, as contiguous arrays.

    Reads both formats of `torch.save`: the zip archive (since torch 1.6) and the stream of
    pickles before it. Types are kept, except bfloat16, which becomes float32. A checkpoint
    whose weights lie under the key "state_dict" gives those. Nothing in the file is executed:
    only tensors and plain containers are understood.

    Raises:
        InputError: The file is missing, damaged, of another kind, or holds other objects.

    Source: the format as written by pytorch/pytorch torch/serialization.py.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(_ZIP_START))
            file.seek(0)
            top, storages = (_read_archive if start == _ZIP_START else _read_stream)(file)
        return {name: _to_array(tensor, storages) for name, tensor in _tensors(top).items()}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except _DAMAGE as error:
        kind = type(error).__name__
        raise InputError(f"{path} is no torch file, or is damaged ({kind}: {error})") from error


class _Dict(OrderedDict):
    """An ordered dictionary that ignores the attributes a module gives to its state dict."""

    def __setstate__(self, state: Any) -> None:
        del state


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    length: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


def _rebuild_tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    require(isinstance(storage, _Storage), "holds a tensor without a storage")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


class _Unpickler(pickle.Unpickler):
    """Understands tensors and plain containers; refuses every other name."""

    _KNOWN: Mapping[tuple[str, str], Callable] = {
        ("collections", "OrderedDict"): _Dict,
        ("torch", "Size"): tuple,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    }

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        found = self._KNOWN.get((module, name))
        require(found is not None, f"holds {module}.{name}; only tensors can be read")
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, length, *view = pid
        require(kind == "storage", f"holds a reference to '{kind}'; only tensors can be read")
        require(view in ([], [None]), "holds storages that are views; save it again")
        return self.storages.setdefault(str(key), _Storage(str(key), dtype, int(length)))


def _read_archive(file: Any) -> tuple[Any, Callable[[_Storage], bytes]]:
    archive = zipfile.ZipFile(io.BytesIO(file.read()))
    names = archive.namelist()
    index = next((name for name in names if name.endswith("/data.pkl")), "")
    require(index != "", "is a zip archive, but not one of torch: it has no data.pkl")
    root = index.removesuffix("data.pkl")
    if f"{root}byteorder" in names:
        _require_little_endian(archive.read(f"{root}byteorder") == b"little")
    top = _Unpickler(io.BytesIO(archive.read(index))).load()
    return top, lambda storage: archive.read(f"{root}data/{storage.key}")


def _read_stream(file: Any) -> tuple[Any, Callable[[_Storage], bytes]]:
    content = io.BytesIO(file.read())
    require(
        _Unpickler(content).load() == _LEGACY_MAGIC and _Unpickler(content).load() == 1001,
        "is a pickle, but not one of torch",
    )
    _require_little_endian(_Unpickler(content).load()["little_endian"])
    unpickler = _Unpickler(content)
    top = unpickler.load()
    found = {}
    for key in _Unpickler(content).load():
        (length,) = struct.unpack("<q", content.read(8))
        found[key] = content.read(length * _item_size(unpickler.storages[key].dtype))
    return top, lambda storage: found[storage.key]


def _require_little_endian(condition: bool) -> None:
    require(condition, "was written on a big-endian machine; save it again on another")


def _tensors(top: Any) -> Mapping[str, _Tensor]:
    require(isinstance(top, Mapping), f"holds a {type(top).__name__}, not a state dict")
    state = top.get("state_dict", top)
    require(isinstance(state, Mapping), "has a 'state_dict' that is none")
    for name, tensor in state.items():
        found = type(tensor).__name__
        require(isinstance(tensor, _Tensor), f"holds under '{name}' a {found}, not a tensor")
    return state


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _to_array(tensor: _Tensor, storages: Callable[[_Storage], bytes]) -> np.ndarray:
    storage, size = tensor.storage, _item_size(tensor.storage.dtype)
    content = storages(storage)
    require(len(content) == storage.length * size, f"is cut off in storage '{storage.key}'")
    extent = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    empty = 0 in tensor.shape
    inside = min((tensor.offset, *tensor.strides, *tensor.shape)) >= 0 and (
        empty or tensor.offset + extent < storage.length
    )
    require(inside, f"is damaged: a tensor reaches beyond its storage '{storage.key}'")
    code = "<u2" if storage.dtype == "bfloat16" else storage.dtype
    if empty:
        values = np.zeros(tensor.shape, code)
    else:
        values = np.lib.stride_tricks.as_strided(
            np.frombuffer(content, code, offset=tensor.offset * size),
            tensor.shape,
            [stride * size for stride in tensor.strides],
            writeable=False,
        ).copy()
    if storage.dtype == "bfloat16":  # the upper half of a float32
        values = np.asarray(values.astype(np.uint32) << 16).view(np.float32)
    return values
