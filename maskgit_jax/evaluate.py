"""Judges images by real ones: `python -m maskgit_jax.evaluate --images=A.npz --data=digits`.

`--images` is an NPZ with `images` uint8 [N, H, W, C] and `labels` [N], as `sample` writes it.
Prints, and writes beside it as `.evaluation.json`:
    recognised        share that a support vector machine, trained on the real training images,
                      takes for the class asked for; `recognised_real` is its figure on real
                      held-out images
    coverage          share of real images with a generated one nearby (k = 5, pixels), once for
                      training images and once for held-out images
    coverage_ceiling  the same between two disjoint sets of real images
    copies            images equal to a training image in every pixel
    duplicates        images equal to another generated one
"""

import json
from pathlib import Path

import numpy as np
from absl import flags

from maskgit_jax import command_line
from maskgit_jax.configuration import InputError, base, require
from maskgit_jax.data.loader import eval_batches
from maskgit_jax.data.sources import Source, open_sources
from maskgit_jax.metrics.neighbours import coverage, num_copies, num_duplicates
from maskgit_jax.metrics.recognition import PixelClassifier

IMAGES = flags.DEFINE_string("images", "", "NPZ file of generated images.")
DATA = flags.DEFINE_string("data", "digits", "Real images, as in config.data.source.")
SHRINK = flags.DEFINE_integer("shrink", 1, "Compare at 1/shrink of the side (area mean); 2 "
                              "brings digits back to their own 8x8.", lower_bound=1)  # fmt: skip
TRAIN_IMAGES = flags.DEFINE_integer(
    "train_images", 10_000, "Real images that the classifier learns from, at most.", lower_bound=10
)
SET_SIZE = flags.DEFINE_integer(
    "set_size", 500, "Real images in a coverage figure, at most.", lower_bound=10
)


def load_images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 [N, H, W, C] and labels [N] of an NPZ.

    Raises:
        InputError: The file is missing or holds something else.
    """
    try:
        with np.load(path) as file:
            images, labels = file["images"], file["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"--images={path} is no NPZ with images and labels ({error})") from error
    require(
        images.dtype == np.uint8 and images.ndim == 4 and len(images) == len(labels),
        f"{path} must hold images uint8 [N, H, W, C] and as many labels, not {images.dtype} "
        f"{images.shape} and {labels.shape}",
    )
    return images, labels


def real_images(source: Source, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images uint8 [N, *shape] and labels [N] of a source, in a fixed random order."""
    config = base("", "").data
    config.image_size, config.channels = shape[0], shape[2]
    batches = list(eval_batches(source, config, batch_size=min(500, len(source))))
    images, labels, valid = (
        np.concatenate([batch[key] for batch in batches]) for key in ("image", "label", "valid")
    )
    order = np.random.default_rng(0).permutation(np.flatnonzero(valid))
    return images[order], labels[order]


def shrunk(images: np.ndarray, factor: int) -> np.ndarray:
    """Returns area means, uint8 [N, H/factor, W/factor, C]."""
    count, height, width, channels = images.shape
    require(
        height % factor == 0 and width % factor == 0,
        f"--shrink={factor} does not divide images of {height}x{width}",
    )
    parts = images.reshape(count, height // factor, factor, width // factor, factor, channels)
    return np.round(parts.mean(axis=(2, 4))).astype(np.uint8)


def judge(
    images: np.ndarray,
    labels: np.ndarray,
    train: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
) -> dict[str, float]:
    """Returns the figures for generated images; all arrays as in `load_images`."""
    classifier = PixelClassifier(train[0][: TRAIN_IMAGES.value], train[1][: TRAIN_IMAGES.value])

    def flat(array: np.ndarray) -> np.ndarray:
        return array.reshape(len(array), -1).astype(np.float32)

    size = min(SET_SIZE.value, len(train[0]) // 2)
    reference, other = flat(train[0][:size]), flat(train[0][size : 2 * size])
    generated = flat(images)
    return {
        "recognised": classifier.accuracy(images, labels),
        "recognised_real": classifier.accuracy(*held_out),
        "coverage": coverage(reference, generated),
        "coverage_held_out": coverage(flat(held_out[0][:size]), generated),
        "coverage_ceiling": coverage(reference, other[: len(generated)]),
        "copies": num_copies(images, train[0]),
        "duplicates": num_duplicates(images),
        "num_images": len(images),
        "num_reference": size,
    }


def main() -> None:
    """Judges what the flags say."""
    require(
        bool(IMAGES.value), "--images=FILE.npz is missing; python -m maskgit_jax.sample makes it"
    )
    path = Path(IMAGES.value)
    images, labels = load_images(path)
    config = base("", "").data
    config.source, config.image_size, config.channels = DATA.value, images.shape[1], images.shape[3]
    sources = open_sources(config)
    train, held_out = (
        real_images(s, images.shape[1:]) for s in (sources.train, sources.evaluation)
    )
    factor = SHRINK.value
    figures = judge(
        shrunk(images, factor),
        labels,
        (shrunk(train[0], factor), train[1]),
        (shrunk(held_out[0], factor), held_out[1]),
    )
    figures |= {"data": DATA.value, "pixels": images.shape[1] // factor}
    for name, value in figures.items():
        print(f"{name:18} {value:.4f}" if isinstance(value, float) else f"{name:18} {value}")
    path.with_suffix(".evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    command_line.run(main)
