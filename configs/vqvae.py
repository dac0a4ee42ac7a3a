"""VQ-VAE tokenizers: `python -m maskgit_jax.train --config=configs/vqvae.py[:preset]`."""

from ml_collections import ConfigDict

from configs import common
from maskgit_jax.configuration import apply_changes, base_config, choose_preset, optimizer

IMAGENET = {
    **common.IMAGENET,
    "model.num_downsamplings": 3,
    "training.num_steps": 500_000,
    "training.batch_size": 128,
}
FOLDER = {**common.FOLDER, "training.num_steps": 100_000}
PRESETS = {
    "digits": {
        **common.SMALL_VQVAE,
        "model.codebook_size": 128,
        "model.restart_dead_codes_after": 20,
        "training.num_steps": 800,
    },
    # One map of 7 x 7 codes of 9 bits: 441 bits per image.
    "fashion_mnist": {
        **common.SMALL_VQVAE,
        **common.FASHION_MNIST,
        "model.restart_dead_codes_after": 30,
        "training.num_steps": 1_500,
    },
    # The experiment of the paper's section 4.1: 256 channels, 250,000 steps of 128 images.
    "cifar10": {
        **FOLDER,
        **common.CIFAR10,
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
    with images in [-1, 1], where the reconstruction loss is 4 times that of pixels in [0, 1]. The
    example divides it by the variance of the data; multiply `losses.quantizer_weight` by the
    variance instead.

    Preset `fashion_mnist` can be compared with that of configs/vqvae2.py: they share K, D, width,
    number of steps and the images of each step.
    """
    name, changes = choose_preset(preset, PRESETS)
    config = base_config("vqvae", name)
    config.model = dict(
        filters=128,
        residual_filters=32,
        num_residual_blocks=2,
        num_downsamplings=2,
        codebook_size=512,
        codebook_dim=64,
        beta=0.25,
        codebook_update="ema",  # ema (moving averages of the latents) | gradient
        codebook_decay=0.99,  # of these averages
        codebook_smoothing=0.0,  # added to the counts of codes: 1e-5 in published code; 0: none
        codebook_init="data",  # data | kmeans | uniform
        restart_dead_codes_after=256,  # batches without use; 0: never
        remat=False,
    )
    config.losses = dict(reconstruction="l2", quantizer_weight=1.0)
    config.data.channels = 3
    config.training.batch_size = 32
    config.training.best_metric = "reconstruction_mse"
    config.optimizers.autoencoder = optimizer(learning_rate=3e-4, ema_rate=0.999)
    return apply_changes(config, changes)
