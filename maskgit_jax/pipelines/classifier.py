"""A small classifier of a dataset's images, for evaluation without downloaded weights.

It learns the labels of the dataset or, without labels, by how many quarter turns an image is
rotated, which yields useful features too (Gidaris et al. 2018).
"""

import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from maskgit_jax.arrays import Array, PyTree, normalize
from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.batch_reader import ReadBatch, read_batches
from maskgit_jax.data.image_sets import fingerprint
from maskgit_jax.data.protocol import Source
from maskgit_jax.data.sources import class_difference
from maskgit_jax.files import write_arrays
from maskgit_jax.networks.classifier import ImageClassifier
from maskgit_jax.runs.progress import note, progress_bar
from maskgit_jax.training import sharding

RECIPE = 1  # version of the training below; part of the name of cached files
STEPS, BATCH_SIZE, LEARNING_RATE = 1000, 128, 2e-3
# Sets of fewer than SMALL images: many steps with small batches learn as much in less time.
SMALL, SMALL_BATCH_SIZE, EPOCHS = 1000, 32, 30
SAVE_EVERY = 10.0  # seconds of work that an interruption may lose
ROTATIONS = 4


class Classifier(NamedTuple):
    """A trained classifier.

    Attributes:
        params: Parameters of `ImageClassifier`.
        num_classes: Number of logits.
        rotations: Whether the classes are rotations (0 to 3 quarter turns).
    """

    params: PyTree
    num_classes: int
    rotations: bool


