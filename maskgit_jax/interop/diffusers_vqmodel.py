"""`VQModel` of huggingface/diffusers: the network of taming-transformers under other names.

A model is a folder with `config.json` and its weights.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from safetensors.numpy import save_file

from maskgit_jax.configuration import load_config, require
from maskgit_jax.interop.correspondence import Source, SourceOf, dense, export_tree, import_tree
from maskgit_jax.interop.imported import Imported, vqgan_shapes, vqgan_state
from maskgit_jax.interop.taming import NO_DISCRIMINATOR, PRESET, level_sizes, tokenizer_source
from maskgit_jax.interop.weight_files import Weights
from maskgit_jax.stage import Variables

_FIXED = {
    "norm_type": "group",
    "norm_num_groups": 32,
    "act_fn": "silu",
    "mid_block_add_attention": True,
}
"""Values of `config.json` that the network here has; they are also the default values."""
_DOWN = {False: "DownEncoderBlock2D", True: "AttnDownEncoderBlock2D"}
_UP = {False: "UpDecoderBlock2D", True: "AttnUpDecoderBlock2D"}


def is_tokenizer(weights: Weights) -> bool:
    """Returns whether these are weights of a model of diffusers."""
    return "_class_name" in weights.config


def read_tokenizer(weights: Weights, image_size: int, tokenizer: Imported | None) -> Imported:
    """Returns the tokenizer."""
    del tokenizer
    changes = _sizes(weights.config, image_size or 256)
    config = load_config(PRESET, **changes)
    source_of = tokenizer_sources(len(config.model.channel_multipliers))
    params, _ = import_tree(weights.arrays, vqgan_shapes(config)["autoencoder"], source_of)
    networks = {"autoencoder": params}
    return Imported("vqgan", PRESET, changes, networks, vqgan_state(networks))


def _sizes(description: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """Returns the keys of the configuration that `config.json` says."""
    kind = description["_class_name"]
    require(kind == "VQModel", f"is of class {kind}; only VQModel can be imported")
    for key, value in _FIXED.items():
        found = description.get(key, value)
        require(found == value, f"has {key} {found!r} in its config.json, but only {value!r} "
                "can be imported")  # fmt: skip
    for key in ("block_out_channels", "layers_per_block", "latent_channels", "num_vq_embeddings"):
        require(key in description, f"has a config.json without {key}")
    widths = description["block_out_channels"]
    attention = [name == _DOWN[True] for name in description.get("down_block_types", ())]
    mirrored = [_UP[each] for each in reversed(attention)]
    require(
        [*description.get("down_block_types", ())] == [_DOWN[each] for each in attention]
        and [*description.get("up_block_types", ())] == mirrored
        and len(attention) == len(widths),
        "has blocks in its config.json that are not those of a VQGAN: its down_block_types must be "
        f"{' or '.join(_DOWN.values())}, one of each width, and its up_block_types the same in "
        "reverse",
    )
    channels = description.get("in_channels", 3), description.get("out_channels", 3)
    latent = description["latent_channels"]
    return {
        **level_sizes(image_size, channels, widths[0], widths, attention),
        "model.blocks_per_level": description["layers_per_block"],
        "model.latent_width": latent,
        "model.codebook_size": description["num_vq_embeddings"],
        "model.codebook_dim": description.get("vq_embed_dim") or latent,
        **NO_DISCRIMINATOR,
    }


_NAMES = (
    (r"encoder\.down\.(\d+)\.downsample", r"encoder.down_blocks.\1.downsamplers.0"),
    (r"encoder\.down\.(\d+)", r"encoder.down_blocks.\1"),
    (r"\.upsample\.conv", r".upsamplers.0.conv"),
    (r"mid\.block_1", r"mid_block.resnets.0"),
    (r"mid\.block_2", r"mid_block.resnets.1"),
    (r"mid\.attn_1", r"mid_block.attentions.0"),
    (r"\.block\.", r".resnets."),
    (r"\.attn\.", r".attentions."),
    (r"nin_shortcut", r"conv_shortcut"),
    (r"norm_out", r"conv_norm_out"),
    (r"(attentions\.\d+)\.norm", r"\1.group_norm"),
    (r"(attentions\.\d+)\.(q|k|v)\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out", r"\1.to_out.0"),
)


def tokenizer_sources(levels: int) -> SourceOf:
    """Returns the sources of our arrays; theirs number the decoder's levels in reverse."""

    def source_of(path: str) -> Source:
        source = tokenizer_source(path)
        name = re.sub(
            r"decoder\.up\.(\d+)",
            lambda match: f"decoder.up_blocks.{levels - 1 - int(match[1])}",
            source.names[0],
        )
        for pattern, theirs in _NAMES:
            name = re.sub(pattern, theirs, name)
        if re.search(r"\.to_(q|k|v|out\.0)\.weight$", name):
            return dense(name)  # a convolution in taming
        return source._replace(names=(name,))

    return source_of


def write_folder(config: ConfigDict, variables: Variables, path: Path) -> None:
    """Writes a tokenizer as a folder that `diffusers.VQModel.from_pretrained` loads.

    Raises:
        InputError: The run is no tokenizer of this network.
    """
    require(config.stage == "vqgan", f"a run of stage '{config.stage}' is no tokenizer of diffusers"
            "; give a run of configs/vqgan.py or RUN/frozen/tokenizer")  # fmt: skip
    description = _description(config)
    source_of = tokenizer_sources(len(config.model.channel_multipliers))
    arrays = export_tree(variables.params["autoencoder"], source_of)
    path.mkdir()
    save_file(arrays, path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps(description, indent=2) + "\n")


def _description(config: ConfigDict) -> dict[str, Any]:
    """Returns the content of `config.json`."""
    model, size = config.model, config.data.image_size
    widths = [model.filters * multiplier for multiplier in model.channel_multipliers]
    groups = model.norm_groups or (32 if min(widths) >= 64 else 0)
    needed = {
        "model.architecture": (model.architecture, "taming"),
        "model.norm_groups": (groups, 32),
        "model.mid_blocks": (model.mid_blocks, 2),
        "model.quantizer_kind": (model.quantizer_kind, "vector"),
        "model.unit_range": (model.unit_range, False),
        "model.channel_multipliers[0]": (model.channel_multipliers[0], 1),
    }
    for key, (value, expected) in needed.items():
        require(value == expected, f"config.{key} is {value!r}, but VQModel of diffusers has "
                f"{expected!r}; export as --format=safetensors")  # fmt: skip
    attention = [size // 2**level in model.attention_sizes for level in range(len(widths))]
    return {
        "_class_name": "VQModel",
        **_FIXED,
        "in_channels": config.data.channels,
        "out_channels": config.data.channels,
        "block_out_channels": widths,
        "down_block_types": [_DOWN[each] for each in attention],
        "up_block_types": [_UP[each] for each in reversed(attention)],
        "layers_per_block": model.blocks_per_level,
        "latent_channels": model.latent_width,
        "num_vq_embeddings": model.codebook_size,
        "vq_embed_dim": model.codebook_dim,
        "sample_size": size,
    }
