"""GPT on a tokenizer: `python -m maskgit_jax.train --config=configs/gpt.py[:preset]`.

Conditioned on images: `--config.data.condition=edges --config.condition_tokenizer=RUN`, where RUN
is a tokenizer of these images (`configs/vqvae.py --config.data.input=edges`).
"""

from ml_collections import ConfigDict

from configs import common
from maskgit_jax.configuration import apply_changes, choose_preset, optimizer
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.settings import settings_dict

IMAGENET = {**common.IMAGENET_CLASSES, "training.num_steps": 1_000_000}
FOLDER = {**common.FOLDER, **common.TRANSFORMER_384, "training.num_steps": 200_000}
SMALL = {  # on a CPU
    **common.TRANSFORMER_128,
    **common.short_training("prior", clip_norm=1.0),
    "model.remat": False,
}
PRESETS = {
    "digits": {
        **SMALL,
        **common.DIGITS_TOKENS,
        "model.num_layers": 4,
        "model.dropout_rate": 0.1,
        "training.num_steps": 400,
    },
    "fashion_mnist": {
        **SMALL,
        **common.FASHION_MNIST_TOKENS,
        "model.num_layers": 6,
        "training.num_steps": 2_000,
        "optimizers.prior.learning_rate": 3e-3,
        "optimizers.prior.warmup_steps": 100,
        "optimizers.prior.ema_rate": 0.998,
    },
    "cifar10": {**FOLDER, **common.CIFAR10_TOKENS, "model.dropout_rate": 0.1},
    "folder": FOLDER,
    "folder_small": {  # a few thousand images, on a CPU, in 20 minutes on 2 cores
        **SMALL,
        **common.FOLDER_SMALL_TOKENS,
        **common.TRANSFORMER_192,
        "model.num_layers": 4,
        "model.dropout_rate": 0.1,
        "training.num_steps": 2_500,
        "optimizers.prior.warmup_steps": 100,
    },
    "imagenet256": IMAGENET,
    "imagenet512": {**IMAGENET, **common.IMAGENET512_TOKENS},
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset.

    The defaults are those of taming-transformers' faceshq and drin models: 24 layers, width 1024,
    16 heads, AdamW (0.9, 0.95) with weight decay 0.01 on kernels; here with classes.
    """
    name, changes = choose_preset(preset, PRESETS)
    config = common.autoregressive_config("gpt", name, tokenizer="vqgan")
    config.condition_tokenizer = ""  # run of a tokenizer of config.data.condition
    config.model = dict(
        codebook_size=1024,  # of the tokenizer
        grid=(16, 16),  # of the tokenizer
        width=1024,
        num_layers=24,
        num_heads=16,
        mlp_width=4096,
        dropout_rate=0.0,
        attention="xla",  # xla | cudnn: fused, bfloat16 on GPUs, no dropout of attention weights
        remat=True,
        layer_options=settings_dict(LayerOptions),
    )
    config.optimizers.prior = optimizer(
        optimizer="adamw", learning_rate=4.5e-4, beta2=0.95, weight_decay=0.01, ema_rate=0.999
    )
    return apply_changes(config, changes)
