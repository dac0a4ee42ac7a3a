"""The samples with which a run is evaluated."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError, check_seed
from maskgit_jax.data.conditioning_images import ConditioningImages
from maskgit_jax.data.protocol import Sources
from maskgit_jax.data.sources import image_data
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import RealImages, open_real_images, sample_labels
from maskgit_jax.pipelines.generator import GeneratorPipeline
from maskgit_jax.runs.directory import Run
from maskgit_jax.stage import generator_of

MAX_SAMPLES = 50_000


def data_config(run: Run, data: str) -> ConfigDict:
    """Returns `config.data` of a run, with another source if `data` names one."""
    config = run.config.data.copy_and_resolve_references()
    if data:
        with config.unlocked():
            config.source = data
    return image_data(config)


def open_run_images(run: Run, data: str) -> tuple[ConfigDict, RealImages, Sources]:
    """Returns `data_config`, the real images that a run is compared with, and their dataset.

    Raises:
        InputError: The dataset cannot be opened, or has other classes than the generator.
    """
    config, generator = data_config(run, data), generator_of(run.stage.exports)
    labelled = generator is not None and generator.num_classes > 0
    real, sources = open_real_images(config, config.class_names if labelled else ())
    return config, real, sources


@dataclass(frozen=True)
class Sampling:
    """The samples to generate: a generator with labels, settings and conditioning images.

    Attributes:
        generator: The generator.
        labels: int32 [N]; -1 without classes.
        seed: Random seed.
        settings: Sampling settings.
        batch_size: Images per batch.
        conditioning: Images that the samples are generated from, None without.
    """

    generator: GeneratorPipeline
    labels: np.ndarray
    seed: int
    settings: Any
    batch_size: int
    conditioning: ConditioningImages | None

    @property
    def num(self) -> int:
        """N."""
        return len(self.labels)

    def batches(self, start: int = 0) -> Iterator[np.ndarray]:
        """Yields batches of images uint8 [B, H, W, C] from image `start` on."""
        return self.generator(
            self.labels.tolist(), self.seed, self.settings, self.batch_size, start,
            self.conditioning,
        )  # fmt: skip

    @property
    def description(self) -> dict[str, Any]:
        """Everything that determines the samples of a run."""
        settings = asdict(self.settings)
        return {"seed": self.seed, **settings, "num": self.num}


def plan_sampling(
    run: Run,
    sources: Sources,
    config: ConfigDict,
    options: EvaluationOptions,
    num: int | None,
    seed: int,
    changes: Mapping[str, Any],
) -> Sampling | None:
    """Returns the samples to generate, None if the run generates no images.

    Args:
        run: The run.
        sources: Its images.
        config: `data_config`.
        options: Options of the evaluation.
        num: N; by default the number of training images, at most `MAX_SAMPLES`.
        seed: Random seed.
        changes: Sampling settings that differ from those of the run.

    Raises:
        InputError: A setting or the seed cannot be used.
    """
    if generator_of(run.stage.exports) is None:
        if changes:
            raise InputError(
                f"--{min(changes)} has no effect on a run that generates no images; remove it"
            )
        return None
    generator = GeneratorPipeline(run, options.mesh)
    check_seed(seed)
    settings, conditioning = generator.settings(**changes), None
    if "condition" in generator.generator.needs:
        size = (config.image_size, config.image_size)
        conditioning = ConditioningImages(sources.evaluation, config, size, conditioned=True)
    num = num or min(MAX_SAMPLES, len(sources.evaluation if conditioning else sources.train))
    if conditioning:
        labels = np.asarray(conditioning.labels(num), np.int32)
    else:
        labels = sample_labels(sources.train.labels, generator.num_classes, num)
    return Sampling(generator, labels, seed, settings, options.batch_size, conditioning)
