"""Common parts of presets: data, token grids, sizes and optimizers.

A preset is a dictionary {dotted key: value}; of equal keys the last one counts.
"""

from typing import Any

from ml_collections import ConfigDict

from maskgit_jax.configuration import base_config, default_workdir
from maskgit_jax.decoding.settings import AutoregressiveSettings
from maskgit_jax.settings import settings_dict

# Data
FASHION_MNIST = {
    "data.source": "idx:/usr/share/datasets/fashion-mnist",
    "data.image_size": 28,
    "data.channels": 1,
}
FOLDER = {
    "data.source": "folder:images",
    "data.image_size": 64,
    "data.crop": "random",
    "data.augmentations": "flip",
}
CIFAR10 = {
    "data.source": "tfds:cifar10",
    "data.image_size": 32,
    "data.crop": "center",
    "data.augmentations": "flip",
}
IMAGENET = {
    "data.source": "tfds:imagenet2012",
    "data.image_size": 256,
    "data.crop": "resized",
    "data.augmentations": "flip",
    "data.num_threads": 16,
    "data.prefetch": 512,
    "dtype": "bfloat16",
    "training.eval_every": 20_000,
    "training.checkpoint_every": 5_000,
}
IMAGENET_CLASSES = {**IMAGENET, "data.num_classes": 1000, "training.batch_size": 256}

# Tokens of the VQGAN presets of the same names
DIGITS_TOKENS = {"data.channels": 1, "model.codebook_size": 128, "model.grid": (4, 4)}
FASHION_MNIST_TOKENS = {**FASHION_MNIST, "model.codebook_size": 256, "model.grid": (7, 7)}
FOLDER_SMALL_TOKENS = {**FOLDER, "model.codebook_size": 512, "model.grid": (8, 8)}
CIFAR10_TOKENS = {**CIFAR10, "model.grid": (8, 8)}
IMAGENET512_TOKENS = {"data.image_size": 512, "model.grid": (32, 32)}

# Layers with which transformers learn faster than with the published ones
# (docs/results/learning_faster.md)
MODERN_LAYERS = {
    "model.layer_options.norm_type": "rms",
    "model.layer_options.positions": "both",
    "model.layer_options.qk_norm": "head",
    "model.layer_options.zero_init": True,
    "model.layer_options.value_residual": True,
}

# Sizes of transformers; the first two are for CPUs
TRANSFORMER_128 = {
    **MODERN_LAYERS,
    "model.width": 128,
    "model.num_heads": 4,
    "model.mlp_width": 512,
}
TRANSFORMER_192 = {
    **MODERN_LAYERS,
    "model.width": 192,
    "model.num_heads": 6,
    "model.mlp_width": 768,
}
TRANSFORMER_384 = {
    "model.width": 384,
    "model.num_layers": 8,
    "model.num_heads": 6,
    "model.mlp_width": 1536,
}


def short_training(
    network: str,
    learning_rate: float = 2e-3,
    warmup_steps: int = 50,
    ema_rate: float = 0.99,
    optimizer: str = "muon",
    **settings: Any,
) -> dict[str, Any]:
    """Returns optimizer settings of one network for a run of minutes, with a cosine schedule."""
    settings = dict(
        optimizer=optimizer,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        schedule="cosine",
        ema_rate=ema_rate,
        **settings,
    )
    return {f"optimizers.{network}.{key}": value for key, value in settings.items()}


SMALL_VQVAE = {  # grey images, on a CPU; of VQ-VAE and VQ-VAE-2
    **short_training("autoencoder"),
    "data.channels": 1,
    "model.filters": 64,
    "model.residual_filters": 32,
    "model.codebook_dim": 16,
    "training.batch_size": 64,
}


def autoregressive_config(stage: str, preset: str, tokenizer: str) -> ConfigDict:
    """Returns the base configuration of a prior that predicts one token after another."""
    config = base_config(stage, preset)
    config.tokenizer = default_workdir(tokenizer, preset)
    config.losses = dict(keep_rate=1.0)  # of the input tokens; the others are random ("pkeep")
    config.sampling = settings_dict(AutoregressiveSettings)
    config.data.channels = 3
    config.training.best_metric = "bits_per_token"
    return config
