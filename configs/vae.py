"""Autoencoders and VAEs: `python -m maskgit_jax.train --config=configs/vae.py[:preset]`."""

from ml_collections import ConfigDict

from configs import common
from maskgit_jax.configuration import apply_changes, base_config, choose_preset, optimizer
from maskgit_jax.decoding.settings import PriorSettings
from maskgit_jax.settings import settings_dict

IMAGENET = {
    **common.IMAGENET,
    "model.remat": True,
    "model.filters": 256,
    "model.residual_filters": 128,
    "model.num_downsamplings": 5,
    "model.num_latents": 512,
    "training.num_steps": 500_000,
}
FOLDER = {
    **common.FOLDER,
    "model.filters": 128,
    "model.residual_filters": 64,
    "model.num_downsamplings": 3,
    "model.num_latents": 128,
    "training.num_steps": 100_000,
}
SMALL = {  # grey images, on a CPU
    # With Muon the bound on the likelihood is worse (docs/results/learning_faster.md).
    **common.short_training("autoencoder", learning_rate=1e-3, optimizer="adam"),
    "data.channels": 1,
    "training.batch_size": 64,
}
DIGITS = {
    **SMALL,
    # With 16 latents and beta 1 the bound is better, but samples are blots: a wider or freer
    # posterior of 1,437 images places them, and learns little about what lies between.
    "model.num_latents": 8,
    "losses.beta": 3.0,
    "training.num_steps": 1_000,
}
FASHION_MNIST = {
    **SMALL,
    **common.FASHION_MNIST,
    "model.num_latents": 32,
    "losses.beta": 4.0,  # 1 gives a better bound and worse samples
    "training.num_steps": 1_500,
}
DEMONSTRATION = {
    **DIGITS,
    "model.num_latents": 16,
    "losses.beta": 1.0,
    "training.num_steps": 500,
}
AUTOENCODER = {"model.posterior": "none", "training.best_metric": "reconstruction_mse"}
PRESETS = {
    "digits": DIGITS,
    "digits_autoencoder": {**DIGITS, **AUTOENCODER},
    # The loss of many programs, the mean squared error of an image plus the divergence, is a
    # likelihood with noise of variance H * W * C / 2, here 128: the posterior collapses.
    "digits_collapsed": {**DEMONSTRATION, "model.sigma_mode": "fixed", "model.sigma": 128**0.5},
    # The same with noise as large as the remaining error.
    "digits_cured": {**DEMONSTRATION, "model.sigma_mode": "optimal"},
    # Probabilistic PCA, which has a closed form; 8 px are the original digits.
    "digits_linear": {
        **DIGITS,
        "data.image_size": 8,
        "model.network": "linear",
        "losses.beta": 1.0,
        "model.sigma_mode": "learned",
        "model.sigma": 0.5,
        "training.batch_size": 128,
        "training.num_steps": 6_000,
        "optimizers.autoencoder.learning_rate": 3e-2,
    },
    "fashion_mnist": FASHION_MNIST,
    "fashion_mnist_autoencoder": {**FASHION_MNIST, **AUTOENCODER},
    "fashion_mnist_mixture": {
        **FASHION_MNIST,
        "losses.beta": 1.0,
        "model.likelihood": "logistic_mixture",
    },
    "fashion_mnist_binary": {
        **FASHION_MNIST,
        "losses.beta": 1.0,
        "model.likelihood": "bernoulli",
    },
    "cifar10": {**FOLDER, **common.CIFAR10, "model.num_downsamplings": 2},
    "folder": FOLDER,
    "imagenet256": IMAGENET,
    "imagenet512": {**IMAGENET, "data.image_size": 512, "model.num_downsamplings": 6},
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset.

    Encoder and decoder are those of configs/vqvae.py, with a dense layer on either side of the
    latents. All losses are in nats per image: sums over pixels and latents, never means.
    """
    name, changes = choose_preset(preset, PRESETS)
    config = base_config("vae", name)
    config.model = dict(
        network="convolutional",  # convolutional | linear
        posterior="gaussian",  # gaussian | none (a plain autoencoder)
        num_latents=128,
        filters=64,
        residual_filters=32,
        num_residual_blocks=2,
        num_downsamplings=2,
        likelihood="gaussian",  # gaussian | bernoulli | logistic_mixture
        sigma_mode="optimal",  # fixed | learned | optimal; of gaussian
        sigma=0.1,  # fixed, or the initial value if learned; for pixels in [-1, 1]
        num_mixtures=5,  # of logistic_mixture
        binarization="dynamic",  # dynamic (sampled at each step) | threshold; of bernoulli
        remat=False,
    )
    config.losses = dict(
        beta=1.0,  # weight of the divergence; 1: the evidence lower bound
        annealing="constant",  # of beta, from 0: constant | linear | cyclical
        annealing_steps=0,
        annealing_cycles=4,
        free_bits=0.0,  # nats per latent that cost nothing
    )
    config.sampling = settings_dict(PriorSettings)
    config.data.channels = 3
    config.training.batch_size = 128
    config.training.best_metric = "negative_elbo"
    config.optimizers.autoencoder = optimizer(learning_rate=3e-4, ema_rate=0.999)
    return apply_changes(config, changes)
