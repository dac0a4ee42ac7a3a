"""One generator, many decoders: which makes the best images of equally many network passes."""

import json
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.conditioning_images import ConditioningImages
from maskgit_jax.data.image_sets import ImageSet, random_subset
from maskgit_jax.data.sources import image_data
from maskgit_jax.decoding.parallel import (
    DECODERS,
    REMASK_SCHEDULES,
    DecodeSettings,
    num_network_evaluations,
)
from maskgit_jax.evaluation.evaluate import EvaluationOptions, open_networks
from maskgit_jax.evaluation.feature_statistics import Summary, summarize
from maskgit_jax.evaluation.features import Extractor
from maskgit_jax.evaluation.generation import check_sets, real_images, sample_labels
from maskgit_jax.files import write_text
from maskgit_jax.images import write_image_grid
from maskgit_jax.metrics.frechet import frechet_distance
from maskgit_jax.metrics.neighbours import manifold_metrics
from maskgit_jax.pipelines.generator import GeneratorPipeline
from maskgit_jax.runs.directory import Run

SHOWN = 12  # images in a picture

NAMES = (
    *(name for name in DECODERS if name != "remask"),
    *(f"remask:{kind}" for kind in REMASK_SCHEDULES),
)


class Row(NamedTuple):
    """What one decoder made.

    Attributes:
        decoder: A key of `DECODERS`, with remask's kind after a colon; or what it is beside them.
        passes: Network passes an image, guidance left out; the table is about equal ones.
        steps: Decoding steps.
        guidance: Its scale.
        recognised: Share that the classifier of real images takes for the class asked for.
        frechet_distance: In that classifier's features, from the training images.
        precision: Share within reach of as many real images.
        recall: Share of as many real images within their reach: diversity.
        seconds: For an image, compiled program, all devices.
    """

    decoder: str
    passes: int
    steps: int
    guidance: float
    classifier_accuracy: float
    frechet_distance: float
    precision: float
    recall: float
    seconds: float


class DecoderComparison:
    """A generator, and a classifier of real images, trained when it is needed first.

    Args:
        run: Of a generator that fills in tokens.
        asked: How to measure.
        num: Images of each row.

    Raises:
        InputError: The run has no classes, or there are too few images.
    """

    def __init__(self, run: Run, asked: EvaluationOptions, num: int):
        self.real, _ = real_images(run.config.data)
        require(self.real.num_classes > 1, "a table of decoders needs images with classes")
        check_sets(self.real.training.shape, num, self.real, ["classifier"], asked.limits)
        self.generator = GeneratorPipeline(run, asked.mesh)
        require(
            self.generator.generator.fill is not None and not self.generator.generator.needs,
            f"this run holds stage '{run.config.stage}'; a MaskGIT of classes is needed",
        )
        self.asked, self.num = asked, num
        self.held_out = random_subset(self.real.held_out, num)

    def labels(self) -> np.ndarray:
        """Returns the classes of the images of each row, int32 [N]."""
        return sample_labels(self.real, self.real.num_classes, self.num)

    @cached_property
    def extractor(self) -> Extractor:
        """The classifier."""
        asked = self.asked._replace(networks={"classifier": None})
        (network,) = open_networks(asked, self.real.training, self.real.num_classes)
        return Extractor(network, asked.mesh, asked.batch_size)

    @cached_property
    def training(self) -> Summary:
        """What it says of training images."""
        chosen = random_subset(self.real.training, self.asked.limits.reference)
        cache = self.asked.cache
        return summarize(self.extractor, chosen, cache, self.num, "training images")

    def figures(self, source: Any) -> dict[str, float]:
        """Returns recognition, Frechet distance, precision and recall of a labelled source."""
        summary = Summary(self.extractor.network, len(source), self.num)
        for batch, outputs in self.extractor(source):
            summary.add(batch, outputs)
        manifold = manifold_metrics(self.training.kept, summary.kept)
        return {
            "recognised": summary.num_right / summary.count,
            "frechet_distance": frechet_distance(
                summary.moments.gaussian(), self.training.moments.gaussian()
            ),
            "precision": manifold.precision,
            "recall": manifold.recall,
        }

    def made(
        self,
        labels: Sequence[int | None],
        settings: DecodeSettings,
        given: ConditioningImages | None = None,
        seed: int = 0,
    ) -> tuple[np.ndarray, float]:
        """Returns images uint8 [N, H, W, C], and the seconds for one after the first batch."""
        size, images, begun = self.asked.batch_size, [], 0.0
        for batch in self.generator(labels, seed, settings, size, given=given):
            images.append(batch)
            begun = begun or time.monotonic()
        seconds = (time.monotonic() - begun) / max(1, len(labels) - len(images[0]))
        return np.concatenate(images), seconds if len(images) > 1 else float("nan")


def settings_with_nfe(
    name: str, passes: int, guidance: float, own: DecodeSettings
) -> DecodeSettings:
    """Returns the settings with which a decoder takes at most so many passes, guidance left out.

    Raises:
        InputError: There is no such decoder.
    """
    decoder, _, kind = name.partition(":")
    if name not in NAMES and name != "remask":
        raise InputError(f"no decoder '{name}'; there are: {', '.join(NAMES)}")
    found = own._replace(decoder=decoder, guidance=0.0, steps=passes, remask=kind or own.remask)
    while num_network_evaluations(found) > passes and found.steps > 1:
        found = found._replace(steps=found.steps - 1)
    return found._replace(guidance=guidance)


