"""Published tokenizers of CompVis/taming-transformers: VQGAN and GumbelVQ.

The files are checkpoints of PyTorch Lightning, or state dicts. Of a Net2Net checkpoint the
tokenizer inside it is read.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import load_config, require
from maskgit_jax.interop.correspondence import (
    Source,
    conv,
    conv_as_dense,
    import_tree,
    mapped,
    same,
)
from maskgit_jax.interop.imported import Imported, vqgan_shapes, vqgan_state
from maskgit_jax.interop.weight_files import Weights, count

PRESET = "vqgan:imagenet256_taming"
_MIN_SIZE = 16
"""Of images that LPIPS, the perceptual loss of the preset, compares."""
NO_DISCRIMINATOR = {"losses.adversarial_weight": 0.0, "losses.adaptive_weight": False}
FIRST_STAGE = "first_stage_model."
_CODEBOOKS = {"vector": "quantize.embedding.weight", "gumbel": "quantize.embed.weight"}
_BLOCK, _DISCRIMINATOR = "encoder.down.0.block.0.norm1.weight", "loss.discriminator.main."
_UNUSED = re.compile(r"loss\.perceptual_loss\..*|.*\.(num_batches_tracked|initialized)|colorize")


def is_tokenizer(weights: Weights) -> bool:
    """Returns whether the weights hold a tokenizer, also one inside a Net2Net checkpoint."""
    return any(
        prefix + _BLOCK in weights.arrays and prefix + codebook in weights.arrays
        for prefix in ("", FIRST_STAGE)
        for codebook in _CODEBOOKS.values()
    )


def read_tokenizer(weights: Weights, image_size: int, tokenizer: Imported | None) -> Imported:
    """Returns the tokenizer, with its discriminator if the file has one."""
    del tokenizer
    inside = FIRST_STAGE + _BLOCK in weights.arrays
    arrays = below(weights.arrays, FIRST_STAGE) if inside else weights.arrays
    return import_tokenizer(arrays, image_size or resolution(weights.config))


def below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Returns the arrays whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


def resolution(description: Mapping[str, Any]) -> int:
    """Returns the size of the images that a YAML file of a model or Net2Net says; 256 without."""
    params = parameters(description)
    params = (
        parameters(params.get("first_stage_config")) if "first_stage_config" in params else params
    )
    sizes = params.get("ddconfig")
    size = sizes.get("resolution") if isinstance(sizes, Mapping) else None
    return size if isinstance(size, int) else 256


def parameters(description: Any) -> Mapping[str, Any]:
    """Returns the arguments `params` in a description of a model; {} where there are none."""
    if not isinstance(description, Mapping):
        return {}
    params = description.get("model", description)
    params = params.get("params") if isinstance(params, Mapping) else None
    return params if isinstance(params, Mapping) else {}


def import_tokenizer(arrays: Mapping[str, np.ndarray], image_size: int) -> Imported:
    """Returns the tokenizer of arrays with their names.

    Args:
        arrays: The state dict of a `VQModel` or `GumbelVQ`.
        image_size: Side of the images in pixels.
    """
    arrays, dropped = _only_used_codes(arrays)
    changes = _sizes(arrays, image_size) | _discriminator_sizes(arrays)
    config = load_config(PRESET, **changes)
    shapes, statistics = vqgan_shapes(config), None

    def source_of(path: str) -> Source:
        return tokenizer_source(path, config.model.quantizer_kind == "gumbel")

    def is_elsewhere(name: str) -> bool:
        return name.startswith(_DISCRIMINATOR) or _UNUSED.fullmatch(name) is not None

    params, others = import_tree(arrays, shapes["autoencoder"], source_of, is_elsewhere)
    networks = {"autoencoder": params}
    if config.losses.adversarial_weight:
        networks["discriminator"], statistics = _import_discriminator(
            arrays, shapes["discriminator"], config.discriminator
        )
    dropped += tuple(name for name in others if _UNUSED.fullmatch(name))
    return Imported("vqgan", PRESET, changes, networks, vqgan_state(networks, statistics), dropped)


def _only_used_codes(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns arrays with the codes that `remap` keeps, and what this drops.

    Token i is the code used[i]. A latent vector whose nearest code is not among them gets a random
    one there, and here the nearest one among them.
    """
    arrays = dict(arrays)
    used = arrays.pop("quantize.used", None)
    if used is None:
        return arrays, ()
    names = ("quantize.embedding.weight", "quantize.embed.weight")
    names = [n for n in (*names, "quantize.proj.weight", "quantize.proj.bias") if n in arrays]
    for name in names:
        rows = len(arrays[name])
        valid = used.dtype.kind in "iu" and used.ndim == 1 and used.size > 0
        require(
            valid and used.min() >= 0 and used.max() < rows,
            f"has 'quantize.used' that are no numbers of its {rows} codes",
        )
        arrays[name] = arrays[name][used]
    return arrays, tuple(f"rows of {name} that are not in quantize.used" for name in names)


