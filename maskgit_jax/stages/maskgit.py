"""MaskGIT: a transformer that fills in hidden tokens of a frozen tokenizer."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key
from maskgit_jax.configuration import require, require_one_of
from maskgit_jax.decoding.parallel import DecodeSettings, decode_by_confidence, guide
from maskgit_jax.decoding.schedules import SCHEDULES, any_order_mask, random_mask
from maskgit_jax.losses.masked_tokens import (
    any_order_bits,
    mean_over_selected,
    token_cross_entropy,
)
from maskgit_jax.priors.maskgit import MaskGIT
from maskgit_jax.stage import Generator, Stage, Variables
from maskgit_jax.stages.token_priors import check_tokenizer, tokens_of


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    model = config.model
    require_one_of(config, "model.norm", ("post", "pre"))
    require_one_of(config, "losses.over", ("hidden", "all"))
    require_one_of(config, "masking.schedule", tuple(SCHEDULES))
    require_one_of(config, "sampling.schedule", tuple(SCHEDULES))
    require(
        model.width % model.num_heads == 0,
        f"config.model.width {model.width} is not a multiple of config.model.num_heads "
        f"{model.num_heads}",
    )
    for key in ("label_dropout_rate", "label_smoothing"):
        value = config.losses[key]
        require(0 <= value < 1, f"config.losses.{key} is {value}; it must be in [0, 1)")
    height, width = model.grid
    check_settings(sampling_settings(config), height * width, config.losses.label_dropout_rate > 0)


def needs(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories that must be loaded first: the tokenizer's."""
    return {"tokenizer": config.tokenizer}


def prior(config: ConfigDict) -> MaskGIT:
    """Returns the transformer that a configuration describes."""
    model = config.model
    return MaskGIT(
        codebook_size=model.codebook_size,
        num_classes=max(1, config.data.num_classes),
        num_tokens=model.grid[0] * model.grid[1],
        null_class=config.losses.label_dropout_rate > 0,
        width=model.width,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        mlp_width=model.mlp_width,
        norm=model.norm,
        dropout_rate=model.dropout_rate,
        remat=model.remat,
        dtype=config.dtype,
    )


def sampling_settings(config: ConfigDict) -> DecodeSettings:
    """Returns the decoding settings of a configuration."""
    return DecodeSettings(**config.sampling.to_dict())


