"""Figures of posterior collapse: how much a continuous latent says of its image.

Posteriors are Gaussian with independent dimensions, the prior is N(0, 1). All is float64.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from maskgit_jax.configuration import require

_ROWS = 4096  # of images that are float64 at once


def active_statistic(mean: np.ndarray) -> np.ndarray:
    """Returns the variance over examples of the posterior mean of each unit, float64 [Z].

    The unbiased one, of N - 1.

    Args:
        mean: Of the posteriors, [N, Z], N at least 2.

    Raises:
        InputError: There are fewer than 2 examples, or values that are not finite.

    Source: Burda et al. 2015, Importance Weighted Autoencoders, active units.
    """
    mean = _units(mean, "posterior means")
    require(len(mean) > 1, "the variance over examples needs at least 2 of them")
    return mean.var(axis=0, ddof=1)


def active_units(mean: np.ndarray, threshold: float = 0.01) -> np.ndarray:
    """Returns which units are active, bool [Z]: the statistic is above the threshold.

    Args:
        mean: Of the posteriors, [N, Z], N at least 2.
        threshold: 0.01 in the paper.

    Raises:
        InputError: As `active_statistic`.

    Source: Burda et al. 2015, Importance Weighted Autoencoders, active units.
    """
    return active_statistic(mean) > threshold


def collapse_curve(kl: np.ndarray, epsilons: np.ndarray, delta: float = 0.01) -> np.ndarray:
    """Returns the share of collapsed units for each epsilon, float64 [E] in [0, 1].

    A unit is collapsed if its divergence is below epsilon for at least 1 - delta of examples.

    Args:
        kl: KL(q(z_j | x_n) || p) of each example and unit, [N, Z], nats.
        epsilons: [E], nats.
        delta: Share of examples that may be informed by a collapsed unit, in [0, 1).

    Raises:
        InputError: `delta` is outside of its range, or values are not finite.

    Source: Lucas et al. 2019, Don't Blame the ELBO!, definition of (epsilon, delta)-collapse.
    """
    kl = _units(kl, "divergences")
    require(0 <= delta < 1, f"delta is {delta}; it is a share of examples in [0, 1)")
    num_exceptions = int(delta * len(kl) + 1e-9)  # 0.29 * 100 would be below 29
    place = len(kl) - 1 - num_exceptions
    # The largest divergence but for the exceptions: collapsed if and only if it is below epsilon.
    decisive = np.partition(kl, place, axis=0)[place]  # [Z]
    return (decisive[None] < np.asarray(epsilons, np.float64)[:, None]).mean(axis=1)


def prior_divergence(mean: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    """Returns KL(q(z_j | x_n) || p) of each example and unit, float64 [N, Z], nats.

    `losses.elbo.gaussian_kl` in the precision of this file.

    Args:
        mean: Of the posteriors, float64 [N, Z].
        log_variance: Natural logarithm of their variances, float64 [N, Z].
    """
    return 0.5 * (mean**2 + np.expm1(log_variance) - log_variance)


class Decomposition(NamedTuple):
    """Parts of the mean divergence from the prior, nats per example.

    Attributes:
        kl: E_n KL(q(z|x_n) || p), exact; the sum of the next two.
        mutual_information: Between the latent and the index n of the example; estimated.
        marginal_kl: KL(q(z) || p), where q(z) is the mean of the N posteriors; estimated.
        bound: log N, which `mutual_information` cannot exceed whatever the encoder: near it the
            figure says that N is too small, not how much there is to know.
    """

    kl: float
    mutual_information: float
    marginal_kl: float
    bound: float


def mutual_information(
    mean: np.ndarray, log_variance: np.ndarray, seed: int, batch: int = 256
) -> Decomposition:
    """Returns the mean divergence, split into mutual information and that of the marginal.

    Exact are the mean divergence and the mixture q(z), over all N examples given. Monte Carlo is
    the expectation over z, with one z_n from each posterior: mutual information is the mean of
    log q(z_n|x_n) - log q(z_n), and what is left of the exact divergence is the marginal's, so
    that the two add up. Taking log q(z_n|x_n) at the same z_n instead of its expectation, the
    negative entropy, is a control variate: the estimate is exact for collapsed posteriors (0)
    and for separate ones (log N), and never above log N. It may be slightly below 0.

    Args:
        mean: Of the posteriors, [N, Z].
        log_variance: Natural logarithm of their variances, [N, Z].
        seed: Of the draws.
        batch: Draws that are compared with all posteriors at once; bounds the memory, to
            8 * batch * N bytes for each of a few arrays, and changes the result by rounding only.

    Raises:
        InputError: The shapes differ, or values are not finite.

    Source: Hoffman and Johnson 2016, ELBO Surgery. Differs from the released code of
    He et al. 2019, Lagging Inference Networks, which takes batches for the mixture, hence a
    bound of the log of the batch size, and the negative entropy.
    """
    mean, log_variance = _units(mean, "means"), _units(log_variance, "log variances")
    require(
        mean.shape == log_variance.shape,
        f"means {mean.shape} and log variances {log_variance.shape} are not of the same posteriors",
    )
    require(batch > 0, f"batch is {batch}; at least 1 draw must be compared at once")
    kl = prior_divergence(mean, log_variance).sum(axis=1).mean()
    noise = np.random.default_rng(seed).standard_normal(mean.shape)
    mean = mean - mean.mean(axis=0, keepdims=True)  # products below cancel less
    draws = mean + np.exp(0.5 * log_variance) * noise
    # But for Z/2 log 2 pi, which falls out: log q(z|x) = -1/2 [(z - mean)^2 / variance + log det]
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
    return Decomposition(float(kl), float(estimate), float(kl - estimate), float(np.log(len(mean))))


class PrincipalComponents(NamedTuple):
    """The best linear VAE of given noise, in closed form.

    Attributes:
        eigenvalues: Of the covariance of the data, descending, float64 [D].
        log_marginal: Mean log density of an example, nats: the optimum of the evidence lower
            bound, for the posterior is exact.
        kl: Mean divergence of each latent direction, nats, float64 [k]; 0 where it collapsed.
        active: Which directions are used, bool [k]: their eigenvalue is above the noise. The
            variance of their posterior mean is 1 - sigma2 / eigenvalue.
    """

    eigenvalues: np.ndarray
    log_marginal: float
    kl: np.ndarray
    active: np.ndarray


def probabilistic_pca(images: np.ndarray, num_latents: int, sigma2: float) -> PrincipalComponents:
    """Returns what the best x = W z + mu + N(0, sigma2), z ~ N(0, 1) of k dimensions, attains.

    Args:
        images: [N, D].
        num_latents: k, 0 .. D.
        sigma2: Variance of the noise, in squared units of the images; above 0.

    Raises:
        InputError: A value is outside of its range.

    Source: Tipping and Bishop 1999, Probabilistic Principal Component Analysis;
    Lucas et al. 2019, Don't Blame the ELBO!, for noise that is not the likeliest.
    """
    eigenvalues = _eigenvalues(images)
    width = len(eigenvalues)
    require(0 <= num_latents <= width, f"{num_latents} latents of {width} dimensions: 0 to {width}")
    require(sigma2 > 0, f"sigma2 is {sigma2}; the noise must have a variance above 0")
    modelled = np.full(width, float(sigma2))  # eigenvalues of the model's covariance
    modelled[:num_latents] = np.maximum(eigenvalues[:num_latents], sigma2)
    terms = np.log(2.0 * np.pi) + np.log(modelled) + eigenvalues / modelled
    return PrincipalComponents(
        eigenvalues=eigenvalues,
        log_marginal=float(-0.5 * terms.sum()),
        kl=0.5 * np.log(modelled[:num_latents] / sigma2),
        active=eigenvalues[:num_latents] > sigma2,
    )


def maximum_likelihood_sigma2(images: np.ndarray, num_latents: int) -> float:
    """Returns the variance of the noise that makes the data likeliest.

    It is the mean of the eigenvalues that k latents leave.

    Args:
        images: [N, D].
        num_latents: k, 0 .. D - 1.

    Raises:
        InputError: No dimension is left for the noise.

    Source: Tipping and Bishop 1999, Probabilistic Principal Component Analysis.
    """
    eigenvalues = _eigenvalues(images)
    width = len(eigenvalues)
    require(
        0 <= num_latents < width,
        f"{num_latents} latents of {width} dimensions leave no noise: 0 to {width - 1}",
    )
    return float(eigenvalues[num_latents:].mean())


def _units(values: np.ndarray, name: str) -> np.ndarray:
    """Returns values as float64 [N, Z]."""
    values = np.asarray(values, np.float64)
    require(
        values.ndim == 2 and values.size > 0,
        f"{name} must be [N, Z] of at least one example and unit, not of shape {values.shape}",
    )
    require(bool(np.isfinite(values).all()), f"{name} contain NaN or infinity")
    return values


def _eigenvalues(images: np.ndarray) -> np.ndarray:
    """Returns those of the covariance (of N, not N - 1), descending, none below 0, [D]."""
    require(
        images.ndim == 2 and images.size > 0,
        f"images must be flattened to [N, D], not of shape {images.shape}",
    )
    centre = images.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((len(centre), len(centre)))
    for start in range(0, len(images), _ROWS):
        rows = images[start : start + _ROWS].astype(np.float64) - centre[None]
        covariance += rows.T @ rows
    require(bool(np.isfinite(covariance).all()), "images contain NaN or infinity")
    return np.maximum(np.linalg.eigvalsh(covariance / len(images))[::-1], 0.0)
