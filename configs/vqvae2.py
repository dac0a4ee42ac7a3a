"""VQ-VAE-2 tokenizers: `python -m maskgit_jax.train --config=configs/vqvae2.py[:preset]`."""

from ml_collections import ConfigDict

from maskgit_jax.configuration import (
    FOLDER_DATA,
    IMAGENET_DATA,
    apply_changes,
    base_config,
    choose_preset,
    optimizer,
)

IMAGENET = {  # the paper's: maps of 32 x 32 and 64 x 64
    **IMAGENET_DATA,
    "dtype": "bfloat16",
    "training.num_steps": 2_207_444,
    "training.log_every": 100,
    "training.eval_every": 20_000,
    "training.preview_every": 5_000,
    "training.checkpoint_every": 5_000,
}
FOLDER = {
    **FOLDER_DATA,
    "training.num_steps": 100_000,
    "training.batch_size": 32,
    "training.eval_every": 2_000,
    "training.preview_every": 1_000,
    "training.checkpoint_every": 1_000,
}
SMALL = {  # grey images of a few pixels, on a processor
    "data.channels": 1,
    "model.bottom_downsamplings": 1,
    # Without it the top map of digits says nothing: its tokens can be exchanged between images
    # and the error stays (0.00055 and 0.00056, one run).
    "losses.level_dropout_rate": 0.1,
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
        "training.num_steps": 500,
        "training.log_every": 40,
        "training.eval_every": 250,
        "training.preview_every": 250,
        "training.checkpoint_every": 250,
    },
    # Maps of 7 x 7 and 14 x 14 codes of 9 bits: 441 + 1764 = 2205 bits an image.
    "fashion_mnist": {
        **SMALL,
        "data.source": "idx:/usr/share/datasets/fashion-mnist",
        "data.image_size": 28,
        "model.residual_filters": 47,  # a decoder as large as that of configs/vqvae.py
        "model.restart_dead_codes_after": 30,
        "training.num_steps": 1_500,
        "training.log_every": 50,
        "training.eval_every": 500,
        "training.preview_every": 500,
        "training.checkpoint_every": 500,
    },
    "cifar10": {
        **FOLDER,
        "data.source": "tfds:cifar10",
        "data.image_size": 32,
        "data.crop": "center",
        "model.bottom_downsamplings": 1,
    },
    "folder": FOLDER,
    "imagenet256": IMAGENET,
    "imagenet512": {**IMAGENET, "data.image_size": 512, "model.num_levels": 3},
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset.

    The defaults are the paper's for ImageNet at 256 pixels (128 channels, 64 in the residual
    blocks, K = 512, D = 64, beta 0.25, batches of 128) with Adam at 3e-4, which it does not
    tell. Preset `imagenet512` has the three levels of its 1024 pixel images, one halving less.

    Preset `fashion_mnist` is made to be compared with that of configs/vqvae.py: the same K, D,
    width, number of steps and images of each step. It spends 2205 bits an image (1764 of them in
    the bottom map) where the VQ-VAE spends 441, so a smaller error is no gain of the hierarchy
    as such. Held-out mean squared error (pixels in [0, 1]), all 512 codes of each map in use:
    VQ-VAE 0.0058, VQ-VAE-2 0.0013, and 0.0078 from its top map alone, which `level_dropout_rate`
    teaches the decoder with a tenth of the images. Its decoder has 84,015 parameters with the
    upsampling of the top codes, the VQ-VAE's 83,745.
    """
    name, changes = choose_preset(preset, PRESETS)
    config = base_config("vqvae2", name)
    config.model = ConfigDict(
        dict(
            filters=128,
            residual_filters=64,
            num_residual_blocks=2,
            num_levels=2,  # 2 | 3
            bottom_downsamplings=2,  # the finest map is 2 to this power smaller than the image
            codebook_size=512,  # of each level
            codebook_dim=64,
            beta=0.25,
            codebook_update="ema",  # gradient | ema (set to running means of latents)
            codebook_decay=0.99,  # of these means
            codebook_init="data",  # data | kmeans | uniform
            restart_dead_codes_after=256,  # batches without use; 0: never
            remat=False,
        )
    )
    config.losses = ConfigDict(
        dict(
            reconstruction="l2",
            quantizer_weight=1.0,
            level_dropout_rate=0.0,  # images decoded without their finer levels; 0: the paper's
        )
    )
    config.data.channels = 3
    config.training.batch_size = 128
    config.training.best_metric = "reconstruction_mse"
    config.optimizers = ConfigDict(
        dict(autoencoder=optimizer(learning_rate=3e-4, ema_rate=0.999)),
    )
    return apply_changes(config, changes)
