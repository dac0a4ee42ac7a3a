"""Autoregressive priors over tokens: the stage that PixelCNN, PixelSNAIL and GPT share.

A network of such a stage has three functions, where the condition is int32 [B, Lc] or None:
    network(tokens int32 [B, L], label int32 [B], condition, train) -> logits [B, L, K];
    network.init_cache(label, condition) -> cache;
    network.decode_step(cache, previous token int32 [B], index) -> (logits [B, K], cache).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree, normalize
from maskgit_jax.configuration import require
from maskgit_jax.decoding.autoregressive import (
    check_autoregressive_settings,
    decode_sliding_window,
    decode_with_cache,
    decode_without_cache,
)
from maskgit_jax.decoding.sampling import fold_in_each
from maskgit_jax.decoding.settings import AutoregressiveSettings, SlidingWindowSettings
from maskgit_jax.losses.masked_tokens import token_cross_entropy
from maskgit_jax.stage import Generator, Metrics, Stage, Tokenizer, Variables
from maskgit_jax.stages.token_priors import (
    bits_metrics,
    check_tokenizer,
    decode_tokens,
    encode_condition,
    encode_tokens,
    known_tokens,
    paste_known_pixels,
    show_conditions,
    token_grids,
)


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for values that no autoregressive prior accepts."""
    rate = config.losses.keep_rate
    require(0 < rate <= 1, f"config.losses.keep_rate is {rate}; it must be above 0 and at most 1")
    rate = config.model.dropout_rate
    require(0 <= rate < 1, f"config.model.dropout_rate is {rate}; it must be in [0, 1)")
    settings = AutoregressiveSettings(**config.sampling.to_dict())
    check_autoregressive_settings(settings, config.model.codebook_size)


def require_no_condition(config: ConfigDict) -> None:
    """Raises `InputError` for a condition image, which only GPT and MaskGIT support."""
    require(
        not config.data.condition,
        f"config.data.condition is '{config.data.condition}', but stage '{config.stage}' is "
        "conditional on classes only; train configs/maskgit.py or configs/gpt.py on conditions",
    )


class LevelPrior(NamedTuple):
    """The prior of one token map.

    Attributes:
        name: Name of the network.
        network: See the top of this file.
        span: Its tokens among those of all levels.
        num_condition_tokens: Lc; 0 without a condition.
    """

    name: str
    network: nn.Module
    span: slice
    num_condition_tokens: int = 0


