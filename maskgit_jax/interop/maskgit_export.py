"""Runs as files for the code of google-research/maskgit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.serialization import msgpack_serialize
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from maskgit_jax.configuration import require
from maskgit_jax.interop.correspondence import export_tree
from maskgit_jax.interop.maskgit import DISCRIMINATOR_PREFIX, generator_source, tokenizer_source
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.settings import settings_dict
from maskgit_jax.stage import Variables
from maskgit_jax.stages.maskgit import build_network


def write_weights(config: ConfigDict, variables: Variables, path: Path) -> None:
    """Writes the tokenizer, with its discriminator if there is one, or the transformer.

    The discriminator is beside "params", where the official code ignores it.

    Raises:
        InputError: The run is no official network.
    """
    if config.stage == "vqgan":
        _check_tokenizer(config)
        arrays = export_tree(dict(variables.params), tokenizer_source(config))
    else:
        _check_generator(config)
        arrays = export_tree(variables.params["prior"], generator_source(build_network(config)))
    named = {
        name if name.startswith(DISCRIMINATOR_PREFIX) else f"params/{name}": array
        for name, array in arrays.items()
    }
    path.write_bytes(msgpack_serialize(unflatten_dict(named, sep="/")))


def _check_tokenizer(config: ConfigDict) -> None:
    model = config.model
    narrowest = model.filters * min(model.channel_multipliers)
    groups = model.norm_groups or (32 if narrowest >= 64 else 0)
    _check_values(
        {
            "model.architecture": (model.architecture.removesuffix("_fixed"), "maskgit"),
            "model.mid_blocks": (model.mid_blocks, model.blocks_per_level),
            "model.norm_groups": (groups, 32),
            "model.unit_range": (model.unit_range, True),
            "discriminator.kind": (
                config.discriminator.kind if config.losses.adversarial_weight else "stylegan",
                "stylegan",
            ),
        }
    )


def _check_generator(config: ConfigDict) -> None:
    require(
        config.stage == "maskgit",
        f"a run of stage '{config.stage}' cannot be written in format 'maskgit'; use "
        "--format=safetensors",
    )
    model, options = config.model, settings_dict(LayerOptions)
    _check_values(
        {
            "model.norm": (model.norm, "post"),
            "model.head": (model.head, "tied"),
            "losses.label_dropout_rate": (config.losses.label_dropout_rate, 0.0),
            "data.condition": (config.data.condition, ""),
            "model.grid": (tuple(model.grid), (model.grid[0], model.grid[0])),
            **{
                f"model.layer_options.{name}": (model.layer_options[name], default)
                for name, default in options.items()
            },
        }
    )


def _check_values(values: Mapping[str, tuple[Any, Any]]) -> None:
    for key, (value, official) in values.items():
        require(
            value == official,
            f"config.{key} is {value!r}, but networks of format 'maskgit' have {official!r}; use "
            "--format=safetensors",
        )
