"""Makes images: `python -m maskgit_jax.sample --workdir=runs/maskgit-digits --num=64`.

Writes a PNG grid, or an NPZ with `images` uint8 [N, H, W, C] and `labels` int32 [N] (none for
a generator without classes). `--keep_top=0.5` completes images of which it keeps the upper half;
a run trained on conditions makes images from others; both begin with held-out images or with
those of `--input`, and show them beside the results. Of autoencoders and VAEs it also shows the
latents: `--mode=interpolations` between held-out images, `--mode=traversals` of one unit a row.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from maskgit_jax import command_line, distributed
from maskgit_jax.autoencoders.latent_paths import interpolate_latents, traverse_latents
from maskgit_jax.configuration import InputError, base_config, condition_channels, require
from maskgit_jax.data.conditioning_images import ConditioningImages, ImageFiles
from maskgit_jax.data.image_sets import CenterCropped
from maskgit_jax.data.sources import image_data, open_sources
from maskgit_jax.evaluation.generation import real_images
from maskgit_jax.files import default_cache_directory
from maskgit_jax.images import write_image_grid, write_png
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.pipelines.classifier import Classifier, fit_cached, load_classifier
from maskgit_jax.pipelines.generator import GeneratorPipeline, label_number
from maskgit_jax.pipelines.rejection import candidates, class_probabilities, most_confident
from maskgit_jax.runs.directory import Run, load_run
from maskgit_jax.stage import LatentModel
from maskgit_jax.training.sharding import make_mesh, round_up_to_shards

COLUMNS = 10  # of interpolations and traversals
MOST_ENCODED = 512  # images that say which units vary, and how much
WORKDIR = flags.DEFINE_string("workdir", "runs/maskgit-digits", "Run of a generator.")
WHAT = flags.DEFINE_enum("what", "samples", ["samples", "interpolations", "traversals"],
                         "Of an autoencoder or a VAE also its latents.")  # fmt: skip
NUM = flags.DEFINE_integer("num", None, "Number of images, 64 by default; of interpolations and "
                           "traversals the number of rows, 8 by default.",
                           lower_bound=1)  # fmt: skip
LABELS = flags.DEFINE_list("labels", [], "Classes (numbers or names), repeated to fill num.")
GIVEN = flags.DEFINE_string("given", "", "Pictures to begin with: a file, a folder, or held_out, "
                            "which is the default where a run or --keep_top needs "
                            "some.")  # fmt: skip
KEEP_UPPER = flags.DEFINE_float("keep_top", None, "Share of the rows of a given image to keep; "
                                "the rest is sampled.")  # fmt: skip
VARIANTS = flags.DEFINE_integer("variants", 4, "Images from each given picture.", lower_bound=1)
KEEP_SUREST = flags.DEFINE_float("rejection_keep", 1.0, "Share of the samples of each class that is "
                                 "kept: those that a classifier is most sure of.")  # fmt: skip
CLASSIFIER = flags.DEFINE_string("classifier", "", "Its file; default one trained on the run's "
                                 "images, cached in ~/.cache/maskgit_jax.")  # fmt: skip
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
    labels = [label_number(word, config.data.class_names) for word in words]
    labels = labels or range(num_classes)
    return list(itertools.islice(itertools.cycle(labels), num))


def write_images(
    path: Path,
    images: np.ndarray,
    labels: list[int] | None,
    given: Mapping[str, np.ndarray],
) -> None:
    """Writes `.npz`, with what was given, or `.png` (a column for each class, if that fits)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        known = {} if labels is None else {"labels": np.asarray(labels, np.int32)}
        np.savez(path, images=images, **known, **given)
        return
    different = len(set(labels or ()))
    columns = different if 4 <= different <= 20 else round(len(images) ** 0.5)
    write_png(path, images, columns)


def latent_pictures(
    run: Run, mesh: Mesh, what: str, rows: int, seed: int, batch_size: int
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
            f"--mode={what} needs latents that are numbers, but this run holds stage "
            f"'{run.config.stage}'; give a run of configs/vae.py"
        )
    data = run.config.data
    held_out = CenterCropped(
        open_sources(data).evaluation, data.image_size, data.channels, data.input
    )
    order = np.random.default_rng(seed).permutation(len(held_out))
    autoencoder = AutoencoderPipeline(run, mesh)

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
        return decoded(traverse_latents(latents, prior, rows, COLUMNS))
    require(
        2 * rows <= len(held_out),
        f"{rows} interpolations need {2 * rows} held-out images, and there are {len(held_out)}",
    )
    some = images_at(order[: 2 * rows])
    start, end = np.split(in_batches(autoencoder.encode, some), 2)
    between = decoded(interpolate_latents(start, end, COLUMNS))
    return np.concatenate([some[:rows, None], between, some[rows:, None]], axis=1)


