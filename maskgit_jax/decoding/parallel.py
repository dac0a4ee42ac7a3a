"""MaskGIT's parallel decoding.

The algorithm, for T steps, given tokens and a mask of those to generate (the editable ones):

 1. Compute how many tokens n_1 > n_2 > ... > n_T = 0 are masked after each step (`plan`).
 2. In step t, mask some accepted tokens too, if the decoder rescores them.
 3. Evaluate the network on the tokens that are not masked: logits, with guidance, divided by
    the temperature.
 4. Sample every masked token from its logits, after top-k and top-p; if the decoder sharpens,
    from a power of the probabilities.
 5. The confidence of a sampled or rescored token is the logarithm of its probability.
 6. Scale Gumbel noise by the choice temperature times 1 - t / T.
 7. The decoder's rule masks n_t tokens again: the n_t lowest of confidence + noise, in MaskGIT.
 8. If the decoder corrects, evaluate again and resample the least confident accepted tokens.
 9. Repeat from 2 until t = T. With `start_step` S, the first step is S instead of 0.
10. Return the tokens. Known tokens, not masked at the start, have never changed.
"""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from maskgit_jax.arrays import Array, Key
from maskgit_jax.configuration import require
from maskgit_jax.decoding.guidance import Predict
from maskgit_jax.decoding.rules import (
    Critic,
    DecodeState,
    Grid,
    k_lowest,
    moment_order,
    random_halton_order,
)
from maskgit_jax.decoding.sampling import (
    check_temperature,
    check_top_k,
    draw_each,
    filter_logits,
    finite_logits,
    fold_in_each,
    most_likely,
    sample_categorical,
    split_each,
)
from maskgit_jax.decoding.schedules import check_schedule, masked_counts
from maskgit_jax.decoding.settings import DECODERS, DecodeSettings, is_zero
from maskgit_jax.settings import check_settings

LOOP_FRACTIONS = (0.45, 0.5)  # of the steps: before the loop, in the loop
LOOP_MASK_RATIO = 0.1  # in the loop


class MaskedTokens(NamedTuple):
    """Tokens of which some are masked: the state of a decoding between two steps.

    Its arrays are those of a compiled program or of the host (numpy).

    Attributes:
        tokens: int32 [B, L]; any value where masked.
        mask: bool [B, L].
        confidence: log p of each token when it was last sampled or rescored, inf for known ones,
            float32 [B, L].
    """

    tokens: Any
    mask: Any
    confidence: Any


class StepPlan(NamedTuple):
    """What one step of a decoding has of its own; of several steps with an axis [T - S] before.

    Its arrays are those of a compiled program or of the host (numpy).

    Attributes:
        step: t, from `start_step` to T - 1, int32 [].
        steps: T, int32 [].
        progress: (t + 1) / T, float32 [].
        ramp: t / (T - 1), of what changes linearly from the first to the last step, float32 [].
        num_masked: Number of masked tokens after the step, int32 [B]; 0 after the last one.
        num_remasked: Number of remasked tokens among them, int32 [B]. For `remask` only: other
            rules decide by scores how many of the masked tokens were accepted before.
    """

    step: Any
    steps: Any
    progress: Any
    ramp: Any
    num_masked: Any
    num_remasked: Any


def check_decode_settings(
    settings: DecodeSettings,
    num_tokens: int,
    codebook_size: int,
    has_null_label: bool,
    has_critic: bool,
) -> None:
    """Raises `InputError` for settings that cannot work.

    Args:
        settings: The settings to check.
        num_tokens: L.
        codebook_size: K.
        has_null_label: Whether the generator was trained for guidance.
        has_critic: Whether there is a critic.
    """
    check_settings(settings)
    check_temperature(settings.temperature)
    check_temperature(settings.last_temperature, "last_temperature")
    require(
        settings.temperature > 0 or settings.last_temperature == 0,
        f"last_temperature is {settings.last_temperature}, but temperature is 0, which takes the "
        "most likely code at every step; set one of them to another value",
    )
    require(
        settings.steps <= num_tokens,
        f"steps is {settings.steps}; it must be between 1 and the number of tokens, {num_tokens}",
    )
    require(
        settings.start_step < settings.steps,
        f"start_step is {settings.start_step}; it must be below steps, {settings.steps}",
    )
    check_schedule(settings.schedule)
    require(
        has_null_label or settings.guidance == 0,
        "guidance needs a run trained with config.losses.label_dropout_rate > 0, or a guide "
        "(--guide=RUN); use guidance 0",
    )
    low, high = settings.guidance_interval
    require(
        0 <= low < high <= 1,
        f"guidance_interval is {low},{high}; it must be low,high with 0 <= low < high <= 1",
    )
    require(
        has_critic or settings.decoder != "token_critic",
        "decoder 'token_critic' needs a trained critic; train configs/token_critic.py on this run "
        "and give the --workdir of that",
    )
    require(
        settings.choice_temperature > 0 or settings.decoder != "moment",
        "choice_temperature is 0, with which decoder 'moment' would always take the most likely "
        "code; set it to more than 0",
    )
    check_top_k(settings.top_k, codebook_size)