def _random_shift(image: Array, key: Array) -> Array:
    """Shifts each image by up to a sixteenth of its side; edge pixels are repeated."""
    count, height, width, channels = image.shape
    limit = max(1, height // 16)
    padded = jnp.pad(image, ((0, 0), (limit, limit), (limit, limit), (0, 0)), mode="edge")
    offset = jax.random.randint(key, (count, 2), 0, 2 * limit + 1)

    def crop(image: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, offset)


def rotate(image: Array, turns: Array) -> Array:
    """Returns square images [B, S, S, C] rotated counter-clockwise by `turns` [B] quarters."""
    rotations = jnp.stack([jnp.rot90(image, turn, axes=(1, 2)) for turn in range(ROTATIONS)])
    return rotations[turns, jnp.arange(len(image))]


def classifier_outputs(params: PyTree, image: Array, num_classes: int) -> tuple[Array, Array]:
    """Returns features float32 [B, D] and logits float32 [B, K] of images in [-1, 1]."""
    outputs = ImageClassifier(num_classes).apply({"params": params}, image)
    return cast("tuple[Array, Array]", outputs)


def training_length(num_images: int) -> tuple[int, int]:
    """Returns the number of steps and the batch size of a training."""
    if num_images >= SMALL:
        return STEPS, BATCH_SIZE
    return min(STEPS, -(-EPOCHS * num_images // SMALL_BATCH_SIZE)), SMALL_BATCH_SIZE


def fit_classifier(
    source: Source,
    num_classes: int,
    mesh: Mesh,
    seed: int = 0,
    title: str = "",
    unfinished: Path | None = None,
) -> Classifier:
    """Trains a classifier, see `training_length`.

    The same source and seed give the same classifier on the same kind of machine, also if the
    training was interrupted.

    Args:
        source: Images of one size with labels 0 .. num_classes - 1.
        num_classes: Number of classes; below 2 the classifier learns rotations.
        mesh: Devices.
        seed: Random seed.
        title: Title of the progress bar.
        unfinished: File that an interrupted training resumes from; None to save nothing.

    Raises:
        InputError: There are no labels, and the images are not square.
    """
    rotations, shape = num_classes < 2, source.shape
    assert shape is not None
    require(
        not rotations or shape[0] == shape[1],
        "the images have no labels and are not square, so the small classifier cannot learn from "
        "them; choose --features=efficientnet or inception",
    )
    num_classes = ROTATIONS if rotations else num_classes
    network = ImageClassifier(num_classes)
    steps, batch_size = training_length(len(source))
    batch_size = sharding.round_up_to_shards(batch_size, mesh)
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, steps // 10, steps)
    optimizer = optax.adamw(schedule, weight_decay=1e-3)
    root = jax.random.key(seed)

    def loss(params: PyTree, batch: dict[str, Array], key: Array) -> Array:
        shift_key, turn_key = jax.random.split(key)
        image, label = _random_shift(normalize(batch["image"]), shift_key), batch["label"]
        if rotations:
            label = jax.random.randint(turn_key, label.shape, 0, ROTATIONS)
            image = rotate(image, label)
        _, logits = classifier_outputs(params, image, num_classes)
        smooth = optax.smooth_labels(jax.nn.one_hot(label, num_classes), 0.05)
        return optax.softmax_cross_entropy(logits, smooth).mean()

    def step(params: PyTree, state: PyTree, batch: dict[str, Array], number: Array):
        gradient = jax.grad(loss)(params, batch, jax.random.fold_in(root, number))
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    def init(key: Array) -> tuple[PyTree, PyTree]:
        params = network.init(key, jnp.zeros((1, *shape)))["params"]
        return params, optimizer.init(params)

    replicated = sharding.replicated(mesh)
    # Steps use the folds 0, 1, ...; initialization uses the one after the last.
    trained = sharding.pjit(init, mesh, out_shardings=replicated)(jax.random.fold_in(root, STEPS))
    program = sharding.pjit(step, mesh, out_shardings=replicated, donate_argnums=(0, 1))
    first, trained = _restore(unfinished, trained)
    batches = _training_batches(source, seed, (first, steps), batch_size)
    saved = time.monotonic()
    with progress_bar(steps, title, "step", first) as bar:
        for number, batch in enumerate(batches, first):
            inputs = sharding.put_batch({"image": batch.image, "label": batch.label}, mesh)
            trained = program(*trained, inputs, jnp.uint32(number))
            bar.update(1)
            if unfinished and time.monotonic() - saved > SAVE_EVERY:
                write_arrays(unfinished, {"step": np.asarray(number + 1), **_arrays(trained)})
                saved = time.monotonic()
    return Classifier(jax.device_get(trained[0]), num_classes, rotations)


def _arrays(tree: PyTree) -> dict[str, np.ndarray]:
    return {f"{number:03d}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(tree))}


def _restore(path: Path | None, trained: PyTree) -> tuple[int, PyTree]:
    """Returns the step and the state of an interrupted training; 0 and `trained` without one."""
    if path is None or not path.exists():
        return 0, trained
    leaves, structure = jax.tree.flatten(trained)
    with np.load(path) as file:
        saved = [file[f"{number:03d}"] for number in range(len(leaves))]
        step = int(file["step"])
    placed = [jax.device_put(new, old.sharding) for new, old in zip(saved, leaves, strict=True)]
    return step, jax.tree.unflatten(structure, placed)


def _training_batches(
    source: Source, seed: int, steps: tuple[int, int], batch_size: int
) -> Iterator[ReadBatch]:
    """Yields the batches of a range of steps, reshuffled in each epoch."""
    first, last = steps
    rng, num_epochs = np.random.default_rng(seed), -(-last * batch_size // len(source))
    indices = np.concatenate([rng.permutation(len(source)) for _ in range(num_epochs)])
    return read_batches(source, batch_size, indices[: last * batch_size], first * batch_size)


def fit_cached(
    source: Source, num_classes: int, mesh: Mesh, cache: Path, title: str = "", hint: str = ""
) -> Classifier:
    """Returns the classifier of a source from the cache; trains it if it is missing.

    Args:
        source: See `fit_classifier`.
        num_classes: See `fit_classifier`.
        mesh: Devices.
        cache: Folder of the file.
        title: Title of the progress bar.
        hint: What else to say before a training.
    """
    kind = f"{num_classes}-classes" if num_classes > 1 else "rotations"
    steps, _ = training_length(len(source))
    path = cache / f"classifier-{RECIPE}-{steps}-{kind}-{fingerprint(source)}.npz"
    if path.exists():
        assert source.shape is not None
        return load_classifier(path, source.shape, num_classes)
    note(f"training a {title} on {len(source)} images, {steps} steps (once, cached in {cache}"
         f"{hint})")  # fmt: skip
    unfinished = path.with_suffix(".training.npz")
    classifier = fit_classifier(source, num_classes, mesh, title=title, unfinished=unfinished)
    names = {"class_names": np.asarray(source.class_names, str)}
    write_arrays(path, names | _arrays(classifier.params))
    unfinished.unlink(missing_ok=True)
    return classifier


def load_classifier(
    path: Path, shape: tuple[int, ...], num_classes: int, class_names: Sequence[str] = ()
) -> Classifier:
    """Returns a classifier that `fit_cached` saved.

    Args:
        path: NPZ file.
        shape: (H, W, C) of the images.
        num_classes: Number of classes; below 2 the classes are rotations.
        class_names: Their names, if they are known.

    Raises:
        InputError: The file is missing, or its classifier has other images or classes.
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
            names = file["class_names"].tolist() if "class_names" in file else []
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} holds no classifier ({error})") from error
    require(
        all(array.shape == leaf.shape for array, leaf in zip(arrays, leaves, strict=True)),
        f"{path} holds a classifier of other images or classes than {shape} and {num_classes}",
    )
    difference = class_difference(names, class_names) if names and class_names else ""
    require(not difference, f"{path} holds a classifier of other classes ({difference})")
    return Classifier(jax.tree.unflatten(structure, arrays), network.num_classes, rotations)
