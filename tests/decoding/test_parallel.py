"""All decoders on tables of logits: parity with the published rule, and invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.parallel import (
    DECODERS,
    REMASK_SCHEDULES,
    DecodeSettings,
    Model,
    check_decode_settings,
    decode,
    guide,
    num_network_evaluations,
    plan,
    with_guidance,
)
from maskgit_jax.decoding.rules import halton_turns
from maskgit_jax.decoding.sampling import sample_categorical
from maskgit_jax.decoding.schedules import masked_counts, rise

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
    *({"decoder": "remask", "remask": kind} for kind in REMASK_SCHEDULES),
]


def table(length: int = 16, codes: int = 5, batch: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(3), (batch, length, codes))


def model_of(logits: jax.Array) -> Model:
    """A generator that ignores what it sees, and a critic that prefers small codes."""
    side = round(logits.shape[1] ** 0.5)
    return Model(
        lambda tokens, mask, progress: logits,
        (side, side),
        lambda tokens: -tokens.astype(jnp.float32),
    )


def run(settings, logits, mask, key, tokens=None):
    tokens = jnp.zeros(mask.shape, jnp.int32) if tokens is None else tokens
    return decode(model_of(logits), tokens, mask, key, settings)


@pytest.mark.parametrize(
    ("schedule", "steps"), [("cosine", 1), ("cosine", 6), *((name, 8) for name in OFFICIAL)]
)
def test_parity_with_the_official_rule_on_a_table_of_logits(key, schedule, steps):
    """A numpy transcript of the published rule, fed with the same samples and noise."""
    length = 49  # no share of it is a whole number, which rounding could move
    settings = DecodeSettings(steps=steps, schedule=schedule)
    logits = table(length, batch=1)
    _, way = run(settings, logits, jnp.ones((1, length), bool), key)
    log_p = np.asarray(jax.nn.log_softmax(logits))[0]
    unknown, tokens = np.ones(length, bool), np.zeros(length, int)
    for step in range(steps):
        token_key, place_key, _, _ = jax.random.split(jax.random.fold_in(key, step), 4)
        sampled = np.asarray(sample_categorical(token_key, logits))[0]
        tokens = np.where(unknown, sampled, tokens)
        np.testing.assert_array_equal(way.tokens[step, 0], tokens)
        ratio = np.float32((step + 1) / steps)
        share = np.clip(OFFICIAL[schedule](ratio, np.float32(length)), 1e-6, 1.0)
        count = int(max(1, min(unknown.sum() - 1, np.floor(length * np.float32(share)))))
        noise = np.asarray(jax.random.gumbel(place_key, (1, length)))[0]
        confidence = log_p[np.arange(length), tokens] + 4.5 * (1 - ratio) * noise
        confidence = np.where(unknown, confidence, np.inf)
        unknown = confidence < np.sort(confidence)[count]
        if step < steps - 1:  # the published loop hides one token even after its last step
            np.testing.assert_array_equal(way.mask[step, 0], unknown)
    assert not way.mask[-1].any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_laws_of_all_decoders(key, variant):
    settings = DecodeSettings(16, **variant)  # more steps than one of the examples has tokens
    mask = jnp.stack([jnp.ones(16, bool), jnp.arange(16) < 5, jnp.zeros(16, bool)])
    tokens = jnp.where(mask, -7, 3)
    out, way = run(settings, table(batch=3), mask, key, tokens)
    assert ((out >= 0) & (out < 5)).all()
    np.testing.assert_array_equal(out[~mask], 3, err_msg="known tokens stay")
    assert not (way.mask & ~mask[None]).any(), "only what was to be filled is ever masked"
    left, _ = plan(mask.sum(axis=-1), settings)
    np.testing.assert_array_equal(way.mask.sum(axis=-1), left)
    assert not left[-1].any()
    np.testing.assert_array_equal(way.tokens[-1], out)
    accepted = mask[None] & ~way.mask[:-1]
    taken_back = accepted & way.mask[1:]
    redrawn = accepted & (way.tokens[1:] != way.tokens[:-1])
    if not DECODERS[settings.decoder].revises:
        assert not (taken_back | redrawn).any()
    elif variant["decoder"] != "self_critic":
        assert (taken_back | redrawn)[:, 0].any(), "a revising decoder revises"
    again, _ = run(settings, table(batch=3), mask, key, tokens)
    np.testing.assert_array_equal(again, out)


def test_a_probed_token_comes_back_when_the_generator_changes_its_mind(key):
    """A generator that is sure of code 0 first, and of code 1 as soon as a quarter is filled."""

    def predict(tokens, mask, progress):
        sure = jnp.where(progress > 0.5, 1, 0)
        return jnp.broadcast_to(20.0 * jax.nn.one_hot(sure, 5), (*tokens.shape, 5))

    model = Model(predict, (4, 4))
    nothing = (jnp.zeros((1, 16), jnp.int32), jnp.ones((1, 16), bool))
    firm, _ = decode(model, *nothing, key, DecodeSettings(8, schedule="linear"))
    assert (firm == 0).sum() == 8
    settings = DecodeSettings(8, schedule="linear", decoder="self_critic", revised=1.0)
    revised, _ = decode(model, *nothing, key, settings._replace(choice_temperature=0.0))
    assert (revised == 0).sum() < 4


def test_counts_are_exact_and_every_step_reveals():
    for schedule in (*OFFICIAL, "arccos", "pow0.3", "pow9"):
        counts = np.asarray(masked_counts(jnp.asarray([256, 49, 16, 5, 1, 0]), 16, schedule))
        assert counts.shape == (17, 6)
        np.testing.assert_array_equal(counts[0], [256, 49, 16, 5, 1, 0])
        assert not counts[-1].any()
        revealed = -np.diff(counts, axis=0)
        for column, n in enumerate([256, 49, 16, 5, 1, 0]):
            busy = min(n, 16)
            assert (revealed[:busy, column] >= 1).all() and not revealed[busy:, column].any()


def test_cosine_counts_are_the_official_ones():
    counts = masked_counts(jnp.asarray([256]), 8, "cosine")[1:, 0]
    assert counts.tolist() == [251, 236, 212, 181, 142, 97, 49, 0]


def test_numbers_taken_back_are_those_of_remdm():
    n = jnp.asarray([128])
    cap = DecodeSettings(8, decoder="remask", remask="cap", revised=0.25, schedule="linear")
    left, back = plan(n, cap)
    assert left[:, 0].tolist() == [112, 96, 80, 64, 48, 32, 16, 0]
    # a quarter of the 0, 16, 32 ... accepted before, at most as many as are masked next
    assert back[:, 0].tolist() == [0, 4, 8, 12, 16, 20, 16, 0]
    _, back = plan(n, cap._replace(remask="rescale"))
    assert back[:, 0].tolist() == [0, 4, 8, 12, 12, 8, 4, 0]
    left, back = plan(n, cap._replace(steps=9, remask="loop", revised=0.05))
    assert left[3:, 0].tolist() == [13, 13, 13, 13, 13, 0]
    assert back[:4, 0].tolist() == [0] * 4 and (back[4:8, 0] == 6).all() and back[8, 0] == 0


def test_halton_turns_are_a_bijection_that_spreads():
    for grid in ((7, 7), (4, 6), (16, 16), (1, 1)):
        turns = halton_turns(grid)
        assert sorted(turns.tolist()) == list(range(grid[0] * grid[1]))
    first = np.argsort(halton_turns((16, 16)))[:16]
    quarters = {(place // 16 // 8, place % 16 // 8) for place in first}
    assert len(quarters) == 4
    # Radical inverses by hand: (1/2, 1/3), (1/4, 2/3), (3/4, 1/9) on a 4x9 map
    assert np.argsort(halton_turns((4, 9)))[:3].tolist() == [2 * 9 + 3, 9 + 6, 3 * 9 + 1]


def test_samples_follow_the_logits():
    logits = jnp.log(jnp.asarray([0.7, 0.2, 0.1]))[None, None].repeat(64, 0).repeat(49, 1)
    mask = jnp.ones((64, 49), bool)
    for settings in (DecodeSettings(1), DecodeSettings(4, decoder="halton")):
        out, _ = run(settings, logits, mask, jax.random.key(5))
        share = np.bincount(np.asarray(out).ravel(), minlength=3) / out.size
        np.testing.assert_allclose(share, [0.7, 0.2, 0.1], atol=0.03)
    # Cold at the end: only the likeliest; with top_k 1 too.
    for changes in (dict(last_temperature=1e-3, temperature=1e-3), dict(top_k=1)):
        assert not run(DecodeSettings(2, **changes), logits, mask, jax.random.key(5))[0].any()


def test_guidance_by_hand():
    one, other = jnp.asarray([2.0, 0.0]), jnp.asarray([1.0, 1.0])
    np.testing.assert_allclose(guide(one, other, 0.0), one)
    np.testing.assert_allclose(guide(one, other, 2.0), [4.0, -2.0])
    at = jnp.asarray([0.25, 0.5, 1.0])
    np.testing.assert_allclose(rise(at, "constant"), [1, 1, 1])
    np.testing.assert_allclose(rise(at, "linear"), at)
    np.testing.assert_allclose(rise(at, "cosine"), [(1 - 0.5**0.5) / 2, 0.5, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "scales"),
    [("constant", [3, 3]), ("linear", [1.5, 3]), ("cosine", [1.5, 3]), ("interval", [0, 3])],
)
def test_guided_predictions_follow_their_schedule(shape, scales):
    settings = DecodeSettings(2, guidance=3.0, guidance_schedule=shape)
    settings = settings._replace(guidance_interval=(0.5, 1.0))

    def logits_of(tokens, mask, label):
        return jnp.broadcast_to(label[:, None, None], (*tokens.shape, 4)).astype(jnp.float32)

    predict = with_guidance(logits_of, jnp.asarray([5, 6]), 9, settings)
    tokens = jnp.zeros((2, 3), jnp.int32)
    for progress, scale in zip((0.5, 1.0), scales, strict=True):
        found = jax.jit(predict)(tokens, tokens == 0, jnp.float32(progress))
        np.testing.assert_allclose(found[:, 0, 0], [5 + scale * -4, 6 + scale * -3], rtol=1e-6)


def test_passes_are_counted():
    plain = DecodeSettings(8)
    assert num_network_evaluations(plain) == 8
    assert num_network_evaluations(plain._replace(guidance=1.0)) == 16
    assert num_network_evaluations(plain._replace(decoder="corrector", guidance=1.0)) == 32
    assert num_network_evaluations(plain._replace(decoder="token_critic")) == 15
    half = plain._replace(guidance=1.0, guidance_schedule="interval", guidance_interval=(0.5, 1))
    assert num_network_evaluations(half) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(steps=17), "between 1 and the number of tokens, 16"),
        (dict(decoder="best"), "decoder is 'best'; allowed: confidence, random"),
        (dict(schedule="sawtooth"), "schedule is 'sawtooth'; allowed: linear, cosine"),
        (dict(decoder="token_critic"), "train configs/token_critic.py"),
        (dict(guidance=1.0), "label_dropout_rate"),
        (dict(guidance_interval=(0.5, 0.2)), "guidance_interval is 0.5,0.2"),
        (dict(revised=1.2), "revised is 1.2"),
        (dict(top_k=9), "top_k is 9"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    settings = DecodeSettings()._replace(**changes)
    with pytest.raises(InputError, match=message):
        check_decode_settings(settings, 16, 8, guidable=False, critic=False)
