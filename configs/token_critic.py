"""A critic of MaskGIT's tokens: `python -m maskgit_jax.train --config=configs/token_critic.py`.

It learns to tell the tokens of images from those that the finished MaskGIT of `config.generator`
draws, and its run makes images by `--decoder=token_critic` (the default) or any other decoder.
"""

from ml_collections import ConfigDict

from maskgit_jax.configuration import (
    FOLDER_DATA,
    IMAGENET_DATA,
    apply_changes,
    base_config,
    choose_preset,
    default_workdir,
    parallel_sampling,
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
    "training.preview_every": 10_000,
    "training.checkpoint_every": 5_000,
}
FOLDER = {
    **FOLDER_DATA,
    "model.width": 384,
    "model.num_layers": 8,
    "model.num_heads": 6,
    "model.mlp_width": 1536,
    "training.num_steps": 100_000,
    "training.eval_every": 2_000,
    "training.preview_every": 1_000,
    "training.checkpoint_every": 1_000,
}
SMALL = {
    "data.channels": 1,
    "model.width": 128,
    "model.num_layers": 4,
    "model.num_heads": 4,
    "model.mlp_width": 512,
    "model.norm": "pre",
    "model.remat": False,
    "model.dropout_rate": 0.0,
    "training.batch_size": 64,
    "optimizers.critic.learning_rate": 2e-3,
    "optimizers.critic.schedule": "cosine",
    "optimizers.critic.clip_norm": 1.0,
}
PRESETS = {
    "digits": {
        **SMALL,
        "model.codebook_size": 128,
        "model.grid": (4, 4),
        "sampling.temperature": 0.8,
        "training.num_steps": 300,
        "training.log_every": 30,
        "training.eval_every": 300,
        "training.preview_every": 300,
        "training.checkpoint_every": 150,
        "optimizers.critic.warmup_steps": 30,
        "optimizers.critic.ema_rate": 0.99,
    },
    "fashion_mnist": {
        **SMALL,
        "data.source": "idx:/usr/share/datasets/fashion-mnist",
        "data.image_size": 28,
        "model.codebook_size": 256,
        "model.grid": (7, 7),
        "sampling.choice_temperature": 1.0,  # log odds of a critic span a few units
        "training.num_steps": 1_600,
        "training.log_every": 50,
        "training.eval_every": 800,
        "training.preview_every": 800,
        "training.checkpoint_every": 400,
        "optimizers.critic.warmup_steps": 100,
        "optimizers.critic.ema_rate": 0.995,
    },
    "cifar10": {
        **FOLDER,
        "data.source": "tfds:cifar10",
        "data.image_size": 32,
        "data.crop": "center",
        "model.grid": (8, 8),
    },
    "folder": FOLDER,
    "imagenet256": IMAGENET,
    "imagenet512": {
        **IMAGENET,
        "data.image_size": 512,
        "model.grid": (32, 32),
        "sampling.steps": 12,
    },
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset; the defaults are of its generator's size."""
    name, changes = choose_preset(preset, PRESETS)
    config = base_config("token_critic", name)
    config.generator = default_workdir("maskgit", name)
    config.model = ConfigDict(
        dict(
            codebook_size=1024,  # must be the tokenizer's
            grid=(16, 16),  # must be the tokenizer's
            init_from="generator",  # generator: as it ended, if it is as large | random
            width=768,
            num_layers=24,
            num_heads=16,
            mlp_width=3072,
            norm="post",  # post | pre
            dropout_rate=0.1,
            attention="xla",  # xla | cudnn: fused, bfloat16 on GPUs, no dropout of weights
            remat=True,
        )
    )
    config.losses = ConfigDict(dict(label_dropout_rate=0.1))
    config.masking = ConfigDict(dict(schedule="cosine"))
    config.sampling = parallel_sampling()
    config.sampling.decoder = "token_critic"
    config.data.channels = 3
    config.training.best_metric = "critic_cross_entropy"
    config.optimizers = ConfigDict(
        dict(
            critic=optimizer(
                optimizer="adamw",
                beta2=0.96,
                weight_decay=0.045,
                warmup_steps=5000,
                ema_rate=0.999,
            )
        )
    )
    return apply_changes(config, changes)
