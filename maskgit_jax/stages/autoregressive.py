"""Stages that predict tokens one after another: what PixelCNN, PixelSNAIL and GPT share.

A network of such a stage offers
    network(tokens int32 [B, L], label int32 [B], condition, train) -> logits [B, L, K];
    network.begin(label, condition) -> memory; network.step(memory, token before, index) ->
    (logits [B, K], memory), see `maskgit_jax.decoding.autoregressive`;
where the condition is the tokens it depends on, int32 [B, Lc], or None.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, normalize
from maskgit_jax.configuration import require
from maskgit_jax.decoding.autoregressive import (
    AutoregressiveSettings,
    check_autoregressive_settings,
    decode_sliding_window,
    decode_with_cache,
    decode_without_cache,
)
from maskgit_jax.losses.masked_tokens import token_cross_entropy
from maskgit_jax.stage import Generator, Stage, Tokenizer, Variables
from maskgit_jax.stages.token_priors import (
    check_tokenizer,
    encode_condition,
    encode_tokens,
    known_tokens,
    paste_known_pixels,
    show_conditions,
    token_grids,
)


class Part(NamedTuple):
    """One network of a stage and the token map that it learns.

    Attributes:
        player: Its name.
        network: See above.
        num_tokens: L of its map.
        num_condition_tokens: Lc; 0 without a condition.
    """

    player: str
    network: nn.Module
    num_tokens: int
    num_condition_tokens: int = 0


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for values that no such stage can work with."""
    rate = config.losses.keep_rate
    require(0 < rate <= 1, f"config.losses.keep_rate is {rate}; it must be above 0 and at most 1")
    check_autoregressive_settings(
        AutoregressiveSettings(**config.sampling.to_dict()), config.model.codebook_size
    )
    rate = config.model.dropout_rate
    require(0 <= rate < 1, f"config.model.dropout_rate is {rate}; it must be in [0, 1)")


def require_no_condition(config: ConfigDict) -> None:
    """Raises `InputError` where images are to be made from others; GPT and MaskGIT do that."""
    require(
        not config.data.condition,
        f"config.data.condition is '{config.data.condition}', but stage '{config.stage}' makes "
        "images of a class only; train configs/maskgit.py or configs/gpt.py on conditions",
    )


