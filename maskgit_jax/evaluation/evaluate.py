"""Evaluations of runs, and of images made by anything else."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from maskgit_jax.arrays import PyTree
from maskgit_jax.configuration import InputError, base, require
from maskgit_jax.data.conditioning_images import ConditioningImages
from maskgit_jax.data.image_sets import ImageSet, open_images, random_subset, read_statistics
from maskgit_jax.data.loader import eval_batches
from maskgit_jax.data.reading import read_batches
from maskgit_jax.data.sample_store import SampleStore
from maskgit_jax.data.sources import Sources, image_data
from maskgit_jax.evaluation import latents
from maskgit_jax.evaluation.features import (
    FeatureNetwork,
    efficientnet,
    inception,
    small_classifier,
)
from maskgit_jax.evaluation.generation import (
    GenerationEvaluator,
    Limits,
    RealImages,
    check_sets,
    real_images,
    sample_labels,
)
from maskgit_jax.evaluation.ngram_baselines import token_metrics
from maskgit_jax.evaluation.reconstruction import (
    reconstruction_frechet_metric,
    reconstruction_metrics,
)
from maskgit_jax.evaluation.report import Evaluation, Metric
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.pipelines.classifier import fit_cached
from maskgit_jax.pipelines.generator import GeneratorPipeline
from maskgit_jax.runs.directory import Run, load_run
from maskgit_jax.stage import LatentModel, Tokenizer, generator_of
from maskgit_jax.training.loop import compile_eval_step, evaluate_split

MOST_SAMPLES = 50_000


class EvaluationOptions(NamedTuple):
    """What the user asked for.

    Attributes:
        networks: Feature network -> weight file or None, see `features.parse_names`.
        lpips: Weights of LPIPS, None for none.
        mesh: Devices.
        cache: For what several evaluations can use.
        batch_size: Images at a time; a multiple of the data shards.
        limits: How much is looked at.
        draws: From the posterior of each image, for the bound on its likelihood.
    """

    networks: dict[str, str | None]
    lpips: PyTree | None
    mesh: Mesh
    cache: Path
    batch_size: int
    limits: Limits = Limits()
    draws: int = 50


def open_networks(
    asked: EvaluationOptions, training: Any | None, num_classes: int
) -> list[FeatureNetwork]:
    """Returns the feature networks, the small classifier trained if it is not cached.

    Raises:
        InputError: Weights are missing, or there is nothing to train the classifier on.
    """
    networks = []
    for name, place in asked.networks.items():
        if name == "inception":
            networks.append(inception(str(place)))
        elif name == "efficientnet":
            networks.append(efficientnet(place))
        else:
            require(
                training is not None,
                "the reference holds no images, so no classifier can be trained on it; choose "
                "--features=inception:FILE",
            )
            title = "classifier of real images"
            networks.append(
                small_classifier(fit_cached(training, num_classes, asked.mesh, asked.cache, title))
            )
    return networks


def evaluate_run(
    workdir: Path,
    asked: EvaluationOptions,
    data: str,
    num: int | None,
    seed: int,
    checkpoint: str,
    decoding: dict[str, Any],
) -> Evaluation:
    """Returns the figures of a run: of reconstruction, latents and generation, as it has them.

    Raises:
        InputError: There is no run, or it cannot be measured as asked.
    """
    run = load_run(workdir, asked.mesh, checkpoint)
    config = run.config.data
    if data:
        with config.unlocked():
            config.source = data
    config = image_data(config)
    real, sources = real_images(config)
    settings = {
        "stage": run.config.stage,
        "step": run.step,
        "data": config.source,
        "features": ", ".join(asked.networks),
    }
    exports, figures, left_out = run.stage.exports, [], {}
    # Before anything is computed: settings that the generator does not have are refused.
    generator = generator_of(exports) and GeneratorPipeline(run, asked.mesh)
    made_by = generator and generator.settings(**decoding)
    given = None
    if generator is not None:
        if "condition" in generator.generator.needs:
            size = (config.image_size, config.image_size)
            given = ConditioningImages(sources.evaluation, config, size, conditioned=True)
        num = num or min(MOST_SAMPLES, len(sources.evaluation if given else sources.train))
        settings |= {"seed": seed, "batch_size": asked.batch_size, **made_by._asdict(), "num": num}
        try:
            check_sets(real.training.shape, num, real, asked.networks, asked.limits)
        except InputError as error:
            if not isinstance(exports, LatentModel):
                raise
            # The other figures of a VAE need no such numbers.
            left_out["generation"], generator = str(error), None
    elif decoding:
        raise InputError(
            f"--{min(decoding)} says nothing to a run that makes no images; leave it out"
        )
    networks = open_networks(asked, real.training, real.num_classes)
    task = _Task(run, real, asked, networks, _folder(workdir, run.step, config.source))
    parts = []
    if isinstance(exports, Tokenizer | LatentModel):
        autoencoder = AutoencoderPipeline(run, asked.mesh)
        restored = _restored(task, autoencoder)
        parts.append(_reconstruction(task, restored))
        if isinstance(exports, LatentModel):
            parts.append(_latents(task, exports, autoencoder, restored))
    if generator is not None:
        said = {name: value for name, value in settings.items() if name != "features"}
        samples = task._replace(folder=_folder(workdir, said))
        parts.append(_generation(samples, generator, num, seed, made_by, given))
    if "tokenizer" in run.stages:
        figures += token_metrics(
            run, real.training, real.held_out, asked.mesh, asked.batch_size, asked.limits.reference
        )
    for found, missing in parts:
        figures += found
        left_out |= missing
    names = {figure.name for figure in figures}
    # A first stage's own figures are of unrounded pixels; those of the images as written stay.
    own = _held_out_figures(run, config, sources, asked)
    figures += [figure for figure in own if figure.name not in names]
    return Evaluation(str(workdir), settings, figures, left_out)


def better(name: str) -> str:
    """Returns whether a stage's own figure should be "higher" or "lower"."""
    higher = ("accuracy", "psnr", "usage", "perplexity")  # a level's name may follow
    return "higher" if any(word in name for word in higher) else "lower"


