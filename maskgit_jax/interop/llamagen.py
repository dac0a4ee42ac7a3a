"""The published tokenizers of FoundationVision/LlamaGen: VQGANs with codes of length 1.

The network is that of taming-transformers, with attention at the lowest resolution, under other
names. The files are torch files of a state dict.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from maskgit_jax.configuration import load_config, require
from maskgit_jax.interop import taming
from maskgit_jax.interop.correspondence import Source, import_tree
from maskgit_jax.interop.imported import Imported, vqgan_shapes, vqgan_state
from maskgit_jax.interop.weight_files import Weights, count

_CODEBOOK, _BLOCK = "quantize.embedding.weight", "encoder.conv_blocks.{}.res.0.conv1.weight"
_UNUSED = "quantize.codebook_used"  # the codes of the last training batches
_IMAGE_SIZE = 256
_PUBLISHED = {  # tokenizer/tokenizer_image/vq_train.py; no file has a discriminator
    "data.augmentations": "flip",
    "model.normalize_codes": True,
    "model.beta": 0.25,
    "losses.reconstruction": "l2",
    "losses.quantizer_weight": 1.0,
    **taming.NO_DISCRIMINATOR,
    "optimizers.autoencoder.learning_rate": 1e-4,
    "optimizers.autoencoder.beta1": 0.9,
    "optimizers.autoencoder.beta2": 0.95,
}


def is_tokenizer(weights: Weights) -> bool:
    """Returns whether these are weights of a tokenizer."""
    return {_CODEBOOK, _BLOCK.format(0)} <= set(weights.arrays)


def read_tokenizer(weights: Weights, image_size: int, tokenizer: Imported | None) -> Imported:
    """Returns the tokenizer, without a discriminator."""
    del tokenizer
    sizes = _sizes(weights.arrays)
    levels, size = len(sizes["model.channel_multipliers"]), image_size or _IMAGE_SIZE
    changes = {
        "data.image_size": size,
        "model.attention_sizes": (size // 2 ** (levels - 1),),
        **sizes,
        **_PUBLISHED,
    }
    shapes = vqgan_shapes(load_config(taming.PRESET, **changes))["autoencoder"]

    def source_of(path: str) -> Source:
        return tokenizer_source(path, levels)

    params, dropped = import_tree(weights.arrays, shapes, source_of, _UNUSED.__eq__)
    networks = {"autoencoder": params}
    return Imported("vqgan", taming.PRESET, changes, networks, vqgan_state(networks), dropped)


def _sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the keys of the configuration that the shapes of the arrays say."""
    levels = count(arrays, r"encoder\.conv_blocks\.(\d+)\.")
    firsts = [_BLOCK.format(level) for level in range(levels)]
    for name in ("encoder.conv_in.weight", "quant_conv.weight", *firsts):
        require(name in arrays and arrays[name].ndim == 4, f"lacks '{name}', a convolution")
    filters, channels = arrays["encoder.conv_in.weight"].shape[:2]
    return {
        "data.channels": channels,
        "model.filters": filters,
        "model.channel_multipliers": tuple(max(1, len(arrays[x]) // filters) for x in firsts),
        "model.blocks_per_level": count(arrays, r"encoder\.conv_blocks\.0\.res\.(\d+)\."),
        "model.latent_width": arrays["quant_conv.weight"].shape[1],
        "model.codebook_size": len(arrays[_CODEBOOK]),
        "model.codebook_dim": len(arrays["quant_conv.weight"]),
    }


def tokenizer_source(path: str, num_levels: int) -> Source:
    """Returns the source of one of our arrays of the autoencoder."""
    source = taming.tokenizer_source(path)
    return source._replace(names=tuple(_own_name(name, num_levels) for name in source.names))


def _own_name(name: str, num_levels: int) -> str:
    """Returns the name that an array of taming-transformers has here."""
    words = name.split(".")
    if words[1] in ("down", "up"):
        level = int(words[2]) if words[1] == "down" else num_levels - 1 - int(words[2])
        block = "res" if words[3] == "block" else words[3]
        words[1:4] = ["conv_blocks", str(level), block]
    elif words[1] == "mid":
        words[2] = {"block_1": "0", "attn_1": "1", "block_2": "2"}[words[2]]
    return ".".join(words)
