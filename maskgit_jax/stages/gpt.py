"""GPT: VQGAN's autoregressive transformer, conditional on class and condition image."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from maskgit_jax.configuration import require
from maskgit_jax.decoding.settings import SlidingWindowSettings
from maskgit_jax.priors.gpt import GPT
from maskgit_jax.stage import Stage, Tokenizer
from maskgit_jax.stages import autoregressive
from maskgit_jax.stages.token_priors import (
    check_transformer,
    condition_tokenizer,
    layer_options,
    tokenizer_runs,
    validate_condition,
)

needs = tokenizer_runs


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    autoregressive.validate(config)
    check_transformer(config)
    validate_condition(config)
    options, key = layer_options(config), "config.model.layer_options"
    require(
        options.class_token or (options.conditioning == "none" and bool(config.data.condition)),
        f"{key}.conditioning is '{options.conditioning}', but the class is GPT's first input; set "
        "it to token or both, or with a condition image to none",
    )
    for name, only in (("num_registers", 0), ("patch_size", 1)):
        value = getattr(options, name)
        require(
            value == only,
            f"{key}.{name} is {value}, but the layers of GPT see earlier tokens only, one a "
            f"position; set it to {only}, or train configs/maskgit.py",
        )


def network(config: ConfigDict, condition: Tokenizer | None = None) -> GPT:
    """Returns the transformer of a configuration, for the tokens of a condition tokenizer."""
    model = config.model
    return GPT(
        codebook_size=model.codebook_size,
        num_classes=max(1, config.data.num_classes),
        grid=tuple(model.grid),
        condition_codebook_size=condition.codebook_size if condition else 0,
        condition_grids=condition.grids if condition else (),
        width=model.width,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        mlp_width=model.mlp_width,
        dropout_rate=model.dropout_rate,
        layer_options=layer_options(config),
        attention=model.attention,
        remat=model.remat,
        dtype=config.dtype,
    )


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only network is "prior".

    Raises:
        InputError: The tokenizer's codebook or grid does not fit.
    """
    condition = condition_tokenizer(config, frozen)
    gpt = network(config, condition)
    span = slice(0, gpt.num_tokens)
    level = autoregressive.LevelPrior("prior", gpt, span, gpt.num_condition_tokens)
    settings = SlidingWindowSettings(**config.sampling.to_dict())
    return autoregressive.build(config, frozen, (level,), settings, condition)
