"""`Stage`, the interface of everything that is trained: networks with an optimizer and a loss each.

Training knows only this interface; stages meet each other only through `exports`.
"""

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import jax.numpy as jnp

from maskgit_jax.arrays import Array, Batch, Key, PyTree

Metrics = Mapping[str, Array]


class Variables(NamedTuple):
    """The arrays of a stage.

    Attributes:
        params: Network name -> parameters; each network has its own optimizer and loss.
        state: Running statistics (EMA codebook, LeCAM averages); never optimized.
        frozen: Name -> variables of a finished stage or a perceptual network; not optimized, not
            saved again.
    """

    params: Mapping[str, PyTree]
    state: PyTree
    frozen: Mapping[str, "Variables"]


class Layout(NamedTuple):
    """What the entries of some parameters stand for, along one axis.

    A run that starts from another one takes the entries that mean the same, see `runs.init_from`.

    Attributes:
        parameters: Regular expression of the ends of their paths.
        axis: The axis, 0 or -1.
        parts: Name -> number of entries, or rows and columns (h, w) of a map of positions, in their
            order. What follows is padding.
    """

    parameters: str
    axis: int
    parts: Mapping[str, int | tuple[int, int]]


class Tokenizer(NamedTuple):
    """The exports of a stage that turns images into tokens.

    Attributes:
        encode: (variables, image [B, H, W, C] in [-1, 1]) -> tokens int32 [B, L]: the token maps
            of all levels, coarsest first, each row by row.
        decode: (variables, tokens int32 [B, L]) -> image [B, H, W, C] in [-1, 1].
        codebook_size: Number of codes K of each level.
        grids: Rows and columns (h, w) of each level's map, coarsest first; L is the sum of h*w.
        codebooks: (variables) -> the codes of each level as the decoder reads them, float32 [K, D].
        encode_map: (variables, image [B, H, W, C] of any size that is a multiple of the patch) ->
            tokens int32 [B, h, w]; None for tokenizers of several levels.
        decode_map: (variables, tokens int32 [B, h, w]) -> image [B, H, W, C]; None likewise.
    """

    encode: Callable[[Variables, Array], Array]
    decode: Callable[[Variables, Array], Array]
    codebook_size: int
    grids: tuple[tuple[int, int], ...]
    codebooks: Callable[[Variables], tuple[Array, ...]]
    encode_map: Callable[[Variables, Array], Array] | None = None
    decode_map: Callable[[Variables, Array], Array] | None = None


def split_levels(tokens: Array, grids: tuple[tuple[int, int], ...]) -> tuple[Array, ...]:
    """Returns the token maps [B, h, w] of tokens [B, L], one for each of `grids`.

    Raises:
        ValueError: L is not the sum of h*w.
    """
    ends = list(accumulate(height * width for height, width in grids))
    if tokens.shape[-1] != ends[-1]:
        raise ValueError(f"{tokens.shape[-1]} tokens do not fill the maps {grids}")
    starts = [0, *ends[:-1]]
    return tuple(
        tokens[:, start:end].reshape(-1, *grid)
        for start, end, grid in zip(starts, ends, grids, strict=True)
    )


def join_levels(maps: tuple[Array, ...]) -> Array:
    """Returns the tokens [B, L] of maps [B, h, w], the inverse of `split_levels`."""
    return jnp.concatenate([tokens.reshape(len(tokens), -1) for tokens in maps], axis=1)


class Generator(NamedTuple):
    """The exports of a stage that generates images.

    Attributes:
        sample: (variables, inputs, keys, settings) -> image [B, H, W, C] in [-1, 1], NaN where
            the network's outputs are not finite; `inputs` has `label` int32 [B], the keys in
            `needs` and, optionally, those in `accepts`; `keys` are the random keys of the
            images, [B]: image i depends on nothing but row i.
        settings: The run's sampling settings, a frozen dataclass (a static argument).
        check_settings: Raises `InputError` for settings that cannot work.
        num_classes: Labels are 0 .. num_classes - 1; 0 for an unconditional generator, which
            ignores labels.
        logits: (variables, tokens int32 [B, L], mask bool [B, L], label int32 [B]) -> logits
            float32 [B, L, K] of a masked token prior; `grid`, the rows and columns of the tokens,
            is a keyword where they differ from those of the training.
        needs: ("condition",), uint8 [B, H, W, C'], for image-conditional generators.
        accepts: ("image", "mask"), uint8 [B, H, W, C] and bool [B, H, W], for generators that
            inpaint: they generate the masked pixels only.
        fill_step: (variables, inputs, state, editable bool [B, L], keys, step, settings) -> the
            state after a step in which masked tokens are generated, see
            `decoding.parallel.decode_step`; the generated tokens are -1 where the logits are not
            finite. For masked token priors; the tokens are those of `frozen["tokenizer"]`.
        null_label: The label that means "no class", None where there is none.
        sample_tokens: (variables, inputs, keys, settings) -> the tokens int32 [B, L] of the images
            that `sample` returns, -1 where the logits are not finite; None for a generator without
            tokens.
    """

    sample: Callable[[Variables, Batch, Key, Any], Array]
    settings: Any
    check_settings: Callable[[Any], None]
    num_classes: int
    logits: Callable[..., Array] | None = None
    needs: tuple[str, ...] = ()
    accepts: tuple[str, ...] = ()
    fill_step: Callable[[Variables, Batch, Any, Array, Key, Any, Any], Any] | None = None
    null_label: int | None = None
    sample_tokens: Callable[[Variables, Batch, Key, Any], Array] | None = None


