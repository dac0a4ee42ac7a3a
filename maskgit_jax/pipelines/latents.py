"""Images of walks through the latents of an autoencoder or a VAE."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import Array
from maskgit_jax.autoencoders.latent_paths import interpolate_latents, traverse_latents
from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.image_sets import CenterCropped
from maskgit_jax.data.sources import open_and_describe
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.runs.directory import Run
from maskgit_jax.stage import LatentModel

COLUMNS = 10
NUM_ENCODED = 512  # images that tell which latent units vary, and how much


def latent_walks(
    run: Run, mesh: Mesh, mode: str, rows: int, seed: int, batch_size: int
) -> np.ndarray:
    """Returns images uint8 [rows, columns, H, W, C], one walk through the latents per row.

    Args:
        run: A run of an autoencoder or VAE.
        mesh: The devices.
        mode: "interpolations": between two held-out images, which are the first and the last
            column. "traversals": one latent unit of a held-out image is varied; the units that
            vary most over the data come first.
        rows: Number of walks; at most one traversal per unit.
        seed: Selects the held-out images.
        batch_size: Images per batch.

    Raises:
        InputError: The latents of the run are not vectors, or there are too few images.
    """
    exports, data = run.stage.exports, run.config.data
    if not isinstance(exports, LatentModel):
        raise InputError(
            f"--mode={mode} needs continuous latents, but this run holds stage "
            f"'{run.config.stage}'; give a run of configs/vae.py"
        )
    held_out = CenterCropped(
        open_and_describe(data).evaluation, data.image_size, data.channels, data.input
    )
    order = np.random.default_rng(seed).permutation(len(held_out))
    autoencoder = AutoencoderPipeline(run, mesh)

    def images_at(indices: np.ndarray) -> np.ndarray:
        return np.stack([held_out[int(index)]["image"] for index in indices])

    def in_batches(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
        starts = range(0, len(values), batch_size)
        return np.concatenate([function(values[start : start + batch_size]) for start in starts])

    def decode(latents: Array) -> np.ndarray:
        flat = np.asarray(latents).reshape(-1, latents.shape[-1])
        images = in_batches(autoencoder.decode, flat)
        return images.reshape(*latents.shape[:2], *images.shape[1:])

    if mode == "traversals":
        latents = in_batches(autoencoder.encode, images_at(order[:NUM_ENCODED]))
        return decode(
            traverse_latents(jnp.asarray(latents), exports.variational is not None, rows, COLUMNS)
        )
    require(
        2 * rows <= len(held_out),
        f"{rows} interpolations need {2 * rows} held-out images, and there are {len(held_out)}",
    )
    ends = images_at(order[: 2 * rows])
    start, end = jnp.split(jnp.asarray(in_batches(autoencoder.encode, ends)), 2)
    between = decode(interpolate_latents(start, end, COLUMNS))
    return np.concatenate([ends[:rows, None], between, ends[rows:, None]], axis=1)
