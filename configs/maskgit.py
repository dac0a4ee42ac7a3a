"""MaskGIT on a tokenizer: `python -m maskgit_jax.train --config=configs/maskgit.py[:preset]`."""

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
    "training.num_steps": 2_000_000,
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
    "losses.label_dropout_rate": 0.1,
    "training.num_steps": 200_000,
    "training.eval_every": 2_000,
    "training.preview_every": 1_000,
    "training.checkpoint_every": 1_000,
}
SMALL = {  # on a processor: what narrow networks learn faster with than as published
    "model.num_layers": 4,
    "model.norm": "pre",
    "model.head": "linear",
    "model.initialization": "scaled",
    "model.remat": False,
    "model.dropout_rate": 0.0,
    "losses.reduction": "tokens",
    "losses.label_smoothing": 0.0,
    "losses.label_dropout_rate": 0.1,
    "masking.schedule": "linear",
    "training.batch_size": 64,
    "optimizers.prior.schedule": "cosine",
    "optimizers.prior.clip_norm": 1.0,
}
FOLDER_SMALL = {  # a few thousand pictures as tokens, 20 minutes on 2 cores
    **SMALL,
    **FOLDER_DATA,
    "model.codebook_size": 512,
    "model.grid": (8, 8),
    "model.width": 192,
    "model.num_heads": 6,
    "model.mlp_width": 768,
    "sampling.steps": 16,
    "sampling.choice_temperature": 20.0,
    "training.num_steps": 3_000,
    "training.log_every": 20,
    "training.eval_every": 500,
    "training.preview_every": 500,
    "training.checkpoint_every": 500,
    "optimizers.prior.learning_rate": 2e-3,
    "optimizers.prior.warmup_steps": 100,
    "optimizers.prior.ema_rate": 0.99,
}
PRESETS = {
    "digits": {
        **SMALL,
        "data.channels": 1,
        "model.codebook_size": 128,
        "model.grid": (4, 4),
        "model.width": 128,
        "model.num_heads": 4,
        "model.mlp_width": 512,
        "sampling.choice_temperature": 4.5,
        "sampling.temperature": 0.8,
        "training.num_steps": 560,
        "training.log_every": 40,
        "training.eval_every": 560,
        "training.preview_every": 560,
        "training.checkpoint_every": 280,
        "optimizers.prior.learning_rate": 3e-3,
        "optimizers.prior.warmup_steps": 50,
        "optimizers.prior.ema_rate": 0.99,
    },
    "fashion_mnist": {
        **SMALL,
        "data.source": "idx:/usr/share/datasets/fashion-mnist",
        "data.image_size": 28,
        "data.channels": 1,
        "model.codebook_size": 256,
        "model.grid": (7, 7),
        "model.width": 128,
        "model.num_heads": 4,
        "model.mlp_width": 512,
        "sampling.steps": 16,
        "sampling.choice_temperature": 40.0,
        "training.num_steps": 9_500,
        "training.log_every": 50,
        "training.eval_every": 2_000,
        "training.preview_every": 2_000,
        "training.checkpoint_every": 500,
        "optimizers.prior.learning_rate": 3e-3,
        "optimizers.prior.warmup_steps": 200,
        "optimizers.prior.ema_rate": 0.999,
    },
    "cifar10": {
        **FOLDER,
        "data.source": "tfds:cifar10",
        "data.image_size": 32,
        "data.crop": "center",
        "model.grid": (8, 8),
    },
    "folder": FOLDER,
    "folder_small": FOLDER_SMALL,
    "imagenet256": IMAGENET,
    "imagenet512": {
        **IMAGENET,
        "data.image_size": 512,
        "model.grid": (32, 32),
        "sampling.steps": 12,
    },
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration of a preset.

    The defaults are the paper's: 24 layers, width 768, 16 heads, 2025 embeddings (172,457,193
    parameters), post-LN, tied head, label smoothing 0.1, AdamW (0.9, 0.96) at 1e-4.
    """
    name, changes = choose_preset(preset, PRESETS)
    config = base_config("maskgit", name)
    config.tokenizer = default_workdir("vqgan", name)
    config.condition_tokenizer = ""  # run of a tokenizer of config.data.condition
    config.model = ConfigDict(
        dict(
            codebook_size=1024,  # must be the tokenizer's
            grid=(16, 16),  # must be the tokenizer's
            width=768,
            num_layers=24,
            num_heads=16,
            mlp_width=3072,
            norm="post",  # post | pre
            head="tied",  # tied: to the embedding, after a layer of its own | linear
            initialization="official",  # official | scaled: by the width
            dropout_rate=0.1,
            attention="xla",  # xla | cudnn: fused, bfloat16 on GPUs, no dropout of weights
            remat=True,
        )
    )
    config.losses = ConfigDict(
        dict(
            loss_on="masked",  # masked | all
            reduction="examples",  # examples: each counts the same, as published | tokens
            label_smoothing=0.1,
            label_dropout_rate=0.0,  # above 0 a null class is trained, for guidance
        )
    )
    config.masking = ConfigDict(dict(schedule="cosine"))
    config.sampling = parallel_sampling()
    config.data.channels = 3
    config.training.best_metric = "token_cross_entropy"
    config.optimizers = ConfigDict(
        dict(
            prior=optimizer(
                optimizer="adamw",
                beta2=0.96,
                weight_decay=0.045,
                warmup_steps=5000,
                ema_rate=0.999,
            )
        )
    )
    return apply_changes(config, changes)
