"""Comparison of the decoders of one generator at equal NFE (number of network evaluations)."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.conditioning_images import ConditioningImages
from maskgit_jax.data.image_sets import ImageSet, fingerprint, random_subset
from maskgit_jax.data.protocol import Source
from maskgit_jax.data.sources import image_data
from maskgit_jax.decoding.parallel import DECODERS, fit_steps
from maskgit_jax.decoding.settings import REMASK_SCHEDULES, DecodeSettings
from maskgit_jax.evaluation.feature_statistics import FeatureStatistics, compute_statistics
from maskgit_jax.evaluation.features import FeatureExtractor, open_extractor
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import check_image_sets, open_real_images, sample_labels
from maskgit_jax.files import write_text
from maskgit_jax.images import write_image_grid
from maskgit_jax.metrics.frechet import frechet_distance
from maskgit_jax.metrics.neighbours import manifold_metrics
from maskgit_jax.pipelines.generator import GeneratorPipeline
from maskgit_jax.runs.directory import Run
from maskgit_jax.runs.progress import progress_bar
from maskgit_jax.training.variables import weights_checksum

FLAGS = (
    (list, "decoders", [], "MaskGIT: compares these decoders (all: all of them) at equal NFE."),
    (list, "nfe", ["4", "8", "16", "32"], "Network evaluations per image, without guidance."),
    (list, "guidances", ["0", "1"], "Guidance scales of --decoders."),
    (float, "inpaint", None, "With --decoders: inpaints this share of held-out images."),
    (bool, "class_conditional", False, "With --inpaint: gives the generator the class."),
)
"""Flags of `evaluate`, see `command_line.define_flags`."""
NUM_SHOWN = 12  # columns of inpainting.png

DECODER_NAMES = (
    *(name for name in DECODERS if name != "remask"),
    *(f"remask:{schedule}" for schedule in REMASK_SCHEDULES),
)


class DecoderResult(NamedTuple):
    """Metrics of the images of one decoder.

    Attributes:
        decoder: An entry of `DECODER_NAMES`, or the name of a baseline.
        classifier_accuracy: Share that a classifier of real images assigns to its label.
        frechet_distance: To the training images, in the features of that classifier.
        precision: Share inside the manifold of as many training images.
        recall: Share of these training images inside the manifold of the samples.
        nfe: Network evaluations per image without guidance; 0 for baselines.
        steps: Decoding steps.
        guidance: Guidance scale.
        seconds: Seconds per image of the compiled program on all devices.
    """

    decoder: str
    classifier_accuracy: float
    frechet_distance: float
    precision: float
    recall: float
    nfe: int = 0
    steps: int = 0
    guidance: float = 0.0
    seconds: float = 0.0


class DecoderComparison:
    """Samples and evaluates images of several decoders; trains its classifier at first use.

    Args:
        run: A run of MaskGIT or of its token critic, with classes.
        options: Options of the evaluation.
        num: Images per decoder.

    Raises:
        InputError: The run has no classes or no decoders, or there are too few images.
    """

    def __init__(self, run: Run, options: EvaluationOptions, num: int):
        data = run.config.data
        self.real, sources = open_real_images(data, data.class_names)
        assert self.real.training is not None and self.real.held_out is not None
        self.training, self.shape = self.real.training, self.real.training.shape
        require(self.real.num_classes > 1, "a comparison of decoders needs images with classes")
        check_image_sets(self.shape, num, self.real, ["classifier"], options.num_reference)
        self.pipeline = GeneratorPipeline(run, options.mesh)
        self.generator = self.pipeline.generator
        require(
            self.generator.fill_step is not None and not self.generator.needs,
            f"this run holds stage '{run.config.stage}'; give the --workdir of a class-conditional "
            "MaskGIT",
        )
        self.options, self.num = options, num
        self.held_out = random_subset(self.real.held_out, num)
        self.labels = sample_labels(sources.train.labels, self.real.num_classes, num)

    def identity(self, run: Run) -> tuple[str, ...]:
        """Returns what the results depend on, beside their settings: weights and real images."""
        weights = weights_checksum(run.variables, self.options.mesh)
        return weights, fingerprint(self.training), str(self.options.num_reference)

    @cached_property
    def _extractor(self) -> FeatureExtractor:
        return open_extractor("classifier", self.options, self.training, self.real.num_classes)

    @cached_property
    def _training_statistics(self) -> FeatureStatistics:
        chosen = random_subset(self.training, self.options.num_reference)
        cache = self.options.cache
        return compute_statistics(self._extractor, chosen, cache, self.num, "training images")

    def evaluate(self, decoder: str, images: np.ndarray, labels: np.ndarray) -> DecoderResult:
        """Returns the metrics of images uint8 [N, H, W, C] with labels int32 [N]."""
        return self.evaluate_source(decoder, ImageSet(decoder, images, self.shape, labels))

    def evaluate_source(self, decoder: str, source: Source) -> DecoderResult:
        """Returns the metrics of a source of images with labels."""
        statistics = FeatureStatistics(self._extractor.network, len(source), self.num)
        for batch, outputs in self._extractor(source):
            statistics.add(batch, outputs)
        training = self._training_statistics
        gaussians = (part.moments["features"].gaussian() for part in (statistics, training))
        manifold = manifold_metrics(training.kept, statistics.kept)
        return DecoderResult(
            decoder, statistics.accuracy, frechet_distance(*gaussians), manifold.precision,
            manifold.recall,
        )  # fmt: skip

    def sample(
        self,
        settings: DecodeSettings,
        labels: Sequence[int | None] | None = None,
        conditioning: ConditioningImages | None = None,
        seed: int = 0,
    ) -> tuple[np.ndarray, float]:
        """Returns images uint8 [N, H, W, C] and the seconds per image after the first batch."""
        labels = list(self.labels) if labels is None else labels
        images, start = [], 0.0
        for batch in self.pipeline(
            labels, seed, settings, self.options.batch_size, conditioning=conditioning
        ):
            images.append(batch)
            start = start or time.monotonic()
        seconds = (time.monotonic() - start) / max(1, len(labels) - len(images[0]))
        return np.concatenate(images), seconds if len(images) > 1 else float("nan")


def select_decoders(run: Run, names: Sequence[str]) -> Sequence[str]:
    """Returns the names, or for "all" those of all decoders that the run can use."""
    if list(names) != ["all"]:
        return names
    critic = run.config.stage == "token_critic"
    return [name for name in DECODER_NAMES if critic or name != "token_critic"]


def settings_with_nfe(
    name: str, nfe: int, guidance: float, settings: DecodeSettings
) -> DecodeSettings:
    """Returns settings with which a decoder takes at most `nfe` evaluations, without guidance.

    Args:
        name: An entry of `DECODER_NAMES`, or "remask" for the schedule of `settings`.
        nfe: Network evaluations per image.
        guidance: Guidance scale.
        settings: All other settings.

    Raises:
        InputError: The decoder is unknown.
    """
    decoder, _, schedule = name.partition(":")
    if name not in DECODER_NAMES and name != "remask":
        raise InputError(f"decoder '{name}' is unknown; choose from {', '.join(DECODER_NAMES)}")
    chosen = dataclasses.replace(
        settings, decoder=decoder, guidance=0.0, steps=nfe,
        remask_schedule=schedule or settings.remask_schedule,
    )  # fmt: skip
    return dataclasses.replace(fit_steps(chosen, nfe), guidance=guidance)


def compare(
    run: Run,
    folder: Path,
    options: EvaluationOptions,
    decoders: Sequence[str],
    nfe: Sequence[int],
    guidances: Sequence[float],
    inpaint: float | None,
    class_conditional: bool,
    **shared: Any,
) -> str:
    """Returns the table of `compare_decoders`, or with `inpaint` of `compare_inpainting`."""
    if inpaint is None:
        return compare_decoders(run, folder, options, decoders, nfe, guidances, **shared)
    shared |= {"class_conditional": class_conditional}
    return compare_inpainting(run, folder, options, decoders, nfe[0], inpaint, **shared)


def compare_decoders(
    run: Run,
    folder: Path,
    options: EvaluationOptions,
    decoders: Sequence[str] = ("all",),
    nfe: Sequence[int] = (4, 8, 16, 32),
    guidances: Sequence[float] = (0.0, 1.0),
    num: int = 1000,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Returns a Markdown table of decoders; writes `decoder_comparison.md` and `.json`.

    An interrupted comparison continues after the last finished row.

    Args:
        run: A run of MaskGIT or of its token critic.
        folder: Folder of the run's evaluations.
        options: Options of the evaluation.
        decoders: Entries of `DECODER_NAMES`, or "all".
        nfe: Numbers of network evaluations per image.
        guidances: Guidance scales.
        num: Images per row; all rows have the same labels and seed.
        settings: Sampling settings that differ from those of the run.

    Raises:
        InputError: A decoder is unknown, or the run cannot use it.
    """
    comparison = DecoderComparison(run, options, num)
    own = comparison.pipeline.settings(**(settings or {}))
    planned = [
        (name, evaluations, settings_with_nfe(name, evaluations, guidance, own))
        for guidance in guidances
        for name in select_decoders(run, decoders)
        for evaluations in nfe
    ]
    for _, _, chosen in planned:
        comparison.generator.check_settings(chosen)
    path = folder / "decoder_comparison.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    identity = " ".join(comparison.identity(run))
    rows = [comparison.evaluate_source("real images", comparison.held_out)]
    with progress_bar(len(planned), "decoders", "row") as bar:
        for name, evaluations, chosen in planned:
            key = f"{identity} {num} {options.batch_size} {chosen}"
            if key not in stored:
                images, seconds = comparison.sample(chosen)
                result = comparison.evaluate(name, images, comparison.labels)
                stored[key] = _with_cost(result, evaluations, chosen, seconds)._asdict()
                write_text(path, json.dumps(stored, indent=1) + "\n")
            rows.append(DecoderResult(**stored[key]))
            bar.update(1)
    text = format_table(rows)
    write_text(path.with_suffix(".md"), text)
    return text


