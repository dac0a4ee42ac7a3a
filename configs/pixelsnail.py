"""PixelSNAIL on a VQ-VAE-2: `python -m maskgit_jax.train --config=configs/pixelsnail.py[:preset]`.

Trains one prior per token map, at the same time: p(top | class) and p(bottom | top, class).
"""

from ml_collections import ConfigDict

from configs import common
from maskgit_jax.configuration import apply_changes, choose_preset, optimizer

IMAGENET = {
    **common.IMAGENET_CLASSES,
    "model.features": 512,
    "model.hidden_channels": 2048,
    "model.num_layers": 5,
    "model.num_condition_layers": 20,
    "training.num_steps": 1_600_000,
    "training.batch_size": 1024,
    "training.accumulate_steps": 8,
}
FOLDER = {**common.FOLDER, "model.grids": ((8, 8), (16, 16)), "training.num_steps": 200_000}
SMALL = {  # grey images, on a CPU
    **common.short_training("top"),
    **common.short_training("bottom"),
    "data.channels": 1,
    "model.features": 64,
    "model.hidden_channels": 64,
    "model.num_blocks": 2,
    "model.num_layers": 3,
    "model.kernel_radius": 1,
    "model.num_heads": (4, 0),
    "model.num_output_layers": 1,
    "model.num_condition_layers": 2,
}
PRESETS = {
    "digits": {
        **SMALL,
        "model.codebook_size": 128,
        "model.grids": ((4, 4), (8, 8)),
        "model.num_layers": 2,
        "model.dropout_rate": 0.2,
        "training.num_steps": 400,
    },
    "fashion_mnist": {
        **SMALL,
        **common.FASHION_MNIST,
        "model.grids": ((7, 7), (14, 14)),
        "model.dropout_rate": 0.0,
        "training.num_steps": 2_000,
        "training.batch_size": 32,
        "optimizers.top.ema_rate": 0.998,
        "optimizers.bottom.ema_rate": 0.998,
    },
    "cifar10": {**FOLDER, **common.CIFAR10, "model.dropout_rate": 0.2},
    "folder": FOLDER,
    "imagenet256": IMAGENET,
    "imagenet512": {
        **IMAGENET,
        "data.image_size": 512,
        "model.grids": ((32, 32), (64, 64), (128, 128)),
        "model.num_heads": (8, 0, 0),
    },
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset.

    `imagenet256` has the paper's sizes for the top level (20 residual layers of 512 and 2048
    channels in 4 blocks, each of which ends with attention, batch 1024); its bottom level has the
    same width here, where the paper halves the hidden one.
    """
    name, changes = choose_preset(preset, PRESETS)
    grids = changes.get("model.grids", ((32, 32), (64, 64)))
    config = common.autoregressive_config("pixelsnail", name, tokenizer="vqvae2")
    config.model = dict(
        codebook_size=512,  # of the tokenizer
        grids=grids,  # of the tokenizer, coarsest first
        features=256,
        hidden_channels=256,
        num_blocks=4,
        num_layers=4,  # gated residual layers per block
        kernel_radius=2,  # 2: 5x5
        num_heads=(8, 0),  # attention heads per level, 0: no attention
        num_output_layers=4,
        num_condition_layers=3,  # over the coarser levels
        dropout_rate=0.1,
    )
    levels = ("top", "bottom") if len(grids) == 2 else ("top", "middle", "bottom")
    for level in levels:
        config.optimizers[level] = optimizer(learning_rate=3e-4, clip_norm=1.0, ema_rate=0.999)
    return apply_changes(config, changes)
