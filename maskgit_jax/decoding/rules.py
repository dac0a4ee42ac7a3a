"""Rules that say which tokens stay masked after a step: the decoders differ in nothing else."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_jax.arrays import Array, Key
from maskgit_jax.decoding.schedules import rank

Grid = tuple[int, int]
Critic = Callable[[Array], Array]
"""tokens int32 [B, L] -> log odds that a token is real, not made by a generator, [B, L]."""


class DecodeState(NamedTuple):
    """What a rule knows, after a pass in which every masked token was drawn.

    Attributes:
        tokens: int32 [B, L], all filled.
        mask: Tokens that have just been drawn, bool [B, L].
        probed: Accepted tokens that were masked too, only to be scored.
        editable: Tokens that were masked at the start; the others are the user's.
        surety: log p of each token when it was drawn, or probed, last; inf for the user's.
        left: How many are to be masked, int32 [B].
        back: How many of those are accepted ones that are taken back.
        noise: Gumbel noise on the log probabilities, which falls to 0, [B, L].
        key: For other random choices of this step.
        turn: Of `halton`: when each place is revealed, int32 [B, L].
        critic: A trained judge of tokens, for `token_critic`.
    """

    tokens: Array
    mask: Array
    probed: Array
    editable: Array
    confidence: Array
    left: Array
    back: Array
    noise: Array
    key: Key
    turn: Array
    critic: Critic | None


def lowest(count: Array, scores: Array, among: Array) -> Array:
    """Returns the `count` [B] places with the lowest of `scores` [B, L] among some, bool [B, L]."""
    return among & (rank(jnp.where(among, scores, jnp.inf)) < count[:, None])


def confidence(state: DecodeState) -> Array:
    """The least sure of the tokens just drawn: MaskGIT's rule.

    Source: google-research/maskgit libml/parallel_decode.py:mask_by_random_topk.
    """
    return lowest(state.left, state.confidence + state.noise, state.mask)


def at_random(state: DecodeState) -> Array:
    """Any of the tokens just drawn."""
    scores = jax.random.uniform(state.key, state.mask.shape)
    return lowest(state.left, scores, state.mask)


def halton(state: DecodeState) -> Array:
    """Tokens whose turn comes later in an order that spreads them evenly over the map.

    Source: Besnier et al. 2025, Halton Scheduler for Masked Generative Image Transformer.
    """
    return lowest(state.left, -state.turn, state.mask)


def random_turns(grid: Grid, key: Key, batch: int) -> Array:
    """Returns `halton_turns` for each example, begun at a random point of the order, [B, L]."""
    turns = jnp.asarray(halton_turns(grid))[None]
    first = jax.random.randint(key, (batch, 1), 0, turns.shape[1])
    return (turns - first) % turns.shape[1]


def halton_turns(grid: Grid) -> np.ndarray:
    """Returns when each place of a map is visited first by Halton points, int32 [h*w], a bijection.

    Args:
        grid: Rows (base 2) and columns (base 3).
    """
    height, width = grid
    turns: dict[int, int] = {}
    point = 1  # 0 is the corner itself, which the peers leave out
    while len(turns) < height * width:
        row, column = int(reflected(point, 2) * height), int(reflected(point, 3) * width)
        turns.setdefault(row * width + column, len(turns))
        point += 1
    return np.asarray([turns[place] for place in range(height * width)], np.int32)


def reflected(number: int, base: int) -> float:
    """Returns the number with its digits mirrored at the point, in [0, 1): its radical inverse.

    As scipy.stats.qmc has it, whose import takes a good part of a command's start.
    """
    value, place = 0.0, 1 / base
    while number:
        number, digit = divmod(number, base)
        value, place = value + digit * place, place / base
    return value


def by_critic(state: DecodeState) -> Array:
    """Those of all tokens that a trained critic takes for generated: accepted ones come back too.

    Source: Lezama et al. 2022, Improved Masked Image Generation with Token-Critic.
    Differs: Gumbel noise as in MaskGIT instead of uniform noise.
    """
    if state.critic is None:
        raise ValueError("decoder 'token_critic' needs a critic")

    def worst() -> Array:
        return lowest(state.left, state.critic(state.tokens) + state.noise, state.editable)

    # Nothing is masked after the last step, so that the critic need not look.
    return jax.lax.cond(state.left.any(), worst, lambda: jnp.zeros_like(state.mask))


def by_probing(state: DecodeState) -> Array:
    """The least likely of the tokens just drawn and of the accepted ones that were probed.

    A probed token was masked in the pass as well, so that its log p is what the generator thinks
    of it now, given the others. No network beside the generator and no additional pass.

    Source: own design, for the self-critic of the question whether a token can be taken back.
    """
    scores = state.confidence + state.noise
    return lowest(state.left, scores, state.mask | state.probed)


def remasked(state: DecodeState) -> Array:
    """The least sure of the tokens just drawn, and accepted tokens at random.

    Source: Wang et al. 2025, Remasking Discrete Diffusion Models with Inference-Time Scaling
    (ReMDM), arXiv 2503.00307. Differs: expected numbers instead of a coin for each token, and the
    drawn tokens are chosen as by `confidence`; with a large choice temperature as in the paper.
    """
    return _remasked(state, jnp.zeros_like(state.confidence))


def remasked_by_confidence(state: DecodeState) -> Array:
    """`remasked`, where accepted tokens come back with odds exp(-p), p their probability once.

    Source: ReMDM, "confidence". Differs: as `remasked`, and as many come back as by "rescale"; in
    the paper the odds sum to 1 and multiply sigma, so that hardly one token a step comes back.
    """
    return _remasked(state, -jnp.exp(state.confidence))


def _remasked(state: DecodeState, log_odds: Array) -> Array:
    scores = state.confidence + state.noise
    stay = lowest(state.left - state.back, scores, state.mask)
    noise = jax.random.gumbel(state.key, log_odds.shape)
    accepted = state.editable & ~state.mask
    return stay | lowest(state.back, -(log_odds + noise), accepted)
