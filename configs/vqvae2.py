"""VQ-VAE-2 tokenizers: `python -m maskgit_jax.train --config=configs/vqvae2.py[:preset]`."""

from ml_collections import ConfigDict

from configs import common
from maskgit_jax.configuration import apply_changes, base_config, choose_preset, optimizer

IMAGENET = {**common.IMAGENET, "training.num_steps": 2_207_444}  # maps of 32 x 32 and 64 x 64
FOLDER = {**common.FOLDER, "training.num_steps": 100_000, "training.batch_size": 32}
SMALL = {
    **common.SMALL_VQVAE,
    "model.bottom_downsamplings": 1,
    # Without it the top map of digits carries no information: exchanging its tokens between
    # images does not change the error (0.00055 and 0.00056, one run).
    "losses.level_dropout_rate": 0.1,
}
PRESETS = {
    "digits": {
        **SMALL,
        "model.codebook_size": 128,
        "model.restart_dead_codes_after": 20,
        "training.num_steps": 500,
    },
    # Maps of 7 x 7 and 14 x 14 codes of 9 bits: 441 + 1764 = 2205 bits per image.
    "fashion_mnist": {
        **SMALL,
        **common.FASHION_MNIST,
        "model.residual_filters": 47,  # as many decoder parameters as configs/vqvae.py
        "model.restart_dead_codes_after": 30,
        "training.num_steps": 1_500,
    },
    "cifar10": {**FOLDER, **common.CIFAR10, "model.bottom_downsamplings": 1},
    "folder": FOLDER,
    "imagenet256": IMAGENET,
    "imagenet512": {**IMAGENET, "data.image_size": 512, "model.num_levels": 3},
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset.

    The defaults are the paper's for ImageNet at 256 pixels (128 channels, 64 in the residual
    blocks, K = 512, D = 64, beta 0.25, batches of 128) with Adam at 3e-4, which the paper does
    not state. Preset `imagenet512` has the three levels of the paper's 1024 pixel images, with
    one downsampling less.

    Preset `fashion_mnist` can be compared with that of configs/vqvae.py: they share K, D, width,
    number of steps and the images of each step. It spends 2205 bits per image (1764 of them in
    the bottom map), the VQ-VAE 441, so a smaller error is not a gain of the hierarchy as such.
    Held-out mean squared error (pixels in [0, 1]), all 512 codes of each map in use: VQ-VAE
    0.0058, VQ-VAE-2 0.0013, and 0.0078 from its top map alone, which the decoder learns from a
    tenth of the images (`level_dropout_rate`). Its decoder has 84,015 parameters with the
    upsampling of the top codes, the VQ-VAE's 83,745.
    """
    name, changes = choose_preset(preset, PRESETS)
    config = base_config("vqvae2", name)
    config.model = dict(
        filters=128,
        residual_filters=64,
        num_residual_blocks=2,
        num_levels=2,  # 2 | 3
        bottom_downsamplings=2,  # the bottom map is smaller than the image by 2 to this power
        codebook_size=512,  # of each level
        codebook_dim=64,
        beta=0.25,
        codebook_update="ema",  # ema (moving averages of the latents) | gradient
        codebook_decay=0.99,  # of these averages
        codebook_smoothing=0.0,  # added to the counts of codes: 1e-5 in published code; 0: none
        codebook_init="data",  # data | kmeans | uniform
        restart_dead_codes_after=256,  # batches without use; 0: never
        remat=False,
    )
    config.losses = dict(
        reconstruction="l2",  # l1 | l2
        quantizer_weight=1.0,
        level_dropout_rate=0.0,  # fraction of images decoded without finer levels; 0: the paper's
    )
    config.data.channels = 3
    config.training.batch_size = 128
    config.training.best_metric = "reconstruction_mse"
    config.optimizers.autoencoder = optimizer(learning_rate=3e-4, ema_rate=0.999)
    return apply_changes(config, changes)
