"""The systems that can be trained: `stage_module(config.stage).build(config, frozen) -> Stage`.

A stage is a module of this package, imported at its first use, with the functions of `StageModule`.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError
from maskgit_jax.stage import Stage

STAGES = (
    "vae",
    "vqvae",
    "vqvae2",
    "vqgan",
    "pixelcnn",
    "pixelsnail",
    "gpt",
    "maskgit",
    "token_critic",
)


def _needs_nothing(config: ConfigDict) -> dict[str, str]:
    del config
    return {}


class StageModule(NamedTuple):
    """The functions of a stage that depend on its configuration only.

    Attributes:
        validate: Raises `InputError` for a configuration that cannot work.
        build: (config, {name: frozen stage}) -> Stage.
        needs: config -> {name: run directory} of the frozen stages to load first; none by default.
    """

    validate: Callable[[ConfigDict], None]
    build: Callable[[ConfigDict, Mapping[str, Stage]], Stage]
    needs: Callable[[ConfigDict], dict[str, str]] = _needs_nothing


def stage_module(name: str) -> StageModule:
    """Returns the functions of a stage.

    Raises:
        InputError: There is no such stage.
    """
    if name not in STAGES:
        raise InputError(f"config.stage is '{name}'; the stages are: {', '.join(STAGES)}")
    module = importlib.import_module(f"maskgit_jax.stages.{name}")
    needs = getattr(module, "needs", _needs_nothing)
    return StageModule(module.validate, module.build, needs)
