"""The one interface of everything that is trained: a stage is a game of optimizers.

A player (autoencoder, discriminator, prior) owns parameters and an optimiser and descends its
own loss. Training knows only this interface; stages meet each other only through `exports`.
"""

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import jax.numpy as jnp

from maskgit_jax.arrays import Array, Batch, Key, PyTree

Metrics = Mapping[str, Array]


class Variables(NamedTuple):
    """All numbers that a stage computes with.

    Attributes:
        params: Player name -> its parameters; each player has its own optimiser and loss.
        state: Running statistics (use of the codebook, batch statistics); never optimised.
        frozen: Name -> variables of a finished stage or judge; not optimised, not saved again.
    """

    params: Mapping[str, PyTree]
    state: PyTree
    frozen: Mapping[str, "Variables"]


class Tokenizer(NamedTuple):
    """What a stage that turns images into tokens offers to other stages.

    Attributes:
        encode: (variables, image [B, H, W, C] in [-1, 1]) -> tokens int32 [B, L]: the token maps
            of all levels one after another, coarsest first, rows first.
        decode: (variables, tokens int32 [B, L]) -> image [B, H, W, C] in [-1, 1].
        codebook_size: Number of codes K of each level.
        grids: Rows and columns (h, w) of each level's map, coarsest first; L is the sum of h*w.
        encode_map: Of a tokenizer of one level: (variables, image of any size that is a multiple
            of the patch [B, H, W, C]) -> tokens int32 [B, h, w]; None for others.
        decode_map: (variables, tokens int32 [B, h, w]) -> image [B, H, W, C].
    """

    encode: Callable[[Variables, Array], Array]
    decode: Callable[[Variables, Array], Array]
    codebook_size: int
    grids: tuple[tuple[int, int], ...]
    encode_map: Callable[[Variables, Array], Array] | None = None
    decode_map: Callable[[Variables, Array], Array] | None = None


def split_levels(tokens: Array, grids: tuple[tuple[int, int], ...]) -> tuple[Array, ...]:
    """Returns the maps [B, h, w] that tokens [B, L] consist of, one for each of `grids`.

    Raises:
        ValueError: L is not the sum of h*w.
    """
    ends = list(accumulate(height * width for height, width in grids))
    if tokens.shape[-1] != ends[-1]:
        raise ValueError(f"{tokens.shape[-1]} tokens are not those of the maps {grids}")
    starts = [0, *ends[:-1]]
    return tuple(
        tokens[:, start:end].reshape(-1, *grid)
        for start, end, grid in zip(starts, ends, grids, strict=True)
    )


def join_levels(maps: tuple[Array, ...]) -> Array:
    """Returns tokens [B, L] of maps [B, h, w], coarsest first: the inverse of `split_levels`."""
    return jnp.concatenate([tokens.reshape(len(tokens), -1) for tokens in maps], axis=1)


class Generator(NamedTuple):
    """What a stage that makes images offers.

    Attributes:
        sample: (variables, wanted, key, settings) -> image [B, H, W, C] in [-1, 1]; `wanted`
            holds `label` int32 [B], all that `needs` names, and perhaps what `accepts` names.
        settings: What a user can change, with the run's own values; a NamedTuple that can be
            hashed, for it is a static argument.
        check_settings: Raises `InputError` for settings that cannot work.
        num_classes: Labels are 0 .. num_classes - 1; 0 for a stage that knows no labels, which
            ignores the one it is given.
        logits: Of a prior over tokens: (variables, tokens int32 [B, L], masked bool [B, L],
            label int32 [B]) -> float32 [B, L, K], natural log odds of each code at each place.
        needs: `condition`, uint8 [B, H, W, C'], where images are made from another one.
        accepts: `image`, uint8 [B, H, W, C], with `mask`, bool [B, H, W], where a part of an
            image can be made anew.
        fill: Of a prior that fills in any tokens: (variables, wanted, tokens int32 [B, L], masked
            bool [B, L], key, settings) -> tokens, and the way there: tokens as drawn and what
            was masked again after each step, [T, B, L] both. Its images and tokens are those
            of the stage that it calls "tokenizer".
        null_label: The label that means "no class", None where there is none.
    """

    sample: Callable[[Variables, Batch, Key, Any], Array]
    settings: Any
    check_settings: Callable[[Any], None]
    num_classes: int
    logits: Callable[[Variables, Array, Array, Array], Array] | None = None
    needs: tuple[str, ...] = ()
    accepts: tuple[str, ...] = ()
    fill: Callable[[Variables, Batch, Array, Array, Key, Any], tuple[Array, Any]] | None = None
    null_label: int | None = None


