"""Images and tokens from a trained generator, sampled by programs that are compiled once."""

import dataclasses
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import Array, Batch, Key, to_uint8
from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.conditioning_images import ConditioningImages
from maskgit_jax.decoding.sampling import MAX_LOGIT, image_keys, random_key
from maskgit_jax.decoding.settings import split_traced
from maskgit_jax.runs.directory import Run
from maskgit_jax.runs.progress import progress_bar
from maskgit_jax.stage import Generator, LatentModel, Variables, generator_of
from maskgit_jax.training import sharding

Sampler = Callable[[Variables, Batch, Key, Any], tuple[Array, Array]]
"""(variables, inputs with the `number` of each image, key of the seed, settings) -> what is
sampled, [B, ...], and whether it is finite, bool [B]."""


def sample_pixels(generator: Generator) -> Sampler:
    """Returns the function that samples images uint8 [B, H, W, C]."""

    def sample(variables: Variables, inputs: Batch, key: Key, settings: Any) -> tuple[Array, Array]:
        keys = image_keys(key, inputs["number"])
        image = generator.sample(variables, inputs, keys, settings)
        return to_uint8(image), jnp.isfinite(image).all(axis=(1, 2, 3))

    return sample


def _sample_codes(sample_tokens: Callable[[Variables, Batch, Key, Any], Array]) -> Sampler:
    """Returns the function that samples tokens int32 [B, L]."""

    def sample(variables: Variables, inputs: Batch, key: Key, settings: Any) -> tuple[Array, Array]:
        keys = image_keys(key, inputs["number"])
        tokens = sample_tokens(variables, inputs, keys, settings)
        return tokens, (tokens >= 0).all(axis=1)

    return sample


def require_finite(finite: Array | np.ndarray) -> None:
    """Raises `InputError` unless all outputs were finite; damaged weights must not pass as noise.

    Args:
        finite: Whether those of each image were, bool [B].
    """
    require(
        bool(np.asarray(finite).all()),
        "the network's outputs are not finite (NaN, infinite, or logits beyond "
        f"{MAX_LOGIT:g}): its weights are damaged, or training diverged; give an earlier "
        "--checkpoint, or train or import the run again",
    )


