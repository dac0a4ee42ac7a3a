"""Generation by parallel decoding, for MaskGIT alone and with a Token-Critic."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key
from maskgit_jax.configuration import require
from maskgit_jax.decoding.guidance import Predict, with_guidance
from maskgit_jax.decoding.parallel import (
    MaskedTokens,
    StepPlan,
    check_decode_settings,
    decode,
    decode_step,
)
from maskgit_jax.decoding.rules import Critic
from maskgit_jax.decoding.schedules import check_schedule
from maskgit_jax.decoding.settings import (
    DecodeSettings,
    MaskingSettings,
    decode_settings_class,
)
from maskgit_jax.priors.maskgit import Grid
from maskgit_jax.settings import check_settings
from maskgit_jax.stage import Generator, Stage, Tokenizer, Variables, generator_of
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
        *,
        grid: Grid | None = None,
    ) -> Array:
        """Returns the logits of the generator, float32 [B, L, K]."""
        raise NotImplementedError

    @property
    def critic(self) -> Callable[..., Array] | None:
        """(variables, tokens [B, L], label [B], grid=) -> log odds of real tokens, [B, L]."""
        return None

    def grid(self, settings: DecodeSettings) -> Grid:
        """Returns the rows and columns of the token maps of images of the size in the settings."""
        (height, width), image_size = self.tokenizer.grids[0], self.config.data.image_size
        if settings.size is None:
            return height, width
        return settings.size[0] * height // image_size, settings.size[1] * width // image_size

    def _changed_grid(self, settings: DecodeSettings) -> Grid | None:
        grid = self.grid(settings)
        return None if grid == self.tokenizer.grids[0] else grid

    def fill(
        self,
        variables: Variables,
        inputs: Batch,
        tokens: Array,
        mask: Array,
        keys: Key,
        settings: DecodeSettings,
    ) -> tuple[Array, MaskedTokens]:
        """Returns the tokens with the masked ones generated, and the trajectory."""
        predict, critic = self._networks(variables, inputs, settings)
        return decode(predict, tokens, mask, keys, settings, self.grid(settings), critic)

    def fill_step(
        self,
        variables: Variables,
        inputs: Batch,
        state: MaskedTokens,
        editable: Array,
        keys: Key,
        step: StepPlan,
        settings: DecodeSettings,
    ) -> MaskedTokens:
        """Returns the state after one step of `fill`, see `decode_step`."""
        predict, critic = self._networks(variables, inputs, settings)
        grid = self.grid(settings)
        return decode_step(predict, state, editable, keys, step, settings, grid, critic)

    def _networks(
        self, variables: Variables, inputs: Batch, settings: DecodeSettings
    ) -> tuple[Predict, Critic | None]:
        """Returns the generator with guidance, and the critic if there is one."""
        label, grid = inputs["label"], self._changed_grid(settings)
        condition = encode_condition(self.condition_tokenizer, variables, inputs)

        def logits_of(tokens: Array, mask: Array, label: Array) -> Array:
            given = condition
            if given is not None and len(tokens) != len(given):
                given = jnp.concatenate([given, given])  # guidance drops the class only
            return self.logits(variables, tokens, mask, label, given, grid=grid)

        null_label = self.num_classes if self.null_label is None else self.null_label
        guide_logits = self._guide_logits(variables, label, grid)
        predict = with_guidance(logits_of, label, null_label, settings, guide_logits)
        critic = self.critic
        return predict, critic and (lambda tokens: critic(variables, tokens, label, grid=grid))

    @property
    def _guide_exports(self) -> Generator | None:
        return self.guide and generator_of(self.guide.exports)

    def _guide_logits(
        self, variables: Variables, label: Array, grid: Grid | None
    ) -> Callable[[Array, Array], Array] | None:
        """Returns (tokens, mask) -> logits of the guide, None without one."""
        if self._guide_exports is None:
            return None
        logits, frozen = self._guide_exports.logits, variables.frozen["guide"]
        assert logits is not None, "checked when the guide is loaded"
        return lambda tokens, mask: logits(frozen, tokens, mask, label, grid=grid)

    def sample(
        self, variables: Variables, inputs: Batch, keys: Key, settings: DecodeSettings
    ) -> Array:
        """Returns images in [-1, 1], [B, H, W, C]; known pixels are preserved exactly."""
        tokens = self.sample_tokens(variables, inputs, keys, settings)
        decode, grid = self.tokenizer.decode, self._changed_grid(settings)
        if grid is not None:
            assert self.tokenizer.decode_map is not None
            decode, tokens = self.tokenizer.decode_map, tokens.reshape(-1, *grid)
        image = decode_tokens(decode, variables, tokens)
        return paste_known_pixels(image, inputs)

    def sample_tokens(
        self, variables: Variables, inputs: Batch, keys: Key, settings: DecodeSettings
    ) -> Array:
        """Returns the tokens of the images that `sample` returns, int32 [B, L]."""
        grids = (self.grid(settings),)
        tokens, mask = known_tokens(self.tokenizer, variables, inputs, grids)
        return self.fill(variables, inputs, tokens, mask, keys, settings)[0]

    def sample_classes(self, variables: Variables, batch: Batch, key: Key) -> Array:
        """Returns as many images as the batch has, of the classes in turn."""
        label = jnp.arange(len(batch["label"])) % self.num_classes
        keys = jax.random.split(key, len(label))
        return self.sample(variables, {"label": label}, keys, sampling_settings(self.config))

    def check_settings(self, settings: DecodeSettings) -> None:
        """Raises `InputError` for settings that cannot work."""
        self._check_size(settings.size)
        height, width = self.grid(settings)
        check_decode_settings(
            settings,
            height * width,
            self.tokenizer.codebook_size,
            self.null_label is not None or self.guide is not None,
            self.critic is not None,
        )
        guide = self._guide_exports
        require(
            guide is None or settings.guidance > 0,
            "the guide has no effect with guidance 0; set guidance, such as --guidance=1, or "
            "remove the guide",
        )
        if guide is not None:
            guide.check_settings(replace(guide.settings, size=settings.size))

    def _check_size(self, size: tuple[int, int] | None) -> None:
        if size is None:
            return
        patch_size = layer_options(self.config).patch_size
        patch = self.config.data.image_size // self.tokenizer.grids[0][0] * patch_size
        require(
            all(side > 0 and side % patch == 0 for side in size),
            f"size is {size[0]}x{size[1]}; both must be multiples of {patch} pixels, the size of a "
            "patch of the tokenizer and the transformer",
        )
        require(
            self.condition_tokenizer is None,
            f"size is {size[0]}x{size[1]}, but a MaskGIT with condition images generates images of "
            "the size of its training only; remove it",
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
            fill_step=self.fill_step,
            null_label=self.null_label,
            sample_tokens=self.sample_tokens,
        )