def _held_out_figures(
    run: Run, data: ConfigDict, sources: Sources, asked: EvaluationOptions
) -> list[Metric]:
    """Returns what the stage itself says of held-out images, likelihoods among it."""
    batches = eval_batches(sources.evaluation, data, asked.batch_size)
    total = -(-len(sources.evaluation) // asked.batch_size)
    progress = tqdm(batches, desc="held-out images", total=total, unit="batch", disable=None)
    program = compile_eval_step(run.stage, asked.mesh)
    found = evaluate_split(run.stage, run.variables, progress, asked.mesh, program)
    source = f"stage {run.config.stage}"
    exports = run.stage.exports
    if isinstance(exports, LatentModel) and exports.variational:
        source += f"; {exports.variational.law}"
    return [
        Metric(name, value, better(name), reference=f"{data.source}, held out",
               count=len(sources.evaluation), source=source)
        for name, value in found.items()
    ]  # fmt: skip


def _folder(workdir: Path, *said: Any) -> Path:
    digest = hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:8]
    return workdir / "evaluation" / digest


class _Task(NamedTuple):
    """What every part of a run's evaluation needs.

    Attributes:
        run: What is evaluated.
        real: What it is measured against.
        asked: How to measure.
        networks: Feature networks, ready.
        folder: For what a broken-off evaluation shall find again.
    """

    run: Run
    real: RealImages
    asked: EvaluationOptions
    networks: list[FeatureNetwork]
    folder: Path

    def judge(self, generated: Any) -> GenerationEvaluator:
        asked = self.asked
        return GenerationEvaluator(
            generated, self.real, self.networks, asked.mesh, self.folder, asked.cache,
            asked.batch_size, asked.limits,
        )  # fmt: skip


Part = tuple[list[Metric], dict[str, str]]
"""Figures, and what was left out and why."""


def _restored(task: _Task, autoencoder: AutoencoderPipeline) -> SampleStore:
    """Returns the reconstructions of all held-out images."""
    held_out, batch_size = task.real.held_out, task.asked.batch_size
    unknown = np.full(len(held_out), -1)
    store = SampleStore(task.folder / "reconstructions", unknown, held_out.shape, batch_size)

    def batches(start: int) -> Iterator[np.ndarray]:
        with tqdm(total=len(held_out), initial=start, desc="reconstructing", unit="image",
                  disable=None) as bar:  # fmt: skip
            for batch in read_batches(held_out, batch_size, start=start):
                yield autoencoder.restore(batch.image)[: batch.count]
                bar.update(batch.count)

    store.fill(batches(store.num_stored()))
    return store


def _reconstruction(task: _Task, restored: SampleStore) -> Part:
    real, asked, held_out = task.real, task.asked, task.real.held_out
    figures, left_out = reconstruction_metrics(
        held_out, restored, asked.mesh, asked.batch_size, asked.lpips
    )
    for network in task.networks:
        name = f"reconstruction_frechet_distance ({network.name})"
        if len(held_out) <= network.widths[0]:
            left_out[name] = f"{len(held_out)} images are fewer than its features"
            continue
        figures.append(
            reconstruction_frechet_metric(held_out, restored, network, asked.mesh, real.name, task.folder,
                           asked.cache, asked.batch_size)
        )  # fmt: skip
    return figures, left_out


