"""Figures of continuous latents: what they say of an image, and what lies between them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from maskgit_jax.arrays import Array, Key, PyTree, normalize
from maskgit_jax.data.image_sets import Subset
from maskgit_jax.data.reading import read_batches
from maskgit_jax.data.sample_store import SampleStore
from maskgit_jax.evaluation.features import NUM_FEATURES
from maskgit_jax.evaluation.generation import GenerationEvaluator
from maskgit_jax.evaluation.plots import posterior_plot
from maskgit_jax.evaluation.reconstruction import reconstruction_metrics
from maskgit_jax.evaluation.report import Metric
from maskgit_jax.files import write_text
from maskgit_jax.losses.elbo import importance_weighted_bound
from maskgit_jax.losses.likelihoods import bits_per_dimension
from maskgit_jax.metrics.posterior import (
    active_statistic,
    active_units,
    collapse_curve,
    mutual_information,
    prior_divergence,
)
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.runs.directory import Run
from maskgit_jax.stage import Variables, Variational
from maskgit_jax.training import sharding

DELTA = 0.01  # of (epsilon, delta)-collapse
EPSILONS = np.geomspace(1e-3, 10.0, 81)
_ELBO_DRAWS = 4
_LIKELIHOOD_BATCH = 32
_BETWEEN = ("frechet_distance", "precision", "density")


class Posteriors(NamedTuple):
    """What a variational model says of N images.

    Attributes:
        mean: Of the posteriors, [N, Z].
        log_variance: Natural logarithm of their variances, [N, Z].
        elbo: An estimate of each image's evidence lower bound, nats, [N].
    """

    mean: np.ndarray
    log_variance: np.ndarray
    elbo: np.ndarray


def posterior_metrics(
    run: Run,
    model: Variational,
    held_out: Any,
    mesh: Mesh,
    folder: Path,
    batch_size: int,
    most: int,
) -> list[Metric]:
    """Returns what the latents of a VAE say of held-out images, and whether they collapsed.

    Writes `posterior.png`, and `posterior.json` with the figures of every unit and the curve.

    Args:
        run: Gives the variables.
        model: What its stage exports.
        held_out: Images.
        mesh: Devices.
        folder: For what is written.
        batch_size: Images at a time.
        most: Images that are looked at, a fixed random choice.
    """

    def look(variables: Variables, image: Array, key: Key) -> Posteriors:
        mean, log_variance = model.posterior(variables, image, jax.random.clone(key))
        elbo = model.log_weights(variables, image, key, _ELBO_DRAWS).mean(axis=0)
        return Posteriors(mean, log_variance, elbo)

    found: Posteriors = _rows(look, run, held_out, mesh, batch_size, most, 0, "posteriors")
    kl = prior_divergence(found.mean, found.log_variance)  # [N, Z]
    statistic, curve = active_statistic(found.mean), collapse_curve(kl, EPSILONS, DELTA)
    posterior_plot(folder / "posterior.png", kl.mean(axis=0), statistic, EPSILONS, curve)
    numbers = {
        "images": len(kl),
        "kl_per_unit": kl.mean(axis=0).tolist(),
        "active_statistic": statistic.tolist(),
        "delta": DELTA,
        "epsilons": EPSILONS.tolist(),
        "collapsed_share": curve.tolist(),
    }
    write_text(folder / "posterior.json", json.dumps(numbers, indent=2) + "\n")
    parts, elbo = mutual_information(found.mean, found.log_variance, seed=0), found.elbo.mean()
    units, draws = found.mean.shape[1], f"{_ELBO_DRAWS} draws an image"
    said: dict[str, Any] = dict(reference=f"{run.config.data.source}, held out", count=len(kl))
    at_tenth = float(collapse_curve(kl, np.asarray([0.1]), DELTA)[0])
    return [
        Metric("elbo", elbo, "higher", **said, source=f"nats an image, {draws}; {model.law}"),
        Metric("elbo_reconstruction", elbo + parts.kl, "higher", **said,
               source=f"elbo = this - mutual_information - marginal_kl; {model.law}"),
        Metric("mutual_information", parts.mutual_information, "", **said,
               source=f"nats; Hoffman and Johnson 2016; cannot exceed log N = {parts.bound:.2f}"),
        Metric("marginal_kl", parts.marginal_kl, "lower", **said,
               source="KL(q(z) || p), nats; Hoffman and Johnson 2016"),
        Metric("active_units", int(active_units(found.mean).sum()), "", **said,
               source=f"of {units}; Burda et al. 2015, above 0.01"),
        Metric("collapsed_units_0.1", at_tenth, "", **said,
               source="share below 0.1 nats for 99% of images; Lucas et al. 2019"),
    ]  # fmt: skip


def _rows(
    compute: Callable[[Variables, Array, Key], PyTree],
    run: Run,
    held_out: Any,
    mesh: Mesh,
    batch_size: int,
    most: int,
    seed: int,
    title: str,
) -> PyTree:
    """Returns what `compute` says of some held-out images, arrays [N, ...] of float64.

    Args:
        compute: (variables, image [B, H, W, C] in [-1, 1], key) -> arrays [B, ...].
        run: Gives the variables.
        held_out: Images.
        mesh: Devices.
        batch_size: Images at a time.
        most: Images that are looked at, a fixed random choice.
        seed: Of the keys.
        title: Of the progress bar.
    """

    def compute_normalized(variables: Variables, image: Array, key: Key) -> PyTree:
        return compute(variables, normalize(image), key)

    program = sharding.pjit(compute_normalized, mesh, out_shardings=sharding.replicated(mesh))
    rows, places = [], _some(len(held_out), most)
    batches = tqdm(read_batches(held_out, batch_size, places), desc=title,
                   total=-(-len(places) // batch_size), unit="batch", disable=None)  # fmt: skip
    for number, batch in enumerate(batches):
        placed = sharding.put_batch({"image": batch.image}, mesh)["image"]
        key = jax.random.fold_in(jax.random.key(seed), number)
        found = program(run.variables, placed, key)
        count = batch.count
        rows.append(jax.tree.map(lambda part, n=count: np.asarray(part, np.float64)[:n], found))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)


def likelihood_metrics(
    run: Run, model: Variational, held_out: Any, mesh: Mesh, draws: int, most: int
) -> list[Metric]:
    """Returns a tight bound on the log-likelihood of held-out images, with bits per dimension.

    Args:
        run: Gives the variables.
        model: What its stage exports.
        held_out: Images.
        mesh: Devices.
        draws: From the posterior of each image, K.
        most: Images that are looked at, a fixed random choice.
    """

    def bound(variables: Variables, image: Array, key: Key) -> Array:
        return importance_weighted_bound(model.log_weights(variables, image, key, draws))

    title, size = f"likelihood, {draws} draws", sharding.round_up_to_shards(_LIKELIHOOD_BATCH, mesh)
    nats = _rows(bound, run, held_out, mesh, size, most, 1, title)
    bits = bits_per_dimension(-nats, int(np.prod(held_out.shape)), model.density)
    said: dict[str, Any] = dict(reference=f"{run.config.data.source}, held out", count=len(nats))
    source = f"Burda et al. 2015, {draws} draws; {model.law}"
    return [
        Metric("log_likelihood_bound", float(nats.mean()), "higher", **said,
               source=f"nats an image; {source}"),
        Metric("bits_per_dimension", float(np.asarray(bits).mean(dtype=np.float64)), "lower",
               **said, source=source),
    ]  # fmt: skip


def shuffled_latents_metric(
    held_out: Any, restored: SampleStore, mesh: Mesh, batch_size: int, most: int, data: str
) -> Metric:
    """Returns the error of images that are decoded from the latents of other images.

    Where it is no larger than the error of reconstructions, the decoder does not look at them.

    Args:
        held_out: Images.
        restored: Their reconstructions.
        mesh: Devices.
        batch_size: Images at a time.
        most: Images that are looked at, a fixed random choice.
        data: Name of the dataset.
    """
    order, partners = _pairs(len(held_out), most)
    others = Subset(restored, partners)
    figures, _ = reconstruction_metrics(Subset(held_out, order), others, mesh, batch_size, None)
    (error,) = (figure for figure in figures if figure.name == "reconstruction_mse")
    return error._replace(
        name="reconstruction_mse_shuffled",
        better="",
        reference=f"{data}, held out",
        source="decoded from the latents of another image",
    )


def _some(length: int, most: int) -> np.ndarray:
    """Returns places of images in a random order: datasets may be sorted by class."""
    return np.random.default_rng(0).permutation(length)[:most]


def _pairs(length: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns places of images, and of the image that each is paired with, at random."""
    order = _some(length, most)
    return order, np.roll(order, 1)


