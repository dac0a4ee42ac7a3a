"""GPT: VQGAN's autoregressive transformer, by class and by condition image."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError, require
from maskgit_jax.decoding.autoregressive import WindowSettings
from maskgit_jax.priors.gpt import GPT
from maskgit_jax.stage import Stage, Tokenizer
from maskgit_jax.stages import autoregressive


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    autoregressive.validate(config)
    model = config.model
    require(
        model.width % model.num_heads == 0,
        f"config.model.width {model.width} is not a multiple of config.model.num_heads "
        f"{model.num_heads}",
    )
    require(
        bool(config.condition_tokenizer) == bool(config.data.condition),
        f"config.condition_tokenizer is '{config.condition_tokenizer}' and config.data.condition "
        f"'{config.data.condition}': images made from others need both, the run of a tokenizer "
        "of the conditions and what these are",
    )


def needs(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories that must be loaded first: those of the tokenizers."""
    runs = {"tokenizer": config.tokenizer}
    if config.condition_tokenizer:
        runs["condition_tokenizer"] = config.condition_tokenizer
    return runs


def network(config: ConfigDict, condition: Tokenizer | None = None) -> GPT:
    """Returns the transformer that a configuration describes, for a condition's tokens."""
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
        remat=model.remat,
        dtype=config.dtype,
    )


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only player is "prior".

    Raises:
        InputError: The tokenizer's codebook or grid does not fit.
    """
    condition = None
    if "condition_tokenizer" in frozen:
        condition = frozen["condition_tokenizer"].exports
        if not isinstance(condition, Tokenizer):
            raise InputError(
                f"config.condition_tokenizer {config.condition_tokenizer} holds no tokenizer; give "
                "a run of configs/vqgan.py or configs/vqvae.py"
            )
    transformer = network(config, condition)
    part = autoregressive.Part(
        "prior", transformer, transformer.num_tokens, transformer.num_condition_tokens
    )
    settings = WindowSettings(**config.sampling.to_dict())
    return autoregressive.build(config, frozen, (part,), settings, condition)