def num_network_evaluations(settings: DecodeSettings) -> int:
    """Returns the NFE of an image; guidance evaluates the generator twice, a critic counts too."""
    low, high = settings.guidance_interval
    steps = range(settings.start_step, settings.steps)
    guided_steps = len(steps) if settings.guidance else 0
    if guided_steps and settings.guidance_schedule == "interval":
        guided_steps = sum(low < (step + 1) / settings.steps <= high for step in steps)
    nfe = len(steps) + guided_steps
    if DECODERS[settings.decoder].corrects:
        nfe *= 2
    return nfe + (len(steps) - 1 if settings.decoder == "token_critic" else 0)


def fit_steps(settings: DecodeSettings, nfe: int) -> DecodeSettings:
    """Returns settings with as many steps as `nfe` network evaluations allow, but at least one."""
    while num_network_evaluations(settings) > nfe and settings.steps > settings.start_step + 1:
        settings = dataclasses.replace(settings, steps=settings.steps - 1)
    return settings


def plan(num_masked: np.ndarray, settings: DecodeSettings) -> StepPlan:
    """Returns the plan of all steps, arrays [T - S] and [T - S, N] of the host.

    Args:
        num_masked: Tokens masked at the start, int [N].
        settings: See `DecodeSettings`.

    Source: ReMDM (see `rules.remask`): sigma is min(eta, sigma_max) for "cap" and eta sigma_max for
    "rescale", where sigma_max = (1 - alpha_s) / alpha_t remasks as many as are masked next;
    "loop" stays at alpha = 0.9 from t = 0.55 to 0.05, as in the published scripts; with
    `start_step` its shares are those of the remaining steps.
    """
    counts, num_remasked = _mask_counts(num_masked, settings)
    step = np.arange(settings.start_step, settings.steps, dtype=np.int32)
    steps = np.full_like(step, settings.steps)
    progress = np.float32(step + 1) / np.float32(steps)
    ramp = np.float32(step) / np.float32(np.maximum(steps - 1, 1))
    return StepPlan(step, steps, progress, ramp, counts[1:], num_remasked)


def _mask_counts(num_masked: np.ndarray, settings: DecodeSettings) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of masked tokens [T+1-S, N] and of remasked ones, [T-S, N]."""
    steps, start_step = settings.steps, settings.start_step
    counts = masked_counts(num_masked, steps, settings.schedule, start_step)
    if settings.decoder != "remask":
        return counts, np.zeros_like(counts[1:])
    in_loop = np.ones((steps - start_step, 1), bool)
    if settings.remask_schedule == "loop":
        counts, in_loop = _loop_counts(num_masked, settings)
    fraction = np.float32(settings.remask_fraction)
    accepted = np.float32(num_masked[None] - counts[:-1])
    possible = np.minimum(accepted, np.float32(counts[1:]))
    if settings.remask_schedule in ("rescale", "confidence"):
        num_remasked = np.round(fraction * possible)
    else:
        num_remasked = np.minimum(np.round(fraction * accepted), possible)
    return counts, (num_remasked * in_loop).astype(np.int32)


def _loop_counts(num_masked: np.ndarray, settings: DecodeSettings) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of masked tokens [T+1, N] of ReMDM's loop and its steps, bool [T, 1]."""
    steps = settings.steps - settings.start_step
    before = max(1, round(LOOP_FRACTIONS[0] * steps))
    inside = max(0, min(round(LOOP_FRACTIONS[1] * steps), steps - before - 1))
    after = steps - before - inside
    level = np.ceil(np.float32(LOOP_MASK_RATIO) * np.float32(num_masked)).astype(np.int32)
    level = level * (after > 0)
    falling = level[None] + masked_counts(num_masked - level, before, settings.schedule)
    parts = [falling, np.broadcast_to(level, (inside, *level.shape))]
    if after:
        parts.append(masked_counts(level, after, settings.schedule)[1:])
    step = np.arange(steps)[:, None]
    return np.concatenate(parts), (step >= before) & (step < before + inside)


def decode(
    predict: Predict,
    tokens: Array,
    mask: Array,
    keys: Key,
    settings: DecodeSettings,
    grid: Grid,
    critic: Critic | None = None,
) -> tuple[Array, MaskedTokens]:
    """Returns the tokens with the masked ones generated, int32 [B, L], and the trajectory.

    The trajectory is the state after each step, [T - S, B, L].

    Args:
        predict: The generator, see `guidance.with_guidance`.
        tokens: int32 [B, L]; any value where masked.
        mask: bool [B, L].
        keys: Of samples and noise; one key per image, [B].
        settings: See `DecodeSettings`.
        grid: Rows and columns (h, w) of the token map.
        critic: For decoder "token_critic".

    Source: google-research/maskgit libml/parallel_decode.py:decode. Differs: ranks replace a
    threshold, so that ties cannot change the number of masked tokens; nothing is masked after
    the last step; for the counts see `masked_counts`.
    """
    chex.assert_equal_shape([tokens, mask])

    def step(state: MaskedTokens, step: StepPlan) -> tuple[MaskedTokens, MaskedTokens]:
        state = decode_step(predict, state, mask, keys, step, settings, grid, critic)
        return state, state

    steps = plan(np.arange(mask.shape[1] + 1), settings)
    num_masked, num_remasked = (
        jnp.asarray(table)[:, mask.sum(axis=-1)] for table in (steps.num_masked, steps.num_remasked)
    )
    steps = steps._replace(num_masked=num_masked, num_remasked=num_remasked)
    known = jnp.full(tokens.shape, jnp.inf)
    state = MaskedTokens(tokens.astype(jnp.int32), mask, known)
    state, trajectory = jax.lax.scan(step, state, steps)
    return state.tokens, trajectory


