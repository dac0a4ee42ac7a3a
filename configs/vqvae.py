"""VQ-VAE tokenizers: `python -m maskgit_jax.train --config=configs/vqvae.py[:preset]`."""

from ml_collections import ConfigDict

from maskgit_jax.configuration import (
    FOLDER_DATA,
    IMAGENET_DATA,
    apply_changes,
    base_config,
    choose_preset,
    optimizer,
)

IMAGENET = {
    **IMAGENET_DATA,
    "dtype": "bfloat16",
    "model.num_downsamplings": 3,
    "training.num_steps": 500_000,
    "training.batch_size": 128,
    "training.log_every": 100,
    "training.eval_every": 20_000,
    "training.preview_every": 5_000,
    "training.checkpoint_every": 5_000,
}
FOLDER = {
    **FOLDER_DATA,
    "training.num_steps": 100_000,
    "training.eval_every": 2_000,
    "training.preview_every": 1_000,
    "training.checkpoint_every": 1_000,
}
SMALL = {  # grey images of a few pixels, on a processor
    "data.channels": 1,
    "model.filters": 64,
    "model.residual_filters": 32,
    "model.codebook_dim": 16,
    "training.batch_size": 64,
    "optimizers.autoencoder.learning_rate": 2e-3,
    "optimizers.autoencoder.warmup_steps": 50,
    "optimizers.autoencoder.schedule": "cosine",
    "optimizers.autoencoder.ema_rate": 0.99,
}
PRESETS = {
    "digits": {
        **SMALL,
        "model.codebook_size": 128,
        "model.restart_dead_codes_after": 20,
        "training.num_steps": 800,
        "training.log_every": 40,
        "training.eval_every": 400,
        "training.preview_every": 400,
        "training.checkpoint_every": 400,
    },
    # One map of 7 x 7 codes of 9 bits: 441 bits an image.
    "fashion_mnist": {
        **SMALL,
        "data.source": "idx:/usr/share/datasets/fashion-mnist",
        "data.image_size": 28,
        "model.restart_dead_codes_after": 30,
        "training.num_steps": 1_500,
        "training.log_every": 50,
        "training.eval_every": 500,
        "training.preview_every": 500,
        "training.checkpoint_every": 500,
    },
    # The comparison of the paper's section 4.1: all 256 channels, 250,000 steps of 128.
    "cifar10": {
        **FOLDER,
        "data.source": "tfds:cifar10",
        "data.image_size": 32,
        "data.crop": "center",
        "model.filters": 256,
        "model.residual_filters": 256,
        "training.num_steps": 250_000,
        "training.batch_size": 128,
        "optimizers.autoencoder.learning_rate": 2e-4,
    },
    "folder": FOLDER,
    "imagenet256": IMAGENET,
    "imagenet512": {**IMAGENET, "data.image_size": 512, "model.num_downsamplings": 4},
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset.

    The defaults are those of the authors' example (128 channels, K = 512, D = 64, Adam at 3e-4)
    with images in [-1, 1], where the pixel loss is 4 times that of pixels in [0, 1]. The example
    divides it by the variance of the data; multiply `losses.quantizer_weight` by that instead.

    Preset `fashion_mnist` is made to be compared with that of configs/vqvae2.py: the same K,
    D, width, number of steps and images of each step.
    """
    name, changes = choose_preset(preset, PRESETS)
    config = base_config("vqvae", name)
    config.model = ConfigDict(
        dict(
            filters=128,
            residual_filters=32,
            num_residual_blocks=2,
            num_downsamplings=2,
            codebook_size=512,
            codebook_dim=64,
            beta=0.25,
            codebook_update="ema",  # gradient | ema (set to running means of latents)
            codebook_decay=0.99,  # of these means
            codebook_init="data",  # data | kmeans | uniform
            restart_dead_codes_after=256,  # batches without use; 0: never
            remat=False,
        )
    )
    config.losses = ConfigDict(dict(reconstruction="l2", quantizer_weight=1.0))
    config.data.channels = 3
    config.training.batch_size = 32
    config.training.best_metric = "reconstruction_mse"
    config.optimizers = ConfigDict(
        dict(autoencoder=optimizer(learning_rate=3e-4, ema_rate=0.999)),
    )
    return apply_changes(config, changes)