@dataclass(frozen=True, eq=False)
class AutoregressiveStage:
    """The functions of the stage.

    Attributes:
        config: The stage's configuration.
        tokenizer: Tokenizer of the images.
        levels: Priors of all token maps, coarsest first. Each is conditioned on the tokens of
            all levels before it, the first one on those of the condition image, if any.
        settings: The run's sampling settings.
        condition_tokenizer: Tokenizer of `condition` images; None without a condition.
    """

    config: ConfigDict
    tokenizer: Tokenizer
    levels: tuple[LevelPrior, ...]
    settings: AutoregressiveSettings
    condition_tokenizer: Tokenizer | None = None

    @property
    def num_classes(self) -> int:
        """Labels are 0 .. num_classes - 1."""
        return max(1, self.config.data.num_classes)

    def init(self, key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        """Returns the initial variables."""
        label, params = batch["label"], {}
        for number, level in enumerate(self.levels):
            length = level.span.stop - level.span.start
            tokens = jnp.zeros((len(label), length), jnp.int32)
            condition = None
            if level.num_condition_tokens:
                condition = jnp.zeros((len(label), level.num_condition_tokens), jnp.int32)
            level_key = jax.random.fold_in(key, number)
            params[level.name] = level.network.init(level_key, tokens, label, condition)["params"]
        return Variables(params, {}, frozen)

    def losses(
        self, variables: Variables, batch: Batch, key: Key, step: Array
    ) -> tuple[Mapping[str, Array], tuple[PyTree, Metrics]]:
        """Returns the mean cross-entropy of each level's tokens, nats per token."""
        del step
        keep_key, code_key, dropout_key = jax.random.split(key, 3)
        tokens = encode_tokens(self.tokenizer, variables, batch)
        inputs, keep_rate = tokens, self.config.losses.keep_rate
        if keep_rate < 1:
            keep = jax.random.bernoulli(keep_key, keep_rate, tokens.shape)
            codes = jax.random.randint(code_key, tokens.shape, 0, self.config.model.codebook_size)
            inputs = jnp.where(keep, tokens, codes)
        logits = self._logits(variables, batch, tokens, inputs, dropout_key)
        losses, metrics, bits = {}, {}, dict[str, Array]()
        for level in self.levels:
            targets = tokens[:, level.span]
            correct = logits[level.name].argmax(axis=-1) == targets
            errors = token_cross_entropy(logits[level.name], targets)
            losses[level.name] = errors.mean()
            metrics[f"token_accuracy{self._suffix(level)}"] = correct.mean(dtype=jnp.float32)
            share = targets.size / tokens.size
            level_bits = bits_metrics(errors, targets, self.config.model.codebook_size)
            bits = {name: bits.get(name, 0.0) + share * each for name, each in level_bits.items()}
        metrics |= bits
        return losses, ({}, metrics)

    def evaluate(self, variables: Variables, batch: Batch, key: Key) -> Metrics:
        """Returns accuracy and exact likelihood of the tokens of each image, {metric: [B]}.

        `bits_per_token` is -log2 p(tokens) / L. `token_bits_per_dimension` is the same bits
        over the H * W * C values of an image: it is no likelihood of pixels, because a tokenizer
        has none.
        """
        del key
        tokens = encode_tokens(self.tokenizer, variables, batch)
        logits = self._logits(variables, batch, tokens, tokens)
        metrics, total_bits = {}, jnp.zeros(len(tokens))
        for level in self.levels:
            targets = tokens[:, level.span]
            correct = logits[level.name].argmax(axis=-1) == targets
            bits = token_cross_entropy(logits[level.name], targets) / jnp.log(2.0)
            suffix = self._suffix(level)
            metrics[f"bits_per_token{suffix}"] = bits.mean(axis=-1)
            metrics[f"token_accuracy{suffix}"] = correct.mean(axis=-1, dtype=jnp.float32)
            total_bits = total_bits + bits.sum(axis=-1)
        size, channels = self.config.data.image_size, self.config.data.channels
        metrics["bits_per_token"] = total_bits / tokens.shape[-1]
        metrics["token_bits_per_dimension"] = total_bits / (size * size * channels)
        return metrics

    def _logits(
        self, variables: Variables, batch: Batch, tokens: Array, inputs: Array,
        dropout_key: Key | None = None,
    ) -> dict[str, Array]:  # fmt: skip
        """Returns the logits of each level; dropout is active with a key only.

        `inputs` condition later tokens of the same level, `tokens` those of finer levels.
        """
        logits = {}
        condition = encode_condition(self.condition_tokenizer, variables, batch)
        for number, level in enumerate(self.levels):
            rngs = None
            if dropout_key is not None:
                rngs = {"dropout": jax.random.fold_in(dropout_key, number)}
            logits[level.name] = level.network.apply(
                {"params": variables.params[level.name]},
                inputs[:, level.span],
                batch["label"],
                tokens[:, : level.span.start] if number else condition,
                rngs is not None,
                rngs=rngs,
            )
        return logits

    def _suffix(self, level: LevelPrior) -> str:
        return f"_{level.name}" if len(self.levels) > 1 else ""

    def sample(
        self, variables: Variables, inputs: Batch, keys: Key, settings: AutoregressiveSettings
    ) -> Array:
        """Returns images [B, H, W, C] in [-1, 1]; unmasked pixels of `image` stay."""
        tokens = self.sample_tokens(variables, inputs, keys, settings)
        decode, large = self.tokenizer.decode, self._large_grid(settings)
        if large is not None:
            assert self.tokenizer.decode_map is not None
            decode, tokens = self.tokenizer.decode_map, tokens.reshape(-1, *large)
        image = decode_tokens(decode, variables, tokens)
        return paste_known_pixels(image, inputs)

    def sample_tokens(
        self, variables: Variables, inputs: Batch, keys: Key, settings: AutoregressiveSettings
    ) -> Array:
        """Returns tokens int32 [B, L] of all levels, coarsest first."""
        large = self._large_grid(settings)
        if large is not None:
            return self._sample_large_map(variables, inputs, keys, settings, large)
        tokens, mask = known_tokens(self.tokenizer, variables, inputs, token_grids(self.config))
        condition = encode_condition(self.condition_tokenizer, variables, inputs)
        sampled = tokens[:, :0]
        for number, level in enumerate(self.levels):
            level_tokens = _sample_level(
                level.network,
                {"params": variables.params[level.name]},
                inputs["label"],
                sampled if number else condition,
                tokens[:, level.span],
                mask[:, level.span],
                fold_in_each(keys, number),
                settings,
            )
            sampled = jnp.concatenate([sampled, level_tokens], axis=1)
        return sampled

    def _large_grid(self, settings: AutoregressiveSettings) -> tuple[int, int] | None:
        """Returns rows and columns of a token map larger than the network's, None otherwise."""
        image_size, size = self.config.data.image_size, _image_size(settings)
        if size is None or size == (image_size, image_size):
            return None
        patch = image_size // token_grids(self.config)[0][0]
        return size[0] // patch, size[1] // patch

    def _sample_large_map(
        self, variables: Variables, inputs: Batch, keys: Key, settings: AutoregressiveSettings,
        grid: tuple[int, int],
    ) -> Array:  # fmt: skip
        """Returns the tokens int32 [B, h*w] of a map larger than the network's."""
        ((name, network, _, _),), (window,) = self.levels, token_grids(self.config)
        params, condition_map, scale = {"params": variables.params[name]}, None, 1
        if self.condition_tokenizer is not None:
            chex.assert_shape(inputs["condition"], (None, *(_image_size(settings) or ()), None))
            assert self.condition_tokenizer.encode_map is not None
            condition_map = self.condition_tokenizer.encode_map(
                variables.frozen["condition_tokenizer"], normalize(inputs["condition"])
            )
            scale = self.condition_tokenizer.grids[0][0] // window[0]

        def predict(tokens: Array, start: tuple[Array, Array], index: Array) -> Array:
            condition = None
            if condition_map is not None:
                first = (0, start[0] * scale, start[1] * scale)
                shape = (len(tokens), window[0] * scale, window[1] * scale)
                condition = jax.lax.dynamic_slice(condition_map, first, shape)
                condition = condition.reshape(len(tokens), -1)
            logits = network.apply(params, tokens, inputs["label"], condition)
            return jax.lax.dynamic_index_in_dim(logits, index, 1, keepdims=False)

        tokens, mask = known_tokens(self.tokenizer, variables, inputs, (grid,))
        maps = (tokens.reshape(-1, *grid), mask.reshape(-1, *grid))
        level_keys = fold_in_each(keys, 0)
        sampled = decode_sliding_window(predict, *maps, window, level_keys, settings)
        return sampled.reshape(tokens.shape)

    def preview(self, variables: Variables, batch: Batch, key: Key) -> Metrics:
        """Returns samples of classes, or rows of condition, original and two samples."""
        if self.condition_tokenizer is None:
            label = jnp.arange(len(batch["label"])) % self.num_classes
            keys = jax.random.split(key, len(label))
            return {"samples": self.sample(variables, {"label": label}, keys, self.settings)}
        inputs = {name: batch[name] for name in ("label", "condition")}
        twice = [jax.random.split(each, len(batch["label"])) for each in jax.random.split(key)]
        samples = [self.sample(variables, inputs, keys, self.settings) for keys in twice]
        return {"condition_original_and_samples": show_conditions(batch, samples)}

    def check_settings(self, settings: AutoregressiveSettings) -> None:
        """Raises `InputError` for settings that cannot work."""
        check_autoregressive_settings(settings, self.config.model.codebook_size)
        size = _image_size(settings)
        if size is None:
            return
        image_size, window = self.config.data.image_size, token_grids(self.config)[0]
        patch = image_size // window[0]
        require(
            all(side % patch == 0 and side >= image_size for side in size),
            f"size is {size[0]}x{size[1]}; both must be multiples of the tokenizer's patch, "
            f"{patch} pixels, and at least {image_size}",
        )
        if self.condition_tokenizer is not None and self._large_grid(settings):
            encode_map, grids = self.condition_tokenizer.encode_map, self.condition_tokenizer.grids
            require(
                encode_map is not None and grids[0][0] % window[0] == 0,
                f"the condition has {grids} tokens and the image {window}: images larger than "
                "those of training need at least as many",
            )


def _image_size(settings: AutoregressiveSettings) -> tuple[int, int] | None:
    return settings.size if isinstance(settings, SlidingWindowSettings) else None


def _sample_level(
    network: nn.Module, params: PyTree, label: Array, condition: Array | None,
    tokens: Array, mask: Array, keys: Key, settings: AutoregressiveSettings,
) -> Array:  # fmt: skip
    """Returns the tokens int32 [B, L] of one level, the masked ones sampled."""

    def decode_step(cache: PyTree, previous: Array, index: Array) -> tuple[Array, PyTree]:
        return network.apply(params, cache, previous, index, method="decode_step")

    def predict(tokens: Array, index: Array) -> Array:
        logits = network.apply(params, tokens, label, condition)
        return jax.lax.dynamic_index_in_dim(logits, index, 1, keepdims=False)

    if not settings.use_cache:
        return decode_without_cache(predict, tokens, mask, keys, settings)
    cache = network.apply(params, label, condition, method="init_cache")
    return decode_with_cache(decode_step, cache, tokens, mask, keys, settings)


def build(
    config: ConfigDict,
    frozen: Mapping[str, Stage],
    levels: tuple[LevelPrior, ...],
    settings: AutoregressiveSettings,
    condition_tokenizer: Tokenizer | None = None,
) -> Stage:
    """Returns the stage; its networks are the levels.

    Args:
        config: The stage's configuration.
        frozen: The tokenizer; and "condition_tokenizer" for a condition.
        levels: See `AutoregressiveStage`.
        settings: The run's sampling settings; `SlidingWindowSettings` allow larger images.
        condition_tokenizer: See `AutoregressiveStage`.

    Raises:
        InputError: The tokenizer does not fit.
    """
    tokenizer = check_tokenizer(config, frozen["tokenizer"].exports)
    stage = AutoregressiveStage(config, tokenizer, levels, settings, condition_tokenizer)
    exports = Generator(
        stage.sample,
        settings,
        stage.check_settings,
        stage.num_classes,
        needs=("condition",) if condition_tokenizer else (),
        accepts=("image", "mask"),
        sample_tokens=stage.sample_tokens,
    )
    layouts = levels[0].network.layouts  # pyright: ignore[reportAttributeAccessIssue]
    functions = (stage.init, stage.losses, stage.evaluate, stage.preview)
    return Stage(*functions, exports, layouts=layouts)  # all levels have the same
