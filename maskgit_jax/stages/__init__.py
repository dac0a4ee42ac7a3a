"""Where a model, its losses and its judges meet: `STAGES[name].build(config, ...) -> Stage`.

A stage module offers
    validate(config): raises InputError for values that cannot work;
    needs(config) -> {name: run directory}: finished stages that must be loaded first;
    build(config, frozen: {name: Stage}) -> Stage.
"""

from maskgit_jax.configuration import InputError
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

STAGES = {
    "vae": vae,
    "vqvae": vqvae,
    "vqvae2": vqvae2,
    "vqgan": vqgan,
    "pixelcnn": pixelcnn,
    "pixelsnail": pixelsnail,
    "gpt": gpt,
    "maskgit": maskgit,
    "token_critic": token_critic,
}


def stage_module(name: str):
    """Returns the module of a stage.

    Raises:
        InputError: There is no such stage.
    """
    if name not in STAGES:
        raise InputError(f"config.stage is '{name}'; the stages are: {', '.join(STAGES)}")
    return STAGES[name]
