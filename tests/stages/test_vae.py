"""VAE and autoencoder: losses by hand, bounds, and the closed form of the linear VAE."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from maskgit_jax.arrays import normalize
from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.settings import PriorSettings
from maskgit_jax.losses.elbo import importance_weighted_bound
from maskgit_jax.metrics.posterior import maximum_likelihood_sigma2, probabilistic_pca
from maskgit_jax.stage import generator_of
from maskgit_jax.stages import stage_module
from maskgit_jax.stages.likelihoods import pixel_likelihood
from maskgit_jax.training.sharding import path_name
from maskgit_jax.training.step import network_gradients
from tests.example import ROOT, digits_batch, tiny_config, tiny_stage

AUTOENCODER = {"model__posterior": "none", "training__best_metric": "reconstruction_mse"}
FIXED = {"model__sigma_mode": "fixed", "model__sigma": 0.5}


def initialized(**changes):
    stage, config, _ = tiny_stage("vae", **changes)
    return stage, config, jax.jit(stage.init)(jax.random.key(0), digits_batch(), {})


def loss_of(stage, variables, step=0, seed=1):
    losses, (state, metrics) = jax.jit(stage.losses)(
        variables, digits_batch(), jax.random.key(seed), jnp.int32(step)
    )
    return float(losses["autoencoder"]), state, {k: float(v) for k, v in metrics.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"model__network": "linear"},
        {"model__sigma_mode": "learned"},
        {"model__likelihood": "logistic_mixture", "model__num_mixtures": 2},
        {"model__likelihood": "bernoulli"},
        AUTOENCODER,
    ],
    ids=["linear", "learned sigma", "mixture", "bernoulli", "autoencoder"],
)
def test_gradients_reach_every_parameter(changes):
    stage, _, variables = initialized(**changes)
    gradients, _, _, _ = jax.jit(
        lambda v: network_gradients(stage, v, digits_batch(), jax.random.key(1), jnp.int32(5))
    )(variables)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert float(abs(leaf).max()) > 0, path_name(path)


def test_the_loss_of_an_autoencoder_by_hand():
    stage, _, variables = initialized(**AUTOENCODER, **FIXED)
    image = normalize(digits_batch()["image"])
    decoded = jax.jit(stage.exports.decode)(variables, stage.exports.encode(variables, image))
    squares = ((np.asarray(image, np.float64) - np.asarray(decoded)) ** 2).sum(axis=(1, 2, 3))
    expected = (0.5 * squares / 0.25 + 256 * np.log(0.5 * np.sqrt(2 * np.pi))).mean()
    np.testing.assert_allclose(loss_of(stage, variables)[0], expected, rtol=1e-5)


def test_the_loss_is_the_negative_bound_with_its_weights():
    changes = {"losses__beta": 0.5, "losses__annealing": "linear", "losses__annealing_steps": 10}
    stage, _, variables = initialized(**FIXED, **changes)
    image = normalize(digits_batch()["image"])
    mean, log_variance = map(
        np.asarray, stage.exports.variational.posterior(variables, image, jax.random.key(0))
    )
    kl = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(axis=1).mean()
    for step, weight in ((0, 0.0), (4, 0.2), (10, 0.5), (99, 0.5)):
        loss, _, metrics = loss_of(stage, variables, step)
        np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-4)
        np.testing.assert_allclose(metrics["kl_weight"], weight, rtol=1e-6)
        np.testing.assert_allclose(
            loss, metrics["reconstruction_nats"] + weight * metrics["kl"], rtol=1e-5
        )


def test_dimensions_below_free_bits_cost_the_floor():
    # 7 nats are far above the divergence of any dimension at the start.
    stage, _, variables = initialized(losses__free_bits=7.0, losses__beta=1.0)
    loss, _, metrics = loss_of(stage, variables)
    np.testing.assert_allclose(loss - metrics["reconstruction_nats"], 4 * 7.0, rtol=1e-4)


def test_evaluation_uses_the_moving_average_of_the_optimal_sigma():
    stage, _, variables = initialized()
    assert float(variables.state["variance"]) == 1.0
    _, state, metrics = loss_of(stage, variables)
    expected = 0.1 * 1.0 + 0.9 * metrics["sigma"] ** 2  # the first batch has weight 0.9
    np.testing.assert_allclose(state["variance"], expected, rtol=1e-5)
    later = variables._replace(state=state)
    before, after = (
        jax.jit(stage.evaluate)(v, digits_batch(), jax.random.key(1))["reconstruction_nats"]
        for v in (variables, later)
    )
    # -log p = D/2 (log 2 pi s^2 + mse / s^2): s = 1 gives the mse, and that the other value.
    error = np.asarray(before, np.float64) / 128 - np.log(2 * np.pi)
    variance = float(state["variance"])
    np.testing.assert_allclose(
        after, 128 * (np.log(2 * np.pi * variance) + error / variance), rtol=1e-4
    )


def linear_marginal(config, variables, image):
    """log p(x) of a linear VAE, by scipy."""
    params = variables.params["autoencoder"]["from_latents"]
    weights, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
    covariance = weights.T @ weights + config.model.sigma**2 * np.eye(len(bias))
    flat = np.asarray(image, np.float64).reshape(len(image), -1)
    return multivariate_normal(bias, covariance).logpdf(flat)


def test_the_bound_of_a_linear_vae_converges_to_its_exact_likelihood():
    stage, config, variables = initialized(model__network="linear", **FIXED, data__image_size=16)
    # A random encoder is too far away for any number of samples, and that of the exact posterior
    # has no gap at all; twice its variance gives a gap that samples can close.
    params = dict(variables.params["autoencoder"])
    weights = np.asarray(params["from_latents"]["kernel"], np.float64)
    precision = np.eye(4) + weights @ weights.T / 0.25
    exact = np.linalg.solve(precision, weights) / 0.25  # [Z, D]
    bias = np.asarray(params["from_latents"]["bias"])
    params["to_latents"] = {
        "kernel": jnp.asarray(exact.T, jnp.float32),
        "bias": jnp.asarray(-exact @ bias, jnp.float32),
    }
    params["log_variance"] = jnp.asarray(np.log(2 / np.diag(precision)), jnp.float32)
    variables = variables._replace(params={"autoencoder": params})
    image = normalize(digits_batch()["image"])
    log_weights = jax.jit(stage.exports.variational.log_weights, static_argnums=3)
    weights = np.asarray(log_weights(variables, image, jax.random.key(3), 1000), np.float64)
    marginal = linear_marginal(config, variables, image)
    elbo, bound = weights.mean(axis=0), np.asarray(importance_weighted_bound(jnp.asarray(weights)))
    assert (elbo < marginal).all() and (elbo <= bound).all()
    gap = 4 * 0.5 * (2 - 1 - np.log(2))  # KL(q || exact posterior), four directions
    assert (marginal - elbo).mean() > 0.8 * gap
    assert abs(bound - marginal).mean() < 0.1 * gap


def test_posterior_and_weights_use_the_same_binary_images():
    stage, _, variables = initialized(model__likelihood="bernoulli")
    model, image = stage.exports.variational, normalize(digits_batch()["image"])
    posterior = jax.jit(model.posterior)
    one, same, other = (posterior(variables, image, jax.random.key(n))[0] for n in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert float(abs(one - other).max()) > 0
    weights = jax.jit(model.log_weights, static_argnums=3)(variables, image, jax.random.key(0), 2)
    assert weights.shape == (2, 16) and bool((weights < 0).all()), "a probability, not a density"
    assert not model.density


@pytest.mark.parametrize("binarization", ["dynamic", "threshold"])
def test_binary_pixels_have_the_mean_of_the_image(binarization):
    config = tiny_config("vae", model__likelihood="bernoulli", model__binarization=binarization)
    image = jnp.linspace(-1, 1, 5).reshape(1, 1, 5, 1)
    keys = jax.random.split(jax.random.key(0), 4000)
    binary = jax.vmap(lambda key: pixel_likelihood(config).binarize(image, key))(keys)
    assert set(np.unique(binary)) == {-1.0, 1.0}
    expected = image if binarization == "dynamic" else jnp.where(image > 0, 1.0, -1.0)
    np.testing.assert_allclose(binary.mean(axis=0), expected, atol=0.06)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "logistic_mixture"])
def test_samples_from_the_prior(likelihood):
    stage, _, variables = initialized(model__likelihood=likelihood)
    generator = generator_of(stage.exports)
    sample = jax.jit(generator.sample, static_argnums=3)
    label = jnp.zeros(6, jnp.int32)

    def images(**settings):
        keys = jax.random.split(jax.random.key(5), 6)
        return np.asarray(sample(variables, {"label": label}, keys, PriorSettings(**settings)))

    assert generator.num_classes == 0 and images().shape == (6, 16, 16, 1)
    assert np.ptp(images(), axis=0).max() > 0, "different latents, different images"
    np.testing.assert_allclose(np.ptp(images(temperature=0.0), axis=0), 0, atol=1e-6)
    sampled = images(temperature=0.0, pixels="draw")
    assert np.ptp(sampled, axis=0).max() > 0.1, "pixels of one latent differ"
    if likelihood == "bernoulli":
        assert set(np.unique(sampled)) == {-1.0, 1.0}


def test_an_autoencoder_has_no_prior():
    stage, _, variables = initialized(**AUTOENCODER)
    assert stage.exports.variational is None and generator_of(stage.exports) is None
    preview = jax.eval_shape(stage.preview, variables, digits_batch(), jax.random.key(0))
    assert "samples" not in preview


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"model__network": "deep"}, "network is 'deep'; allowed: convolutional, linear"),
        ({"model__posterior": "laplace"}, "posterior is 'laplace'"),
        ({"model__likelihood": "student"}, "allowed: gaussian, bernoulli, logistic_mixture"),
        ({"model__sigma_mode": "large"}, "sigma_mode is 'large'; allowed: fixed, learned, optimal"),
        ({"model__sigma": 0.0}, "sigma is 0.0"),
        ({"model__binarization": "none"}, "binarization is 'none'"),
        ({"model__num_mixtures": 0}, "num_mixtures is 0"),
        ({"model__num_latents": 0}, "num_latents is 0"),
        ({"model__num_downsamplings": 0}, "num_downsamplings is 0"),
        ({"data__image_size": 18}, "18 is not a multiple of 4"),
        ({"losses__annealing": "sudden"}, "annealing is 'sudden'"),
        ({"losses__annealing": "linear"}, "takes 0 steps"),
        ({"losses__annealing_cycles": 0}, "annealing_cycles is 0"),
        ({"model__posterior": "none"}, "set it to reconstruction_mse"),
        ({"losses__beta": -1.0}, "beta is -1.0"),
        ({"losses__free_bits": -1.0}, "free_bits is -1.0"),
        ({"sampling__temperature": -1.0}, "temperature is -1.0"),
        ({"sampling__pixels": "best"}, "pixels is 'best'; it must be one of mean, draw"),
    ],
)
def test_invalid_configurations_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        stage_module("vae").validate(tiny_config("vae", **changes))


def linear_vae():
    spec = importlib.util.spec_from_file_location("linear_vae", ROOT / "docs/linear_vae.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_trained_linear_vae_is_probabilistic_pca():
    script = linear_vae()
    images = script.digits()
    flat = np.asarray(normalize(images)).reshape(len(images), -1)
    fixed = {"model__sigma_mode": "fixed", "model__sigma": 0.5**0.5}
    found, exact = (
        script.train(images, **fixed, training__num_steps=6000),
        probabilistic_pca(flat, 8, 0.5),
    )
    assert found.elbo == pytest.approx(exact.log_marginal, rel=0.005)
    np.testing.assert_allclose(found.kl, exact.kl, atol=0.02)
    assert found.active == exact.active.sum() == 8


@pytest.mark.slow
def test_learned_sigma_of_a_linear_vae_has_maximum_likelihood():
    script = linear_vae()
    images = script.digits()
    flat = np.asarray(normalize(images)).reshape(len(images), -1)
    found = script.train(images, training__num_steps=3000)
    np.testing.assert_allclose(found.sigma2, maximum_likelihood_sigma2(flat, 8), rtol=0.02)
    exact = probabilistic_pca(flat, 8, found.sigma2)
    assert found.elbo == pytest.approx(exact.log_marginal, rel=0.005)


@pytest.mark.slow
def test_units_collapse_if_the_noise_exceeds_their_eigenvalue():
    sigma2, active = 1.9, 3
    script = linear_vae()
    fixed = {"model__sigma_mode": "fixed", "model__sigma": sigma2**0.5}
    found = script.train(script.digits(), **fixed, training__num_steps=4000, model__num_latents=6)
    assert found.active == active
    assert (found.kl[active:] < 0.01).all() and (found.kl[:active] > 0.02).all()
