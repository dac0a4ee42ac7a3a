"""The systems that can be trained: `STAGES[config.stage].build(config, frozen) -> Stage`."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError
from maskgit_jax.stage import Stage
from maskgit_jax.stages import (
    gpt,
    maskgit,
    pixelcnn,
    pixelsnail,
    token_critic,
    vae,
    vqgan,
    vqvae,
    vqvae2,
)
from maskgit_jax.stages.token_priors import tokenizer_runs


def _needs_nothing(config: ConfigDict) -> dict[str, str]:
    del config
    return {}


class StageModule(NamedTuple):
    """The functions of a stage that depend on its configuration only.

    Attributes:
        validate: Raises `InputError` for a configuration that cannot work.
        build: (config, {name: finished stage}) -> Stage.
        needs: config -> {name: run directory} of the finished stages to load first.
    """

    validate: Callable[[ConfigDict], None]
    build: Callable[[ConfigDict, Mapping[str, Stage]], Stage]
    needs: Callable[[ConfigDict], dict[str, str]] = _needs_nothing


STAGES = {
    "vae": StageModule(vae.validate, vae.build),
    "vqvae": StageModule(vqvae.validate, vqvae.build),
    "vqvae2": StageModule(vqvae2.validate, vqvae2.build),
    "vqgan": StageModule(vqgan.validate, vqgan.build),
    "pixelcnn": StageModule(pixelcnn.validate, pixelcnn.build, tokenizer_runs),
    "pixelsnail": StageModule(pixelsnail.validate, pixelsnail.build, tokenizer_runs),
    "gpt": StageModule(gpt.validate, gpt.build, tokenizer_runs),
    "maskgit": StageModule(maskgit.validate, maskgit.build, tokenizer_runs),
    "token_critic": StageModule(token_critic.validate, token_critic.build, token_critic.needs),
}


def stage_module(name: str) -> StageModule:
    """Returns the functions of a stage.

    Raises:
        InputError: There is no such stage.
    """
    if name not in STAGES:
        raise InputError(f"config.stage is '{name}'; the stages are: {', '.join(STAGES)}")
    return STAGES[name]
