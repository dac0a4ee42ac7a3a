"""MaskGIT's parallel decoding: all tokens predicted at once, the surest kept, the rest again."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array, Key
from maskgit_jax.configuration import require
from maskgit_jax.decoding import rules
from maskgit_jax.decoding.rules import Critic, DecodeState, Grid
from maskgit_jax.decoding.sampling import check_top_k_top_p, filter_logits, sample_categorical
from maskgit_jax.decoding.schedules import check_schedule, masked_counts, ramp, rise

Predict = Callable[[Array, Array, Array], Array]
"""(tokens int32 [B, L], masked bool [B, L], progress []) -> logits float32 [B, L, K]."""
GUIDANCE_SCHEDULES = ("constant", "linear", "cosine", "interval")
REMASK_SCHEDULES = ("cap", "rescale", "confidence", "loop")
LOOP_SHARES = (0.45, 0.5)  # of the steps: before the loop, in the loop
LOOP_HIDDEN = 0.1  # of the tokens, in the loop


class Decoder(NamedTuple):
    """How a decoder differs from others.

    Attributes:
        rule: Which tokens stay masked after a pass.
        revises: Whether an accepted token can be taken back.
        probes: Whether accepted tokens are masked to be scored.
        corrects: Whether a second pass draws unsure accepted tokens again.
    """

    rule: Callable[[DecodeState], Array]
    revises: bool = False
    probes: bool = False
    corrects: bool = False


DECODERS = {
    "confidence": Decoder(rules.confidence),
    "random": Decoder(rules.at_random),
    "halton": Decoder(rules.halton),
    "token_critic": Decoder(rules.by_critic, revises=True),
    "self_critic": Decoder(rules.by_probing, revises=True, probes=True),
    "remask": Decoder(rules.remasked, revises=True),
    "corrector": Decoder(rules.confidence, revises=True, corrects=True),
}


class DecodeSettings(NamedTuple):
    """How a decoder works; hashable, so that it can be a static argument.

    Attributes:
        steps: Decoding steps T; see `num_network_evaluations`.
        choice_temperature: Gumbel noise on the log confidences at the first step, falling
            linearly to 0 at the last; larger values choose places more at random.
        temperature: Divides the logits before sampling, at the first step.
        last_temperature: At the last step, linearly between; 0 for the same.
        guidance: s in logits + s (logits - logits without class); 0 for none.
        guidance_schedule: How s rises over the steps: constant, linear, cosine, or interval, which
            is s inside of `guidance_interval` and 0 outside (those steps cost one pass).
        guidance_interval: Steps t with low < (t + 1) / T <= high.
        schedule: See `maskgit_jax.decoding.schedules`.
        decoder: A key of `DECODERS`.
        revised: Share eta of accepted tokens that a revising decoder looks at in each step:
            self_critic probes it, corrector draws it again, remask takes it back ("cap": at
            most this share; "rescale": this share of the most that is possible).
        remask: How many are taken back: cap, rescale, confidence, or loop, where most steps pass
            while a tenth of the tokens is masked.
        top_k: Only the k most likely codes are drawn; 0 for all.
        top_p: Of those only the most likely ones that make up this probability.
    """

    steps: int = 8
    choice_temperature: float = 4.5
    temperature: float = 1.0
    guidance: float = 0.0
    schedule: str = "cosine"
    decoder: str = "confidence"
    last_temperature: float = 0.0
    guidance_schedule: str = "constant"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    revised: float = 0.2
    remask: str = "rescale"
    top_k: int = 0
    top_p: float = 1.0


class Model(NamedTuple):
    """What decodes.

    Attributes:
        predict: The generator, see `guided`.
        grid: Rows and columns (h, w) of the token map.
        critic: For `token_critic`.
    """

    predict: Predict
    grid: Grid
    critic: Critic | None = None


class Trajectory(NamedTuple):
    """What a decoding did.

    Attributes:
        tokens: As drawn in each step, int32 [T, B, L].
        mask: What was masked again after each step, bool [T, B, L].
    """

    tokens: Array
    mask: Array


def check_decode_settings(
    settings: DecodeSettings, num_tokens: int, codebook_size: int, guidable: bool, critic: bool
) -> None:
    """Raises `InputError` for settings that cannot work.

    Args:
        settings: To be checked.
        num_tokens: L.
        codebook_size: K.
        guidable: Whether the generator knows "no class".
        critic: Whether there is a critic.
    """
    require(
        1 <= settings.steps <= num_tokens,
        f"steps is {settings.steps}; it must be between 1 and the number of tokens, {num_tokens}",
    )
    for name, allowed in (
        ("decoder", tuple(DECODERS)),
        ("guidance_schedule", GUIDANCE_SCHEDULES),
        ("remask", REMASK_SCHEDULES),
    ):
        value = getattr(settings, name)
        require(value in allowed, f"{name} is '{value}'; allowed: {', '.join(allowed)}")
    check_schedule(settings.schedule)
    require(settings.temperature > 0, f"temperature is {settings.temperature}; it must be > 0")
    require(settings.last_temperature >= 0, "last_temperature must not be negative")
    require(settings.choice_temperature >= 0, "choice_temperature must not be negative")
    require(settings.guidance >= 0, f"guidance is {settings.guidance}; it must not be negative")
    require(
        guidable or settings.guidance == 0,
        "guidance needs a run trained with config.losses.label_dropout_rate > 0; use guidance 0",
    )
    low, high = settings.guidance_interval
    require(0 <= low < high <= 1, f"guidance_interval is {low},{high}; 0 <= low < high <= 1")
    require(
        0 <= settings.remask_fraction <= 1,
        f"revised is {settings.remask_fraction}; it must be in [0, 1]",
    )
    require(
        critic or settings.decoder != "token_critic",
        "decoder 'token_critic' needs a trained critic: train configs/token_critic.py on this run "
        "and give the --workdir of that",
    )
    check_top_k_top_p(settings.top_k, settings.top_p, codebook_size)


def num_network_evaluations(settings: DecodeSettings) -> int:
    """Returns how many passes through a network an image takes, a guided pass counted twice."""
    low, high = settings.guidance_interval
    steps, guided_steps = settings.steps, settings.steps if settings.guidance else 0
    if guided_steps and settings.guidance_schedule == "interval":
        guided_steps = sum(low < (step + 1) / steps <= high for step in range(steps))
    generator = steps + guided_steps
    if DECODERS[settings.decoder].corrects:
        generator *= 2
    return generator + (steps - 1 if settings.decoder == "token_critic" else 0)


def guide(conditional: Array, unconditional: Array, scale: Array | float) -> Array:
    """Returns logits + s (logits - logits without class), same shape.

    Source: Ho & Salimans 2022, classifier-free guidance; scale 0 changes nothing.
    """
    return conditional + scale * (conditional - unconditional)


def with_guidance(
    logits_of: Callable[[Array, Array, Array], Array],
    label: Array,
    null_label: int,
    settings: DecodeSettings,
) -> Predict:
    """Returns the generator with guidance as the settings say.

    Args:
        logits_of: (tokens, masked, label int32 [N]) -> logits, of any N that B divides.
        label: int32 [B].
        nobody: The label that means "no class".
        settings: Of the guidance.
    """
    without = jnp.full_like(label, null_label)

    def once(tokens: Array, mask: Array) -> Array:
        return logits_of(tokens, mask, label).astype(jnp.float32)

    def twice(tokens: Array, mask: Array, scale: Array | float) -> Array:
        both = [jnp.concatenate([x, x]) for x in (tokens, mask)]
        logits = logits_of(*both, jnp.concatenate([label, without])).astype(jnp.float32)
        return guide(*jnp.split(logits, 2), scale)

    def predict(tokens: Array, mask: Array, progress: Array) -> Array:
        if settings.guidance == 0:
            return once(tokens, mask)
        if settings.guidance_schedule != "interval":
            scale = settings.guidance * rise(progress, settings.guidance_schedule)
            return twice(tokens, mask, scale)
        low, high = settings.guidance_interval
        inside = (low + 1e-6 < progress) & (progress <= high + 1e-6)
        return jax.lax.cond(inside, lambda *x: twice(*x, settings.guidance), once, tokens, mask)

    return predict


def plan(num_masked: Array, settings: DecodeSettings) -> tuple[Array, Array]:
    """Returns how many tokens are masked after each step, and how many of those are taken back.

    Both are int32 [T, B]; the last row is 0. Tokens are taken back by `remask` only: others decide
    by scores how many of the masked ones were accepted before.

    Args:
        num_masked: Tokens masked at the start, int32 [B].
        settings: See `DecodeSettings`.

    Source: ReMDM (see `rules.remasked`): sigma is min(eta, sigma_max) for "cap" and eta sigma_max
    for "rescale", where sigma_max = (1 - alpha_s) / alpha_t takes back as many as are to be masked
    next; "loop" stays at alpha = 0.9 from t = 0.55 to 0.05, as in the published scripts.
    """
    steps = settings.steps
    counts = masked_counts(num_masked, steps, settings.schedule)
    if settings.decoder != "remask":
        return counts[1:], jnp.zeros_like(counts[1:])
    in_loop = jnp.ones((steps, 1), bool)
    if settings.remask_schedule == "loop":
        counts, in_loop = _loop_counts(num_masked, settings)
    accepted, left = num_masked[None] - counts[:-1], counts[1:]
    possible = jnp.minimum(accepted, left)
    if settings.remask_schedule in ("rescale", "confidence"):
        back = jnp.round(settings.remask_fraction * possible)
    else:
        back = jnp.minimum(jnp.round(settings.remask_fraction * accepted), possible)
    return left, (back * in_loop).astype(jnp.int32)


def _loop_counts(num_masked: Array, settings: DecodeSettings) -> tuple[Array, Array]:
    """Returns the counts [T+1, B] of ReMDM's loop, and which steps [T, 1] are in it."""
    steps = settings.steps
    before = max(1, round(LOOP_SHARES[0] * steps))
    inside = max(0, min(round(LOOP_SHARES[1] * steps), steps - before - 1))
    after = steps - before - inside
    level = jnp.ceil(LOOP_HIDDEN * num_masked).astype(jnp.int32) * (after > 0)
    falling = level[None] + masked_counts(num_masked - level, before, settings.schedule)
    constant = jnp.broadcast_to(level, (inside, *level.shape))
    parts = [falling, constant]
    if after:
        parts.append(masked_counts(level, after, settings.schedule)[1:])
    step = jnp.arange(steps)[:, None]
    return jnp.concatenate(parts), (step >= before) & (step < before + inside)