class GeneratorPipeline:
    """Samples images with a trained generator.

    Settings compile one program each; those that differ in temperatures and scales share one.

    Args:
        run: A run whose stage generates images.
        mesh: The devices.

    Raises:
        InputError: The stage generates no images.
    """

    def __init__(self, run: Run, mesh: Mesh):
        generator = generator_of(run.stage.exports)
        if generator is None:
            raise InputError(_no_generator(run))
        self.generator, self.variables, self.mesh = generator, run.variables, mesh
        self.num_classes, self._stage = generator.num_classes, run.config.stage
        self._class_names = tuple(run.config.data.class_names)
        self.program = self._compile(sample_pixels(generator))
        sample_tokens = generator.sample_tokens
        self._tokens = sample_tokens and self._compile(_sample_codes(sample_tokens))

    def _compile(self, sampler: Sampler) -> Callable:
        def sample(
            variables: Variables, inputs: Batch, key: Key, settings: Any, traced: dict[str, Array]
        ) -> tuple[Array, Array]:
            return sampler(variables, inputs, key, dataclasses.replace(settings, **traced))

        # Every host gets all outputs.
        outputs = sharding.replicated(self.mesh)
        return sharding.pjit(sample, self.mesh, static_argnums=3, out_shardings=outputs)

    def settings(self, any_size: bool = False, **changes: Any) -> Any:
        """Returns the run's own sampling settings with some changed.

        Args:
            any_size: Whether the size of the images may be changed.
            changes: The new values.

        Raises:
            InputError: The generator has no such setting, or the value is out of range.
        """
        own = self.generator.settings
        names = [field.name for field in dataclasses.fields(own)]
        for name in changes:
            require(
                name in names,
                f"stage '{self._stage}' has no setting '{name}'; its settings are "
                f"{', '.join(names)}",
            )
        require(
            any_size or changes.get("size") is None,
            "size changes the size of sampled images; images are edited, evaluated and selected at "
            "the size of the run, so remove it",
        )
        settings = dataclasses.replace(own, **changes)
        self.generator.check_settings(settings)
        return settings

    def number_labels(
        self, labels: Any, num: int | None, inputs: ConditioningImages | None
    ) -> list[int]:
        """Returns the class numbers of N samples; zeros for a generator without classes.

        Args:
            labels: One class or several, by name or number; None for all classes in turn.
            num: N; by default one for each label, or 64.
            inputs: The images that the samples are generated from.

        Raises:
            InputError: A label is neither a number nor a class name, or there are no classes.
        """
        num_classes = self.num_classes
        if labels is None or len(np.atleast_1d(labels)) == 0:
            num = num or 64
            known = inputs.labels(num) if inputs and num_classes else None
            return known or [i % max(1, num_classes) for i in range(num)]
        require(
            num_classes > 0,
            f"stage '{self._stage}' has no classes; remove --labels",
        )
        given = np.atleast_1d(labels).tolist()
        num = num or len(given)
        require(
            num >= len(given),
            f"--num={num} is smaller than the {len(given)} labels; it needs an image for each",
        )
        numbers = [label_number(label, self._class_names) for label in given]
        return list(itertools.islice(itertools.cycle(numbers), num))

    def label_numbers(self, labels: Sequence[int | None]) -> np.ndarray:
        """Returns the numbers of labels, int32 [N]; None is "no class".

        Raises:
            InputError: A label is out of range, or the generator was not trained without class.
        """
        if self.num_classes:
            check_labels([label for label in labels if label is not None], self.num_classes)
        null = self.generator.null_label
        require(
            null is not None or None not in labels,
            "this run was trained with classes only; give the class of each image",
        )
        return np.asarray([null if label is None else label for label in labels], np.int32)

    def __call__(
        self,
        labels: Sequence[int | None],
        seed: int = 0,
        settings: Any | None = None,
        batch_size: int = 64,
        start: int = 0,
        conditioning: ConditioningImages | None = None,
    ) -> Iterator[np.ndarray]:
        """Yields batches of images uint8 [B, H, W, C], one image per label.

        Args:
            labels: Classes; None is "no class", if the generator was trained with it.
            seed: Random seed. Image i of a seed is the same for any batch size, number of devices
                and number of images, up to the rounding of sums.
            settings: From `settings`; the run's own by default.
            batch_size: Images per batch; rounded up so that the devices share it evenly.
            start: Index of the first image.
            conditioning: The images that the samples are generated from.

        Raises:
            InputError: A label is out of range, or the conditioning images do not fit.
        """
        return self._batches(self.program, labels, seed, settings, batch_size, start, conditioning)

    def tokens(
        self,
        labels: Sequence[int | None],
        seed: int = 0,
        settings: Any | None = None,
        batch_size: int = 64,
        conditioning: ConditioningImages | None = None,
    ) -> Iterator[np.ndarray]:
        """Yields batches of tokens int32 [B, L]: those of the images of `__call__`.

        Raises:
            InputError: As `__call__`; or the generator samples no tokens.
        """
        if self._tokens is None:
            raise InputError(f"stage '{self._stage}' samples latents, not tokens")
        return self._batches(self._tokens, labels, seed, settings, batch_size, 0, conditioning)

    def check_inputs(self, names: Sequence[str]) -> None:
        """Raises `InputError` unless the generator can use inputs of exactly these names."""
        generator = self.generator
        for name in generator.needs:
            require(
                name in names,
                f"this run generates images from a {name}, and none is given; give a file, a "
                "folder or held_out with --input",
            )
        for name in names:
            require(
                name in (*generator.needs, *generator.accepts),
                f"stage '{self._stage}' of this run cannot use a given {name}; train "
                "configs/maskgit.py or an autoregressive prior such as configs/gpt.py",
            )

    def _batches(
        self,
        program: Callable,
        labels: Sequence[int | None],
        seed: int,
        settings: Any | None,
        batch_size: int,
        start: int,
        conditioning: ConditioningImages | None,
    ) -> Iterator[np.ndarray]:
        self.check_inputs(conditioning.keys if conditioning else ())
        numbers = self.label_numbers(labels)
        batch_size = sharding.round_up_to_shards(min(batch_size, len(labels)), self.mesh)
        root, (static, traced) = random_key(seed), split_traced(settings or self.generator.settings)

        def run() -> Iterator[np.ndarray]:
            for first in range(start, len(numbers), batch_size):
                rows = np.arange(first, min(first + batch_size, len(numbers)))
                padded = np.resize(rows, (batch_size,))[sharding.process_rows(batch_size)]
                inputs = {"label": numbers[padded], "number": padded.astype(np.int32)}
                inputs |= conditioning.read_batch(padded) if conditioning else {}
                batch = sharding.put_batch(inputs, self.mesh)
                sampled, finite = program(self.variables, batch, root, static, traced)
                require_finite(finite)
                yield np.asarray(sampled)[: len(rows)]

        return run()  # a generator, so that the checks above come first


def collect_batches(batches: Iterable[np.ndarray], total: int) -> np.ndarray:
    """Returns the rows of all batches, `total` of them; a progress bar shows how many there are."""
    arrays = []
    with progress_bar(total, "sampling", "image") as bar:
        for batch in batches:
            arrays.append(batch)
            bar.update(len(batch))
    return np.concatenate(arrays)


def _no_generator(run: Run) -> str:
    stage = f"this run holds stage '{run.config.stage}'"
    if isinstance(run.stage.exports, LatentModel):
        return (
            f"{stage} without a prior (config.model.posterior is '{run.config.model.posterior}'), "
            "which cannot generate images; train one with --config.model.posterior=gaussian"
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


def label_number(label: int | str, class_names: Sequence[str]) -> int:
    """Returns the number of a class that is given by name or by number.

    Raises:
        InputError: It is neither.
    """
    if isinstance(label, str):
        label = unicodedata.normalize("NFC", label)
    if label in class_names:
        return list(class_names).index(str(label))
    try:
        return int(str(label))  # not of 3.7
    except ValueError as error:
        raise InputError(
            f"label '{label}' is neither a number nor one of: {', '.join(class_names)}"
        ) from error