class Variational(NamedTuple):
    """The exports of a stage whose latents have the prior N(0, 1) and Gaussian posteriors.

    The key of a function draws the binary images where grey levels are binarized at random.

    Attributes:
        posterior: (variables, image [B, H, W, C] in [-1, 1], key) -> mean and natural logarithm
            of the variance, float32 [B, Z] each.
        log_weights: (variables, image, key, K) -> log p(x, z_k) - log q(z_k | x) for K draws
            from each posterior, float32 [K, B], nats.
        density: Whether p(x | z) is a density over [-1, 1], not a probability of discrete values.
        likelihood_description: The kind of likelihood in words; values of different kinds cannot
            be compared.
        generator: Samples from the prior.
    """

    posterior: Callable[[Variables, Array, Key], tuple[Array, Array]]
    log_weights: Callable[[Variables, Array, Key, int], Array]
    density: bool
    likelihood_description: str
    generator: Generator


class LatentModel(NamedTuple):
    """The exports of a stage that turns images into latent vectors.

    Attributes:
        encode: (variables, image [B, H, W, C] in [-1, 1]) -> latents float32 [B, Z]; the posterior
            means of a variational model.
        decode: (variables, latents [B, Z]) -> image [B, H, W, C] in [-1, 1], the mean of p(x | z).
        variational: None for an autoencoder, whose latents have no distribution.
    """

    encode: Callable[[Variables, Array], Array]
    decode: Callable[[Variables, Array], Array]
    variational: Variational | None


Exports = Tokenizer | LatentModel | Generator


def generator_of(exports: Exports) -> Generator | None:
    """Returns the generator among a stage's exports, None if the stage does not generate images."""
    if isinstance(exports, LatentModel):
        return exports.variational and exports.variational.generator
    return exports if isinstance(exports, Generator) else None


def means_as_floats(means: Mapping[str, Any]) -> dict[str, float]:
    """Returns metrics as floats, the default of `Stage.summarize`."""
    return {name: float(value) for name, value in means.items()}


def keep_params(params: Mapping[str, PyTree], state: PyTree, step: Array) -> Mapping[str, PyTree]:
    """Returns the parameters unchanged, the default of `Stage.assign`."""
    del state, step
    return params


class Stage(NamedTuple):
    """A trainable system as pure functions.

    Attributes:
        init: (key, batch, frozen) -> Variables. Pure, so that it can be shape-evaluated first
            and its results created sharded. The batch is real data (codebooks start from it).
        losses: (variables, batch, key, step) -> ({network: loss []}, (state, metrics)). A loss
            is differentiated with respect to the parameters of its own network only.
        evaluate: (variables, batch, key) -> {metric: [B, ...]}, one row per example, so that
            padding rows of the last batch can be left out of the mean.
        preview: (variables, batch, key) -> {title: images in [-1, 1]}, [N, H, W, C] or, where
            rows have a meaning, [rows, columns, H, W, C].
        exports: The only door between stages.
        summarize: {metric: mean over the split [...]} -> {name: float}, for metrics that are no
            means of per-example values, such as the perplexity over a split.
        assign: (params, state, step) -> params, applied after the optimizers to the parameters
            and to their running average (which may lack networks): values that are set rather
            than optimized, such as restarted codes.
        layouts: Of the parameters whose sizes depend on codes, classes or token maps.
    """

    init: Callable[[Key, Batch, Mapping[str, Variables]], Variables]
    losses: Callable[
        [Variables, Batch, Key, Array], tuple[Mapping[str, Array], tuple[PyTree, Metrics]]
    ]
    evaluate: Callable[[Variables, Batch, Key], Metrics]
    preview: Callable[[Variables, Batch, Key], Metrics]
    exports: Exports
    summarize: Callable[[Mapping[str, Any]], dict[str, float]] = means_as_floats
    assign: Callable[[Mapping[str, PyTree], PyTree, Array], Mapping[str, PyTree]] = keep_params
    layouts: tuple[Layout, ...] = ()
