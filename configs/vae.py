"""Autoencoders and VAEs: `python -m maskgit_jax.train --config=configs/vae.py[:preset]`."""

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
    "model.remat": True,
    "model.filters": 256,
    "model.residual_filters": 128,
    "model.num_downsamplings": 5,
    "model.num_latents": 512,
    "training.num_steps": 500_000,
    "training.log_every": 100,
    "training.eval_every": 20_000,
    "training.preview_every": 5_000,
    "training.checkpoint_every": 5_000,
}
FOLDER = {
    **FOLDER_DATA,
    "model.filters": 128,
    "model.residual_filters": 64,
    "model.num_downsamplings": 3,
    "model.num_latents": 128,
    "training.num_steps": 100_000,
    "training.eval_every": 2_000,
    "training.preview_every": 1_000,
    "training.checkpoint_every": 1_000,
}
SMALL = {  # grey images of a few pixels, on a processor
    "data.channels": 1,
    "training.batch_size": 64,
    "optimizers.autoencoder.learning_rate": 1e-3,
    "optimizers.autoencoder.warmup_steps": 50,
    "optimizers.autoencoder.schedule": "cosine",
    "optimizers.autoencoder.ema_rate": 0.99,
}
DIGITS = {
    **SMALL,
    # Of 1,437 images a wider or freer posterior learns where they are, not what lies between:
    # with 16 latents and beta 1 the bound is better, and samples are blots.
    "model.num_latents": 8,
    "losses.beta": 3.0,
    "training.num_steps": 1_000,
    "training.log_every": 100,
    "training.eval_every": 500,
    "training.preview_every": 500,
    "training.checkpoint_every": 500,
}
FASHION_MNIST = {
    **SMALL,
    "data.source": "idx:/usr/share/datasets/fashion-mnist",
    "data.image_size": 28,
    "model.num_latents": 32,
    "losses.beta": 4.0,  # 1 gives the better bound and the worse samples
    "training.num_steps": 1_500,
    "training.log_every": 50,
    "training.eval_every": 500,
    "training.preview_every": 500,
    "training.checkpoint_every": 500,
}
DEMONSTRATION = {
    **DIGITS,
    "model.num_latents": 16,
    "losses.beta": 1.0,
    "training.num_steps": 500,
    "training.eval_every": 250,
    "training.preview_every": 250,
    "training.checkpoint_every": 250,
}
AUTOENCODER = {"model.posterior": "none", "training.best_metric": "reconstruction_mse"}
LINEAR = {  # what probabilistic PCA solves in closed form; 8 px are the digits as they are
    **DIGITS,
    "data.image_size": 8,
    "model.network": "linear",
    "losses.beta": 1.0,
    "model.sigma_mode": "learned",
    "model.sigma": 0.5,
    "training.batch_size": 128,
    "training.num_steps": 6_000,
    "training.log_every": 500,
    "training.eval_every": 3_000,
    "training.preview_every": 3_000,
    "training.checkpoint_every": 3_000,
    "optimizers.autoencoder.learning_rate": 3e-2,
}
PRESETS = {
    "digits": DIGITS,
    "digits_autoencoder": {**DIGITS, **AUTOENCODER},
    # The mean squared error of an image plus the divergence, as many programs have it: that is
    # noise of variance H * W * C / 2, here 128, in which every image drowns.
    "digits_collapsed": {**DEMONSTRATION, "model.sigma_mode": "fixed", "model.sigma": 128**0.5},
    # The same, but for noise as large as the error that is left.
    "digits_cured": {**DEMONSTRATION, "model.sigma_mode": "optimal"},
    "digits_linear": LINEAR,
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
    "cifar10": {
        **FOLDER,
        "data.source": "tfds:cifar10",
        "data.image_size": 32,
        "data.crop": "center",
        "model.num_downsamplings": 2,
    },
    "folder": FOLDER,
    "imagenet256": IMAGENET,
    "imagenet512": {**IMAGENET, "data.image_size": 512, "model.num_downsamplings": 6},
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset.

    Encoder and decoder are those of configs/vqvae.py, with a dense layer on either side of the
    latents. All losses are in nats an image, sums over pixels and latents, never means.
    """
    name, changes = choose_preset(preset, PRESETS)
    config = base_config("vae", name)
    config.model = ConfigDict(
        dict(
            network="convolutional",  # convolutional | linear
            posterior="gaussian",  # gaussian | none (the plain autoencoder)
            num_latents=128,
            filters=64,
            residual_filters=32,
            num_residual_blocks=2,
            num_downsamplings=2,
            likelihood="gaussian",  # gaussian | bernoulli | logistic_mixture
            sigma_mode="optimal",  # fixed | learned | optimal; of gaussian
            sigma=0.1,  # if fixed; where it starts, if learned; for pixels in [-1, 1]
            num_mixtures=5,  # of logistic_mixture
            binarization="dynamic",  # dynamic (at random, anew each time) | threshold; of bernoulli
            remat=False,
        )
    )
    config.losses = ConfigDict(
        dict(
            beta=1.0,  # of the divergence; 1: the evidence lower bound
            annealing="constant",  # of beta, from 0: constant | linear | cyclical
            annealing_steps=0,
            annealing_cycles=4,
            free_bits=0.0,  # nats of each unit that cost nothing
        )
    )
    config.sampling = ConfigDict(dict(temperature=1.0, pixels="mean"))
    config.data.channels = 3
    config.training.batch_size = 128
    config.training.best_metric = "negative_elbo"
    config.optimizers = ConfigDict(dict(autoencoder=optimizer(learning_rate=3e-4, ema_rate=0.999)))
    return apply_changes(config, changes)
