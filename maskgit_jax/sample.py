"""Makes images: `python -m maskgit_jax.sample --workdir=runs/maskgit-digits --num=64`.

Writes a PNG grid, or an NPZ with `images` uint8 [N, H, W, C] and `labels` int32 [N] (none for
a generator without classes). Of autoencoders and VAEs it also shows the latents:
`--what=interpolations` between held-out images, `--what=traversals` of one unit a row.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from maskgit_jax import command_line, pipelines
from maskgit_jax.autoencoders.latent_paths import interpolated, traversals_around
from maskgit_jax.configuration import InputError, base, require
from maskgit_jax.data.image_sets import Squares
from maskgit_jax.data.sources import open_sources
from maskgit_jax.stage import LatentModel
from maskgit_jax.training.sharding import make_mesh
from maskgit_jax.training.writers import write_pictures, write_png

COLUMNS = 10  # of interpolations and traversals
MOST_ENCODED = 512  # images that say which units vary, and how much
WORKDIR = flags.DEFINE_string("workdir", "runs/maskgit-digits", "Run of a generator.")
WHAT = flags.DEFINE_enum("what", "samples", ["samples", "interpolations", "traversals"],
                         "Of an autoencoder or a VAE also its latents.")  # fmt: skip
NUM = flags.DEFINE_integer("num", None, "Number of images, 64 by default; of interpolations and "
                           "traversals the number of rows, 8 by default.",
                           lower_bound=1)  # fmt: skip
LABELS = flags.DEFINE_list("labels", [], "Classes (numbers or names), repeated to fill num.")
DECODING = command_line.define_sampling_flags()
SEED = flags.DEFINE_integer("seed", 0, "Of the random key.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images at a time.", lower_bound=1)
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Step of the checkpoint.")
OUT = flags.DEFINE_string("out", "samples.png", "File to write: .png or .npz.")


def chosen_labels(
    words: list[str], num: int, num_classes: int, config: ConfigDict
) -> list[int] | None:
    """Returns `num` labels: those asked for in order, again and again; all classes by default.

    None for a generator without classes.

    Raises:
        InputError: A word is neither a number nor the name of a class, or there are no classes.
    """
    if num_classes == 0:
        require(
            not words,
            f"stage '{config.stage}' knows no classes, so it cannot make those of --labels; "
            "leave --labels out",
        )
        return None
    names = list(config.data.class_names)
    labels = []
    for word in words:
        if word in names:
            labels.append(names.index(word))
        elif word.lstrip("-").isdigit():
            labels.append(int(word))
        else:
            raise InputError(f"label '{word}' is neither a number nor one of: {', '.join(names)}")
    labels = labels or range(num_classes)
    return list(itertools.islice(itertools.cycle(labels), num))


def write_images(path: Path, images: np.ndarray, labels: list[int] | None) -> None:
    """Writes `.npz` or `.png` (as many columns as there are classes, if that fits)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        known = {} if labels is None else {"labels": np.asarray(labels, np.int32)}
        np.savez(path, images=images, **known)
        return
    different = len(set(labels or ()))
    columns = different if 4 <= different <= 20 else round(len(images) ** 0.5)
    write_png(path, images, columns)


def latent_pictures(
    run: pipelines.Run, mesh: Mesh, what: str, rows: int, seed: int, batch_size: int
) -> np.ndarray:
    """Returns images uint8 [rows, columns, H, W, C] of ways through the latents.

    Args:
        run: Of an autoencoder or VAE.
        mesh: Devices.
        what: "interpolations" begin and end with the original images, which are held out;
            "traversals" pass through one of them, the units that vary most first.
        rows: At most; there are not more traversals than units.
        seed: Chooses the images.
        batch_size: Images at a time.

    Raises:
        InputError: The run's latents are no vectors of numbers, or there are too few images.
    """
    exports = run.stage.exports
    if not isinstance(exports, LatentModel):
        raise InputError(
            f"--what={what} needs latents that are numbers, but this run holds stage "
            f"'{run.config.stage}'; give a run of configs/vae.py"
        )
    data = run.config.data
    held_out = Squares(open_sources(data).evaluation, data.image_size, data.channels)
    order = np.random.default_rng(seed).permutation(len(held_out))
    autoencoder = pipelines.ImageAutoencoder(run, mesh)

    def images_at(places: np.ndarray) -> np.ndarray:
        return np.stack([held_out[int(place)]["image"] for place in places])

    def in_batches(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
        starts = range(0, len(values), batch_size)
        return np.concatenate([function(values[start : start + batch_size]) for start in starts])

    def decoded(latents: jax.Array) -> np.ndarray:
        images = in_batches(autoencoder.decode, np.asarray(latents).reshape(-1, latents.shape[-1]))
        return images.reshape(*latents.shape[:2], *images.shape[1:])

    if what == "traversals":
        latents = in_batches(autoencoder.encode, images_at(order[:MOST_ENCODED]))
        prior = exports.variational is not None
        return decoded(traversals_around(latents, prior, rows, COLUMNS))
    require(
        2 * rows <= len(held_out),
        f"{rows} interpolations need {2 * rows} held-out images, and there are {len(held_out)}",
    )
    some = images_at(order[: 2 * rows])
    start, end = np.split(in_batches(autoencoder.encode, some), 2)
    between = decoded(interpolated(start, end, COLUMNS))
    return np.concatenate([some[:rows, None], between, some[rows:, None]], axis=1)


def main() -> None:
    """Samples what the flags say."""
    out = Path(OUT.value)
    require(out.suffix in (".png", ".npz"), f"--out is {out}; it must end in .png or .npz")
    mesh = make_mesh(base("", "").mesh)
    run = pipelines.load_run(WORKDIR.value, mesh, CHECKPOINT.value)
    if WHAT.value != "samples":
        require(out.suffix == ".png", f"--out is {out}; {WHAT.value} are written as .png")
        useless = [*DECODING(), *(["labels"] if LABELS.value else [])]
        if useless:
            raise InputError(f"--{useless[0]} says nothing to --what={WHAT.value}; leave it out")
        pictures = latent_pictures(
            run, mesh, WHAT.value, NUM.value or 8, SEED.value, BATCH_SIZE.value
        )
        write_pictures(out, pictures)
        print(f"wrote {len(pictures)} {WHAT.value} to {out}")
        return
    generator = pipelines.ImageGenerator(run, mesh)
    settings, num = generator.settings(**DECODING()), NUM.value or 64
    labels = chosen_labels(LABELS.value, num, generator.num_classes, run.config)
    asked = [0] * num if labels is None else labels
    batches = generator(asked, SEED.value, settings, BATCH_SIZE.value)
    images = []
    with tqdm(total=num, unit="image", disable=None) as bar:
        for batch in batches:
            images.append(batch)
            bar.update(len(batch))
    write_images(out, np.concatenate(images), labels)
    print(f"wrote {num} images to {out}")


if __name__ == "__main__":
    command_line.run(main)
