"""GPT: VQGAN's autoregressive transformer, by class and by condition image."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from maskgit_jax.decoding.autoregressive import SlidingWindowSettings
from maskgit_jax.priors.gpt import GPT
from maskgit_jax.stage import Stage, Tokenizer
from maskgit_jax.stages import autoregressive
from maskgit_jax.stages.token_priors import (
    check_attention,
    condition_tokenizer,
    needed_tokenizers,
    validate_condition,
)


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    autoregressive.validate(config)
    check_attention(config)
    validate_condition(config)


def needs(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories that must be loaded first: those of the tokenizers."""
    return needed_tokenizers(config)


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
        attention=model.attention,
        remat=model.remat,
        dtype=config.dtype,
    )


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only player is "prior".

    Raises:
        InputError: The tokenizer's codebook or grid does not fit.
    """
    condition = condition_tokenizer(config, frozen)
    transformer = network(config, condition)
    part = autoregressive.Part(
        "prior", transformer, transformer.num_tokens, transformer.num_condition_tokens
    )
    settings = SlidingWindowSettings(**config.sampling.to_dict())
    return autoregressive.build(config, frozen, (part,), settings, condition)
