"""What the stages of tokenizers share: checks of their configurations, metrics, one token map."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree, normalize
from maskgit_jax.autoencoders.vqgan import VQGAN
from maskgit_jax.autoencoders.vqvae import VQVAE
from maskgit_jax.configuration import require, require_at_least, require_one_of
from maskgit_jax.losses.reconstruction import mean_absolute_error, mean_squared_error, psnr
from maskgit_jax.quantizers.codebook import CODEBOOK_INITS, assign_codebook
from maskgit_jax.quantizers.vector import CODEBOOK_UPDATES
from maskgit_jax.stage import Layout, Metrics, Tokenizer, Variables

HISTOGRAM = "codebook_histogram"


def validate_codebook(config: ConfigDict) -> None:
    """Raises `InputError` for settings of a codebook in `config.model` that cannot work."""
    require_one_of(config, "model.codebook_update", CODEBOOK_UPDATES)
    require_one_of(config, "model.codebook_init", CODEBOOK_INITS)
    require_at_least(config, 1, "model.codebook_size", "model.codebook_dim")
    require_at_least(config, 0, "model.restart_dead_codes_after")
    require_at_least(config, 0, "model.codebook_smoothing")
    decay = config.model.codebook_decay
    require(0 <= decay < 1, f"config.model.codebook_decay is {decay}; it must be in [0, 1)")


def codebook_layouts(config: ConfigDict) -> tuple[Layout, ...]:
    """Returns what the rows of the codebooks stand for, see `Stage`."""
    return (Layout(r"quantizer(_\w+)?/codebook", 0, {"codes": config.model.codebook_size}),)


def validate_image_size(config: ConfigDict, factor: int, *keys: str) -> None:
    """Raises `InputError` unless the image size is a multiple of the downsampling factor.

    Args:
        config: The stage's configuration.
        factor: How much smaller the smallest map is than the image.
        keys: The keys of `config.model` that determine it.
    """
    size = config.data.image_size
    reasons = " and ".join(f"config.model.{key} {config.model[key]}" for key in keys)
    require(
        size % factor == 0,
        f"config.data.image_size {size} is not a multiple of {factor}, by which {reasons} shrink "
        "the image",
    )


def module_options(module: type[nn.Module], config: ConfigDict) -> dict[str, Any]:
    """Returns the fields of a module that a configuration sets: keys of `model`, and `dtype`."""
    names = {field.name for field in fields(module)}
    options = {name: value for name, value in config.model.items() if name in names}
    return {**options, "dtype": config.dtype}


def reconstruction_metrics(image: Array, reconstruction: Array) -> dict[str, Array]:
    """Returns mean squared and absolute error and PSNR (dB) of each image, float32 [B].

    Args:
        image: Originals [B, H, W, C] in [-1, 1].
        reconstruction: Same shape; values outside of [-1, 1] are clipped. Errors are of pixels
            in [0, 1], as in papers.
    """
    reconstruction = jnp.clip(reconstruction, -1.0, 1.0)
    return {
        "reconstruction_mse": mean_squared_error(image, reconstruction),
        "reconstruction_l1": mean_absolute_error(image, reconstruction),
        "psnr": psnr(image, reconstruction),
    }


def codebook_histogram(tokens: Array, codebook_size: int) -> Array:
    """Returns the frequency of each code in the tokens int32 [B, L] of each image, [B, K]."""
    return jax.vmap(lambda row: jnp.bincount(row, length=codebook_size) / len(row))(tokens)


def side_by_side(*images: Array) -> Array:
    """Interleaves image sets [B, H, W, C]: the first image of each, then the second of each."""
    return jnp.stack(images, axis=1).reshape(-1, *images[0].shape[1:])


def summarize(means: Mapping[str, Array]) -> dict[str, float]:
    """Returns the metrics of a split: means as numbers, usage and perplexity of each codebook.

    `codebook_usage` is the share of codes chosen at least once; `codebook_perplexity` is
    exp(entropy) of their frequencies, 1 .. K. They have the suffix of their histogram:
    `codebook_histogram_top` gives `codebook_usage_top`.
    """
    metrics = {}
    for name, value in means.items():
        if not name.startswith(HISTOGRAM):
            metrics[name] = float(value)
            continue
        level, share = name.removeprefix(HISTOGRAM), jnp.asarray(value)
        entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-30)), 0.0))
        metrics[f"codebook_usage{level}"] = float((share > 0).mean())
        metrics[f"codebook_perplexity{level}"] = float(jnp.exp(entropy))
    return metrics


@dataclass(frozen=True, eq=False)
class SingleMapTokenizer:
    """A tokenizer with one square token map: the common part of VQ-VAE and VQGAN.

    Attributes:
        config: The stage's configuration.
        autoencoder: The network that the configuration describes.
        side: Rows and columns h = w of the token map.
    """

    config: ConfigDict
    autoencoder: VQVAE | VQGAN
    side: int

    @property
    def codebook_smoothing(self) -> float:
        """Epsilon of the smoothing of a codebook that is updated by EMA."""
        return 0.0

    def apply(self, variables: Variables, method: str, *arguments: Array) -> Any:
        """Returns the result of a method of the autoencoder."""
        params = {"params": variables.params["autoencoder"]}
        return self.autoencoder.apply(params, *arguments, method=method)

    def init_autoencoder(self, key: Key, image: Array) -> tuple[dict[str, PyTree], Array]:
        """Returns initial parameters and the latents [B, h, w, D] of images [B, H, W, C]."""
        params: Any = self.autoencoder.init(key, image)["params"]
        latents: Any = self.autoencoder.apply({"params": params}, image, method="latents")
        return params, latents

    def encode_map(self, variables: Variables, image: Array) -> Array:
        """Returns tokens int32 [B, h, w] of images [B, H, W, C]."""
        return self.apply(variables, "encode", image)

    def decode_map(self, variables: Variables, tokens: Array) -> Array:
        """Returns images [B, H, W, C] of tokens int32 [B, h, w]."""
        return self.apply(variables, "decode", tokens)

    def encode(self, variables: Variables, image: Array) -> Array:
        """Returns tokens int32 [B, L] of images [B, H, W, C]."""
        return self.encode_map(variables, image).reshape(len(image), -1)

    def decode(self, variables: Variables, tokens: Array) -> Array:
        """Returns images [B, H, W, C] of tokens int32 [B, L]."""
        return self.decode_map(variables, tokens.reshape(-1, self.side, self.side))

    def codebooks(self, variables: Variables) -> tuple[Array, ...]:
        """Returns the codebook float32 [K, D], of the only level."""
        tokens = jnp.arange(self.config.model.codebook_size)
        return (self.apply(variables, "lookup", tokens),)

    def evaluate(self, variables: Variables, batch: Batch, key: Key) -> Metrics:
        """Returns the reconstruction errors and the codebook's histogram, see `Stage.evaluate`."""
        del key
        image = normalize(batch["image"])
        tokens = self.encode(variables, image)
        return {
            **reconstruction_metrics(image, self.decode(variables, tokens)),
            HISTOGRAM: codebook_histogram(tokens, self.config.model.codebook_size),
        }

    def preview(self, variables: Variables, batch: Batch, key: Key) -> Metrics:
        """Returns images beside their reconstructions, see `Stage.preview`."""
        del key
        image = normalize(batch["image"])
        reconstruction = self.decode(variables, self.encode(variables, image))
        return {"original_and_reconstruction": side_by_side(image, reconstruction)}

    def assign(
        self, params: Mapping[str, PyTree], state: PyTree, step: Array
    ) -> Mapping[str, PyTree]:
        """Returns the parameters with the codebook assigned, see `Stage.assign`."""
        if "autoencoder" not in params:
            return params
        autoencoder = params["autoencoder"]
        codebook = assign_codebook(
            autoencoder["quantizer"]["codebook"], state, step, self.codebook_smoothing
        )
        quantizer = {**autoencoder["quantizer"], "codebook": codebook}
        return {**params, "autoencoder": {**autoencoder, "quantizer": quantizer}}

    @property
    def exports(self) -> Tokenizer:
        """The tokenizer that other stages use."""
        return Tokenizer(
            encode=self.encode,
            decode=self.decode,
            codebook_size=self.config.model.codebook_size,
            grids=((self.side, self.side),),
            codebooks=self.codebooks,
            encode_map=self.encode_map,
            decode_map=self.decode_map,
        )