def build(
    config: ConfigDict,
    frozen: Mapping[str, Stage],
    parts: tuple[Part, ...],
    settings: Any,
    condition_tokenizer: Tokenizer | None = None,
) -> Stage:
    """Returns the stage; its players are the parts, each for a token map, coarsest first.

    Args:
        config: Of the stage.
        frozen: The tokenizer; and "condition_tokenizer" if there is one.
        parts: What learns. A part is given the maps of all parts before it as condition, the
            first one the condition's tokens.
        settings: Of sampling: `AutoregressiveSettings`, or `SlidingWindowSettings` if images may be larger.
        condition_tokenizer: Of the images that a batch holds as `condition`.

    Raises:
        InputError: The tokenizer does not fit.
    """
    tokenizer: Tokenizer = frozen["tokenizer"].exports
    check_tokenizer(config, tokenizer)
    grids, codes = token_grids(config), config.model.codebook_size
    ends = [sum(part.num_tokens for part in parts[: number + 1]) for number in range(len(parts))]
    spans = [slice(end - part.num_tokens, end) for end, part in zip(ends, parts, strict=True)]
    num_classes = max(1, config.data.num_classes)

    def init(key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        label, params = batch["label"], {}
        for number, part in enumerate(parts):
            tokens = jnp.zeros((len(label), part.num_tokens), jnp.int32)
            condition = None
            if part.num_condition_tokens:
                condition = jnp.zeros((len(label), part.num_condition_tokens), jnp.int32)
            own_key = jax.random.fold_in(key, number)
            params[part.player] = part.network.init(own_key, tokens, label, condition)["params"]
        return Variables(params, {}, frozen)

    def logits_of(
        variables: Variables,
        tokens: Array,
        read: Array,
        label: Array,
        condition: Array | None,
        key: Key | None = None,
    ) -> list[Array]:
        """Returns the logits of each map; `read` are the tokens as the networks see their own."""
        found = []
        for number, (part, span) in enumerate(zip(parts, spans, strict=True)):
            rngs = None if key is None else {"dropout": jax.random.fold_in(key, number)}
            found.append(
                part.network.apply(
                    {"params": variables.params[part.player]},
                    read[:, span],
                    label,
                    tokens[:, : span.start] if number else condition,
                    key is not None,
                    rngs=rngs,
                )
            )
        return found

    def losses(variables: Variables, batch: Batch, key: Key, step: Array):
        del step
        keep_key, code_key, dropout_key = jax.random.split(key, 3)
        tokens = encode_tokens(tokenizer, variables, batch)
        read = tokens
        if config.losses.keep_rate < 1:
            kept = jax.random.bernoulli(keep_key, config.losses.keep_rate, tokens.shape)
            read = jnp.where(kept, tokens, jax.random.randint(code_key, tokens.shape, 0, codes))
        condition = encode_condition(condition_tokenizer, variables, batch)
        logits = logits_of(variables, tokens, read, batch["label"], condition, dropout_key)
        errors, metrics = {}, {}
        for part, span, own in zip(parts, spans, logits, strict=True):
            errors[part.player] = token_cross_entropy(own, tokens[:, span]).mean()
            right = own.argmax(axis=-1) == tokens[:, span]
            metrics[f"token_accuracy{_suffix(part)}"] = right.mean(dtype=jnp.float32)
        return errors, ({}, metrics)

    def evaluate(variables: Variables, batch: Batch, key: Key):
        del key
        tokens = encode_tokens(tokenizer, variables, batch)
        condition = encode_condition(condition_tokenizer, variables, batch)
        logits = logits_of(variables, tokens, tokens, batch["label"], condition)
        figures, bits = {}, jnp.zeros(len(tokens))
        for part, span, own in zip(parts, spans, logits, strict=True):
            own_bits = token_cross_entropy(own, tokens[:, span]) / jnp.log(2.0)
            right = own.argmax(axis=-1) == tokens[:, span]
            figures[f"bits_per_token{_suffix(part)}"] = own_bits.mean(axis=-1)
            figures[f"token_accuracy{_suffix(part)}"] = right.mean(axis=-1, dtype=jnp.float32)
            bits = bits + own_bits.sum(axis=-1)
        size, channels = config.data.image_size, config.data.channels
        figures["bits_per_token"] = bits / tokens.shape[-1]
        figures["bits_per_dimension"] = bits / (size * size * channels)
        return figures

    def _suffix(part: Part) -> str:
        return f"_{part.player}" if len(parts) > 1 else ""

    def decode_part(
        number: int, variables: Variables, label: Array, condition: Array | None,
        tokens: Array, mask: Array, key: Key, settings: Any,
    ) -> Array:  # fmt: skip
        part = parts[number]
        params = {"params": variables.params[part.player]}
        if not settings.use_cache:

            def predict(tokens: Array, index: Array) -> Array:
                logits = part.network.apply(params, tokens, label, condition)
                return jax.lax.dynamic_index_in_dim(logits, index, 1, keepdims=False)

            return decode_without_cache(predict, tokens, mask, key, settings)

        def step(memory: Any, previous: Array, index: Array) -> tuple[Array, Any]:
            return part.network.apply(params, memory, previous, index, method="step")

        memory = part.network.apply(params, label, condition, method="begin")
        return decode_with_cache(step, memory, tokens, mask, key, settings)

    def sample(variables: Variables, wanted: Batch, key: Key, settings: Any) -> Array:
        if getattr(settings, "size", None) not in (None, image_size):
            return paste_known_pixels(sample_larger(variables, wanted, key, settings), wanted)
        tokens, mask = known_tokens(tokenizer, variables, wanted, grids)
        condition = encode_condition(condition_tokenizer, variables, wanted)
        drawn = tokens[:, :0]
        for number, span in enumerate(spans):
            own = decode_part(
                number, variables, wanted["label"], drawn if number else condition,
                tokens[:, span], mask[:, span], jax.random.fold_in(key, number), settings,
            )  # fmt: skip
            drawn = jnp.concatenate([drawn, own], axis=1)
        return paste_known_pixels(tokenizer.decode(variables.frozen["tokenizer"], drawn), wanted)

    image_size = (config.data.image_size, config.data.image_size)

    def sample_larger(variables: Variables, wanted: Batch, key: Key, settings: Any) -> Array:
        """Samples one map larger than the network's, through a sliding window."""
        network, (window,) = parts[0].network, grids
        patch = config.data.image_size // window[0]
        large = (settings.size[0] // patch, settings.size[1] // patch)
        tokens, mask = known_tokens(tokenizer, variables, wanted, (large,))
        params, read, scale = {"params": variables.params[parts[0].player]}, None, 1
        if condition_tokenizer is not None:
            chex.assert_shape(wanted["condition"], (None, *settings.size, None))
            read = condition_tokenizer.encode_map(
                variables.frozen["condition_tokenizer"], normalize(wanted["condition"])
            )
            scale = condition_tokenizer.grids[0][0] // window[0]

        def predict(seen: Array, start: tuple[Array, Array], index: Array) -> Array:
            condition = None
            if read is not None:
                first = (0, start[0] * scale, start[1] * scale)
                shape = (len(seen), window[0] * scale, window[1] * scale)
                condition = jax.lax.dynamic_slice(read, first, shape).reshape(len(seen), -1)
            logits = network.apply(params, seen, wanted["label"], condition)
            return jax.lax.dynamic_index_in_dim(logits, index, 1, keepdims=False)

        maps = (tokens.reshape(-1, *large), mask.reshape(-1, *large))
        drawn = decode_sliding_window(predict, *maps, window, jax.random.fold_in(key, 0), settings)
        return tokenizer.decode_map(variables.frozen["tokenizer"], drawn)

    def preview(variables: Variables, batch: Batch, key: Key):
        if condition_tokenizer is None:
            label = jnp.arange(len(batch["label"])) % num_classes
            return {"samples": sample(variables, {"label": label}, key, settings)}
        wanted = {name: batch[name] for name in ("label", "condition")}
        made = [sample(variables, wanted, own, settings) for own in jax.random.split(key)]
        return {"condition_original_and_samples": show_conditions(batch, made)}

    def check(settings: Any) -> None:
        check_autoregressive_settings(settings, codes)
        size = getattr(settings, "size", None)
        if size is None:
            return
        window, patch = grids[0], config.data.image_size // grids[0][0]
        require(
            all(side % patch == 0 and side >= config.data.image_size for side in size),
            f"size is {size[0]}x{size[1]}; both must be multiples of the tokenizer's patch, "
            f"{patch} pixels, and at least {config.data.image_size}",
        )
        if condition_tokenizer is not None and size != image_size:
            require(
                condition_tokenizer.encode_map is not None
                and condition_tokenizer.grids[0][0] % window[0] == 0,
                f"the condition has {condition_tokenizer.grids} tokens and the image {window}: "
                "images larger than those of training need at least as many",
            )

    exports = Generator(
        sample,
        settings,
        check,
        num_classes,
        needs=("condition",) if condition_tokenizer else (),
        accepts=("image", "mask"),
    )
    return Stage(init, losses, evaluate, summarize, preview, exports)


def summarize(means: Mapping[str, Array]) -> dict[str, float]:
    """Returns the means as numbers.

    `bits_per_token` is the exact -log2 p(tokens) / L of whole images; `bits_per_dimension` the
    same bits over the H * W * C numbers of an image: what the tokens cost, not the pixels, of
    which a tokenizer gives no probability.
    """
    return {name: float(value) for name, value in means.items()}
