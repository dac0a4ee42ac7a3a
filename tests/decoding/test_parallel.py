import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.decoding.parallel import DecodeSettings, decode_by_confidence, guide
from maskgit_jax.decoding.sampling import draw_tokens
from maskgit_jax.decoding.schedules import mask_ratio, random_mask, rank


def table(length: int = 16, codes: int = 5, batch: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(3), (batch, length, codes))


def decode(settings, logits, hidden, key, tokens=None):
    tokens = jnp.zeros(hidden.shape, jnp.int32) if tokens is None else tokens
    return decode_by_confidence(lambda t, h: logits, tokens, hidden, key, settings)


def test_cosine_schedule_has_the_official_values():
    # google-research/maskgit, 256 tokens, 8 steps, before the clip to at least one.
    ratio = jnp.arange(1, 9) / 8
    counts = jnp.floor(mask_ratio(ratio, 256, "cosine") * 256)
    assert counts.tolist() == [251, 236, 212, 181, 142, 97, 49, 0]
    assert mask_ratio(1.0, 256, "cosine") == np.float32(1e-6)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="cosine"):
        mask_ratio(0.5, 16, "sawtooth")


def test_training_masks_hide_the_scheduled_number(key):
    scores = jax.random.uniform(key, (3, 16))
    mask = random_mask(jnp.asarray([0.0, 0.5, 0.9999]), scores, "cosine")
    assert mask.sum(axis=-1).tolist() == [16, 11, 1]


def test_rank_breaks_ties_by_position():
    assert rank(jnp.asarray([[2.0, 1.0, 1.0, 3.0]])).tolist() == [[2, 0, 1, 3]]


@pytest.mark.parametrize("steps", [1, 3, 16])
def test_everything_is_filled_and_known_tokens_stay(key, steps):
    hidden = jnp.asarray([[True] * 16, [True] * 4 + [False] * 12])
    tokens = jnp.where(hidden, -7, 3)
    out, trajectory = decode(DecodeSettings(steps), table(), hidden, key, tokens)
    assert trajectory.shape == (steps, 2, 16)
    assert ((out >= 0) & (out < 5)).all()
    np.testing.assert_array_equal(out[~hidden], 3)


def test_nothing_hidden_changes_nothing(key):
    tokens = jnp.full((1, 16), 4)
    out, _ = decode(DecodeSettings(4), table(batch=1), jnp.zeros((1, 16), bool), key, tokens)
    np.testing.assert_array_equal(out, tokens)


def test_parity_with_the_official_rule_on_a_table_of_logits(key):
    """A numpy transcript of the published rule, fed with the same samples and noise."""
    settings = DecodeSettings(steps=6)
    logits = table(batch=1)
    hidden = jnp.ones((1, 16), bool)
    _, trajectory = decode(settings, logits, hidden, key)
    log_p = np.asarray(jax.nn.log_softmax(logits))[0]
    unknown, tokens = np.ones(16, bool), np.zeros(16, int)
    for step in range(6):
        token_key, place_key = jax.random.split(jax.random.fold_in(key, step))
        sampled = np.asarray(draw_tokens(token_key, logits))[0]
        tokens = np.where(unknown, sampled, tokens)
        np.testing.assert_array_equal(trajectory[step, 0], tokens)
        ratio = (step + 1) / 6
        count = np.floor(16 * np.clip(np.cos(np.pi / 2 * np.float32(ratio)), 1e-6, 1.0))
        count = int(max(1, min(unknown.sum() - 1, count)))
        noise = np.asarray(jax.random.gumbel(place_key, (1, 16)))[0]
        surety = log_p[np.arange(16), tokens] + 4.5 * (1 - ratio) * noise
        surety = np.where(unknown, surety, np.inf)
        unknown = surety < np.sort(surety)[count]


def test_samples_follow_the_logits():
    logits = jnp.log(jnp.asarray([0.7, 0.2, 0.1]))[None, None].repeat(64, 0).repeat(50, 1)
    out, _ = decode(DecodeSettings(1), logits, jnp.ones((64, 50), bool), jax.random.key(5))
    share = np.bincount(np.asarray(out).ravel(), minlength=3) / out.size
    np.testing.assert_allclose(share, [0.7, 0.2, 0.1], atol=0.03)


def test_the_same_key_gives_the_same_tokens(key):
    hidden = jnp.ones((2, 16), bool)
    one, other, third = (
        decode(DecodeSettings(4), table(), hidden, jax.random.key(seed))[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, third)


def test_guidance_by_hand():
    one, other = jnp.asarray([2.0, 0.0]), jnp.asarray([1.0, 1.0])
    np.testing.assert_allclose(guide(one, other, 0.0), one)
    np.testing.assert_allclose(guide(one, other, 2.0), [4.0, -2.0])
