"""Metrics of posterior collapse: the information that a continuous latent carries of its image.

Posteriors are diagonal Gaussians, the prior is N(0, 1). All computations are in float64.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from maskgit_jax.configuration import require

_CHUNK = 4096  # images converted to float64 at a time


def unit_activity(mean: np.ndarray) -> np.ndarray:
    """Returns the unbiased variance over examples of each unit's posterior mean, float64 [Z].

    Args:
        mean: Posterior means [N, Z], N at least 2.

    Raises:
        InputError: There are fewer than 2 examples, or values are not finite.

    Source: Burda et al. 2015, Importance Weighted Autoencoders, active units.
    """
    mean = _units(mean, "posterior means")
    require(len(mean) > 1, "unit activity needs at least 2 examples")
    return mean.var(axis=0, ddof=1)


def active_units(mean: np.ndarray, threshold: float = 0.01) -> np.ndarray:
    """Returns the active units, bool [Z]: those with `unit_activity` above the threshold.

    Args:
        mean: Posterior means [N, Z], N at least 2.
        threshold: 0.01 in the paper.

    Raises:
        InputError: See `unit_activity`.

    Source: Burda et al. 2015, Importance Weighted Autoencoders, active units.
    """
    return unit_activity(mean) > threshold


def collapse_curve(kl: np.ndarray, epsilons: np.ndarray, delta: float = 0.01) -> np.ndarray:
    """Returns the share of collapsed units for each epsilon, float64 [E] in [0, 1].

    A unit is collapsed if its KL is below epsilon for at least a share 1 - delta of the examples.

    Args:
        kl: KL(q(z_j | x_n) || p) of each example and unit, [N, Z], nats.
        epsilons: [E], nats.
        delta: Share of examples on which a collapsed unit may exceed epsilon, in [0, 1).

    Raises:
        InputError: `delta` is out of range, or values are not finite.

    Source: Lucas et al. 2019, Don't Blame the ELBO!, definition of (epsilon, delta)-collapse.
    """
    kl = _units(kl, "divergences")
    require(0 <= delta < 1, f"delta is {delta}; it is a share of examples in [0, 1)")
    num_exceptions = int(delta * len(kl) + 1e-9)  # 0.29 * 100 would be below 29
    rank = len(kl) - 1 - num_exceptions
    # A unit is collapsed if and only if its largest KL, without the exceptions, is below epsilon.
    decisive = np.partition(kl, rank, axis=0)[rank]  # [Z]
    return (decisive[None] < np.asarray(epsilons, np.float64)[:, None]).mean(axis=1)


def prior_divergence(mean: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    """Returns KL(q(z_j | x_n) || p) of each example and unit, float64 [N, Z], nats.

    The float64 version of `losses.elbo.gaussian_kl`.

    Args:
        mean: Posterior means, float64 [N, Z].
        log_variance: Natural logarithm of the posterior variances, float64 [N, Z].
    """
    return 0.5 * (mean**2 + np.expm1(log_variance) - log_variance)


class KLDecomposition(NamedTuple):
    """Parts of the mean KL divergence from the prior, nats per example.

    Attributes:
        kl: E_n KL(q(z|x_n) || p), exact; the sum of the next two.
        mutual_information: Of the latent and the index n of the example; estimated.
        marginal_kl: KL(q(z) || p), where q(z) is the mean of the N posteriors; estimated.
        bound: log N, the upper bound of `mutual_information` for any encoder: an estimate close
            to it means that N is too small.
    """

    kl: float
    mutual_information: float
    marginal_kl: float
    bound: float


def decompose_kl(
    mean: np.ndarray, log_variance: np.ndarray, seed: int, batch: int = 256
) -> KLDecomposition:
    """Returns the mean KL from the prior as mutual information plus KL of the marginal.

    The mean KL and the mixture q(z) over all N examples are exact. The expectation over z is a
    Monte Carlo estimate with one z_n from each posterior: mutual information is the mean of
    log q(z_n|x_n) - log q(z_n), and the marginal KL is the rest of the mean KL. Evaluating
    log q(z_n|x_n) at z_n, instead of its expectation (the negative entropy), is a control variate:
    the estimate is exact for collapsed posteriors (0) and for disjoint ones (log N), and never
    exceeds log N. It may be slightly negative.

    Args:
        mean: Posterior means [N, Z].
        log_variance: Natural logarithm of the posterior variances [N, Z].
        seed: Seed of the draws.
        batch: Draws compared with all posteriors at once. A few arrays take 8 * batch * N bytes;
            the result changes by rounding only.

    Raises:
        InputError: The shapes differ, or values are not finite.

    Source: Hoffman and Johnson 2016, ELBO Surgery. Differs from the released code of
    He et al. 2019, Lagging Inference Networks, which uses batches for the mixture (hence the
    bound log(batch size)) and the negative entropy.
    """
    mean, log_variance = _units(mean, "means"), _units(log_variance, "log variances")
    require(
        mean.shape == log_variance.shape,
        f"means {mean.shape} and log variances {log_variance.shape} differ in shape",
    )
    require(batch > 0, f"batch is {batch}; it must be at least 1")
    kl = prior_divergence(mean, log_variance).sum(axis=1).mean()
    noise = np.random.default_rng(seed).standard_normal(mean.shape)
    mean = mean - mean.mean(axis=0, keepdims=True)  # less cancellation in the products below
    draws = mean + np.exp(0.5 * log_variance) * noise
    # Up to Z/2 log 2 pi, which cancels: log q(z|x) = -1/2 [(z - mean)^2 / variance + log det]
    precision, log_determinant = np.exp(-log_variance), log_variance.sum(axis=1)
    weighted = mean * precision
    constant = (mean * weighted).sum(axis=1)
    own_squares = (noise**2).sum(axis=1)
    information = np.empty(len(mean))
    for start in range(0, len(mean), batch):
        rows = np.arange(start, min(start + batch, len(mean)))
        squares = draws[rows] ** 2 @ precision.T  # [b, N]
        squares -= 2.0 * (draws[rows] @ weighted.T)
        squares += constant[None]
        np.maximum(squares, 0.0, out=squares)
        squares[np.arange(len(rows)), rows] = own_squares[rows]
        squares += log_determinant[None]
        own = own_squares[rows] + log_determinant[rows]
        ratios = 0.5 * (own[:, None] - squares)  # log q(z_n|x_m) / q(z_n|x_n)
        information[rows] = np.log(len(mean)) - logsumexp(ratios, axis=1)
    estimate = information.mean()
    return KLDecomposition(
        float(kl), float(estimate), float(kl - estimate), float(np.log(len(mean)))
    )


class PrincipalComponents(NamedTuple):
    """The optimal linear VAE for a given noise variance, in closed form.

    Attributes:
        eigenvalues: Eigenvalues of the data covariance, descending, float64 [D].
        log_marginal: Mean log density of an example, nats: the optimum of the evidence lower
            bound, because the posterior is exact.
        kl: Mean KL of each latent direction, nats, float64 [k]; 0 for collapsed directions.
        active: Active directions, bool [k]: their eigenvalue exceeds the noise variance. The
            variance of their posterior mean is 1 - sigma2 / eigenvalue.
    """

    eigenvalues: np.ndarray
    log_marginal: float
    kl: np.ndarray
    active: np.ndarray


def probabilistic_pca(images: np.ndarray, num_latents: int, sigma2: float) -> PrincipalComponents:
    """Returns the optimum of x = W z + mu + N(0, sigma2) with k latents z ~ N(0, 1).

    Args:
        images: [N, D].
        num_latents: k, 0 .. D.
        sigma2: Variance of the noise, in squared units of the images; above 0.

    Raises:
        InputError: A value is out of range.

    Source: Tipping and Bishop 1999, Probabilistic Principal Component Analysis;
    Lucas et al. 2019, Don't Blame the ELBO!, for noise variances that are not optimal.
    """
    eigenvalues = _eigenvalues(images)
    width = len(eigenvalues)
    require(0 <= num_latents <= width, f"num_latents is {num_latents}; it must be 0 to {width}")
    require(sigma2 > 0, f"sigma2 is {sigma2}; it must be above 0")
    model_values = np.full(width, float(sigma2))  # eigenvalues of the model's covariance
    model_values[:num_latents] = np.maximum(eigenvalues[:num_latents], sigma2)
    terms = np.log(2.0 * np.pi) + np.log(model_values) + eigenvalues / model_values
    return PrincipalComponents(
        eigenvalues=eigenvalues,
        log_marginal=float(-0.5 * terms.sum()),
        kl=0.5 * np.log(model_values[:num_latents] / sigma2),
        active=eigenvalues[:num_latents] > sigma2,
    )


def maximum_likelihood_sigma2(images: np.ndarray, num_latents: int) -> float:
    """Returns the maximum likelihood variance of the noise.

    It is the mean of the eigenvalues beyond the first k.

    Args:
        images: [N, D].
        num_latents: k, 0 .. D - 1.

    Raises:
        InputError: No dimension remains for the noise.

    Source: Tipping and Bishop 1999, Probabilistic Principal Component Analysis.
    """
    eigenvalues = _eigenvalues(images)
    width = len(eigenvalues)
    require(
        0 <= num_latents < width,
        f"num_latents is {num_latents}; it must be 0 to {width - 1}, so that noise remains",
    )
    return float(eigenvalues[num_latents:].mean())


def _units(values: np.ndarray, name: str) -> np.ndarray:
    """Returns values as float64 [N, Z]."""
    values = np.asarray(values, np.float64)
    require(
        values.ndim == 2 and values.size > 0,
        f"{name} have shape {values.shape}; they must be [N, Z], not empty",
    )
    require(bool(np.isfinite(values).all()), f"{name} contain NaN or infinity")
    return values


def _eigenvalues(images: np.ndarray) -> np.ndarray:
    """Returns the eigenvalues [D] of the covariance (over N, not N - 1), descending, at least 0."""
    require(
        images.ndim == 2 and images.size > 0,
        f"images have shape {images.shape}; flatten them to [N, D]",
    )
    mean = images.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((len(mean), len(mean)))
    for start in range(0, len(images), _CHUNK):
        rows = images[start : start + _CHUNK].astype(np.float64) - mean[None]
        covariance += rows.T @ rows
    require(bool(np.isfinite(covariance).all()), "images contain NaN or infinity")
    return np.maximum(np.linalg.eigvalsh(covariance / len(images))[::-1], 0.0)