def decode_midpoints(
    autoencoder: AutoencoderPipeline,
    held_out: Any,
    folder: Path,
    batch_size: int,
    most: int,
) -> SampleStore:
    """Returns images that are decoded half way between two held-out images.

    Half way is the mean of their latents; each image is paired with one other, at random, and
    every model gets the same pairs.

    Args:
        autoencoder: Of an autoencoder or VAE.
        held_out: Images.
        folder: For the images.
        batch_size: Images at a time.
        most: Pairs, at most as many as there are images.
    """
    order, partners = _pairs(len(held_out), most)
    count = len(order)
    place = folder / f"interpolations-{count}"
    store = SampleStore(place, np.full(count, -1), held_out.shape, batch_size)

    def decoded(start: int) -> Iterator[np.ndarray]:
        pairs = zip(
            read_batches(held_out, batch_size, order, start),
            read_batches(held_out, batch_size, partners, start),
            strict=True,
        )
        for one, other in pairs:
            both = autoencoder.encode(one.image) + autoencoder.encode(other.image)
            yield autoencoder.decode(0.5 * both)[: one.count]

    store.fill(decoded(store.num_stored()))
    return store


def midpoint_metrics(judge: GenerationEvaluator) -> tuple[list[Metric], dict[str, str]]:
    """Returns how real images look that were decoded half way, and what was left out and why.

    Args:
        judge: Of the images of `half_way`; its feature networks know no model.
    """
    left_out = {}
    for extractor in judge.extractors:
        network = extractor.network.name
        fewest = min(len(judge.generated), len(judge.real.training or ()))
        if fewest <= NUM_FEATURES[network]:
            names = ", ".join(f"interpolation_{name}" for name in _BETWEEN)
            left_out[f"{names} ({network})"] = f"{fewest} images are fewer than its features"
            continue
        judge.distributions(extractor)
    figures = [
        figure._replace(
            name=f"interpolation_{figure.name}",
            source=f"{figure.source}; decoded half way between two held-out images",
        )
        for figure in judge.figures
        if figure.name in _BETWEEN
    ]
    return figures, left_out