def decode_step(
    predict: Predict,
    state: MaskedTokens,
    editable: Array,
    keys: Key,
    step: StepPlan,
    settings: DecodeSettings,
    grid: Grid,
    critic: Critic | None = None,
) -> MaskedTokens:
    """Returns the state after one step, steps 2 to 8 of the algorithm.

    Args:
        predict: The generator.
        state: The state before the step.
        editable: Tokens that were masked at the start, bool [B, L].
        keys: One key per image, [B]; the same for all steps.
        step: Its plan. What it holds is not read from the settings (`steps`, `start_step`,
            `schedule`), so that one compiled program can serve all steps.
        settings: See `DecodeSettings`.
        grid: Rows and columns (h, w) of the token map.
        critic: For decoder "token_critic".
    """
    decoder, (tokens, mask, confidence) = DECODERS[settings.decoder], state
    step_keys = split_each(fold_in_each(keys, step.step), 4)
    token_keys, noise_keys, rule_keys, revise_keys = step_keys

    rescored = jnp.zeros_like(mask)
    if decoder.rescores:
        accepted = editable & ~mask
        count = jnp.minimum(_fraction(accepted, settings), step.num_masked)
        scores = draw_each(jax.random.uniform, revise_keys, mask.shape[1])
        rescored = k_lowest(scores, count, accepted)
    unseen = mask | rescored
    logits = _logits(predict, tokens, unseen, step, settings)
    noise_scale = settings.choice_temperature * (1.0 - step.progress)
    sharpness = moment_order(noise_scale) if decoder.sharpens else 1.0
    tokens = jnp.where(mask, _sample(sharpness * logits, token_keys, settings), tokens)
    confidence = jnp.where(unseen, _log_probability(logits, tokens), confidence)

    decode_state = DecodeState(
        tokens=tokens,
        logits=logits,
        probabilities=jax.nn.softmax(logits),  # the compiler removes it if no rule reads it
        mask=mask,
        rescored=rescored,
        editable=editable,
        confidence=confidence,
        num_masked=step.num_masked,
        num_remasked=step.num_remasked,
        noise_scale=noise_scale,
        noise=noise_scale * draw_each(jax.random.gumbel, noise_keys, tokens.shape[1]),
        keys=rule_keys,
        order=random_halton_order(grid, fold_in_each(keys, step.steps)),
        critic=critic,
    )
    state = MaskedTokens(tokens, decoder.rule(decode_state, settings), confidence)
    if not decoder.corrects:
        return state
    accepted = editable & ~state.mask
    scores, count = confidence + decode_state.noise, _fraction(accepted, settings)
    doubtful = k_lowest(scores, count, accepted)
    return _resample(predict, state, doubtful, revise_keys, step, settings)


def _resample(
    predict: Predict,
    state: MaskedTokens,
    chosen: Array,
    keys: Key,
    step: StepPlan,
    settings: DecodeSettings,
) -> MaskedTokens:
    """Returns the state with some accepted tokens sampled again, given the other ones."""
    logits = _logits(predict, state.tokens, state.mask | chosen, step, settings)
    tokens = jnp.where(chosen, _sample(logits, keys, settings), state.tokens)
    confidence = jnp.where(chosen, _log_probability(logits, tokens), state.confidence)
    return MaskedTokens(tokens, state.mask, confidence)


def _logits(
    predict: Predict, tokens: Array, unseen: Array, step: StepPlan, settings: DecodeSettings
) -> Array:
    """Returns the logits divided by the temperature of the step, float32 [B, L, K].

    At temperature 0 they are not divided: they give the confidence of the most likely codes.
    """
    logits = finite_logits(predict(tokens, unseen, step.progress))
    if is_zero(settings.temperature):
        return logits
    first, last = settings.temperature, settings.last_temperature
    last = first if is_zero(last) else last
    return logits / (first + (last - first) * step.ramp)


def _sample(logits: Array, keys: Key, settings: DecodeSettings) -> Array:
    if is_zero(settings.temperature):
        return most_likely(logits)
    return sample_categorical(keys, filter_logits(logits, settings.top_k, settings.top_p))


def _log_probability(logits: Array, tokens: Array) -> Array:
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _fraction(accepted: Array, settings: DecodeSettings) -> Array:
    """Returns `remask_fraction` of the number of accepted tokens, [B]."""
    return jnp.round(settings.remask_fraction * accepted.sum(axis=-1))
