"""Metrics of continuous latents: information, posterior collapse, likelihood, interpolation."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from maskgit_jax.arrays import Array, Key, PyTree, normalize
from maskgit_jax.data.batch_reader import read_batches
from maskgit_jax.data.image_sets import Subset
from maskgit_jax.data.sample_store import SampleStore
from maskgit_jax.evaluation.features import NUM_FEATURES, FeatureExtractor
from maskgit_jax.evaluation.generation import GenerationEvaluator
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.plots import plot_posteriors
from maskgit_jax.evaluation.real_images import Images
from maskgit_jax.evaluation.reconstruction import reconstruction_metrics
from maskgit_jax.evaluation.report import Measurements, Metric
from maskgit_jax.files import write_text
from maskgit_jax.losses.elbo import importance_weighted_bound
from maskgit_jax.losses.likelihoods import bits_per_dimension
from maskgit_jax.metrics.posterior import (
    active_units,
    collapse_curve,
    decompose_kl,
    prior_divergence,
    unit_activity,
)
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.runs.directory import Run
from maskgit_jax.runs.progress import progress_bar
from maskgit_jax.stage import Variables, Variational
from maskgit_jax.training import sharding

DELTA = 0.01  # of (epsilon, delta)-collapse
EPSILONS = np.geomspace(1e-3, 10.0, 81)
_ELBO_SAMPLES = 4
_LIKELIHOOD_BATCH = 32
_INTERPOLATION_METRICS = ("frechet_distance", "precision", "density")


class Posteriors(NamedTuple):
    """Posteriors and bounds of N images.

    Attributes:
        mean: Posterior means [N, Z].
        log_variance: Natural logarithm of the posterior variances [N, Z].
        elbo: Estimate of each image's evidence lower bound, nats, [N].
    """

    mean: np.ndarray
    log_variance: np.ndarray
    elbo: np.ndarray


def posterior_metrics(
    run: Run, model: Variational, held_out: Images, folder: Path, options: EvaluationOptions
) -> list[Metric]:
    """Returns the metrics of a VAE's posteriors of up to `num_neighbours` held-out images.

    Writes `posterior.png`, and `posterior.json` with the values of every unit and the curve.
    """

    def compute(variables: Variables, image: Array, key: Key) -> Posteriors:
        mean, log_variance = model.posterior(variables, image, jax.random.clone(key))
        elbo = model.log_weights(variables, image, key, _ELBO_SAMPLES).mean(axis=0)
        return Posteriors(mean, log_variance, elbo)  # pyright: ignore[reportArgumentType]

    posteriors: Posteriors = _map_images(
        compute, run, held_out, options, options.batch_size, options.num_neighbours, 0, "posteriors"
    )
    kl = prior_divergence(posteriors.mean, posteriors.log_variance)  # [N, Z]
    activity, curve = unit_activity(posteriors.mean), collapse_curve(kl, EPSILONS, DELTA)
    plot_posteriors(folder / "posterior.png", kl.mean(axis=0), activity, EPSILONS, curve)
    values = {
        "images": len(kl),
        "kl_per_unit": kl.mean(axis=0).tolist(),
        "unit_activity": activity.tolist(),
        "delta": DELTA,
        "epsilons": EPSILONS.tolist(),
        "collapsed_share": curve.tolist(),
    }
    write_text(folder / "posterior.json", json.dumps(values, indent=2) + "\n")
    parts = decompose_kl(posteriors.mean, posteriors.log_variance, seed=0)
    elbo, kind = posteriors.elbo.mean(), model.likelihood_description
    num_units, num_active = kl.shape[1], int(active_units(posteriors.mean).sum())
    collapsed = float(collapse_curve(kl, np.asarray([0.1]), DELTA)[0])
    metrics = [
        Metric("elbo", elbo, "higher",
               source=f"nats an image, {_ELBO_SAMPLES} samples an image; {kind}"),
        Metric("elbo_reconstruction", elbo + parts.kl, "higher",
               source=f"elbo = this - mutual_information - marginal_kl; {kind}"),
        Metric("mutual_information", parts.mutual_information,
               source=f"nats; Hoffman and Johnson 2016; at most log N = {parts.bound:.2f}"),
        Metric("marginal_kl", parts.marginal_kl, "lower",
               source="KL(q(z) || p), nats; Hoffman and Johnson 2016"),
        Metric("active_units", num_active,
               source=f"of {num_units}; Burda et al. 2015, above 0.01"),
        Metric("collapsed_units_0.1", collapsed,
               source="share below 0.1 nats for 99% of images; Lucas et al. 2019"),
    ]  # fmt: skip
    return [metric._replace(count=len(kl)) for metric in metrics]


def likelihood_metrics(
    run: Run, model: Variational, held_out: Images, options: EvaluationOptions
) -> list[Metric]:
    """Returns the importance-weighted bound on the log-likelihood, in nats and in bits.

    The bound takes `iw_samples` per image, of up to `num_likelihood` held-out images.
    """
    num_samples = options.iw_samples

    def bound(variables: Variables, image: Array, key: Key) -> Array:
        return importance_weighted_bound(model.log_weights(variables, image, key, num_samples))

    batch_size = sharding.round_up_to_shards(_LIKELIHOOD_BATCH, options.mesh)
    title = f"likelihood, {num_samples} samples"
    nats = _map_images(bound, run, held_out, options, batch_size, options.num_likelihood, 1, title)
    bits = bits_per_dimension(-nats, int(np.prod(held_out.shape)), model.density)
    source = f"Burda et al. 2015, {num_samples} samples; {model.likelihood_description}"
    metrics = [
        Metric("log_likelihood_bound", float(nats.mean()), "higher",
               source=f"nats an image; {source}"),
        Metric("bits_per_dimension", float(np.asarray(bits).mean(dtype=np.float64)), "lower",
               source=source),
    ]  # fmt: skip
    return [metric._replace(count=len(nats)) for metric in metrics]


def _map_images(
    compute: Callable[[Variables, Array, Key], PyTree],
    run: Run,
    held_out: Images,
    options: EvaluationOptions,
    batch_size: int,
    limit: int,
    seed: int,
    title: str,
) -> PyTree:
    """Returns the outputs of a function for held-out images, arrays [N, ...] of float64.

    Args:
        compute: (variables, image [B, H, W, C] in [-1, 1], key) -> arrays [B, ...].
        run: The run whose variables are used.
        held_out: Held-out images.
        options: Options of the evaluation.
        batch_size: Images per batch.
        limit: Maximum number of images, a fixed random choice.
        seed: Random seed.
        title: Title of the progress bar.
    """

    def compute_normalized(variables: Variables, image: Array, key: Key) -> PyTree:
        return compute(variables, normalize(image), key)

    mesh = options.mesh
    program = sharding.pjit(compute_normalized, mesh, out_shardings=sharding.replicated(mesh))
    outputs, indices = [], _random_indices(len(held_out), limit)
    with progress_bar(len(indices), title, "image") as bar:
        for number, batch in enumerate(read_batches(held_out, batch_size, indices)):
            image = sharding.put_batch({"image": batch.image}, mesh)["image"]
            key = jax.random.fold_in(jax.random.key(seed), number)
            output, count = program(run.variables, image, key), batch.count
            outputs.append(jax.tree.map(lambda x, n=count: np.asarray(x, np.float64)[:n], output))
            bar.update(count)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)


def shuffled_latents_metric(
    held_out: Images, reconstructed: SampleStore, options: EvaluationOptions
) -> Metric:
    """Returns the reconstruction error of images decoded from the latents of other images.

    If it is not larger than the error of reconstructions, the decoder ignores the latents.

    Args:
        held_out: Held-out images.
        reconstructed: Their reconstructions.
        options: Options of the evaluation.
    """
    order, partners = _random_pairs(len(held_out), options.num_neighbours)
    shuffled = Subset(reconstructed, partners)
    results = reconstruction_metrics(Subset(held_out, order), shuffled, options, lpips=None)
    (error,) = (metric for metric in results.metrics if metric.name == "reconstruction_mse")
    return error._replace(
        name="reconstruction_mse_shuffled",
        better="",
        source="decoded from the latents of another image",
    )


def _random_indices(length: int, limit: int) -> np.ndarray:
    """Returns indices in a fixed random order, because datasets may be sorted by class."""
    return np.random.default_rng(0).permutation(length)[:limit]


def _random_pairs(length: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns indices of images, and of a random partner for each of them."""
    order = _random_indices(length, limit)
    return order, np.roll(order, 1)


