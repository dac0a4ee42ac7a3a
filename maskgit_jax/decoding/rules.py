"""Decoding rules: which tokens are masked for the next step. Decoders differ in nothing else.

A rule is a function (`DecodeState`, settings) -> mask bool [B, L], registered with `register`.
Settings of its own are fields of a frozen subclass of `DecodeSettings`, made with
`settings.setting` and named in `register`; flags, config, checks and docs follow from them.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_jax.arrays import Array, Key
from maskgit_jax.decoding.sampling import draw_each
from maskgit_jax.decoding.schedules import rank
from maskgit_jax.decoding.settings import DecodeSettings, register

Grid = tuple[int, int]
Critic = Callable[[Array], Array]
"""tokens int32 [B, L] -> log odds that a token is real, not generated, [B, L]."""


class DecodeState(NamedTuple):
    """The state of decoding after a network evaluation in which every masked token was sampled.

    Attributes:
        tokens: int32 [B, L], none missing.
        logits: Guided and divided by the temperature, before top-k and top-p, float32 [B, L, K];
            predictions for the tokens in `mask` and `rescored`, which the network did not see.
        probabilities: softmax(logits), float32 [B, L, K].
        mask: Tokens that were just sampled, bool [B, L].
        rescored: Accepted tokens that the network did not see either, bool [B, L].
        editable: Tokens that were masked at the start; the others are known.
        confidence: log p of each token when it was last sampled or rescored, inf for known ones.
        num_masked: Number of tokens to mask, int32 [B].
        num_remasked: Number of accepted tokens among them, of `remask`, int32 [B].
        noise_scale: alpha, the scale of the noise in this step, []; 0 in the last one.
        noise: Gumbel noise to add to the confidence, alpha times standard noise, [B, L].
        keys: One key per image, [B], for other random choices of this step, see
            `sampling.draw_each`.
        order: Position of each token in a randomly rotated Halton order, int32 [B, L].
        critic: A trained Token-Critic, None without.
    """

    tokens: Array
    logits: Array
    probabilities: Array
    mask: Array
    rescored: Array
    editable: Array
    confidence: Array
    num_masked: Array
    num_remasked: Array
    noise_scale: Array
    noise: Array
    keys: Key
    order: Array
    critic: Critic | None


def k_lowest(scores: Array, k: Array, candidates: Array) -> Array:
    """Returns the `k` [B] candidates with the lowest scores [B, L], bool [B, L]."""
    return candidates & (rank(jnp.where(candidates, scores, jnp.inf)) < k[:, None])


@register("confidence")
def confidence(state: DecodeState, settings: DecodeSettings) -> Array:
    """Masks the least confident of the sampled tokens.

    Source: google-research/maskgit libml/parallel_decode.py:mask_by_random_topk.
    """
    del settings
    return k_lowest(state.confidence + state.noise, state.num_masked, state.mask)


@register("random")
def random(state: DecodeState, settings: DecodeSettings) -> Array:
    """Masks random tokens among the sampled ones."""
    del settings
    scores = draw_each(jax.random.uniform, state.keys, state.mask.shape[1])
    return k_lowest(scores, state.num_masked, state.mask)


@register("halton")
def halton(state: DecodeState, settings: DecodeSettings) -> Array:
    """Masks the tokens that come last in an order that spreads them evenly over the map.

    Source: Besnier et al. 2025, Halton Scheduler for Masked Generative Image Transformer.
    """
    del settings
    return k_lowest(-state.order, state.num_masked, state.mask)


def random_halton_order(grid: Grid, keys: Key) -> Array:
    """Returns `halton_order` rotated to a random start for each of B keys, int32 [B, L]."""
    order = jnp.asarray(halton_order(grid))[None]
    draw = partial(jax.random.randint, minval=0, maxval=order.shape[1])
    first = draw_each(draw, keys, 1)
    return (order - first) % order.shape[1]


def halton_order(grid: Grid) -> np.ndarray:
    """Returns the position of each token in the order of Halton points, int32 [h*w], a bijection.

    Args:
        grid: Rows (base 2) and columns (base 3).
    """
    height, width = grid
    positions: dict[int, int] = {}
    point = 1  # point 0 is the corner itself, which other implementations skip
    while len(positions) < height * width:
        row = int(radical_inverse(point, 2) * height)
        column = int(radical_inverse(point, 3) * width)
        positions.setdefault(row * width + column, len(positions))
        point += 1
    return np.asarray([positions[token] for token in range(height * width)], np.int32)


def radical_inverse(number: int, base: int) -> float:
    """Returns the number with its digits mirrored at the point, in [0, 1).

    As in scipy.stats.qmc, whose import would slow down the start of commands.
    """
    value, place = 0.0, 1 / base
    while number:
        number, digit = divmod(number, base)
        value, place = value + digit * place, place / base
    return value


@register("token_critic", revises=True)
def token_critic(state: DecodeState, settings: DecodeSettings) -> Array:
    """Masks the tokens that a trained critic takes for generated, accepted ones included.

    Source: Lezama et al. 2022, Improved Masked Image Generation with Token-Critic.
    Differs: Gumbel noise as in MaskGIT instead of uniform noise.
    """
    del settings
    critic = state.critic
    if critic is None:
        raise ValueError("decoder 'token_critic' needs a critic")

    def mask_by_critic() -> Array:
        return k_lowest(critic(state.tokens) + state.noise, state.num_masked, state.editable)

    # After the last step nothing is masked, and the critic is not evaluated.
    return jax.lax.cond(state.num_masked.any(), mask_by_critic, lambda: jnp.zeros_like(state.mask))


@register("self_critic", revises=True, rescores=True)
def self_critic(state: DecodeState, settings: DecodeSettings) -> Array:
    """Masks the least confident of the sampled tokens and of the rescored accepted ones.

    The confidence of a rescored token is the generator's probability of it given the current
    others. There is no other network and no additional evaluation. Source: own design.
    """
    del settings
    scores = state.confidence + state.noise
    return k_lowest(scores, state.num_masked, state.mask | state.rescored)


@register("remask", revises=True)
def remask(state: DecodeState, settings: DecodeSettings) -> Array:
    """Masks the least confident of the sampled tokens, and random accepted ones.

    With remask_schedule "confidence", accepted tokens are remasked with odds exp(-p), where p is
    the probability that they were sampled with.

    Source: Wang et al. 2025, Remasking Discrete Diffusion Models with Inference-Time Scaling
    (ReMDM), arXiv 2503.00307. Differs: expected numbers instead of a coin for each token, and
    sampled tokens are chosen as by `confidence` (a large choice temperature is the paper's). In
    the paper the odds of "confidence" sum to 1 and multiply sigma, so that hardly one token a
    step is remasked; here as many are as by "rescale".
    """
    by_confidence = settings.remask_schedule == "confidence"
    log_odds = -jnp.exp(state.confidence) if by_confidence else jnp.zeros_like(state.confidence)
    scores = state.confidence + state.noise
    masked = k_lowest(scores, state.num_masked - state.num_remasked, state.mask)
    noise = draw_each(jax.random.gumbel, state.keys, log_odds.shape[1])
    accepted = state.editable & ~state.mask
    return masked | k_lowest(-(log_odds + noise), state.num_remasked, accepted)


register("corrector", revises=True, corrects=True)(confidence)


@register("moment", sharpens=True)
def moment(state: DecodeState, settings: DecodeSettings) -> Array:
    """Chooses tokens to accept by their distributions alone, before they are sampled.

    Position i is accepted with odds sum_x p_i(x)^beta, and its token is sampled from p_i^beta,
    divided by that sum, where beta = 1 + 1/alpha. `confidence` accepts a few of many tokens as
    often, and accepted tokens then have that distribution. The last step, which accepts all
    tokens, samples them from p, as with `confidence`.

    Source: Hayakawa et al. 2025, Demystifying MaskGIT Sampler and Beyond, arXiv 2510.04525 (moment
    sampler). Here alpha falls over the steps as in `confidence`.
    """
    del settings
    order = moment_order(state.noise_scale)
    log_moment = jax.nn.logsumexp(order * jax.nn.log_softmax(state.logits), axis=-1)
    scores = state.noise_scale * log_moment + state.noise
    return k_lowest(scores, state.num_masked, state.mask)


def moment_order(noise_scale: Array) -> Array:
    """Returns beta = 1 + 1/alpha, and 1 where alpha is 0."""
    return 1.0 + jnp.where(noise_scale > 0, 1.0 / jnp.maximum(noise_scale, 1e-6), 0.0)
