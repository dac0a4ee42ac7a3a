"""All decoders on tables of logits: parity with the published rule, and invariants."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.guidance import guide, with_guidance
from maskgit_jax.decoding.parallel import (
    DECODERS,
    check_decode_settings,
    decode,
    num_network_evaluations,
    plan,
)
from maskgit_jax.decoding.rules import DecodeState, halton_order, k_lowest
from maskgit_jax.decoding.sampling import image_keys, sample_categorical
from maskgit_jax.decoding.schedules import masked_counts
from maskgit_jax.decoding.settings import (
    REMASK_SCHEDULES,
    DecodeSettings,
    declared_settings,
    decode_settings_class,
    register,
)
from maskgit_jax.settings import check_settings, setting, settings_dict

OFFICIAL = {
    "linear": lambda r, n: 1 - r,
    "cosine": lambda r, n: np.cos(r * np.pi / 2),
    "square": lambda r, n: 1 - r**2,
    "cubic": lambda r, n: 1 - r**3,
    "sqrt": lambda r, n: 1 - r**0.5,
    "pow2.5": lambda r, n: 1 - r**2.5,
    "exponential": lambda r, n: 1 - np.exp2(-np.log2(n) * (1 - r)),
    "logarithmic": lambda r, n: -np.log2(r) / np.log2(n),
}
VARIANTS = [
    *({"decoder": name} for name in DECODERS if name != "remask"),
    *({"decoder": "remask", "remask_schedule": kind} for kind in REMASK_SCHEDULES),
]


def random_logits(length: int = 16, codes: int = 5, batch: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(3), (batch, length, codes))


@partial(jax.jit, static_argnums=0)
def run(settings, logits, mask, key, tokens=None):
    """Decodes with a generator that ignores its input and a critic that prefers small codes."""
    side = round(logits.shape[1] ** 0.5)
    return decode(
        lambda tokens, mask, progress: logits,
        jnp.zeros(mask.shape, jnp.int32) if tokens is None else tokens,
        mask,
        image_keys(key, np.arange(len(mask))),
        settings,
        (side, side),
        lambda tokens: -tokens.astype(jnp.float32),
    )


def official_count(schedule: str, step: int, steps: int, length: int, masked: int) -> int:
    """The published number of tokens to mask after a step, in numpy."""
    gamma = OFFICIAL[schedule](np.float32((step + 1) / steps), np.float32(length))
    gamma = np.float32(np.clip(gamma, 1e-6, 1.0))
    return int(max(1, min(masked - 1, np.floor(length * gamma))))


@pytest.mark.parametrize(
    ("schedule", "steps", "start_step"),
    [("cosine", 1, 0), ("cosine", 6, 0), ("exponential", 8, 0), ("cosine", 8, 2)],
)
def test_parity_with_the_official_rule(key, schedule, steps, start_step):
    """Compares with a numpy transcript of the published rule, fed with the same random numbers."""
    length = 49
    settings = DecodeSettings(steps=steps, schedule=schedule, start_step=start_step)
    logits = random_logits(length, batch=1)
    _, trajectory = run(settings, logits, jnp.ones((1, length), bool), key)
    log_p = np.asarray(jax.nn.log_softmax(logits))[0]
    masked, tokens = np.ones(length, bool), np.zeros(length, int)
    assert len(trajectory.tokens) == steps - start_step
    for step in range(start_step, steps):
        image_key = jax.random.fold_in(key, 0)
        step_key = jax.random.fold_in(image_key, step)
        token_key, noise_key = (jax.random.fold_in(step_key, number) for number in range(2))
        sampled = np.asarray(sample_categorical(token_key[None], logits))[0]
        tokens = np.where(masked, sampled, tokens)
        np.testing.assert_array_equal(trajectory.tokens[step - start_step, 0], tokens)
        count = official_count(schedule, step, steps, length, masked.sum())
        noise = np.asarray(jax.random.gumbel(noise_key, (length,)))
        strength = 4.5 * (1 - np.float32((step + 1) / steps))
        confidence = log_p[np.arange(length), tokens] + strength * noise
        confidence = np.where(masked, confidence, np.inf)
        masked = confidence < np.sort(confidence)[count]
        if step < steps - 1:  # the published loop masks one token even after its last step
            np.testing.assert_array_equal(trajectory.mask[step - start_step, 0], masked)
    assert not trajectory.mask[-1].any()


@pytest.mark.parametrize("schedule", OFFICIAL)
def test_numbers_of_masked_tokens_are_the_official_ones(schedule):
    length, steps = 49, 8  # no mask ratio times 49 is an integer, which rounding could change
    expected = [length]
    for step in range(steps - 1):
        expected.append(official_count(schedule, step, steps, length, expected[-1]))
    counts = masked_counts(np.asarray([length]), steps, schedule)[:, 0]
    assert counts.tolist() == [*expected, 0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_invariants_of_all_decoders(key, variant):
    settings = DecodeSettings(16, **variant)  # more steps than one of the examples has tokens
    mask = jnp.stack([jnp.ones(16, bool), jnp.arange(16) < 5, jnp.zeros(16, bool)])
    tokens = jnp.where(mask, -7, 3)
    out, trajectory = run(settings, random_logits(batch=3), mask, key, tokens)
    assert ((out >= 0) & (out < 5)).all()
    np.testing.assert_array_equal(out[~mask], 3, err_msg="known tokens stay")
    assert not (trajectory.mask & ~mask[None]).any(), "known tokens are never masked"
    num_masked = plan(np.asarray(mask.sum(axis=-1)), settings).num_masked
    np.testing.assert_array_equal(trajectory.mask.sum(axis=-1), num_masked)
    assert not num_masked[-1].any()
    np.testing.assert_array_equal(trajectory.tokens[-1], out)
    accepted = mask[None] & ~trajectory.mask[:-1]
    remasked = accepted & trajectory.mask[1:]
    resampled = accepted & (trajectory.tokens[1:] != trajectory.tokens[:-1])
    if not DECODERS[settings.decoder].revises:
        assert not (remasked | resampled).any()
    elif variant["decoder"] != "self_critic":
        assert (remasked | resampled)[:, 0].any(), "a revising decoder revises"
    np.testing.assert_array_equal(run(settings, random_logits(batch=3), mask, key, tokens)[0], out)


def test_a_rescored_token_is_masked_again_when_it_becomes_unlikely(key):
    """The generator predicts code 0 in the first half of the steps and code 1 in the second."""

    def predict(tokens, mask, progress):
        code = jnp.where(progress > 0.5, 1, 0)
        return jnp.broadcast_to(20.0 * jax.nn.one_hot(code, 5), (*tokens.shape, 5))

    settings = DecodeSettings(8, schedule="linear", choice_temperature=0.0, remask_fraction=1.0)
    zeros = {}
    for decoder in ("confidence", "self_critic"):
        changed = replace(settings, decoder=decoder)
        tokens, _ = jax.jit(lambda x, keys, s=changed: decode(predict, x, x == 0, keys, s, (4, 4)))(
            jnp.zeros((1, 16), jnp.int32), key[None]
        )
        zeros[decoder] = int((tokens == 0).sum())
    assert zeros["confidence"] == 8 and zeros["self_critic"] < 4


@dataclass(frozen=True)
class EntropySettings(DecodeSettings):
    entropy_weight: float = setting(1.0, "Weight of the entropy.", minimum=0, maximum=2)


@pytest.fixture
def entropy_decoder():
    @register("entropy", settings=EntropySettings)
    def entropy(state: DecodeState, settings: EntropySettings) -> jax.Array:
        entropies = -(state.probabilities * jax.nn.log_softmax(state.logits)).sum(axis=-1)
        scores = state.noise - settings.entropy_weight * entropies
        return k_lowest(scores, state.num_masked, state.mask)

    yield
    del DECODERS["entropy"]


def test_a_new_rule_is_one_registered_function_with_its_own_settings(key, entropy_decoder):
    cls = decode_settings_class()
    settings = cls(**{**settings_dict(cls), "decoder": "entropy", "choice_temperature": 0.0})
    check_settings(settings)
    assert settings == cls(decoder="entropy", choice_temperature=0.0), "static argument"
    with pytest.raises(InputError, match="entropy_weight is 3; it must be at least 0 and at most"):
        check_settings(replace(settings, entropy_weight=3))
    declared = {declaration.name: declaration for declaration in declared_settings()}
    assert declared["entropy_weight"].default == 1.0
    assert "entropy" in declared["decoder"].choices
    # The logits of token i are i times as sharp: the last tokens are accepted first.
    logits = jnp.arange(16.0)[None, :, None] * jnp.asarray([[[0.1, 0.2, 0.3]]])
    _, trajectory = run(settings, logits, jnp.ones((1, 16), bool), key)
    num_masked = trajectory.mask.sum(axis=-1)
    np.testing.assert_array_equal(
        trajectory.mask, np.arange(16) < np.asarray(num_masked)[..., None]
    )


def test_the_default_settings_class_has_no_settings_of_unregistered_rules():
    assert decode_settings_class() is DecodeSettings


def test_every_step_after_the_first_one_accepts_a_token():
    counts = masked_counts(np.asarray([49, 7, 2]), 12, "cosine", start_step=4)
    assert counts[0].tolist() == [49, 7, 2] and len(counts) == 9
    assert (np.diff(counts[:, 0]) < 0).all() and counts[1, 0] == int(49 * np.cos(np.pi * 5 / 24))
    assert counts[:, 1].tolist() == [7, 6, 5, 4, 3, 2, 1, 0, 0]
    assert counts[:, 2].tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0]


def test_every_step_accepts_a_token():
    num_masked = [256, 49, 16, 5, 1, 0]
    for schedule in (*OFFICIAL, "arccos", "pow0.3", "pow9"):
        counts = masked_counts(np.asarray(num_masked), 16, schedule)
        assert counts.shape == (17, 6)
        np.testing.assert_array_equal(counts[0], num_masked)
        assert not counts[-1].any()
        accepted = -np.diff(counts, axis=0)
        for column, n in enumerate(num_masked):
            steps = min(n, 16)
            assert (accepted[:steps, column] >= 1).all() and not accepted[steps:, column].any()


def test_numbers_of_remasked_tokens_are_those_of_remdm():
    n = np.asarray([128])
    cap = DecodeSettings(
        8, decoder="remask", remask_schedule="cap", remask_fraction=0.25, schedule="linear"
    )
    *_, num_masked, num_remasked = plan(n, cap)
    assert num_masked[:, 0].tolist() == [112, 96, 80, 64, 48, 32, 16, 0]
    # a quarter of the 0, 16, 32 ... accepted before, at most as many as are masked next
    assert num_remasked[:, 0].tolist() == [0, 4, 8, 12, 16, 20, 16, 0]
    *_, num_remasked = plan(n, replace(cap, remask_schedule="rescale"))
    assert num_remasked[:, 0].tolist() == [0, 4, 8, 12, 12, 8, 4, 0]
    loop = replace(cap, steps=9, remask_schedule="loop", remask_fraction=0.05)
    *_, num_masked, num_remasked = plan(n, loop)
    assert num_masked[3:, 0].tolist() == [13, 13, 13, 13, 13, 0]
    assert num_remasked[:, 0].tolist() == [0, 0, 0, 0, 6, 6, 6, 6, 0]


def test_halton_order_is_a_bijection_that_spreads():
    for grid in ((7, 7), (4, 6), (16, 16), (1, 1)):
        assert sorted(halton_order(grid).tolist()) == list(range(grid[0] * grid[1]))
    first = np.argsort(halton_order((16, 16)))[:16]
    assert len({(token // 16 // 8, token % 16 // 8) for token in first}) == 4, "all quarters"
    # Radical inverses by hand: (1/2, 1/3), (1/4, 2/3), (3/4, 1/9) on a 4x9 map
    assert np.argsort(halton_order((4, 9)))[:3].tolist() == [2 * 9 + 3, 9 + 6, 3 * 9 + 1]


def test_samples_follow_the_logits():
    logits = jnp.log(jnp.asarray([0.7, 0.2, 0.1]))[None, None].repeat(64, 0).repeat(49, 1)
    mask = jnp.ones((64, 49), bool)
    for settings in (DecodeSettings(1), DecodeSettings(4, decoder="halton")):
        tokens, _ = run(settings, logits, mask, jax.random.key(5))
        frequencies = np.bincount(np.asarray(tokens).ravel(), minlength=3) / tokens.size
        np.testing.assert_allclose(frequencies, [0.7, 0.2, 0.1], atol=0.03)
    # Only the most likely code at low temperature, and with top_k 1.
    cold = dict(last_temperature=1e-3, temperature=1e-3)
    for changes in (cold, dict(top_k=1), dict(temperature=0.0)):
        assert not run(DecodeSettings(2, **changes), logits, mask, jax.random.key(5))[0].any()


def test_the_moment_decoder_chooses_by_moments_and_samples_from_the_power(key):
    """Accepts one of three tokens in the first of two steps, with alpha = 1 and beta = 2."""
    logits = jnp.log(jnp.asarray([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3]]))[None].repeat(6000, 0)
    mask = jnp.ones((6000, 3), bool)
    keys = image_keys(key, np.arange(6000))

    def first_step(**changes):
        settings = DecodeSettings(2, decoder="moment", schedule="cosine", **changes)
        settings = replace(settings, choice_temperature=2 * settings.choice_temperature)
        decoded = jax.jit(
            lambda keys: decode(lambda *_: logits, mask * 0, mask, keys, settings, (1, 3))[1]
        )(keys)
        return np.asarray(decoded.tokens[0]), ~np.asarray(decoded.mask[0])

    tokens, accepted = first_step(choice_temperature=1.0)
    assert (accepted.sum(axis=1) == 1).all()
    moments = np.asarray([0.82, 0.5, 0.58])
    np.testing.assert_allclose(accepted.mean(axis=0), moments / moments.sum(), atol=0.02)
    for i, p in enumerate([0.9, 0.5, 0.7]):
        chosen = tokens[accepted[:, i], i]
        np.testing.assert_allclose((chosen == 0).mean(), p**2 / moments[i], atol=0.03)
    _, accepted = first_step(choice_temperature=400.0)  # as random
    np.testing.assert_allclose(accepted.mean(axis=0), 1 / 3, atol=0.02)


def test_guidance_by_hand():
    conditional, unconditional = jnp.asarray([2.0, 0.0]), jnp.asarray([1.0, 1.0])
    np.testing.assert_allclose(guide(conditional, unconditional, 0.0), conditional)
    np.testing.assert_allclose(guide(conditional, unconditional, 2.0), [4.0, -2.0])


@pytest.mark.parametrize(
    ("schedule", "scales"),
    [("constant", [3, 3]), ("linear", [1.5, 3]), ("cosine", [1.5, 3]), ("interval", [0, 3])],
)
def test_guidance_follows_its_schedule(schedule, scales):
    settings = DecodeSettings(
        2, guidance=3.0, guidance_schedule=schedule, guidance_interval=(0.5, 1.0)
    )

    def logits_of(tokens, mask, label):
        return jnp.broadcast_to(label[:, None, None], (*tokens.shape, 4)).astype(jnp.float32)

    predict = jax.jit(with_guidance(logits_of, jnp.asarray([5, 6]), 9, settings))
    tokens = jnp.zeros((2, 3), jnp.int32)
    for progress, scale in zip((0.5, 1.0), scales, strict=True):
        logits = predict(tokens, tokens == 0, jnp.float32(progress))
        np.testing.assert_allclose(logits[:, 0, 0], [5 + scale * -4, 6 + scale * -3], rtol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "interval"])
def test_a_guide_takes_the_place_of_the_null_label(schedule):
    settings = DecodeSettings(
        2, guidance=3.0, guidance_schedule=schedule, guidance_interval=(0.5, 1.0)
    )
    logits = jax.random.normal(jax.random.key(0), (2, 3, 4))
    worse = jax.random.normal(jax.random.key(1), (2, 3, 4))
    tokens, label = jnp.zeros((2, 3), jnp.int32), jnp.asarray([5, 6])

    def predict(guide_logits, progress):
        given = (lambda *_: logits, label, 9, settings, lambda *_: guide_logits)
        return jax.jit(with_guidance(*given))(tokens, tokens == 0, jnp.float32(progress))

    np.testing.assert_allclose(predict(worse, 1.0), 4 * logits - 3 * worse, rtol=1e-5)
    outside = logits if schedule == "interval" else 4 * logits - 3 * worse
    np.testing.assert_allclose(predict(worse, 0.5), outside, rtol=1e-5)
    np.testing.assert_array_equal(predict(logits, 1.0), logits, err_msg="guided by itself")
    unguided = with_guidance(lambda *_: logits, label, 9, DecodeSettings(2), lambda *_: worse)
    np.testing.assert_array_equal(unguided(tokens, tokens == 0, jnp.float32(1.0)), logits)


def test_num_network_evaluations():
    settings = DecodeSettings(8)
    assert num_network_evaluations(settings) == 8
    assert num_network_evaluations(replace(settings, decoder="token_critic")) == 15
    guided = replace(settings, guidance=1.0)
    assert num_network_evaluations(guided) == 16
    assert num_network_evaluations(replace(guided, decoder="corrector")) == 32
    assert num_network_evaluations(replace(guided, start_step=2)) == 12
    half = replace(guided, guidance_schedule="interval", guidance_interval=(0.5, 1))
    assert num_network_evaluations(half) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(steps=17), "between 1 and the number of tokens, 16"),
        (dict(steps=0), "steps is 0; it must be at least 1"),
        (dict(start_step=8), "start_step is 8; it must be below steps, 8"),
        (dict(decoder="best"), "decoder is 'best'; it must be one of confidence, random"),
        (dict(schedule="sawtooth"), "schedule is 'sawtooth'; allowed: linear, cosine"),
        (dict(schedule="beta12,3"), "'beta12,3', a distribution of mask ratios in training; all"),
        (dict(decoder="token_critic"), "train configs/token_critic.py"),
        (dict(decoder="moment", choice_temperature=0.0), "choice_temperature is 0, with which"),
        (dict(guidance=1.0), "label_dropout_rate"),
        (dict(guidance_interval=(0.5, 0.2)), "guidance_interval is 0.5,0.2"),
        (dict(remask_fraction=1.2), "remask_fraction is 1.2; it must be at least 0 and at most 1"),
        (dict(temperature=1e-9), "temperature is 1e-09; it must be 0 or at least 1e-06"),
        (dict(temperature=1e9), "temperature is 1000000000.0; it must be at least 0 and at most"),
        (dict(temperature=0.0, last_temperature=1.0), "but temperature is 0"),
        (dict(guidance=float("inf")), "guidance is inf"),
        (dict(choice_temperature=float("nan")), "choice_temperature is nan"),
        (dict(top_k=9), "top_k is 9"),
    ],
)
def test_invalid_settings_are_refused(changes, message):
    settings = DecodeSettings(**changes)
    with pytest.raises(InputError, match=message):
        check_decode_settings(settings, 16, 8, has_null_label=False, has_critic=False)