def compare_inpainting(
    run: Run,
    folder: Path,
    options: EvaluationOptions,
    decoders: Sequence[str] = ("all",),
    nfe: int = 8,
    mask: float = 0.5,
    num: int = 1000,
    class_conditional: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Returns a Markdown table of decoders that inpaint held-out images.

    Writes `inpainting.md`, and `inpainting.png` with the originals, the masked images and the
    results.

    Args:
        run: A run of MaskGIT or of its token critic.
        folder: Folder of the run's evaluations.
        options: Options of the evaluation.
        decoders: Entries of `DECODER_NAMES`, or "all".
        nfe: Number of network evaluations per image.
        mask: Fraction of the rows to mask, from the bottom.
        num: Number of held-out images, a random choice.
        class_conditional: Whether the generator gets the class of the image.
        settings: Sampling settings that differ from those of the run.

    Raises:
        InputError: A decoder is unknown, or the run cannot use it.
    """
    require(0 < mask < 1, f"--inpaint is {mask}; it is a fraction of the rows, between 0 and 1")
    comparison = DecoderComparison(run, options, num)
    generator, data = comparison.generator, image_data(run.config.data)
    own = comparison.pipeline.settings(**(settings or {}))
    planned = {
        name: settings_with_nfe(name, nfe, own.guidance, own)
        for name in select_decoders(run, decoders)
    }
    for chosen in planned.values():
        generator.check_settings(chosen)
    require(
        class_conditional or generator.null_label is not None,
        "this run was trained with classes only; add --class_conditional",
    )
    size = (data.image_size, data.image_size)
    conditioning = ConditioningImages(comparison.held_out, data, size, keep_top=1.0 - mask)
    masked = conditioning.read_batch(np.arange(num))["mask"][..., None]
    original = np.stack([comparison.held_out[index]["image"] for index in range(num)])
    true = np.asarray([comparison.held_out[index]["label"] for index in range(num)], np.int32)
    labels = list(true) if class_conditional else [None] * num
    mean = _mean_image(random_subset(comparison.training, options.num_neighbours))
    images = {"original": original, "mean of training images": np.where(masked, mean, original)}
    rows = [comparison.evaluate(name, filled, true) for name, filled in images.items()]
    with progress_bar(len(planned), "inpainting", "decoder") as bar:
        for name, chosen in planned.items():
            images[name], seconds = comparison.sample(chosen, labels, conditioning)
            result = comparison.evaluate(name, images[name], true)
            rows.append(_with_cost(result, nfe, chosen, seconds))
            bar.update(1)
    _, *filled = images.values()
    grid = [original, np.where(masked, np.uint8(127), original), *filled]
    write_image_grid(folder / "inpainting.png", np.stack([part[:NUM_SHOWN] for part in grid]))
    condition = "with" if class_conditional else "without"
    text = f"{mask:.0%} of the rows masked, {condition} the class.\n\n{format_table(rows)}"
    write_text(folder / "inpainting.md", text)
    return text


def _mean_image(source: Source) -> np.ndarray:
    total = sum(source[index]["image"].astype(np.float64) for index in range(len(source)))
    return np.round(total / len(source)).astype(np.uint8)


def _with_cost(
    result: DecoderResult, nfe: int, settings: DecodeSettings, seconds: float
) -> DecoderResult:
    return result._replace(
        nfe=nfe, steps=settings.steps, guidance=settings.guidance, seconds=seconds
    )


def format_table(rows: Sequence[DecoderResult]) -> str:
    """Returns results as a Markdown table."""
    head = ("decoder", "NFE", "steps", "guidance", "classifier accuracy", "Frechet distance",
            "precision", "recall", "ms/image")  # fmt: skip
    lines = [head, ("---",) * len(head)]
    for row in rows:
        cost, milliseconds = ("", "", ""), ""
        if row.nfe:
            cost = f"{row.nfe}", f"{row.steps}", f"{row.guidance:g}"
            milliseconds = f"{1000 * row.seconds:.1f}"
        metrics = (f"{row.classifier_accuracy:.3f}", f"{row.frechet_distance:.2f}",
                   f"{row.precision:.3f}", f"{row.recall:.3f}")  # fmt: skip
        lines.append((row.decoder, *cost, *metrics, milliseconds))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
