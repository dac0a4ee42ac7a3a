"""PixelCNN on a VQ-VAE: `python -m maskgit_jax.train --config=configs/pixelcnn.py[:preset]`."""

from ml_collections import ConfigDict

from maskgit_jax.configuration import (
    FOLDER_DATA,
    IMAGENET_DATA,
    apply_changes,
    base_config,
    choose_preset,
    default_workdir,
    optimizer,
)

IMAGENET = {
    **IMAGENET_DATA,
    "data.num_classes": 1000,
    "dtype": "bfloat16",
    "model.grid": (32, 32),
    "model.features": 512,
    "model.num_layers": 20,
    "training.num_steps": 1_000_000,
    "training.batch_size": 256,
    "training.log_every": 100,
    "training.eval_every": 20_000,
    "training.preview_every": 20_000,
    "training.checkpoint_every": 5_000,
}
FOLDER = {
    **FOLDER_DATA,
    "training.num_steps": 200_000,
    "training.eval_every": 2_000,
    "training.preview_every": 2_000,
    "training.checkpoint_every": 1_000,
}
SMALL = {  # grey images of a few pixels, on a processor
    "data.channels": 1,
    "model.features": 64,
    "model.num_layers": 8,
    "model.head_features": 256,
    "training.batch_size": 64,
    "optimizers.prior.learning_rate": 2e-3,
    "optimizers.prior.warmup_steps": 50,
    "optimizers.prior.schedule": "cosine",
    "optimizers.prior.ema_rate": 0.99,
}
PRESETS = {
    "digits": {
        **SMALL,
        "model.codebook_size": 128,
        "model.grid": (4, 4),
        "model.num_layers": 6,
        "model.dropout_rate": 0.2,
        "training.num_steps": 400,
        "training.log_every": 40,
        "training.eval_every": 100,
        "training.preview_every": 400,
        "training.checkpoint_every": 100,
    },
    "fashion_mnist": {
        **SMALL,
        "data.source": "idx:/usr/share/datasets/fashion-mnist",
        "data.image_size": 28,
        "model.grid": (7, 7),
        "model.features": 128,
        "training.num_steps": 1_200,
        "training.log_every": 50,
        "training.eval_every": 400,
        "training.preview_every": 1_200,
        "training.checkpoint_every": 400,
        "optimizers.prior.ema_rate": 0.998,
    },
    "cifar10": {
        **FOLDER,
        "data.source": "tfds:cifar10",
        "data.image_size": 32,
        "data.crop": "center",
        "model.grid": (8, 8),
        "model.dropout_rate": 0.2,
    },
    "folder": FOLDER,
    "imagenet256": IMAGENET,
    "imagenet512": {**IMAGENET, "data.image_size": 512},
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset."""
    name, changes = choose_preset(preset, PRESETS)
    config = base_config("pixelcnn", name)
    config.tokenizer = default_workdir("vqvae", name)
    config.model = ConfigDict(
        dict(
            codebook_size=512,  # must be the tokenizer's
            grid=(16, 16),  # must be the tokenizer's
            features=256,  # of each of the two stacks
            num_layers=16,
            kernel_radius=1,  # places to each side: 1 for 3x3
            head_features=512,
            dropout_rate=0.0,
        )
    )
    config.losses = ConfigDict(
        dict(
            keep_rate=1.0,  # of the tokens read; the others are random
        )
    )
    config.sampling = ConfigDict(dict(temperature=1.0, top_k=0, top_p=1.0))
    config.data.channels = 3
    config.training.best_metric = "bits_per_token"
    config.optimizers = ConfigDict(
        dict(prior=optimizer(learning_rate=3e-4, clip_norm=1.0, ema_rate=0.999))
    )
    return apply_changes(config, changes)
