"""PixelCNN on a VQ-VAE: `python -m maskgit_jax.train --config=configs/pixelcnn.py[:preset]`."""

from ml_collections import ConfigDict

from configs import common
from maskgit_jax.configuration import apply_changes, choose_preset, optimizer

IMAGENET = {
    **common.IMAGENET_CLASSES,
    "model.grid": (32, 32),
    "model.features": 512,
    "model.num_layers": 20,
    "training.num_steps": 1_000_000,
}
FOLDER = {**common.FOLDER, "training.num_steps": 200_000}
SMALL = {  # grey images, on a CPU
    **common.short_training("prior"),
    "data.channels": 1,
    "model.features": 64,
    "model.num_layers": 8,
    "model.head_features": 256,
}
PRESETS = {
    "digits": {
        **SMALL,
        **common.DIGITS_TOKENS,
        "model.num_layers": 6,
        "model.dropout_rate": 0.2,
        "training.num_steps": 400,
    },
    "fashion_mnist": {
        **SMALL,
        **common.FASHION_MNIST,
        "model.grid": (7, 7),
        "model.features": 128,
        "training.num_steps": 1_200,
        "optimizers.prior.ema_rate": 0.998,
    },
    "cifar10": {**FOLDER, **common.CIFAR10_TOKENS, "model.dropout_rate": 0.2},
    "folder": FOLDER,
    "imagenet256": IMAGENET,
    "imagenet512": {**IMAGENET, "data.image_size": 512},
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset."""
    name, changes = choose_preset(preset, PRESETS)
    config = common.autoregressive_config("pixelcnn", name, tokenizer="vqvae")
    config.model = dict(
        codebook_size=512,  # of the tokenizer
        grid=(16, 16),  # of the tokenizer
        features=256,  # of each of the two stacks
        num_layers=16,
        kernel_radius=1,  # 1: 3x3
        head_features=512,
        dropout_rate=0.0,
    )
    config.optimizers.prior = optimizer(learning_rate=3e-4, clip_norm=1.0, ema_rate=0.999)
    return apply_changes(config, changes)