def open_conditioning_images(
    run: Run,
    generator: GeneratorPipeline,
    settings: Any,
    num: int,
    place: str,
    kept: float | None,
    variants: int,
    seed: int,
) -> ConditioningImages | None:
    """Returns the pictures that `num` images begin with, None if none are needed.

    Args:
        run: Of the generator.
        generator: Ready.
        settings: Of the generator; `size` may say how large the images are.
        num: Images to be made.
        place: A file, a folder, "held_out", or "" for what is needed.
        kept: Share of the rows to keep, None for none.
        variants: Images from each picture.
        seed: Chooses held-out images.

    Raises:
        InputError: The pictures are missing, or say nothing to the generator.
    """
    conditioned = "condition" in generator.generator.needs
    if not (conditioned or kept is not None):
        require(not place, "--input says nothing here; add --keep_top=0.5 to complete images")
        return None
    require(
        kept is None or 0 < kept < 1,
        f"--keep_top is {kept}; it is a share of the rows, above 0 and below 1",
    )
    data = image_data(run.config.data)
    size = getattr(settings, "size", None) or (data.image_size, data.image_size)
    if place in ("", "held_out"):
        source = open_sources(data).evaluation
        order = np.random.default_rng(seed).permutation(len(source))
        records = [source[int(index)] for index in order[: -(-num // variants)]]
    else:
        paired = conditioned and data.condition == "paired"
        require(
            not (paired and kept is not None),
            "--keep_top needs images beside their conditions; use --input=held_out",
        )
        channels = condition_channels(data) if paired else data.channels
        records = ImageFiles(place, channels, "condition" if paired else "image")
    given = ConditioningImages(records, data, size, variants, kept, conditioned)
    generator.check_inputs(given.names)
    return given


def beside_given(images: np.ndarray, given: ConditioningImages) -> np.ndarray:
    """Returns pictures uint8 [rows, columns, H, W, C]: what was given, then what was made of it."""
    rows = []
    for first in range(0, len(images), given.times):
        shown = [*given.picture(first // given.times).values()]
        made = [images[min(first + i, len(images) - 1)] for i in range(given.times)]
        rows.append([*reversed(shown), *made])
    channels = max(image.shape[-1] for image in rows[0])
    return np.stack(
        [[np.broadcast_to(image, (*image.shape[:2], channels)) for image in row] for row in rows]
    )


def sampled(
    generator: GeneratorPipeline,
    labels: Sequence[int],
    settings: Any,
    seed: int,
    batch_size: int,
    given: ConditioningImages | None,
) -> np.ndarray:
    """Returns images uint8 [N, H, W, C], one for each label, with a progress bar."""
    images = []
    silent = None if distributed.is_main() else True
    with tqdm(total=len(labels), unit="image", disable=silent) as bar:
        for batch in generator(labels, seed, settings, batch_size, given=given):
            images.append(batch)
            bar.update(len(batch))
    return np.concatenate(images)


def open_classifier(run: Run, mesh: Mesh, place: str) -> Classifier:
    """Returns the classifier that chooses samples: of a file, or trained on the run's images.

    Raises:
        InputError: The file does not fit the images.
    """
    data = image_data(run.config.data)
    classes, shape = data.num_classes, (data.image_size, data.image_size, data.channels)
    if place:
        return load_classifier(Path(place), shape, classes)
    training = real_images(data)[0].training
    return fit_cached(
        training, classes, mesh, default_cache_directory(), "classifier of real images"
    )


def write_latents(run: Run, mesh: Mesh, out: Path) -> None:
    """Writes what `--mode` says of an autoencoder's latents."""
    require(out.suffix == ".png", f"--out is {out}; {WHAT.value} are written as .png")
    others = (("labels", LABELS.value), ("given", GIVEN.value), ("keep_top", KEEP_UPPER.value))
    useless = [*DECODING(), *(name for name, value in others if value)]
    if useless:
        raise InputError(f"--{useless[0]} says nothing to --mode={WHAT.value}; leave it out")
    pictures = latent_pictures(run, mesh, WHAT.value, NUM.value or 8, SEED.value, BATCH_SIZE.value)
    write_image_grid(out, pictures)
    print(f"wrote {len(pictures)} {WHAT.value} to {out}")


def main() -> None:
    """Samples what the flags say."""
    out = Path(OUT.value)
    require(out.suffix in (".png", ".npz"), f"--out is {out}; it must end in .png or .npz")
    mesh = make_mesh(base_config().mesh)
    run = load_run(WORKDIR.value, mesh, CHECKPOINT.value)
    require(
        not distributed.has_peers() or (WHAT.value == "samples" and KEEP_SUREST.value == 1),
        f"--mode={WHAT.value} and --rejection_keep run in one process; leave --coordinator out",
    )
    if WHAT.value != "samples":
        write_latents(run, mesh, out)
        return
    generator = GeneratorPipeline(run, mesh)
    settings, num = generator.settings(**DECODING()), NUM.value or 64
    given = open_conditioning_images(
        run, generator, settings, num, GIVEN.value, KEEP_UPPER.value, VARIANTS.value, SEED.value
    )
    labels = chosen_labels(LABELS.value, num, generator.num_classes, run.config)
    if given and labels and not LABELS.value:
        labels = given.labels(num) or labels
    asked, share = [0] * num if labels is None else labels, KEEP_SUREST.value
    if share == 1:
        images = sampled(generator, asked, settings, SEED.value, BATCH_SIZE.value, given)
    else:
        require(
            given is None and generator.num_classes > 1,
            "--rejection_keep chooses among samples of classes; this run or --input makes none",
        )
        made = candidates(asked, share)
        classifier = open_classifier(run, mesh, CLASSIFIER.value)
        many = sampled(generator, made, settings, SEED.value, BATCH_SIZE.value, None)
        size = round_up_to_shards(BATCH_SIZE.value, mesh)
        sure = class_probabilities(classifier, many, made, mesh, size)
        images = many[most_confident(sure, made, asked)]
    if not distributed.is_main():
        return
    if given and out.suffix == ".png":
        write_image_grid(out, beside_given(images, given))
    else:
        rows = given.rows(np.arange(num)) if given else {}
        if given and "image" in rows:  # what was masked too
            pictures = [given.picture(number // given.times) for number in range(num)]
            rows["image"] = np.stack([picture["image"] for picture in pictures])
        write_images(out, images, labels, rows)
    print(f"wrote {num} images to {out}")


if __name__ == "__main__":
    command_line.run(main, distributed=True)
