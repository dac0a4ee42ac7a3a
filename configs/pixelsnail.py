"""PixelSNAIL on a VQ-VAE-2: `python -m maskgit_jax.train --config=configs/pixelsnail.py[:preset]`.

One prior for each token map, trained at once: p(top | class) and p(bottom | top, class).
"""

from ml_collections import ConfigDict

from maskgit_jax.configuration import (
    FOLDER_DATA,
    IMAGENET_DATA,
    apply_changes,
    base_config,
    choose_preset,
    default_workdir,
    optimizer,
)

IMAGENET = {
    **IMAGENET_DATA,
    "data.num_classes": 1000,
    "dtype": "bfloat16",
    "model.features": 512,
    "model.hidden_channels": 2048,
    "model.num_layers": 5,
    "model.num_condition_layers": 20,
    "training.num_steps": 1_600_000,
    "training.batch_size": 1024,
    "training.accumulate_steps": 8,
    "training.log_every": 100,
    "training.eval_every": 20_000,
    "training.preview_every": 20_000,
    "training.checkpoint_every": 5_000,
}
FOLDER = {
    **FOLDER_DATA,
    "model.grids": ((8, 8), (16, 16)),
    "training.num_steps": 200_000,
    "training.eval_every": 2_000,
    "training.preview_every": 2_000,
    "training.checkpoint_every": 1_000,
}
SMALL = {  # grey images of a few pixels, on a processor
    "data.channels": 1,
    "model.features": 64,
    "model.hidden_channels": 64,
    "model.num_blocks": 2,
    "model.num_layers": 3,
    "model.kernel_radius": 1,
    "model.num_heads": (4, 0),
    "model.num_output_layers": 1,
    "model.num_condition_layers": 2,
    "training.batch_size": 64,
}
FAST = {
    "learning_rate": 2e-3,
    "warmup_steps": 50,
    "schedule": "cosine",
    "ema_rate": 0.99,
}
PRESETS = {
    "digits": {
        **SMALL,
        "model.codebook_size": 128,
        "model.grids": ((4, 4), (8, 8)),
        "model.num_layers": 2,
        "model.dropout_rate": 0.2,
        "training.num_steps": 400,
        "training.log_every": 40,
        "training.eval_every": 100,
        "training.preview_every": 400,
        "training.checkpoint_every": 100,
        **{f"optimizers.{level}.{key}": value for level in ("top", "bottom")
           for key, value in FAST.items()},
    },
    "fashion_mnist": {
        **SMALL,
        "data.source": "idx:/usr/share/datasets/fashion-mnist",
        "data.image_size": 28,
        "model.grids": ((7, 7), (14, 14)),
        "model.dropout_rate": 0.0,
        "training.num_steps": 2_000,
        "training.batch_size": 32,
        "training.log_every": 50,
        "training.eval_every": 500,
        "training.preview_every": 2_000,
        "training.checkpoint_every": 500,
        **{f"optimizers.{level}.{key}": value for level in ("top", "bottom")
           for key, value in (FAST | {"ema_rate": 0.998}).items()},
    },
    "cifar10": {
        **FOLDER,
        "data.source": "tfds:cifar10",
        "data.image_size": 32,
        "data.crop": "center",
        "model.dropout_rate": 0.2,
    },
    "folder": FOLDER,
    "imagenet256": IMAGENET,
    "imagenet512": {
        **IMAGENET,
        "data.image_size": 512,
        "model.grids": ((32, 32), (64, 64), (128, 128)),
        "model.num_heads": (8, 0, 0),
    },
}  # fmt: skip


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset.

    `imagenet256` has the paper's sizes for the top level (20 residual layers of 512 and 2048
    channels in 4 blocks, of which each ends with attention, batch 1024); its bottom level has the
    same width here, where the paper halves the inner one.
    """
    name, changes = choose_preset(preset, PRESETS)
    grids = changes.get("model.grids", ((32, 32), (64, 64)))
    config = base_config("pixelsnail", name)
    config.tokenizer = default_workdir("vqvae2", name)
    config.model = ConfigDict(
        dict(
            codebook_size=512,  # must be the tokenizer's
            grids=grids,  # must be the tokenizer's, coarsest first
            features=256,
            hidden_channels=256,
            num_blocks=4,
            num_layers=4,  # gated residual layers of each block
            kernel_radius=2,  # places above and to each side: 2 for 5x5
            num_heads=(8, 0),  # of each level's attention, 0 for none
            num_output_layers=4,
            num_condition_layers=3,  # over the coarser levels
            dropout_rate=0.1,
        )
    )
    config.losses = ConfigDict(
        dict(
            keep_rate=1.0,  # of the tokens read; the others are random
        )
    )
    config.sampling = ConfigDict(dict(temperature=1.0, top_k=0, top_p=1.0))
    config.data.channels = 3
    config.training.best_metric = "bits_per_token"
    prior = dict(learning_rate=3e-4, clip_norm=1.0, ema_rate=0.999)
    levels = ("top", "bottom") if len(grids) == 2 else ("top", "middle", "bottom")
    config.optimizers = ConfigDict({level: optimizer(**prior) for level in levels})
    return apply_changes(config, changes)