def _sizes(arrays: Mapping[str, np.ndarray], image_size: int) -> dict[str, Any]:
    """Returns the keys of the configuration that the shapes of the arrays say."""
    kind = next(kind for kind, name in _CODEBOOKS.items() if name in arrays)
    needed = ("encoder.conv_in.weight", "encoder.conv_out.weight", "quant_conv.weight")
    for name in (*needed, "decoder.conv_out.weight"):
        require(name in arrays and arrays[name].ndim == 4, f"lacks '{name}', a convolution")
    conv_in, last, projection = (arrays[name] for name in needed)
    require(
        len(last) == projection.shape[1],
        f"has {len(last)} channels before the quantizer, which reads {projection.shape[1]}: "
        "latents with a variance (double_z) cannot be imported",
    )
    channels = conv_in.shape[1], len(arrays["decoder.conv_out.weight"])
    levels = count(arrays, r"encoder\.down\.(\d+)\.block\.")
    widths = [arrays.get(f"encoder.down.{level}.block.0.conv1.weight") for level in range(levels)]
    widths = [0 if kernel is None else len(kernel) for kernel in widths]
    attention = [f"encoder.down.{level}.attn.0.q.weight" in arrays for level in range(levels)]
    return {
        **level_sizes(image_size, channels, len(conv_in), widths, attention),
        "model.blocks_per_level": count(arrays, r"encoder\.down\.0\.block\.(\d+)\."),
        "model.latent_width": len(last),
        "model.codebook_size": len(arrays[_CODEBOOKS[kind]]),
        "model.codebook_dim": len(projection),
        "model.quantizer_kind": kind,
        **({"losses.quantizer_weight": 1e-8} if kind == "gumbel" else {}),
    }