def decode_midpoints(
    autoencoder: AutoencoderPipeline, held_out: Images, folder: Path, options: EvaluationOptions
) -> SampleStore:
    """Returns images decoded from the mean of the latents of two random held-out images.

    All models get the same pairs, up to `num_neighbours` of them.
    """
    batch_size = options.batch_size
    order, partners = _random_pairs(len(held_out), options.num_neighbours)
    unknown = np.full(len(order), -1)
    path = folder / f"interpolations-{len(order)}"
    store = SampleStore(path, unknown, held_out.shape, batch_size)

    def decode_batches(start: int) -> Iterator[np.ndarray]:
        pairs = zip(
            read_batches(held_out, batch_size, order, start),
            read_batches(held_out, batch_size, partners, start),
            strict=True,
        )
        for one, other in pairs:
            latents = autoencoder.encode(one.image) + autoencoder.encode(other.image)
            yield autoencoder.decode(0.5 * latents)[: one.count]

    store.fill(decode_batches(store.num_stored()))
    return store


def midpoint_metrics(
    evaluator: GenerationEvaluator, extractors: list[FeatureExtractor]
) -> Measurements:
    """Returns the metrics that tell how real the images of `decode_midpoints` look.

    Args:
        evaluator: Evaluates these images.
        extractors: Feature networks, independent of the model.
    """
    skipped = {}
    for extractor in extractors:
        network = extractor.network.name
        count = min(len(evaluator.generated), len(evaluator.real.training or ()))
        if count <= NUM_FEATURES[network]:
            names = ", ".join(f"interpolation_{name}" for name in _INTERPOLATION_METRICS)
            skipped[f"{names} ({network})"] = f"{count} images are fewer than its features"
            continue
        evaluator.compare_distributions(extractor)
    metrics = [
        metric._replace(
            name=f"interpolation_{metric.name}",
            source=f"{metric.source}; decoded from midpoints of two held-out images",
        )
        for metric in evaluator.results.metrics
        if metric.name in _INTERPOLATION_METRICS
    ]
    return Measurements(metrics, skipped)
