"""Trains the small classifier that judges images of any dataset without a download.

It is trained on a dataset's own labels; without labels, to tell by how many quarter turns an
image was rotated, which needs none and gives features of use too (Gidaris et al. 2018).
"""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from maskgit_jax.arrays import Array, PyTree, normalize
from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.batch_reader import read_batches
from maskgit_jax.data.image_sets import fingerprint
from maskgit_jax.files import write_arrays
from maskgit_jax.networks.classifier import ImageClassifier
from maskgit_jax.training import sharding

RECIPE = 1  # to be raised when anything below changes what is learnt
STEPS, BATCH_SIZE, LEARNING_RATE = 1000, 128, 2e-3
ROTATIONS = 4


class Classifier(NamedTuple):
    """A trained classifier.

    Attributes:
        params: Of `ImageClassifier`.
        num_classes: Number of logits.
        rotations: It tells rotations (0 to 3 quarter turns), not classes.
    """

    params: PyTree
    num_classes: int
    rotations: bool


def _shifted(image: Array, key: Array) -> Array:
    """Moves each image by up to a sixteenth of its side, repeating its edge."""
    count, height, width, channels = image.shape
    reach = max(1, height // 16)
    padded = jnp.pad(image, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    offset = jax.random.randint(key, (count, 2), 0, 2 * reach + 1)

    def cut(one: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice(one, (start[0], start[1], 0), (height, width, channels))

    return jax.vmap(cut)(padded, offset)


def rotated(image: Array, turns: Array) -> Array:
    """Returns square images [B, S, S, C] turned counter-clockwise by `turns` [B] quarters."""
    every = jnp.stack([jnp.rot90(image, turn, axes=(1, 2)) for turn in range(ROTATIONS)])
    return every[turns, jnp.arange(len(image))]


def fit(source: Any, num_classes: int, mesh: Mesh, seed: int = 0, title: str = "") -> Classifier:
    """Trains on a source of squares with labels 0 .. num_classes - 1; below 2, on rotations.

    Every call takes the same number of steps, however many images there are. The same source
    and seed give the same classifier on the same kind of machine.
    """
    rotations = num_classes < 2
    require(
        not rotations or source.shape[0] == source.shape[1],
        f"{getattr(source, 'name', 'the set')} has no labels and its images are not square, so "
        "the small classifier cannot learn from it; choose --features=efficientnet or inception",
    )
    num_classes = ROTATIONS if rotations else num_classes
    network = ImageClassifier(num_classes)
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, STEPS // 10, STEPS)
    optimizer = optax.adamw(schedule, weight_decay=1e-3)
    root = jax.random.key(seed)

    def error(params: PyTree, batch: dict[str, Array], key: Array) -> Array:
        shift_key, turn_key = jax.random.split(key)
        image, label = _shifted(normalize(batch["image"]), shift_key), batch["label"]
        if rotations:
            label = jax.random.randint(turn_key, label.shape, 0, ROTATIONS)
            image = rotated(image, label)
        logits = network.apply({"params": params}, image)[1]
        smooth = optax.smooth_labels(jax.nn.one_hot(label, num_classes), 0.05)
        return optax.softmax_cross_entropy(logits, smooth).mean()

    def step(params: PyTree, state: PyTree, batch: dict[str, Array], number: Array):
        gradient = jax.grad(error)(params, batch, jax.random.fold_in(root, number))
        changes, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, changes), state

    def create(key: Array) -> tuple[PyTree, PyTree]:
        params = network.init(key, jnp.zeros((1, *source.shape)))["params"]
        return params, optimizer.init(params)

    everywhere = sharding.replicated(mesh)
    params, state = sharding.pjit(create, mesh, out_shardings=everywhere)(
        jax.random.fold_in(root, STEPS)
    )
    program = sharding.pjit(step, mesh, out_shardings=everywhere, donate_argnums=(0, 1))
    order, epochs = np.random.default_rng(seed), -(-STEPS * BATCH_SIZE // len(source))
    indices = np.concatenate([order.permutation(len(source)) for _ in range(epochs)])
    batches = read_batches(source, BATCH_SIZE, indices[: STEPS * BATCH_SIZE])
    for number, batch in enumerate(
        tqdm(batches, desc=title, total=STEPS, unit="step", disable=None)
    ):
        placed = sharding.put_batch({"image": batch.image, "label": batch.label}, mesh)
        params, state = program(params, state, placed, jnp.uint32(number))
    return Classifier(jax.device_get(params), num_classes, rotations)


def fit_cached(
    source: Any, num_classes: int, mesh: Mesh, cache: Path, title: str = ""
) -> Classifier:
    """Returns the classifier of a source from the cache, trained first if it is not there."""
    rotations = num_classes < 2
    kind = "rotations" if rotations else f"{num_classes}-classes"
    path = cache / f"classifier-{RECIPE}-{kind}-{fingerprint(source)}.npz"
    if path.exists():
        return load_classifier(path, source.shape, num_classes)
    classifier = fit(source, num_classes, mesh, title=title)
    arrays = jax.tree.leaves(classifier.params)
    write_arrays(path, {f"{number:03d}": array for number, array in enumerate(arrays)})
    return classifier


def load_classifier(path: Path, shape: tuple[int, int, int], num_classes: int) -> Classifier:
    """Returns a classifier that `fit_cached` wrote.

    Args:
        path: The file.
        shape: (H, W, C) of the images.
        num_classes: Of the images; below 2 it tells rotations.

    Raises:
        InputError: The file is missing, or made for other images or classes.
    """
    rotations = num_classes < 2
    network = ImageClassifier(ROTATIONS if rotations else num_classes)
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    )
    leaves, structure = jax.tree.flatten(shapes)
    try:
        with np.load(path) as file:
            arrays = [file[f"{number:03d}"] for number in range(len(leaves))]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} holds no classifier of images ({error})") from error
    fits = [array.shape == leaf.shape for array, leaf in zip(arrays, leaves, strict=True)]
    require(
        all(fits),
        f"{path} holds a classifier of other images or classes than {shape} and {num_classes}",
    )
    return Classifier(jax.tree.unflatten(structure, arrays), network.num_classes, rotations)
