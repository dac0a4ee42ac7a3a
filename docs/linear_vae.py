"""Compares the linear VAE on digits with probabilistic PCA: `python docs/linear_vae.py`.

It trains the VAE with several fixed noise variances on the 1,437 training digits of 8x8 pixels, and
writes `docs/linear_vae.png` and the table of `docs/results/autoencoders.md`: the trained model
(points) and the closed form (lines). A direction collapses where the noise variance exceeds its
eigenvalue; the variances lie between the eigenvalues, so that each row has one direction less.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maskgit_jax.arrays import normalize
from maskgit_jax.configuration import load_config
from maskgit_jax.data.batch_reader import read_batches
from maskgit_jax.data.image_sets import CenterCropped
from maskgit_jax.data.sources import open_sources
from maskgit_jax.losses.elbo import gaussian_kl
from maskgit_jax.metrics.posterior import active_units, probabilistic_pca
from maskgit_jax.stage import LatentModel
from maskgit_jax.stages import vae
from maskgit_jax.training.state import create_state
from maskgit_jax.training.step import make_optimizers, make_train_step
from maskgit_jax.training.variables import inference_variables

ROOT = Path(__file__).parent.parent
NUM_SAMPLES = 200  # from each posterior, for the bound


class Trained(NamedTuple):
    """Results of a trained linear VAE on its training images.

    Attributes:
        elbo: Mean over images, nats.
        kl: Mean KL of each unit, largest first, nats [Z].
        active: Number of active units.
        sigma2: Variance of the noise.
    """

    elbo: float
    kl: np.ndarray
    active: int
    sigma2: float


def digits() -> np.ndarray:
    """Returns the training digits, uint8 [1437, 8, 8, 1]."""
    source = CenterCropped(open_sources(linear_config().data).train, 8, 1)
    return np.concatenate([b.image[: b.count] for b in read_batches(source, 256)])


def linear_config(**changes):
    """Returns preset `digits_linear` of configs/vae.py with changed keys (`__` for `.`)."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config("vae:digits_linear", **dotted)


def train(images: np.ndarray, **changes) -> Trained:
    """Trains the preset with changes, all steps in one program, and returns the results."""
    config = linear_config(**changes)
    vae.validate(config)
    stage, data = vae.build(config, {}), jnp.asarray(images)
    step, size = make_train_step(stage, config), config.training.batch_size
    assert isinstance(stage.exports, LatentModel) and stage.exports.variational
    model = stage.exports.variational

    def batch_of(rows: jax.Array) -> dict[str, jax.Array]:
        return {"image": data[rows], "label": jnp.zeros(len(rows), jnp.int32)}

    def one(state, key):
        rows = jax.random.choice(key, len(images), (size,))
        return step(state, {}, batch_of(rows), jax.random.key(1))[0], None

    @jax.jit
    def run(key):
        start_key, rows_key = jax.random.split(key)
        averaged = {"autoencoder": config.optimizers.autoencoder.ema_rate}
        optimizers = make_optimizers(config)
        start = create_state(stage, optimizers, averaged, start_key, batch_of(jnp.arange(size)), {})
        return jax.lax.scan(one, start, jax.random.split(rows_key, config.training.num_steps))[0]

    @jax.jit
    def measure(variables):
        pixels = normalize(data)
        mean, log_variance = model.posterior(variables, pixels, jax.random.key(2))
        bound = model.log_weights(variables, pixels, jax.random.key(3), NUM_SAMPLES).mean()
        return bound, mean, gaussian_kl(mean, log_variance).mean(axis=0)

    state = run(jax.random.key(0))
    elbo, mean, kl = measure(inference_variables(state.params, state.averages, state.state, {}))
    learned = state.averages["autoencoder"].get("log_sigma")
    sigma2 = config.model.sigma**2 if learned is None else float(jnp.exp(2.0 * learned))
    kl = np.sort(np.asarray(kl, np.float64))[::-1]
    return Trained(float(elbo), kl, int(active_units(np.asarray(mean)).sum()), sigma2)


def plot(path: Path, variances: np.ndarray, trained: list[Trained], flat: np.ndarray) -> None:
    """Plots the KL of each direction, and the bound, over the variance."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    units, bound = figure.subplots(1, 2)
    fine, count = np.geomspace(variances[0], variances[-1], 200), len(trained[0].kl)
    exact = [probabilistic_pca(flat, count, value) for value in fine]
    for unit in range(count):
        (line,) = units.plot(fine, [each.kl[unit] for each in exact], linewidth=1)
        units.plot(variances, [each.kl[unit] for each in trained], "o", markersize=4,
                   color=line.get_color())  # fmt: skip
        units.axvline(exact[0].eigenvalues[unit], color=line.get_color(), linewidth=0.5, ls=":")
    units.set(xscale="log", xlabel="variance of the noise", ylabel="KL of a direction (nats)",
              title="Lines: probabilistic PCA; points: trained")  # fmt: skip
    bound.plot(fine, [each.log_marginal for each in exact], label="exact log marginal likelihood")
    bound.plot(variances, [each.elbo for each in trained], "o", label="bound of the trained VAE")
    bound.set(xscale="log", xlabel="variance of the noise", ylabel="nats an image")
    bound.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Trains one model per variance."""
    images = digits()
    flat = np.asarray(normalize(jnp.asarray(images))).reshape(len(images), -1)
    eigenvalues = probabilistic_pca(flat, 0, 1.0).eigenvalues[:9]
    between = np.sqrt(eigenvalues[1:] * eigenvalues[:-1])[::-1]  # the smallest first
    variances = np.asarray([0.1, *between[1:], 1.2 * eigenvalues[0]])
    longer = {"training__num_steps": 20_000, "training__batch_size": 256}
    print("| variance of the noise | bound | exact | gap | largest error of a KL | active units | "
          "predicted |\n| --- | --- | --- | --- | --- | --- | --- |")  # fmt: skip
    trained = []
    for variance in variances:
        fixed = {"model__sigma_mode": "fixed", "model__sigma": float(variance**0.5)}
        result = train(images, **fixed, **longer)
        exact = probabilistic_pca(flat, len(result.kl), variance)
        gap = (exact.log_marginal - result.elbo) / abs(exact.log_marginal)
        error = abs(result.kl - exact.kl).max()
        print(f"| {variance:.3f} | {result.elbo:.3f} | {exact.log_marginal:.3f} | {gap:.2%} | "
              f"{error:.3f} | {result.active} | {exact.active.sum()} |", flush=True)  # fmt: skip
        trained.append(result)
    plot(ROOT / "docs/linear_vae.png", variances, trained, flat)


if __name__ == "__main__":
    main()
