"""A token critic for MaskGIT: `python -m maskgit_jax.train --config=configs/token_critic.py`.

It learns to tell tokens of images from tokens sampled by the finished MaskGIT `config.generator`.
Its run samples images with `--decoder=token_critic` (the default) or any other decoder.
"""

from ml_collections import ConfigDict

from configs import common
from maskgit_jax.configuration import (
    apply_changes,
    base_config,
    choose_preset,
    default_workdir,
    optimizer,
)
from maskgit_jax.decoding.settings import MaskingSettings, decode_settings_class
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.settings import settings_dict

IMAGENET = {**common.IMAGENET_CLASSES, "training.num_steps": 1_000_000}
FOLDER = {**common.FOLDER, **common.TRANSFORMER_384, "training.num_steps": 100_000}
SMALL = {  # on a CPU
    **common.TRANSFORMER_128,
    "model.num_layers": 4,
    "model.norm": "pre",
    "model.remat": False,
    "model.dropout_rate": 0.0,
}
PRESETS = {
    "digits": {
        **SMALL,
        **common.DIGITS_TOKENS,
        **common.short_training("critic", warmup_steps=30, clip_norm=1.0),
        "sampling.temperature": 0.8,
        "training.num_steps": 300,
    },
    "fashion_mnist": {
        **SMALL,
        **common.FASHION_MNIST_TOKENS,
        **common.short_training("critic", warmup_steps=100, ema_rate=0.995, clip_norm=1.0),
        "sampling.choice_temperature": 1.0,  # the log odds of a critic span a few units
        "training.num_steps": 1_600,
    },
    "cifar10": {**FOLDER, **common.CIFAR10_TOKENS},
    "folder": FOLDER,
    "imagenet256": IMAGENET,
    "imagenet512": {**IMAGENET, **common.IMAGENET512_TOKENS, "sampling.steps": 12},
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset; the default size is its generator's."""
    name, changes = choose_preset(preset, PRESETS)
    config = base_config("token_critic", name)
    config.generator = default_workdir("maskgit", name)
    config.model = dict(
        codebook_size=1024,  # of the tokenizer
        grid=(16, 16),  # of the tokenizer
        init_from="generator",  # generator: its parameters, if the sizes agree | random
        width=768,
        num_layers=24,
        num_heads=16,
        mlp_width=3072,
        norm="post",  # post | pre
        dropout_rate=0.1,
        attention="xla",  # xla | cudnn: fused, bfloat16 on GPUs, no dropout of attention weights
        remat=True,
        layer_options=settings_dict(LayerOptions),
    )
    config.losses = dict(label_dropout_rate=0.1)
    config.masking = settings_dict(MaskingSettings)
    config.sampling = settings_dict(decode_settings_class()) | {"decoder": "token_critic"}
    config.data.channels = 3
    config.training.best_metric = "critic_cross_entropy"
    config.optimizers.critic = optimizer(
        optimizer="adamw", beta2=0.96, weight_decay=0.045, warmup_steps=5000, ema_rate=0.999
    )
    return apply_changes(config, changes)
