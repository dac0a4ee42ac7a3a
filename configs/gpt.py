"""GPT on a tokenizer: `python -m maskgit_jax.train --config=configs/gpt.py[:preset]`.

From other images: `--config.data.condition=edges --config.condition_tokenizer=RUN`, where RUN is
a tokenizer of such images (`configs/vqvae.py --config.data.input=edges`).
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
    "training.num_steps": 1_000_000,
    "training.batch_size": 256,
    "training.log_every": 100,
    "training.eval_every": 20_000,
    "training.preview_every": 20_000,
    "training.checkpoint_every": 5_000,
}
FOLDER = {
    **FOLDER_DATA,
    "model.width": 384,
    "model.num_layers": 8,
    "model.num_heads": 6,
    "model.mlp_width": 1536,
    "training.num_steps": 200_000,
    "training.eval_every": 2_000,
    "training.preview_every": 2_000,
    "training.checkpoint_every": 1_000,
}
SMALL = {  # on a processor
    "model.width": 128,
    "model.num_heads": 4,
    "model.mlp_width": 512,
    "model.remat": False,
    "training.batch_size": 64,
    "optimizers.prior.learning_rate": 2e-3,
    "optimizers.prior.warmup_steps": 50,
    "optimizers.prior.schedule": "cosine",
    "optimizers.prior.clip_norm": 1.0,
    "optimizers.prior.ema_rate": 0.99,
}
FOLDER_SMALL = {  # a few thousand pictures as tokens, 20 minutes on 2 cores
    **SMALL,
    **FOLDER_DATA,
    "model.codebook_size": 512,
    "model.grid": (8, 8),
    "model.width": 192,
    "model.num_layers": 4,
    "model.num_heads": 6,
    "model.mlp_width": 768,
    "model.dropout_rate": 0.1,
    "training.num_steps": 2_500,
    "training.log_every": 20,
    "training.eval_every": 500,
    "training.preview_every": 500,
    "training.checkpoint_every": 500,
    "optimizers.prior.warmup_steps": 100,
}
PRESETS = {
    "digits": {
        **SMALL,
        "data.channels": 1,
        "model.codebook_size": 128,
        "model.grid": (4, 4),
        "model.num_layers": 4,
        "model.dropout_rate": 0.1,
        "training.num_steps": 400,
        "training.log_every": 40,
        "training.eval_every": 100,
        "training.preview_every": 400,
        "training.checkpoint_every": 100,
    },
    "fashion_mnist": {
        **SMALL,
        "data.source": "idx:/usr/share/datasets/fashion-mnist",
        "data.image_size": 28,
        "data.channels": 1,
        "model.codebook_size": 256,
        "model.grid": (7, 7),
        "model.num_layers": 6,
        "training.num_steps": 2_000,
        "training.log_every": 50,
        "training.eval_every": 500,
        "training.preview_every": 1_000,
        "training.checkpoint_every": 500,
        "optimizers.prior.learning_rate": 3e-3,
        "optimizers.prior.warmup_steps": 100,
        "optimizers.prior.ema_rate": 0.998,
    },
    "cifar10": {
        **FOLDER,
        "data.source": "tfds:cifar10",
        "data.image_size": 32,
        "data.crop": "center",
        "model.grid": (8, 8),
        "model.dropout_rate": 0.1,
    },
    "folder": FOLDER,
    "folder_small": FOLDER_SMALL,
    "imagenet256": IMAGENET,
    "imagenet512": {**IMAGENET, "data.image_size": 512, "model.grid": (32, 32)},
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset.

    The defaults are those of taming-transformers' faceshq and drin models: 24 layers, width 1024,
    16 heads, AdamW (0.9, 0.95) with weight decay 0.01 on matrices; here with classes.
    """
    name, changes = choose_preset(preset, PRESETS)
    config = base_config("gpt", name)
    config.tokenizer = default_workdir("vqgan", name)
    config.condition_tokenizer = ""  # run of a tokenizer of config.data.condition
    config.model = ConfigDict(
        dict(
            codebook_size=1024,  # must be the tokenizer's
            grid=(16, 16),  # must be the tokenizer's
            width=1024,
            num_layers=24,
            num_heads=16,
            mlp_width=4096,
            dropout_rate=0.0,
            attention="xla",  # xla | cudnn: fused, bfloat16 on GPUs, no dropout of weights
            remat=True,
        )
    )
    config.losses = ConfigDict(
        dict(
            keep_rate=1.0,  # of the tokens read; the others are random ("pkeep")
        )
    )
    config.sampling = ConfigDict(dict(temperature=1.0, top_k=0, top_p=1.0))
    config.data.channels = 3
    config.training.best_metric = "bits_per_token"
    config.optimizers = ConfigDict(
        dict(
            prior=optimizer(
                optimizer="adamw",
                learning_rate=4.5e-4,
                beta2=0.95,
                weight_decay=0.01,
                ema_rate=0.999,
            )
        )
    )
    return apply_changes(config, changes)
