"""MaskGIT on a tokenizer: `python -m maskgit_jax.train --config=configs/maskgit.py[:preset]`.

Conditioned on images: `--config.data.condition=edges --config.condition_tokenizer=RUN`, where RUN
is a tokenizer of these images (`configs/vqvae.py --config.data.input=edges`).
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

IMAGENET = {
    **common.IMAGENET_CLASSES,
    "losses.softmax_over": "rows",
    "training.num_steps": 2_000_000,
}
FOLDER = {
    **common.FOLDER,
    **common.TRANSFORMER_384,
    "losses.label_dropout_rate": 0.1,
    "training.num_steps": 200_000,
}
SMALL = {  # on a CPU; differs from the paper where narrow networks learn faster
    **common.TRANSFORMER_128,
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
    "masking.stratified": True,
}
PRESETS = {
    "digits": {
        **SMALL,
        **common.DIGITS_TOKENS,
        **common.short_training("prior", learning_rate=3e-3, clip_norm=1.0),
        "sampling.steps": 16,
        "sampling.choice_temperature": 10.0,
        "sampling.temperature": 0.9,
        "training.num_steps": 480,
    },
    "fashion_mnist": {
        **SMALL,
        **common.FASHION_MNIST_TOKENS,
        **common.short_training("prior", 3e-3, warmup_steps=200, ema_rate=0.999, clip_norm=1.0),
        "sampling.steps": 16,
        "sampling.choice_temperature": 40.0,
        "training.num_steps": 9_500,
    },
    "cifar10": {**FOLDER, **common.CIFAR10_TOKENS},
    "folder": FOLDER,
    "folder_small": {  # a few thousand images, on a CPU, in 20 minutes on 2 cores
        **SMALL,
        **common.FOLDER_SMALL_TOKENS,
        **common.TRANSFORMER_192,
        **common.short_training("prior", warmup_steps=100, clip_norm=1.0),
        "sampling.steps": 16,
        "sampling.choice_temperature": 20.0,
        "training.num_steps": 3_000,
    },
    "imagenet256": IMAGENET,
    "imagenet256_modern": {  # newer layers and optimizer; not trained yet
        **IMAGENET,
        **common.MODERN_LAYERS,
        "model.norm": "pre",
        "model.head": "linear",
        "model.initialization": "scaled",
        "model.layer_options.mlp": "swiglu",
        "model.mlp_width": 2048,
        "losses.reduction": "tokens",
        "losses.label_smoothing": 0.0,
        "losses.softmax_over": "codes",
        "losses.label_dropout_rate": 0.1,
        "masking.schedule": "arccos",
        "masking.stratified": True,
        "optimizers.prior.optimizer": "muon",
    },
    "imagenet512": {**IMAGENET, **common.IMAGENET512_TOKENS, "sampling.steps": 12},
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
    config.model = dict(
        codebook_size=1024,  # of the tokenizer
        grid=(16, 16),  # of the tokenizer
        width=768,
        num_layers=24,
        num_heads=16,
        mlp_width=3072,
        norm="post",  # post | pre
        head="tied",  # tied: to the embedding, after a dense layer | tied_linear | linear
        initialization="official",  # official | scaled: by the width
        dropout_rate=0.1,
        attention="xla",  # xla | cudnn: fused, bfloat16 on GPUs, no dropout of attention weights
        remat=True,
        layer_options=settings_dict(LayerOptions),
    )
    config.losses = dict(
        loss_on="masked",  # masked | all
        reduction="examples",  # examples: mean per example first, as published | tokens
        label_smoothing=0.1,
        softmax_over="codes",  # codes | rows: of the embedding, classes and mask too, as published
        label_dropout_rate=0.0,  # above 0 the null class is trained, for guidance
    )
    config.masking = settings_dict(MaskingSettings)
    config.sampling = settings_dict(decode_settings_class())
    config.data.channels = 3
    config.training.best_metric = "token_cross_entropy"
    config.optimizers.prior = optimizer(
        optimizer="adamw", beta2=0.96, weight_decay=0.045, warmup_steps=5000, ema_rate=0.999
    )
    return apply_changes(config, changes)
