"""Small stages, states and data that several tests share."""

import os
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import apply_changes, load_config
from maskgit_jax.data.loader import eval_batches, train_batches
from maskgit_jax.data.sources import open_sources
from maskgit_jax.stage import Stage, Variables
from maskgit_jax.stages import stage_module
from maskgit_jax.training.loop import Trainer, TrainingData
from maskgit_jax.training.sharding import make_mesh

ROOT = Path(__file__).parent.parent
CLASSIFIER_CACHE = f"--cache={os.environ['MASKGIT_JAX_TESTS']}/classifiers"
"""A classifier of the digits takes ten seconds: the evaluations of all tests share it."""

TINY_TRANSFORMER = {
    "model.codebook_size": 16,
    "model.width": 16,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.mlp_width": 32,
}
# Muon takes longer to compile than tiny networks: MaskGIT and GPT test it.
TINY = {
    "vae": {
        "model.filters": 8,
        "model.residual_filters": 4,
        "model.num_latents": 4,
        "optimizers.autoencoder.warmup_steps": 0,
        "optimizers.autoencoder.learning_rate": 1e-2,
    },
    "vqvae": {
        "model.filters": 8,
        "model.residual_filters": 4,
        "model.codebook_size": 16,
        "model.codebook_dim": 4,
        "model.codebook_update": "gradient",
        "optimizers.autoencoder.optimizer": "adam",
        "optimizers.autoencoder.warmup_steps": 0,
        "optimizers.autoencoder.learning_rate": 1e-2,
    },
    "vqvae2": {
        "model.filters": 8,
        "model.residual_filters": 4,
        "model.codebook_size": 16,
        "model.codebook_dim": 4,
        "model.codebook_init": "kmeans",
        "optimizers.autoencoder.optimizer": "adam",
        "losses.level_dropout_rate": 0.0,
        "optimizers.autoencoder.warmup_steps": 0,
        "optimizers.autoencoder.learning_rate": 1e-2,
    },
    "vqgan": {
        "model.filters": 8,
        "model.channel_multipliers": (1, 2, 2),
        "model.blocks_per_level": 1,
        "model.mid_blocks": 1,
        "model.codebook_size": 16,
        "model.codebook_dim": 4,
        "discriminator.filters": 8,
        "optimizers.autoencoder.optimizer": "adam",
        "optimizers.discriminator.start_step": 2,
    },
    "maskgit": {
        **TINY_TRANSFORMER,
        "masking.stratified": True,
        "masking.complementary": True,
        "masking.order": "halton",
        "sampling.steps": 3,
    },
    "token_critic": {
        **TINY_TRANSFORMER,
        "sampling.steps": 3,
        "optimizers.critic.optimizer": "adamw",
        "optimizers.critic.warmup_steps": 0,
        "optimizers.critic.learning_rate": 1e-2,
    },
    "pixelcnn": {
        "model.codebook_size": 16,
        "model.features": 8,
        "model.num_layers": 3,
        "model.head_features": 16,
        "model.dropout_rate": 0.0,
        "optimizers.prior.optimizer": "adam",
        "optimizers.prior.warmup_steps": 0,
        "optimizers.prior.learning_rate": 1e-2,
    },
    "pixelsnail": {
        "model.codebook_size": 16,
        "model.features": 8,
        "model.hidden_channels": 8,
        "model.num_blocks": 1,
        "model.num_layers": 1,
        "model.num_heads": (2, 0),
        "model.num_condition_layers": 1,
        "model.dropout_rate": 0.0,
        **{f"optimizers.{level}.optimizer": "adam" for level in ("top", "bottom")},
        **{f"optimizers.{level}.warmup_steps": 0 for level in ("top", "bottom")},
        **{f"optimizers.{level}.learning_rate": 1e-2 for level in ("top", "bottom")},
    },
    "gpt": {
        **TINY_TRANSFORMER,
        "model.layer_options.mlp": "swiglu",
        "model.layer_options.conditioning": "both",
        "model.layer_options.fused_qkv": True,
        "model.dropout_rate": 0.0,
        "optimizers.prior.warmup_steps": 0,
        "optimizers.prior.learning_rate": 1e-2,
    },
}
SHORT = {
    "training.num_steps": 8,
    "training.batch_size": 16,
    "training.log_every": 2,
    "training.eval_every": 4,
    "training.preview_every": 8,
    "training.checkpoint_every": 4,
}


def preset(stage: str, name: str = "") -> ConfigDict:
    return load_config(f"{stage}:{name}")


def tiny_config(stage: str, **changes) -> ConfigDict:
    config = preset(stage).unlock()
    config.data.num_classes = 10
    config.data.class_names = tuple("0123456789")
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return apply_changes(config, {**TINY[stage], **SHORT, **dotted})


def digits_batch(size: int = 16, start: int = 0) -> dict[str, np.ndarray]:
    source = open_sources(preset("vqgan").data).train
    rows = [source[index] for index in range(start, start + size)]
    return {
        "image": np.stack([row["image"] for row in rows]),
        "label": np.asarray([row["label"] for row in rows], np.int32),
    }


def tiny_tokenizer(name: str = "vqgan", **changes) -> tuple[Stage, Variables]:
    stage = stage_module(name).build(tiny_config(name, **changes), {})
    return stage, jax.jit(stage.init)(jax.random.key(7), digits_batch(), {})


def tiny_stage(name: str, **changes) -> tuple[Stage, ConfigDict, dict[str, Variables]]:
    config = tiny_config(name, **changes)
    if name in FIRST_STAGE_NAMES:
        return stage_module(name).build(config, {}), config, {}
    if name == "token_critic":
        generator, _, inner = tiny_stage("maskgit", losses__label_dropout_rate=0.1)
        made = jax.jit(generator.init)(jax.random.key(8), digits_batch(), inner)
        stages = {"generator": generator, "tokenizer": tiny_tokenizer()[0]}
        return stage_module(name).build(config, stages), config, {"generator": made, **inner}
    tokenizer, variables = tiny_tokenizer(tokenizer_stage(config))
    return (
        stage_module(name).build(config, {"tokenizer": tokenizer}),
        config,
        {"tokenizer": variables},
    )


def tokenizer_stage(config: ConfigDict) -> str:
    """The stage of the tokenizer that a prior's default configuration is made for."""
    return config.tokenizer.removeprefix("runs/").split("-")[0]


TOKENIZER_NAMES = ("vqvae", "vqvae2", "vqgan")
FIRST_STAGE_NAMES = ("vae", *TOKENIZER_NAMES)
PRIOR_NAMES = ("pixelcnn", "pixelsnail", "gpt", "maskgit", "token_critic")
STAGE_NAMES = (*FIRST_STAGE_NAMES, *PRIOR_NAMES)


def trainer(stage, config, frozen, workdir, num_devices: int = 1) -> Trainer:
    sources = open_sources(config.data)
    size = config.training.batch_size
    data = TrainingData(
        train_batches(sources.train, config.data, size, config.seed),
        lambda: eval_batches(sources.evaluation, config.data, size),
    )
    mesh = make_mesh(config.mesh, jax.devices()[:num_devices])
    return Trainer(stage, config, workdir, data, frozen, mesh)
