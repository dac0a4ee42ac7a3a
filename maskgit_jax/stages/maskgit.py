"""MaskGIT: a transformer that fills in masked tokens of a frozen tokenizer."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key
from maskgit_jax.configuration import require, require_one_of
from maskgit_jax.decoding.parallel import check_decode_settings
from maskgit_jax.decoding.schedules import any_order_mask, check_schedule, sample_mask
from maskgit_jax.losses.masked_tokens import (
    any_order_nll_bits,
    masked_mean,
    reduce_masked,
    token_cross_entropy,
)
from maskgit_jax.priors.maskgit import MaskGIT
from maskgit_jax.stage import Stage, Tokenizer, Variables
from maskgit_jax.stages.parallel_decoding import Parts, parallel_generator, sampling_settings
from maskgit_jax.stages.token_priors import (
    check_attention,
    check_tokenizer,
    condition_tokenizer,
    encode_condition,
    encode_tokens,
    needed_tokenizers,
    show_conditions,
    validate_condition,
)


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    model = config.model
    require_one_of(config, "model.norm", ("post", "pre"))
    require_one_of(config, "model.head", ("tied", "linear"))
    require_one_of(config, "model.initialization", ("official", "scaled"))
    require_one_of(config, "losses.loss_on", ("mask", "all"))
    require_one_of(config, "losses.reduction", ("examples", "tokens"))
    check_schedule(config.masking.schedule, "config.masking.schedule")
    check_attention(config)
    for key in ("label_dropout_rate", "label_smoothing"):
        value = config.losses[key]
        require(0 <= value < 1, f"config.losses.{key} is {value}; it must be in [0, 1)")
    validate_condition(config)
    height, width = model.grid
    guidable = config.losses.label_dropout_rate > 0
    # A critic is no part of this stage; the settings of its own stage are checked there.
    settings = sampling_settings(config)
    check_decode_settings(settings, height * width, model.codebook_size, guidable, critic=False)


def needs(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories that must be loaded first: those of the tokenizers."""
    return needed_tokenizers(config)


def layers_of(config: ConfigDict) -> dict[str, Any]:
    """Returns what a configuration says of the layers of the transformer, or of its critic's."""
    names = (
        "width",
        "num_layers",
        "num_heads",
        "mlp_width",
        "norm",
        "dropout_rate",
        "attention",
        "remat",
    )
    return {name: config.model[name] for name in names} | {"dtype": config.dtype}


def prior(config: ConfigDict, condition: Tokenizer | None = None) -> MaskGIT:
    """Returns the transformer that a configuration describes, for a condition's tokens."""
    model = config.model
    return MaskGIT(
        codebook_size=model.codebook_size,
        num_classes=max(1, config.data.num_classes),
        num_tokens=model.grid[0] * model.grid[1],
        null_class=config.losses.label_dropout_rate > 0,
        condition_codebook_size=condition.codebook_size if condition else 0,
        num_condition_tokens=sum(h * w for h, w in condition.grids) if condition else 0,
        head=model.head,
        initialization=model.initialization,
        **layers_of(config),
    )


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only player is "prior".

    Raises:
        InputError: The tokenizer's codebook or grid does not fit the transformer.
    """
    tokenizer = frozen["tokenizer"].exports
    check_tokenizer(config, tokenizer)
    condition_maker = condition_tokenizer(config, frozen)
    network = prior(config, condition_maker)
    num_classes, num_tokens = network.num_classes, network.num_tokens
    guidable = network.null_class
    weights = config.losses

    def init(key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        tokens = jnp.zeros((len(batch["label"]), num_tokens), jnp.int32)
        mask = jnp.zeros_like(tokens, bool)
        condition = jnp.zeros((len(tokens), network.num_condition_tokens), jnp.int32)
        params = network.init(key, tokens, mask, batch["label"], False, condition)["params"]
        return Variables({"prior": params}, {}, frozen)

    def forward(
        variables: Variables,
        tokens: Array,
        mask: Array,
        label: Array,
        condition: Array | None,
        key: Key | None = None,
    ) -> Array:
        return network.apply(
            {"params": variables.params["prior"]},
            tokens,
            mask,
            label,
            key is not None,
            condition,
            rngs=None if key is None else {"dropout": key},
        )

    def losses(variables: Variables, batch: Batch, key: Key, step: Array):
        del step
        mask_key, label_key, dropout_key = jax.random.split(key, 3)
        tokens = encode_tokens(tokenizer, variables, batch)
        mask = sample_mask(mask_key, tokens.shape, config.masking.schedule)
        label = batch["label"]
        if guidable:
            dropped = jax.random.bernoulli(label_key, weights.label_dropout_rate, label.shape)
            label = jnp.where(dropped, num_classes, label)
        condition = encode_condition(condition_maker, variables, batch)
        logits = forward(variables, tokens, mask, label, condition, dropout_key)
        error = token_cross_entropy(logits, tokens, weights.label_smoothing)
        selected = mask if weights.loss_on == "mask" else jnp.ones_like(mask)
        right = (logits.argmax(axis=-1) == tokens).astype(jnp.float32)
        metrics = {"token_accuracy": masked_mean(right, mask).mean()}
        return {"prior": reduce_masked(error, selected, weights.reduction)}, ({}, metrics)

    def evaluate(variables: Variables, batch: Batch, key: Key):
        mask_key, count_key, order_key = jax.random.split(key, 3)
        tokens = encode_tokens(tokenizer, variables, batch)
        mask, label = (
            sample_mask(mask_key, tokens.shape, config.masking.schedule),
            batch["label"],
        )
        condition = encode_condition(condition_maker, variables, batch)
        logits = forward(variables, tokens, mask, label, condition)
        right = (logits.argmax(axis=-1) == tokens).astype(jnp.float32)
        ratio = jax.random.uniform(count_key, (len(tokens),))
        some = any_order_mask(ratio, jax.random.uniform(order_key, tokens.shape))
        error = token_cross_entropy(forward(variables, tokens, some, label, condition), tokens)
        return {
            "token_cross_entropy": masked_mean(token_cross_entropy(logits, tokens), mask),
            "token_accuracy": masked_mean(right, mask),
            "bits_per_token_bound": any_order_nll_bits(error, some),
        }

    settings = sampling_settings(config)
    exports = parallel_generator(
        Parts(
            tokenizer,
            forward,
            settings,
            num_classes,
            num_classes if guidable else None,
            condition_maker,
        )
    )

    def preview(variables: Variables, batch: Batch, key: Key):
        if condition_maker is None:
            label = jnp.arange(len(batch["label"])) % num_classes
            return {"samples": exports.sample(variables, {"label": label}, key, settings)}
        wanted = {name: batch[name] for name in ("label", "condition")}
        made = [exports.sample(variables, wanted, own, settings) for own in jax.random.split(key)]
        return {"condition_original_and_samples": show_conditions(batch, made)}

    return Stage(init, losses, evaluate, summarize, preview, exports)


def summarize(means: Mapping[str, Array]) -> dict[str, float]:
    """Returns the means as numbers: `token_cross_entropy` in nats per masked token.

    `bits_per_token_bound` is an upper bound on the negative log-likelihood of whole token maps.
    """
    return {name: float(value) for name, value in means.items()}
