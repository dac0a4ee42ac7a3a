"""Generators that fill in tokens in parallel: what MaskGIT and MaskGIT with a critic export."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key
from maskgit_jax.decoding.parallel import (
    DecodeSettings,
    Model,
    Trajectory,
    check_decode_settings,
    decode,
    with_guidance,
)
from maskgit_jax.stage import Generator, Tokenizer, Variables
from maskgit_jax.stages.token_priors import encode_condition, known_tokens, paste_known_pixels

Logits = Callable[[Variables, Array, Array, Array, Array | None], Array]
"""(variables, tokens [B, L], masked [B, L], label [B], condition [B, Lc] or None) -> [B, L, K]."""


class Parts(NamedTuple):
    """What such a generator consists of.

    Attributes:
        tokenizer: Of its images, with one token map.
        logits: The generator's network.
        settings: The run's own.
        num_classes: Labels are 0 .. num_classes - 1.
        null_label: "No class", if it knows that.
        condition_tokenizer: Of the images that others are made from.
        critic: (variables, tokens [B, L], label [B]) -> log odds that a token is real, [B, L].
    """

    tokenizer: Tokenizer
    logits: Logits
    settings: DecodeSettings
    num_classes: int
    null_label: int | None
    condition_tokenizer: Tokenizer | None = None
    critic: Callable[[Variables, Array, Array], Array] | None = None


def sampling_settings(config: ConfigDict) -> DecodeSettings:
    """Returns the decoding settings of a configuration."""
    return DecodeSettings(**config.sampling.to_dict())


def parallel_generator(parts: Parts) -> Generator:
    """Returns the exports; sampling, filling in and the tokenizer's decoding are one program."""
    tokenizer = parts.tokenizer
    (grid,) = tokenizer.grids

    def fill(
        variables: Variables,
        wanted: Batch,
        tokens: Array,
        mask: Array,
        key: Key,
        settings: DecodeSettings,
    ) -> tuple[Array, Trajectory]:
        label = wanted["label"]
        condition = encode_condition(parts.condition_tokenizer, variables, wanted)

        def logits_of(tokens: Array, mask: Array, label: Array) -> Array:
            read = condition
            if read is not None and len(tokens) != len(read):
                read = jnp.concatenate([read, read])  # guidance takes away the class only
            return parts.logits(variables, tokens, mask, label, read)

        def critic(tokens: Array) -> Array:
            return parts.critic(variables, tokens, label)

        null_label = parts.num_classes if parts.null_label is None else parts.null_label
        predict = with_guidance(logits_of, label, null_label, settings)
        model = Model(predict, grid, critic if parts.critic else None)
        return decode(model, tokens, mask, key, settings)

    def sample(variables: Variables, wanted: Batch, key: Key, settings: DecodeSettings) -> Array:
        tokens, mask = known_tokens(tokenizer, variables, wanted, tokenizer.grids)
        tokens, _ = fill(variables, wanted, tokens, mask, key, settings)
        return paste_known_pixels(tokenizer.decode(variables.frozen["tokenizer"], tokens), wanted)

    def check(settings: DecodeSettings) -> None:
        check_decode_settings(
            settings,
            grid[0] * grid[1],
            tokenizer.codebook_size,
            parts.null_label is not None,
            parts.critic is not None,
        )

    def logits(variables: Variables, tokens: Array, mask: Array, label: Array) -> Array:
        return parts.logits(variables, tokens, mask, label, None)

    conditioned = parts.condition_tokenizer is not None
    return Generator(
        sample,
        parts.settings,
        check,
        parts.num_classes,
        None if conditioned else logits,
        needs=("condition",) if conditioned else (),
        accepts=("image", "mask"),
        fill=fill,
        null_label=parts.null_label,
    )
