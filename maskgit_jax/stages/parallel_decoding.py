"""Generation by parallel decoding, for MaskGIT alone and with a Token-Critic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key
from maskgit_jax.configuration import require
from maskgit_jax.decoding.guidance import with_guidance
from maskgit_jax.decoding.parallel import Trajectory, check_decode_settings, decode
from maskgit_jax.decoding.settings import DecodeSettings, decode_settings_class
from maskgit_jax.stage import Generator, Stage, Tokenizer, Variables
from maskgit_jax.stages.token_priors import (
    decode_tokens,
    encode_condition,
    known_tokens,
    layer_options,
    paste_known_pixels,
)


def sampling_settings(config: ConfigDict) -> DecodeSettings:
    """Returns the decoding settings of a configuration."""
    return decode_settings_class()(**config.sampling.to_dict())


def transformer_fields(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields of the transformer's layers, of MaskGIT or of its critic."""
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
    fields = {name: config.model[name] for name in names}
    return {**fields, "layer_options": layer_options(config), "dtype": config.dtype}


@dataclass(frozen=True, eq=False, kw_only=True)
class ParallelDecodingStage:
    """The sampling functions of a stage; sampling and the tokenizer's decoding are one program.

    Attributes:
        config: The stage's configuration.
        tokenizer: The tokenizer of its images, with one token map.
        network: MaskGIT, or the critic.
        num_classes: Labels are 0 .. num_classes - 1.
        null_label: The label that means "no class", None if the generator has none.
        condition_tokenizer: The tokenizer of condition images.
        guide: A stage that generates the same tokens and labels, whose logits guidance uses in
            place of those without class, with the variables `frozen["guide"]`; see `runs.guide`.
    """

    config: ConfigDict
    tokenizer: Tokenizer
    network: nn.Module
    num_classes: int
    null_label: int | None
    condition_tokenizer: Tokenizer | None = None
    guide: Stage | None = None

    def logits(
        self,
        variables: Variables,
        tokens: Array,
        mask: Array,
        label: Array,
        condition: Array | None = None,
    ) -> Array:
        """Returns the logits of the generator, float32 [B, L, K]."""
        raise NotImplementedError

    @property
    def critic(self) -> Callable[[Variables, Array, Array], Array] | None:
        """(variables, tokens [B, L], label [B]) -> log odds that a token is real, [B, L]."""
        return None

    def fill(
        self,
        variables: Variables,
        inputs: Batch,
        tokens: Array,
        mask: Array,
        keys: Key,
        settings: DecodeSettings,
    ) -> tuple[Array, Trajectory]:
        """Returns the tokens with the masked ones generated, and the trajectory."""
        label = inputs["label"]
        condition = encode_condition(self.condition_tokenizer, variables, inputs)

        def logits_of(tokens: Array, mask: Array, label: Array) -> Array:
            given = condition
            if given is not None and len(tokens) != len(given):
                given = jnp.concatenate([given, given])  # guidance drops the class only
            return self.logits(variables, tokens, mask, label, given)

        null_label = self.num_classes if self.null_label is None else self.null_label
        guide_logits = self._guide_logits(variables, label)
        predict = with_guidance(logits_of, label, null_label, settings, guide_logits)
        critic = self.critic
        return decode(
            predict,
            tokens,
            mask,
            keys,
            settings,
            self.tokenizer.grids[0],
            critic and (lambda tokens: critic(variables, tokens, label)),
        )

    def _guide_logits(
        self, variables: Variables, label: Array
    ) -> Callable[[Array, Array], Array] | None:
        """Returns (tokens, mask) -> logits of the guide, None without one."""
        if self.guide is None:
            return None
        exports, frozen = self.guide.exports, variables.frozen["guide"]
        logits = exports.logits if isinstance(exports, Generator) else None
        assert logits is not None, "checked when the guide is loaded"
        return lambda tokens, mask: logits(frozen, tokens, mask, label)

    def sample(
        self, variables: Variables, inputs: Batch, keys: Key, settings: DecodeSettings
    ) -> Array:
        """Returns images in [-1, 1], [B, H, W, C]; known pixels are preserved exactly."""
        tokens = self.sample_tokens(variables, inputs, keys, settings)
        image = decode_tokens(self.tokenizer.decode, variables, tokens)
        return paste_known_pixels(image, inputs)

    def sample_tokens(
        self, variables: Variables, inputs: Batch, keys: Key, settings: DecodeSettings
    ) -> Array:
        """Returns the tokens of the images that `sample` returns, int32 [B, L]."""
        tokens, mask = known_tokens(self.tokenizer, variables, inputs, self.tokenizer.grids)
        return self.fill(variables, inputs, tokens, mask, keys, settings)[0]

    def sample_classes(self, variables: Variables, batch: Batch, key: Key) -> Array:
        """Returns as many images as the batch has, of the classes in turn."""
        label = jnp.arange(len(batch["label"])) % self.num_classes
        keys = jax.random.split(key, len(label))
        return self.sample(variables, {"label": label}, keys, sampling_settings(self.config))

    def check_settings(self, settings: DecodeSettings) -> None:
        """Raises `InputError` for settings that cannot work."""
        height, width = self.tokenizer.grids[0]
        check_decode_settings(
            settings,
            height * width,
            self.tokenizer.codebook_size,
            self.null_label is not None or self.guide is not None,
            self.critic is not None,
        )
        require(
            self.guide is None or settings.guidance > 0,
            "the guide has no effect with guidance 0; set guidance, such as --guidance=1, or "
            "remove the guide",
        )

    def exports(self) -> Generator:
        """Returns the exports of the stage."""
        conditional = self.condition_tokenizer is not None
        return Generator(
            self.sample,
            sampling_settings(self.config),
            self.check_settings,
            self.num_classes,
            logits=None if conditional else self.logits,
            needs=("condition",) if conditional else (),
            accepts=("image", "mask"),
            fill=self.fill,
            null_label=self.null_label,
            sample_tokens=self.sample_tokens,
        )