class Variational(NamedTuple):
    """What a stage offers whose latents have a prior, N(0, 1), and Gaussian posteriors.

    The key of a function draws the binary images where grey levels are binarised at random.

    Attributes:
        posterior: (variables, image [B, H, W, C] in [-1, 1], key) -> mean and natural logarithm
            of the variance, float32 [B, Z] each.
        log_weights: (variables, image, key, K) -> log p(x, z_k) - log q(z_k | x) for K draws
            from each posterior, float32 [K, B], nats.
        density: Whether p(x | z) is a density over [-1, 1], not a probability of discrete values.
        law: The same in words: likelihoods of different laws cannot be compared.
        generator: Draws from the prior.
    """

    posterior: Callable[[Variables, Array, Key], tuple[Array, Array]]
    log_weights: Callable[[Variables, Array, Key, int], Array]
    density: bool
    law: str
    generator: Generator


class LatentModel(NamedTuple):
    """What a stage that turns images into a vector of numbers offers.

    Attributes:
        encode: (variables, image [B, H, W, C] in [-1, 1]) -> latents float32 [B, Z]; of a
            variational model the means of the posteriors.
        decode: (variables, latents [B, Z]) -> image [B, H, W, C] in [-1, 1], the mean of p(x | z).
        variational: None for an autoencoder, whose latents have no distribution.
    """

    encode: Callable[[Variables, Array], Array]
    decode: Callable[[Variables, Array], Array]
    variational: Variational | None


Exports = Tokenizer | LatentModel | Generator


def generator_of(exports: Exports) -> Generator | None:
    """Returns what makes images from nothing, None where a stage cannot."""
    if isinstance(exports, LatentModel):
        return exports.variational and exports.variational.generator
    return exports if isinstance(exports, Generator) else None


def _no_assignment(
    params: Mapping[str, PyTree], state: PyTree, step: Array
) -> Mapping[str, PyTree]:
    del state, step
    return params


class Stage(NamedTuple):
    """A trainable system as pure functions.

    Attributes:
        init: (key, batch, frozen) -> Variables. Pure, so that it can be shape-evaluated first
            and its results be born sharded. The batch is real data (codebooks start from it).
        losses: (variables, batch, key, step) -> ({player: loss []}, (state, metrics)). A loss
            is differentiated with respect to its own player's parameters only.
        evaluate: (variables, batch, key) -> {metric: [B, ...]}, one row per example, so that
            the rows that fill up the last batch can be left out of the mean.
        summarize: {metric: mean over the split [...]} -> {name: float}. Where a figure is not
            a mean of figures (perplexity of a whole split), it is computed here.
        preview: (variables, batch, key) -> {title: images in [-1, 1]}, [N, H, W, C] or, where
            rows have a meaning, [rows, columns, H, W, C].
        exports: The only door between stages.
        assign: (params, state, step) -> params, applied after the optimisers to the parameters
            and to their running average (which may lack players): what is set rather than
            descended, such as revived codes.
    """

    init: Callable[[Key, Batch, Mapping[str, Variables]], Variables]
    losses: Callable[
        [Variables, Batch, Key, Array], tuple[Mapping[str, Array], tuple[PyTree, Metrics]]
    ]
    evaluate: Callable[[Variables, Batch, Key], Metrics]
    summarize: Callable[[Mapping[str, Any]], dict[str, float]]
    preview: Callable[[Variables, Batch, Key], Metrics]
    exports: Exports
    assign: Callable[[Mapping[str, PyTree], PyTree, Array], Mapping[str, PyTree]] = _no_assignment
