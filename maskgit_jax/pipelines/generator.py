"""Images from a run: ready functions that are compiled once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import Batch, to_uint8
from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.conditioning_images import ConditioningImages
from maskgit_jax.runs.directory import Run
from maskgit_jax.stage import Generator, LatentModel, Variables, generator_of
from maskgit_jax.training import sharding


def sample_pixels(generator: Generator) -> Callable[[Variables, Batch, jax.Array, Any], jax.Array]:
    """Returns (variables, wanted, key, settings) -> images uint8 [B, H, W, C], to be compiled."""

    def sample(variables: Variables, wanted: Batch, key: jax.Array, settings: Any) -> jax.Array:
        return to_uint8(generator.sample(variables, wanted, key, settings))

    return sample


class GeneratorPipeline:
    """Makes images with a trained generator; one compiled program for each setting.

    Args:
        run: A run whose stage generates images.
        mesh: Devices.

    Raises:
        InputError: The run's stage makes no images.
    """

    def __init__(self, run: Run, mesh: Mesh):
        generator = generator_of(run.stage.exports)
        if generator is None:
            raise InputError(_without_generator(run))
        self.generator, self.variables, self.mesh = generator, run.variables, mesh
        self.num_classes, self._stage = generator.num_classes, run.config.stage

        # Images are for the host; where there are several, each gets them all.
        everywhere = sharding.replicated(mesh)
        self.program = sharding.pjit(
            sample_pixels(generator), mesh, static_argnums=3, out_shardings=everywhere
        )

    def settings(self, **changes: Any) -> Any:
        """Returns the run's own settings with some changed.

        Raises:
            InputError: The generator has no such setting, or the value cannot work.
        """
        known = self.generator.settings
        for name in changes:
            require(
                name in known._fields,
                f"stage '{self._stage}' has no setting '{name}'; its settings are "
                f"{', '.join(known._fields)}",
            )
        settings = known._replace(**changes)
        self.generator.check_settings(settings)
        return settings

    def __call__(
        self,
        labels: Sequence[int | None],
        seed: int = 0,
        settings: Any | None = None,
        batch_size: int = 64,
        start: int = 0,
        given: ConditioningImages | None = None,
    ) -> Iterator[np.ndarray]:
        """Yields images uint8 [B, H, W, C] in batches, one image for each label.

        With `start`, a multiple of the batch size, the same images from that one on. `settings`
        are what the method of this name gives; the run's own by default. `given` are the pictures
        that they are made from. None is "no class", where the generator knows that.

        Raises:
            InputError: A label is out of range, or other pictures are needed than are given.
        """
        settings = settings or self.generator.settings
        self.check_inputs(given.names if given else ())
        if self.num_classes:
            check_labels([label for label in labels if label is not None], self.num_classes)
        null = self.generator.null_label
        require(
            null is not None or None not in labels,
            "this run was trained with classes only; say which class each image is of",
        )
        batch_size = sharding.round_up_to_shards(min(batch_size, len(labels)), self.mesh)
        labels = np.asarray([null if label is None else label for label in labels], np.int32)
        return self._batches(labels, seed, settings, batch_size, start, given)

    def check_inputs(self, names: Sequence[str]) -> None:
        """Raises `InputError` unless a generator can make images from pictures of these names."""
        generator = self.generator
        for name in generator.needs:
            require(
                name in names,
                f"this run makes images from others, and no {name} is given; name a file or a "
                "folder, or held_out, by --input",
            )
        for name in names:
            require(
                name in (*generator.needs, *generator.accepts),
                f"stage '{self._stage}' of this run cannot begin with a given {name}; train "
                "configs/maskgit.py or an autoregressive prior such as configs/gpt.py",
            )

    def _batches(
        self,
        labels: np.ndarray,
        seed: int,
        settings: Any,
        batch_size: int,
        start: int,
        given: ConditioningImages | None,
    ) -> Iterator[np.ndarray]:
        root = jax.random.key(seed)
        for first in range(start, len(labels), batch_size):
            chosen = np.arange(first, min(first + batch_size, len(labels)))
            padded = np.resize(chosen, (batch_size,))
            padded = padded[sharding.process_rows(batch_size)]
            wanted = {"label": labels[padded], **(given.rows(padded) if given else {})}
            placed = sharding.put_batch(wanted, self.mesh)
            key = jax.random.fold_in(root, first // batch_size)
            yield np.asarray(self.program(self.variables, placed, key, settings))[: len(chosen)]


def _without_generator(run: Run) -> str:
    stage = f"this run holds stage '{run.config.stage}'"
    if isinstance(run.stage.exports, LatentModel):
        return (
            f"{stage} without a prior (config.model.posterior is '{run.config.model.posterior}'), "
            "which cannot make images from nothing; train one with "
            "--config.model.posterior=gaussian"
        )
    return (
        f"{stage}, which generates no images; train a prior on it, such as configs/maskgit.py, and "
        "give that run's --workdir"
    )


def check_labels(labels: Sequence[int], num_classes: int) -> None:
    """Raises `InputError` for a label that the generator does not know."""
    for label in labels:
        require(
            0 <= label < num_classes,
            f"label {label} is out of range; this run knows the labels 0 to {num_classes - 1}",
        )


def label_number(word: str, class_names: Sequence[str]) -> int:
    """Returns the label that a user's word means: the name of a class, or its number.

    Raises:
        InputError: It is neither.
    """
    if word in class_names:
        return list(class_names).index(word)
    if word.lstrip("-").isdigit():
        return int(word)
    raise InputError(f"label '{word}' is neither a number nor one of: {', '.join(class_names)}")