def level_sizes(
    image_size: int,
    channels: tuple[int, int],
    filters: int,
    widths: Sequence[int],
    attention: Sequence[bool],
) -> dict[str, Any]:
    """Returns the keys of the configuration that images and levels say.

    Args:
        image_size: Side of the images in pixels.
        channels: Of the images that the network reads, and of those that it writes.
        filters: Channels of the first layer.
        widths: Channels of each level.
        attention: Whether each level has attention.
    """
    require(
        channels[0] in (1, 3) and channels[0] == channels[1],
        f"is of images with {channels[0]} channels in and {channels[1]} out; only 1 and 3 can be "
        "imported",
    )
    for width in widths:
        require(
            width > 0 and width % filters == 0,
            f"has a level of {width} channels, which is no multiple of the first layer's {filters}",
        )
    return {
        "data.image_size": image_size,
        "data.channels": channels[0],
        **({} if image_size >= _MIN_SIZE else {"losses.perceptual": ""}),
        "model.filters": filters,
        "model.channel_multipliers": tuple(width // filters for width in widths),
        "model.attention_sizes": tuple(
            image_size // 2**level for level, has in enumerate(attention) if has
        ),
    }


_MODULES = (
    (r"encoder/(level\d+_|downsample)", r"encoder.down/\1"),
    (r"decoder/(level\d+_|upsample)", r"decoder.up/\1"),
    (r"/level(\d+)_attention(\d+)", r".\1.attn.\2"),
    (r"/level(\d+)_(\d+)", r".\1.block.\2"),
    (r"/(downsample|upsample)(\d+)", r".\2.\1"),
    (r"mid_attention", r"mid.attn_1"),
    (r"mid_0", r"mid.block_1"),
    (r"mid_1", r"mid.block_2"),
    (r"shortcut", r"nin_shortcut"),
    (r"encoder/to_codes", r"quant_conv"),
    (r"decoder/from_codes", r"post_quant_conv"),
    (r"^conv_out", r"decoder.conv_out"),
    (r"^quantizer", r"quantize"),
)


def tokenizer_source(path: str, gumbel: bool = False) -> Source:
    """Returns the source of one of our arrays of the autoencoder."""
    if path == "quantizer/codebook":
        return same(_CODEBOOKS["gumbel" if gumbel else "vector"])
    module, leaf = path.rsplit("/", 1)
    for pattern, name in _MODULES:
        module = re.sub(pattern, name, module)
    module = module.replace("/", ".")
    if leaf != "kernel":
        return same(f"{module}.{'weight' if leaf == 'scale' else leaf}")
    is_dense = re.search(r"attn\S*\.(q|k|v|proj_out)$|^quantize\.proj$", module)
    return (conv_as_dense if is_dense else conv)(f"{module}.weight")


def _discriminator_sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the keys of the configuration of a discriminator, or of training without one."""
    if f"{_DISCRIMINATOR}0.weight" not in arrays:
        return NO_DISCRIMINATOR
    kernels = [
        name
        for name, value in arrays.items()
        if value.ndim == 4 and name.startswith(_DISCRIMINATOR) and name.endswith(".weight")
    ]
    return {
        "discriminator.filters": len(arrays[f"{_DISCRIMINATOR}0.weight"]),
        "discriminator.num_layers": len(kernels) - 2,
        "discriminator.norm": "actnorm" if f"{_DISCRIMINATOR}3.loc" in arrays else "batch",
    }


def _import_discriminator(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Any], settings: ConfigDict
) -> tuple[Any, Any]:
    """Returns the parameters and the running statistics of the discriminator."""
    actnorm, statistics = settings.norm == "actnorm", {}
    if not actnorm:
        norms = {name: each["scale"] for name, each in shapes.items() if name.startswith("norm")}
        statistics = {name: {"mean": shape, "var": shape} for name, shape in norms.items()}
    arrays = {
        name: value
        for name, value in arrays.items()
        if name.startswith(_DISCRIMINATOR) and not _UNUSED.fullmatch(name)
    }
    trees, _ = import_tree(
        arrays,
        {"params": shapes, "batch_stats": statistics},
        lambda path: discriminator_source(path, settings.num_layers, actnorm),
    )
    return trees["params"], trees.get("batch_stats", {})


def discriminator_source(path: str, num_layers: int, actnorm: bool = False) -> Source:
    """Returns the source of one of our arrays of the discriminator's variables."""
    _, module, leaf = path.split("/")
    kind, _, number = module.partition("_")
    index = 3 * num_layers + 2 if kind == "logits" else max(0, 3 * int(number) - 1)
    name = f"{_DISCRIMINATOR}{index + (kind == 'norm')}"
    if leaf == "kernel":
        return conv(f"{name}.weight")
    if actnorm and kind == "norm":
        return mapped(f"{name}.{leaf}", np.ravel, lambda ours: ours.reshape(1, -1, 1, 1))
    return same(f"{name}.{_NORM.get(leaf, leaf)}")


_NORM = {"scale": "weight", "mean": "running_mean", "var": "running_var"}
