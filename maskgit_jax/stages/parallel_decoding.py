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
from maskgit_jax.decoding.schedules import check_schedule
from maskgit_jax.decoding.settings import (
    DecodeSettings,
    MaskingSettings,
    decode_settings_class,
)
from maskgit_jax.settings import check_settings
from maskgit_jax.stage import Generator, Tokenizer, Variables
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


def masking_settings(config: ConfigDict) -> MaskingSettings:
    """Returns the settings of the training masks of a configuration."""
    return MaskingSettings(**config.masking.to_dict())


def check_masking(config: ConfigDict) -> None:
    """Raises `InputError` for training masks that cannot work."""
    settings, training = masking_settings(config), config.training
    check_settings(settings, "config.masking.")
    check_schedule(settings.schedule, "config.masking.schedule", training=True)
    rows = training.batch_size // training.accumulate_steps
    require(
        not settings.complementary or rows % 2 == 0,
        f"config.masking.complementary needs pairs of rows, but config.training.batch_size / "
        f"accumulate_steps is {rows}; make it even",
    )


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
    """

    config: ConfigDict
    tokenizer: Tokenizer
    network: nn.Module
    num_classes: int
    null_label: int | None
    condition_tokenizer: Tokenizer | None = None

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
        predict = with_guidance(logits_of, label, null_label, settings)
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
            self.null_label is not None,
            self.critic is not None,
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
