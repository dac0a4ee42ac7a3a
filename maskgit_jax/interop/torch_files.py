"""Weights in PyTorch's file formats, read without PyTorch and without running their code."""

import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
    the keys "state_dict", "model_state_dict", "ema" and "model", its tensors are returned, and only
    they are read from the file: callbacks and states of optimizers beside it, as PyTorch Lightning
    stores them, are skipped. Nothing in the file is imported or executed: objects other than
    tensors and plain containers become empty stand-ins, which a state dict may not contain.

    Raises:
        InputError: The file is missing, damaged, of another kind, or its state dict holds other
            objects than tensors.

    Source: the format as written by pytorch/pytorch torch/serialization.py.
    """
    with open_untrusted(path, "torch file") as file:
        magic = file.read(len(_ZIP_MAGIC))
        file.seek(0)
        return _read_archive(file) if magic == _ZIP_MAGIC else _read_stream(file)


class _Dict(OrderedDict):
    """An ordered dictionary that ignores the attributes of a module's state dict."""

    def __setstate__(self, state: Any) -> None:
        del state


class _Unknown:
    """Stands for an object of a class that is not read. It holds nothing."""

    name = ""

    def __new__(cls, *_: Any, **__: Any) -> "_Unknown":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        del state

    def __setitem__(self, key: Any, value: Any) -> None:
        del key, value

    def append(self, item: Any) -> None:
        del item

    def extend(self, items: Any) -> None:
        del items


class _Storage(NamedTuple):
    """A block of numbers in the file, which is read when it is needed."""

    key: str
    dtype: Any
    length: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides are in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, content: bytes) -> np.ndarray:
        """Returns a copy of the tensor, given the bytes of its storage."""
        dtype = self.storage.dtype
        length = self.storage.length * dtype.itemsize
        require(len(content) == length, f"is cut off in storage '{self.storage.key}'")
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        numbers = np.frombuffer(content, dtype)[self.offset :]
        strides = [stride * dtype.itemsize for stride in self.strides]
        tensor = np.lib.stride_tricks.as_strided(numbers, self.shape, strides)
        return np.array(tensor, np.float32 if dtype == jnp.bfloat16 else dtype, order="C")


def _rebuild_tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    require(isinstance(storage, _Storage), "holds a tensor without a storage")
    if 0 not in shape:
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        inside = min((offset, *strides, *shape)) >= 0 and last < storage.length
        require(inside, "is damaged: a tensor reaches beyond its storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_ALLOWED = {
    ("collections", "OrderedDict"): _Dict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{(m, name): dtype for m in ("torch", "torch.storage") for name, dtype in _STORAGES.items()},
}


class _Unpickler(RestrictedUnpickler):
    """Reads tensors and plain containers; all other objects become `_Unknown`."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, _ALLOWED, "tensors")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.allowed:
            return self.allowed[module, name]
        return type("Unknown", (_Unknown,), {"name": " ".join(f"{module}.{name}".split())})

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, length, *view = pid
        require(kind == "storage", f"holds a reference to '{kind}'; only tensors can be read")
        require(view in ([], [None]), "holds storages that are views; save it again")
        return self.storages.setdefault(key, _Storage(key, dtype, int(length)))


def _read_archive(file: BinaryIO) -> dict[str, np.ndarray]:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    index = next((name for name in names if name.endswith("/data.pkl")), "")
    require(index != "", "is a zip archive, but not one of torch: it has no data.pkl")
    root = index.removesuffix("data.pkl")
    if f"{root}byteorder" in names:
        _require_little_endian(archive.read(f"{root}byteorder") == b"little")
    with archive.open(index) as pickled:
        state = _tensors(_Unpickler(pickled).load())
    keys = dict.fromkeys(tensor.storage.key for tensor in state.values())
    return _arrays(state, ((key, archive.read(f"{root}data/{key}")) for key in keys))


def _read_stream(file: BinaryIO) -> dict[str, np.ndarray]:
    require(
        _Unpickler(file).load() == _LEGACY_MAGIC and _Unpickler(file).load() == 1001,
        "is a pickle, but not one of torch",
    )
    _require_little_endian(_Unpickler(file).load()["little_endian"])
    unpickler = _Unpickler(file)
    state = _tensors(unpickler.load())
    keys = _Unpickler(file).load()
    return _arrays(state, _stored(file, [unpickler.storages[key] for key in keys]))


def _stored(file: BinaryIO, storages: Iterable[_Storage]) -> Iterator[tuple[str, bytes]]:
    """Yields the key and the bytes of each storage, in the order in which they are stored."""
    for storage in storages:
        (length,) = struct.unpack("<q", file.read(8))
        require(isinstance(storage.dtype, np.dtype), "holds numbers of an unknown type")
        yield storage.key, file.read(length * storage.dtype.itemsize)


def _require_little_endian(condition: bool) -> None:
    require(condition, "was written on a big-endian machine; save it again on another")


def _tensors(content: Any) -> Mapping[str, _Tensor]:
    """Returns the tensors of a state dict, or of the one in a checkpoint, unread."""
    _require_kind(content, Mapping, "holds {}, not a state dict")
    wrapper = next((key for key in _WRAPPERS if key in content), "")
    state = content[wrapper] if wrapper else content
    _require_kind(state, Mapping, f"has {{}} as its '{wrapper}'")
    for name, tensor in state.items():
        _require_kind(tensor, _Tensor, f"holds {{}} under '{name}', not a tensor")
        require(isinstance(tensor.storage.dtype, np.dtype), f"has '{name}' of an unknown type")
    return state


def _require_kind(value: Any, kind: type, message: str) -> None:
    """Raises `InputError` with a description of a value that is not of the kind."""
    unknown = getattr(value, "name", "") if _is_unknown(value) else ""
    require(not unknown, f"holds {unknown}; only tensors can be read")
    require(isinstance(value, kind), message.format(f"a {type(value).__name__}"))


def _is_unknown(value: Any) -> bool:
    return isinstance(value, _Unknown) or (isinstance(value, type) and issubclass(value, _Unknown))


def _arrays(
    state: Mapping[str, _Tensor], contents: Iterable[tuple[str, bytes]]
) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dict, given the key and the bytes of each storage."""
    names: dict[str, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(tensor.storage.key, []).append(name)
    arrays = {}
    for key, content in contents:
        arrays |= {name: state[name].view(content) for name in names.get(key, ())}
    return {name: arrays[name] for name in state}
