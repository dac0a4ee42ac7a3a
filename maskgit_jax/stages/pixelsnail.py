"""PixelSNAIL: priors of VQ-VAE-2's token maps, p(top | class) and p(bottom | top, class)."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from maskgit_jax.autoencoders.vqvae2 import LEVEL_NAMES
from maskgit_jax.configuration import require
from maskgit_jax.decoding.settings import AutoregressiveSettings
from maskgit_jax.priors.pixelsnail import PixelSNAIL
from maskgit_jax.stage import Stage
from maskgit_jax.stages import autoregressive
from maskgit_jax.stages.token_priors import token_grids, tokenizer_runs

LEVELS = {1: ("top",), **LEVEL_NAMES}
"""Number of token maps -> names of the networks, coarsest first."""


needs = tokenizer_runs


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    autoregressive.validate(config)
    autoregressive.require_no_condition(config)
    model, grids = config.model, token_grids(config)
    for key in ("features", "hidden_channels", "num_blocks", "num_layers", "kernel_radius"):
        require(model[key] >= 1, f"config.model.{key} is {model[key]}; it must be at least 1")
    require(
        len(grids) in LEVELS,
        f"config.model.grids has {len(grids)} maps; it must have 1 to {max(LEVELS)}",
    )
    require(
        len(model.num_heads) == len(grids),
        f"config.model.num_heads is {model.num_heads}; it must have a number for each of the "
        f"{len(grids)} maps of config.model.grids, 0 for no attention",
    )
    for heads in model.num_heads:
        require(
            heads >= 0 and (heads == 0 or model.hidden_channels % heads == 0),
            f"config.model.hidden_channels {model.hidden_channels} is not a multiple of the "
            f"{heads} heads in config.model.num_heads",
        )
    for coarse, fine in zip(grids, grids[1:], strict=False):
        require(
            all(large % small == 0 for large, small in zip(fine, coarse, strict=True)),
            f"config.model.grids: the map {fine} cannot be divided into {coarse}; put the "
            "coarsest first",
        )
    require(
        set(config.optimizers) == set(LEVELS[len(grids)]),
        f"config.optimizers has {', '.join(config.optimizers)}; {len(grids)} maps need "
        f"{', '.join(LEVELS[len(grids)])}",
    )


def network(config: ConfigDict, level: int) -> PixelSNAIL:
    """Returns the network of one level, 0 for the coarsest."""
    model, grids = config.model, token_grids(config)
    return PixelSNAIL(
        codebook_size=model.codebook_size,
        num_classes=max(1, config.data.num_classes),
        grid=grids[level],
        coarser_grids=grids[:level],
        features=model.features,
        hidden_channels=model.hidden_channels,
        num_blocks=model.num_blocks,
        num_layers=model.num_layers,
        kernel_radius=model.kernel_radius,
        num_heads=model.num_heads[level],
        num_output_layers=model.num_output_layers,
        num_condition_layers=model.num_condition_layers,
        dropout_rate=model.dropout_rate,
        dtype=config.dtype,
    )


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its networks are the levels, "top", ("middle",) "bottom".

    They are trained together but share nothing: each is conditioned on the true tokens of the
    coarser levels, so that training them one after another gives the same networks.

    Raises:
        InputError: The tokenizer's codebook or maps do not fit.
    """
    levels, start = [], 0
    for number, (height, width) in enumerate(token_grids(config)):
        span = slice(start, start + height * width)
        name = LEVELS[len(config.model.grids)][number]
        levels.append(autoregressive.LevelPrior(name, network(config, number), span, start))
        start = span.stop
    settings = AutoregressiveSettings(**config.sampling.to_dict())
    return autoregressive.build(config, frozen, tuple(levels), settings)