def _latents(
    task: _Task,
    exports: LatentModel,
    autoencoder: AutoencoderPipeline,
    restored: SampleStore,
) -> Part:
    run, asked, held_out, model = task.run, task.asked, task.real.held_out, exports.variational
    mesh, size, most = asked.mesh, asked.batch_size, asked.limits.neighbours
    data = run.config.data.source
    figures = [latents.shuffled_latents_metric(held_out, restored, mesh, size, most, data)]
    between = latents.decode_midpoints(autoencoder, held_out, task.folder, size, most)
    interpolations, left_out = latents.midpoint_metrics(task.judge(between))
    if model is None:
        left_out["elbo, samples"] = "an autoencoder has neither posteriors nor a prior"
        return figures + interpolations, left_out
    figures += latents.posterior_metrics(run, model, held_out, mesh, task.folder, size, most)
    figures += latents.likelihood_metrics(
        run, model, held_out, mesh, asked.draws, asked.limits.likelihood
    )
    return figures + interpolations, left_out


def _generation(
    task: _Task,
    generator: GeneratorPipeline,
    num: int,
    seed: int,
    made_by: Any,
    given: ConditioningImages | None,
) -> Part:
    labels = sample_labels(task.real, generator.num_classes, num)
    if given:
        labels = np.asarray(given.labels(num), np.int32)
    batch_size = task.asked.batch_size
    store = SampleStore(task.folder / "samples", labels, task.real.training.shape, batch_size)
    stored = store.num_stored()
    with tqdm(total=num, initial=stored, desc="sampling", unit="image", disable=None) as bar:

        def batches() -> Iterator[np.ndarray]:
            for batch in generator(labels, seed, made_by, batch_size, stored, given):
                yield batch
                bar.update(len(batch))

        store.fill(batches())
    judge = task.judge(store)
    judge.run()
    return judge.figures, judge.left_out


def evaluate_images(
    images: str, reference: str, data: str, asked: EvaluationOptions, folder: Path, num: int | None
) -> Evaluation:
    """Returns the figures of images that anything made.

    Args:
        images: NPZ or folder.
        reference: NPZ or folder of real images, or statistics; or ""
        data: A dataset with training and held-out images, as in config.data.source; or "".
        asked: How to measure.
        folder: For what a broken-off evaluation shall find again.
        num: Use so many of the images, a fixed random choice; all by default.

    Raises:
        InputError: Something is missing, or of another size.
    """
    judged = open_images(images)
    real, names = _reference(reference, data, judged)
    judged.labels = matched_labels(judged, names, real)
    if num is not None:
        require(num <= len(judged), f"--num={num}, but {images} holds {len(judged)} images")
    chosen = random_subset(judged, num)
    check_sets(chosen.shape, len(chosen), real, asked.networks, asked.limits)
    networks = open_networks(asked, real.training, real.num_classes)
    judge = GenerationEvaluator(
        chosen, real, networks, asked.mesh, folder, asked.cache, asked.batch_size, asked.limits
    )
    judge.run()
    settings = {
        "images": images,
        "reference": reference or data,
        "features": ", ".join(asked.networks),
        "num": len(chosen),
    }
    return Evaluation(images, settings, judge.figures, judge.left_out)


def _reference(reference: str, data: str, judged: ImageSet) -> tuple[RealImages, tuple[str, ...]]:
    if not reference:
        config = base("", "").data
        require(
            judged.shape[0] == judged.shape[1],
            f"{judged.name} holds images of {judged.shape[1]}x{judged.shape[0]}; a dataset gives "
            "squares, so give real images of that size by --reference",
        )
        config.source, config.image_size, config.channels = data, judged.shape[0], judged.shape[2]
        real, sources = real_images(config)
        return real, sources.class_names
    statistics = read_statistics(reference)
    try:
        found = open_images(reference)
    except InputError as error:
        if not statistics or "holds no images" not in str(error):
            raise
        return RealImages(reference, None, None, 0, statistics), ()
    num_classes = 0 if found.labels is None else int(found.labels.max()) + 1
    return RealImages(reference, found, None, num_classes, statistics), found.class_names


def matched_labels(judged: ImageSet, names: tuple[str, ...], real: RealImages) -> np.ndarray | None:
    """Returns the labels of the judged images in the numbering of the real ones.

    Raises:
        InputError: A class or a label does not exist there.
    """
    labels = judged.labels
    if labels is None or real.num_classes < 2:
        return None
    if judged.class_names and names:
        strange = [name for name in judged.class_names if name not in names]
        require(
            not strange,
            f"{judged.name} has a class '{', '.join(strange[:3])}' that {real.name} lacks; it has "
            f"{', '.join(names[:10])}",
        )
        return np.asarray([names.index(name) for name in judged.class_names], np.int32)[labels]
    require(
        labels.min() >= 0 and labels.max() < real.num_classes,
        f"{judged.name} has labels from {labels.min()} to {labels.max()}, but {real.name} has "
        f"{real.num_classes} classes",
    )
    return labels
