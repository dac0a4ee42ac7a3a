"""PixelCNN: the class-conditional prior of VQ-VAE's tokens."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from maskgit_jax.configuration import require
from maskgit_jax.decoding.settings import AutoregressiveSettings
from maskgit_jax.priors.pixelcnn import PixelCNN
from maskgit_jax.stage import Stage
from maskgit_jax.stages import autoregressive
from maskgit_jax.stages.token_priors import tokenizer_runs

needs = tokenizer_runs


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    autoregressive.validate(config)
    for key in ("features", "num_layers", "kernel_radius", "head_features"):
        value = config.model[key]
        require(value >= 1, f"config.model.{key} is {value}; it must be at least 1")
    autoregressive.require_no_condition(config)


def network(config: ConfigDict) -> PixelCNN:
    """Returns the network of a configuration."""
    model = config.model
    return PixelCNN(
        codebook_size=model.codebook_size,
        num_classes=max(1, config.data.num_classes),
        grid=tuple(model.grid),
        features=model.features,
        num_layers=model.num_layers,
        kernel_radius=model.kernel_radius,
        head_features=model.head_features,
        dropout_rate=model.dropout_rate,
        dtype=config.dtype,
    )


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only network is "prior".

    Raises:
        InputError: The tokenizer's codebook or grid does not fit.
    """
    height, width = config.model.grid
    level = autoregressive.LevelPrior("prior", network(config), slice(0, height * width))
    settings = AutoregressiveSettings(**config.sampling.to_dict())
    return autoregressive.build(config, frozen, (level,), settings)