def compare_decoders(
    run: Run,
    asked: EvaluationOptions,
    names: Sequence[str],
    all_passes: Sequence[int],
    guidances: Sequence[float],
    num: int,
    decoding: dict[str, Any],
    folder: Path,
) -> str:
    """Returns the table in Markdown; also written, row by row, as `decoders.md` and `.json`.

    Args:
        run: Of MaskGIT or of its critic.
        asked: How to measure.
        names: Of `NAMES`.
        all_passes: Network passes an image.
        guidances: Scales.
        num: Images a row, of all classes in turn, by the same seed.
        decoding: Settings that all decoders have.
        folder: Of the run's evaluations.

    Raises:
        InputError: A decoder does not exist or cannot work here.
    """
    bench = DecoderComparison(run, asked, num)
    own = bench.generator.settings(**decoding)
    asked_for = [
        (name, passes, settings_with_nfe(name, passes, guidance, own))
        for guidance in guidances
        for name in names
        for passes in all_passes
    ]
    for _, _, settings in asked_for:
        bench.generator.generator.check_settings(settings)
    path = folder / "decoders.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    labels = bench.labels()
    rows = [Row("real images", 0, 0, 0.0, **bench.figures(bench.held_out), seconds=0.0)]
    for name, passes, settings in tqdm(asked_for, desc="decoders", unit="row", disable=None):
        key = f"{run.step} {num} {asked.batch_size} {settings}"
        if key not in stored:
            images, seconds = bench.made(list(labels), settings)
            stored[key] = _row(bench, name, images, labels)._replace(
                passes=passes, steps=settings.steps, guidance=settings.guidance, seconds=seconds
            )._asdict()  # fmt: skip
            write_text(path, json.dumps(stored, indent=1) + "\n")
        rows.append(Row(**stored[key]))
    text = table(rows)
    write_text(path.with_suffix(".md"), text)
    return text


def compare_inpainting(
    run: Run,
    asked: EvaluationOptions,
    names: Sequence[str],
    passes: int,
    mask: float,
    num: int,
    told: bool,
    decoding: dict[str, Any],
    folder: Path,
) -> str:
    """Returns a table of held-out images of which a part was masked and filled again.

    Writes `inpainting.md` and, of the first images, `inpainting.png`: the original, what was
    given, and what each decoder made.

    Args:
        run: Of MaskGIT or of its critic.
        asked: How to measure.
        names: Of `NAMES`.
        passes: Network passes an image.
        mask: Share of the rows, from below, that is masked.
        num: Held-out images, a random choice.
        told: Whether the generator is told the class.
        decoding: Settings that all decoders have.
        folder: Of the run's evaluations.

    Raises:
        InputError: A decoder does not exist or cannot work here.
    """
    require(0 < mask < 1, f"--inpaint is {mask}; it is a share of the rows, between 0 and 1")
    bench = DecoderComparison(run, asked, num)
    generator, data = bench.generator.generator, image_data(run.config.data)
    own = bench.generator.settings(**decoding)
    chosen = [(name, settings_with_nfe(name, passes, own.guidance, own)) for name in names]
    for _, settings in chosen:
        generator.check_settings(settings)
    require(
        told or generator.null_label is not None,
        "this run was trained with classes only, so they must be told: --class_conditional",
    )
    size = (data.image_size, data.image_size)
    given = ConditioningImages(bench.held_out, data, size, kept=1.0 - mask)
    parts = given.rows(np.arange(num))
    known = np.stack([bench.held_out[index]["image"] for index in range(num)])
    true = np.asarray([bench.held_out[index]["label"] for index in range(num)], np.int32)
    labels = list(true) if told else [None] * num
    sums = np.zeros(bench.real.training.shape)
    some = random_subset(bench.real.training, asked.limits.neighbours)
    for index in range(len(some)):
        sums += some[index]["image"]
    mean = np.round(sums / len(some)).astype(np.uint8)
    filled = {"original": known, "mean of training images": np.where(
        parts["mask"][..., None], mean, known)}  # fmt: skip
    rows = [_row(bench, name, images, true) for name, images in filled.items()]
    for name, settings in tqdm(chosen, desc="inpainting", unit="decoder", disable=None):
        images, seconds = bench.made(labels, settings, given)
        filled[name] = images
        row = _row(bench, name, images, true)
        rows.append(row._replace(
            passes=passes, steps=settings.steps, guidance=settings.guidance, seconds=seconds
        ))  # fmt: skip
    veiled = np.where(parts["mask"][..., None], np.uint8(127), known)
    shown = [known, veiled, *list(filled.values())[1:]]
    write_image_grid(folder / "inpainting.png", np.stack([part[:SHOWN] for part in shown]))
    said = "told" if told else "not told"
    text = f"{mask:.0%} of the rows masked, the class {said}.\n\n{table(rows)}"
    write_text(folder / "inpainting.md", text)
    return text


def _row(bench: DecoderComparison, name: str, images: np.ndarray, labels: np.ndarray) -> Row:
    source = ImageSet(name, images, images.shape[1:], labels)
    return Row(name, 0, 0, 0.0, **bench.figures(source), seconds=0.0)


def table(rows: Sequence[Row]) -> str:
    """Returns rows as a Markdown table."""
    head = ("decoder", "passes", "steps", "guidance", "recognised", "Frechet distance",
            "precision", "recall", "ms/image")  # fmt: skip
    lines = [head, ("---",) * len(head)]
    for row in rows:
        made = row.passes > 0
        lines.append((
            row.decoder, f"{row.passes}" if made else "", f"{row.steps}" if made else "",
            f"{row.guidance:g}" if made else "", f"{row.recognised:.3f}",
            f"{row.frechet_distance:.2f}", f"{row.precision:.3f}", f"{row.recall:.3f}",
            f"{1000 * row.seconds:.1f}" if made else "",
        ))  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
