"""VQ-VAE-2: an autoencoder with two or three levels of token maps, trained to reconstruct."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree, normalize
from maskgit_jax.autoencoders.vqvae2 import LEVEL_NAMES, VQVAE2
from maskgit_jax.configuration import require, require_at_least, require_one_of
from maskgit_jax.losses.reconstruction import pixel_loss
from maskgit_jax.quantizers.codebook import (
    assign_codebook,
    count_restarts,
    init_codebook,
    init_codebook_state,
    update_codebook_state,
)
from maskgit_jax.stage import Metrics, Stage, Tokenizer, Variables, join_levels, split_levels
from maskgit_jax.stages.tokenizers import (
    HISTOGRAM,
    codebook_histogram,
    codebook_layouts,
    module_options,
    reconstruction_metrics,
    side_by_side,
    summarize,
    validate_codebook,
    validate_image_size,
)


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    require_one_of(config, "losses.reconstruction", ("l1", "l2"))
    validate_codebook(config)
    rate = config.losses.level_dropout_rate
    require(0 <= rate < 1, f"config.losses.level_dropout_rate is {rate}; it must be in [0, 1)")
    halvings, levels = config.model.bottom_downsamplings, config.model.num_levels
    require(
        levels in LEVEL_NAMES,
        f"config.model.num_levels is {levels}; allowed: {', '.join(map(str, LEVEL_NAMES))}",
    )
    require_at_least(config, 1, "model.bottom_downsamplings")
    factor = 2 ** (halvings + levels - 1)
    validate_image_size(config, factor, "bottom_downsamplings", "num_levels")


def build_network(config: ConfigDict) -> VQVAE2:
    """Returns the autoencoder that a configuration describes."""
    return VQVAE2(channels=config.data.channels, **module_options(VQVAE2, config))


def level_grids(config: ConfigDict) -> tuple[tuple[int, int], ...]:
    """Returns rows and columns of each level's token map, coarsest first."""
    model = config.model
    bottom = config.data.image_size // 2**model.bottom_downsamplings
    sides = [bottom // 2**number for number in range(model.num_levels)]
    return tuple((side, side) for side in reversed(sides))


def drop_levels(codes: tuple[Array, ...], key: Key, rate: float) -> tuple[Array, ...]:
    """Returns codes in which the finest levels of some images are zero.

    Without it no loss makes the coarse levels carry information, and they may end up unused.

    Args:
        codes: Of all levels [B, h, w, D], coarsest first.
        key: Random key of the choice of images, and of the number of levels that each keeps
            (1 .. all but one).
        rate: Share of such images in [0, 1); 0 is the published VQ-VAE-2.

    Source: "quantizer dropout" of Zeghidour et al. 2021, SoundStream, for levels
    of resolution instead of residual quantizers, and of a part of the images only.
    """
    if rate == 0:
        return codes
    image_key, count_key = jax.random.split(key)
    batch_size, num_levels = len(codes[0]), len(codes)
    dropped = jax.random.bernoulli(image_key, rate, (batch_size,))
    fewer = jax.random.randint(count_key, (batch_size,), 1, num_levels)
    kept = jnp.where(dropped, fewer, num_levels).reshape(-1, 1, 1, 1)
    return tuple(jnp.where(kept > level, own, 0.0) for level, own in enumerate(codes))


@dataclass(frozen=True, eq=False)
class VQVAE2Stage:
    """The functions of the stage, see `Stage`.

    Attributes:
        config: The stage's configuration.
        autoencoder: The network that it describes.
        grids: Rows and columns of each level's token map, coarsest first.
    """

    config: ConfigDict
    autoencoder: VQVAE2
    grids: tuple[tuple[int, int], ...]

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the levels, coarsest first."""
        return self.autoencoder.level_names

    def apply(self, variables: Variables, method: str, *arguments: Any) -> Any:
        """Returns the result of a method of the autoencoder."""
        params = {"params": variables.params["autoencoder"]}
        return self.autoencoder.apply(params, *arguments, method=method)

    def init(self, key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        """Returns the initial variables; codebooks start from the latents of the batch."""
        autoencoder_key, codes_key = jax.random.split(key)
        image, model = normalize(batch["image"]), self.config.model
        params: Any = self.autoencoder.init(autoencoder_key, image)["params"]
        state = {}
        # One after another: the latents of a level depend on the codes of the coarser ones.
        for number, name in enumerate(self.level_names):
            levels: Any = self.autoencoder.apply({"params": params}, image, method="levels")
            level_key = jax.random.fold_in(codes_key, number)
            codebook = params[f"quantizer_{name}"]["codebook"]
            codebook = init_codebook(
                codebook, levels[number].latents, level_key, model.codebook_init
            )
            params = {**params, f"quantizer_{name}": {"codebook": codebook}}
            state[name] = init_codebook_state(codebook, model.codebook_update)
        return Variables({"autoencoder": params}, state, frozen)

    def losses(
        self, variables: Variables, batch: Batch, key: Key, step: Array
    ) -> tuple[Mapping[str, Array], tuple[PyTree, Metrics]]:
        """Returns pixel loss + quantizer_weight * sum of quantizer losses, state and metrics."""
        image, model, weights = normalize(batch["image"]), self.config.model, self.config.losses
        drop_key, *level_keys = jax.random.split(key, len(self.level_names) + 1)
        levels = self.apply(variables, "levels", image)
        codes = tuple(level.quantized.codes for level in levels)
        codes = drop_levels(codes, drop_key, weights.level_dropout_rate)
        reconstruction = self.apply(variables, "to_image", codes)
        pixels = pixel_loss(image, reconstruction, weights.reconstruction).mean()
        quantizer = sum((level.quantized.loss for level in levels), jnp.float32(0.0))
        state, metrics = {}, {"pixel_loss": pixels, "quantizer_loss": quantizer}
        for name, level, level_key in zip(self.level_names, levels, level_keys, strict=True):
            state[name] = update_codebook_state(
                variables.state[name],
                level.latents,
                level.quantized.tokens,
                level_key,
                step,
                model.restart_dead_codes_after,
                model.codebook_decay,
            )
            metrics[f"restarted_codes_{name}"] = count_restarts(state[name]["usage"], step)
        return {"autoencoder": pixels + weights.quantizer_weight * quantizer}, (state, metrics)

    def assign(
        self, params: Mapping[str, PyTree], state: PyTree, step: Array
    ) -> Mapping[str, PyTree]:
        """Returns the parameters with the codebooks assigned, see `Stage.assign`."""
        if "autoencoder" not in params:
            return params
        autoencoder, smoothing = dict(params["autoencoder"]), self.config.model.codebook_smoothing
        for name in self.level_names:
            codebook = autoencoder[f"quantizer_{name}"]["codebook"]
            codebook = assign_codebook(codebook, state[name], step, smoothing)
            autoencoder[f"quantizer_{name}"] = {"codebook": codebook}
        return {**params, "autoencoder": autoencoder}

    def encode(self, variables: Variables, image: Array) -> Array:
        """Returns tokens int32 [B, L] of all levels of images [B, H, W, C]."""
        return join_levels(self.apply(variables, "encode", image))

    def decode(self, variables: Variables, tokens: Array) -> Array:
        """Returns images [B, H, W, C] of tokens int32 [B, L]."""
        return self.apply(variables, "decode", split_levels(tokens, self.grids))

    def decode_top(self, variables: Variables, tokens: Array) -> Array:
        """Returns images [B, H, W, C] of the top level; the codes of finer levels are zeros."""
        top, *finer = self.apply(variables, "lookup", split_levels(tokens, self.grids))
        codes = (top, *(jnp.zeros_like(level) for level in finer))
        return self.apply(variables, "to_image", codes)

    def codebooks(self, variables: Variables) -> tuple[Array, ...]:
        """Returns the codebooks float32 [K, D] of all levels, coarsest first."""
        tokens = jnp.arange(self.config.model.codebook_size)
        return self.apply(variables, "lookup", (tokens,) * len(self.level_names))

    def evaluate(self, variables: Variables, batch: Batch, key: Key) -> Metrics:
        """Returns reconstruction errors and codebook histograms, see `Stage.evaluate`."""
        del key
        image = normalize(batch["image"])
        tokens = self.encode(variables, image)
        metrics = reconstruction_metrics(image, self.decode(variables, tokens))
        top_only = reconstruction_metrics(image, self.decode_top(variables, tokens))
        metrics["reconstruction_mse_top_only"] = top_only["reconstruction_mse"]
        levels = split_levels(tokens, self.grids)
        for name, level in zip(self.level_names, levels, strict=True):
            level = level.reshape(len(level), -1)
            histogram = codebook_histogram(level, self.config.model.codebook_size)
            metrics[f"{HISTOGRAM}_{name}"] = histogram
        return metrics

    def preview(self, variables: Variables, batch: Batch, key: Key) -> Metrics:
        """Returns images beside their reconstructions, see `Stage.preview`."""
        del key
        image = normalize(batch["image"])
        tokens = self.encode(variables, image)
        return {
            "original_and_reconstruction": side_by_side(image, self.decode(variables, tokens)),
            "original_and_top_only": side_by_side(image, self.decode_top(variables, tokens)),
        }


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only network is "autoencoder"."""
    del frozen
    stage = VQVAE2Stage(config, build_network(config), level_grids(config))
    sizes = (config.model.codebook_size, stage.grids)
    exports = Tokenizer(stage.encode, stage.decode, *sizes, stage.codebooks)
    functions = (stage.init, stage.losses, stage.evaluate, stage.preview)
    return Stage(*functions, exports, summarize, stage.assign, codebook_layouts(config))