def decode(
    model: Model, tokens: Array, mask: Array, key: Key, settings: DecodeSettings
) -> tuple[Array, Trajectory]:
    """Fills the masked tokens in `settings.steps` steps; known tokens stay as they are.

    Each step draws every masked token and then hides as many as `plan` says, which ones is
    the decoder's rule. The log p of a drawn token plus Gumbel noise is its surety.

    Args:
        model: The networks.
        tokens: int32 [B, L]; any value where masked.
        mask: bool [B, L].
        key: Of tokens and noise.
        settings: See `DecodeSettings`.

    Returns:
        tokens int32 [B, L], and the way there.

    Source: google-research/maskgit libml/parallel_decode.py:decode. Differs: ranks replace a
    threshold, so that ties cannot change the number of masked tokens; nothing is masked after
    the last step; for the counts see `masked_counts`.
    """
    chex.assert_equal_shape([tokens, mask])
    decoder, editable = DECODERS[settings.decoder], mask
    rule = decoder.rule
    if rule is rules.remasked and settings.remask_schedule == "confidence":
        rule = rules.remasked_by_confidence
    turn = jnp.zeros(tokens.shape, jnp.int32)
    if rule is rules.halton:
        turn_key = jax.random.fold_in(key, settings.steps)
        turn = rules.random_turns(model.grid, turn_key, len(tokens))

    def draw(tokens: Array, asked: Array, key: Key, step: Array) -> tuple[Array, Array]:
        """Returns the tokens, those asked for drawn anew, and the log p of all."""
        first, last = settings.temperature, settings.last_temperature or settings.temperature
        progress = (step + 1) / settings.steps
        logits = model.predict(tokens, asked, progress).astype(jnp.float32)
        logits = logits / ramp(first, last, step, settings.steps)
        likely = filter_logits(logits, settings.top_k, settings.top_p)
        return jnp.where(asked, sample_categorical(key, likely), tokens), logits

    def one_step(state: tuple[Array, Array, Array], now: tuple[Array, Array, Array]):
        (tokens, mask, confidence), (step, left, back) = state, now
        token_key, place_key, rule_key, revise_key = jax.random.split(
            jax.random.fold_in(key, step), 4
        )
        accepted = editable & ~mask
        probed = jnp.zeros_like(mask)
        if decoder.probes:
            count = jnp.minimum(jnp.round(settings.remask_fraction * accepted.sum(axis=-1)), left)
            probed = rules.lowest(count, jax.random.uniform(revise_key, mask.shape), accepted)
        old = tokens
        tokens, logits = draw(tokens, mask | probed, token_key, step)
        tokens = jnp.where(probed, old, tokens)
        confidence = jnp.where(mask | probed, _log_probability(logits, tokens), confidence)
        strength = settings.choice_temperature * (1.0 - (step + 1) / settings.steps)
        noise = strength * jax.random.gumbel(place_key, tokens.shape)
        mask = rule(
            DecodeState(tokens, mask, probed, editable, confidence, left, back, noise, rule_key, turn,
                   model.critic)
        )  # fmt: skip
        if decoder.corrects:
            accepted = editable & ~mask
            count = jnp.round(settings.remask_fraction * accepted.sum(axis=-1))
            unsure = rules.lowest(count, confidence + noise, accepted)
            drawn, logits = draw(tokens, mask | unsure, revise_key, step)
            tokens = jnp.where(unsure, drawn, tokens)
            confidence = jnp.where(unsure, _log_probability(logits, tokens), confidence)
        return (tokens, mask, confidence), Trajectory(tokens, mask)

    left, back = plan(mask.sum(axis=-1), settings)
    start = (tokens.astype(jnp.int32), mask, jnp.full(tokens.shape, jnp.inf))
    steps = (jnp.arange(settings.steps), left, back)
    (tokens, _, _), trajectory = jax.lax.scan(one_step, start, steps)
    return tokens, trajectory


def _log_probability(logits: Array, tokens: Array) -> Array:
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)