def check_settings(settings: DecodeSettings, num_tokens: int, guidable: bool) -> None:
    """Raises `InputError` for decoding settings that cannot work."""
    require(
        1 <= settings.steps <= num_tokens,
        f"steps is {settings.steps}; it must be between 1 and the number of tokens, {num_tokens}",
    )
    require(settings.temperature > 0, f"temperature is {settings.temperature}; it must be > 0")
    require(settings.choice_temperature >= 0, "choice_temperature must not be negative")
    require(settings.guidance >= 0, f"guidance is {settings.guidance}; it must not be negative")
    require(
        guidable or settings.guidance == 0,
        "guidance needs a run trained with config.losses.label_dropout_rate > 0; use guidance 0",
    )


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only player is "prior".

    Raises:
        InputError: The tokenizer's codebook or grid does not fit the transformer.
    """
    tokenizer = frozen["tokenizer"].exports
    check_tokenizer(config, tokenizer)
    network = prior(config)
    num_classes, num_tokens = network.num_classes, network.num_tokens
    guidable = network.null_class
    weights = config.losses

    def init(key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        tokens = jnp.zeros((len(batch["label"]), num_tokens), jnp.int32)
        hidden = jnp.zeros_like(tokens, bool)
        params = network.init(key, tokens, hidden, batch["label"], train=False)["params"]
        return Variables({"prior": params}, {}, frozen)

    def forward(
        variables: Variables, tokens: Array, hidden: Array, label: Array, key: Key | None = None
    ) -> Array:
        return network.apply(
            {"params": variables.params["prior"]},
            tokens,
            hidden,
            label,
            train=key is not None,
            rngs=None if key is None else {"dropout": key},
        )

    def random_hidden(tokens: Array, key: Key) -> Array:
        rate_key, place_key = jax.random.split(key)
        ratio = jax.random.uniform(rate_key, (len(tokens),))
        scores = jax.random.uniform(place_key, tokens.shape)
        return random_mask(ratio, scores, config.masking.schedule)

    def losses(variables: Variables, batch: Batch, key: Key, step: Array):
        del step
        mask_key, label_key, dropout_key = jax.random.split(key, 3)
        tokens = tokens_of(tokenizer, variables, batch)
        hidden = random_hidden(tokens, mask_key)
        label = batch["label"]
        if guidable:
            dropped = jax.random.bernoulli(label_key, weights.label_dropout_rate, label.shape)
            label = jnp.where(dropped, num_classes, label)
        logits = forward(variables, tokens, hidden, label, dropout_key)
        error = token_cross_entropy(logits, tokens, weights.label_smoothing)
        selected = hidden if weights.over == "hidden" else jnp.ones_like(hidden)
        right = (logits.argmax(axis=-1) == tokens).astype(jnp.float32)
        metrics = {"token_accuracy": mean_over_selected(right, hidden).mean()}
        return {"prior": mean_over_selected(error, selected).mean()}, ({}, metrics)

    def evaluate(variables: Variables, batch: Batch, key: Key):
        mask_key, count_key, order_key = jax.random.split(key, 3)
        tokens = tokens_of(tokenizer, variables, batch)
        hidden = random_hidden(tokens, mask_key)
        logits = forward(variables, tokens, hidden, batch["label"])
        right = (logits.argmax(axis=-1) == tokens).astype(jnp.float32)
        ratio = jax.random.uniform(count_key, (len(tokens),))
        some = any_order_mask(ratio, jax.random.uniform(order_key, tokens.shape))
        error = token_cross_entropy(forward(variables, tokens, some, batch["label"]), tokens)
        return {
            "token_cross_entropy": mean_over_selected(token_cross_entropy(logits, tokens), hidden),
            "token_accuracy": mean_over_selected(right, hidden),
            "bits_per_token_bound": any_order_bits(error, some),
        }

    def sample(variables: Variables, wanted: Batch, key: Key, settings: DecodeSettings) -> Array:
        label = wanted["label"]
        nobody = jnp.full_like(label, num_classes)

        def predict(tokens: Array, hidden: Array) -> Array:
            if settings.guidance == 0:
                return forward(variables, tokens, hidden, label)
            twice = [jnp.concatenate([x, x]) for x in (tokens, hidden)]
            both = forward(variables, *twice, jnp.concatenate([label, nobody]))
            return guide(*jnp.split(both, 2), settings.guidance)

        tokens = jnp.zeros((len(label), num_tokens), jnp.int32)
        tokens, _ = decode_by_confidence(
            predict, tokens, jnp.ones_like(tokens, bool), key, settings
        )
        return tokenizer.decode(variables.frozen["tokenizer"], tokens)

    def preview(variables: Variables, batch: Batch, key: Key):
        label = jnp.arange(len(batch["label"])) % num_classes
        return {"samples": sample(variables, {"label": label}, key, sampling_settings(config))}

    def check(settings: DecodeSettings) -> None:
        check_settings(settings, num_tokens, guidable)

    exports = Generator(sample, sampling_settings(config), check, num_classes, forward)
    return Stage(init, losses, evaluate, summarize, preview, exports)


def summarize(means: Mapping[str, Array]) -> dict[str, float]:
    """Returns the means as numbers: `token_cross_entropy` in nats per hidden token.

    `bits_per_token_bound` is an upper bound on the negative log-likelihood of whole token maps.
    """
    return {name: float(value) for name, value in means.items()}
