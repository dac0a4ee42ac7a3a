import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.quantizers.codebook import (
    count_restarts,
    init_codebook,
    init_ema,
    init_usage,
    kmeans,
    restart_dead_codes,
    restart_dead_means,
    sample_latents,
    update_ema,
    update_usage,
)

CODEBOOK = np.asarray([[0.0, 0.0], [1.0, 1.0], [4.0, 0.0]], np.float32)


@pytest.mark.parametrize("restart_after", [0, 2])
def test_dead_codes_restart_from_latents(key, restart_after):
    usage = init_usage(3, 2)
    latents, tokens = jnp.asarray([[0.9, 0.8], [3.5, 0.0]]), jnp.asarray([1, 2])  # 0 is unused
    for step in range(2):
        step_key = jax.random.fold_in(key, step)
        usage = update_usage(usage, latents, tokens, step_key, jnp.int32(step), restart_after)
        book = restart_dead_codes(CODEBOOK, usage, jnp.int32(step))
        if step == 0 or not restart_after:
            np.testing.assert_array_equal(book, CODEBOOK)
    np.testing.assert_array_equal(book[1:], CODEBOOK[1:])
    assert count_restarts(usage, jnp.int32(1)) == (1 if restart_after else 0)
    if restart_after:
        assert any((book[0] == row).all() for row in latents)
        assert usage["idle"].tolist() == [0, 0, 0]
        later = restart_dead_codes(CODEBOOK, usage, jnp.int32(2))
        np.testing.assert_array_equal(later, CODEBOOK, "a code restarts at one step only")


@pytest.mark.parametrize("num_codes", [4, 10])
def test_codes_are_sampled_from_the_data(key, num_codes):
    vectors = jnp.arange(12.0).reshape(2, 3, 2)
    codes = {tuple(row) for row in sample_latents(vectors, num_codes, key).tolist()}
    assert codes <= {tuple(row) for row in vectors.reshape(-1, 2).tolist()}
    assert len(codes) == 4 or num_codes > 6, "without replacement while there are enough"


def test_ema_against_numpy_with_an_unused_and_a_restarted_code():
    """Three batches; code 0 is never chosen, code 3 restarts after the second."""
    rng = np.random.default_rng(1)
    codebook, decay = rng.normal(size=(4, 2)).astype(np.float32), 0.9
    ema = init_ema(jnp.asarray(codebook))
    count, total = np.ones(4), codebook.astype(np.float64)
    for step in range(3):
        latents = rng.normal(size=(2, 5, 2)).astype(np.float32)
        tokens = rng.integers(1, 3 if step == 1 else 4, size=(2, 5)).astype(np.int32)
        ema = update_ema(ema, jnp.asarray(latents), jnp.asarray(tokens), decay)
        one_hot = np.eye(4)[tokens.ravel()]
        count = decay * count + (1 - decay) * one_hot.sum(0)
        total = decay * total + (1 - decay) * one_hot.T @ latents.reshape(-1, 2)
        if step == 1:
            usage = {
                "restarted_at": jnp.asarray([-1, 0, -1, step]),
                "replacement": jnp.full((4, 2), 7.0),
            }
            ema = restart_dead_means(ema, usage, jnp.int32(step))
            count[3], total[3] = 1.0, 7.0
        np.testing.assert_allclose(ema["counts"], count, rtol=1e-5)
        np.testing.assert_allclose(ema["means"], total / count[:, None], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(ema["means"][0], codebook[0])


def test_a_code_unused_for_long_stays_and_then_follows_its_latents():
    def unused(ema, _):
        return update_ema(ema, jnp.zeros((4, 2)), jnp.full((4,), 2), 0.9), None

    ema, _ = jax.lax.scan(unused, init_ema(jnp.asarray(CODEBOOK)), length=2000)
    assert ema["counts"][1] < 1e-30
    np.testing.assert_array_equal(ema["means"][:2], CODEBOOK[:2])
    ema = update_ema(ema, jnp.asarray([[2.0, 3.0]]), jnp.asarray([1]), 0.9)
    np.testing.assert_allclose(ema["means"][1], [2.0, 3.0], rtol=1e-6)


def quantization_error(latents, codebook):
    distance = ((np.asarray(latents)[:, None] - np.asarray(codebook)[None]) ** 2).sum(-1)
    return distance.min(axis=1).mean()


def test_kmeans_never_increases_the_error():
    rng = np.random.default_rng(2)
    latents = jnp.asarray(rng.normal(size=(300, 4)) + 5 * rng.integers(0, 3, (300, 1)), jnp.float32)
    cluster = jax.jit(lambda n: kmeans(latents, 12, jax.random.key(0), n))
    errors = [quantization_error(latents, cluster(n)) for n in range(6)]
    assert errors[-1] < 0.9 * errors[0]
    assert all(later <= earlier + 1e-5 for earlier, later in zip(errors, errors[1:], strict=False))


def test_kmeans_finds_two_clusters_by_hand(key):
    # Lloyd's iterations reach these centers from any two of the four points.
    latents = jnp.asarray([[0.0, 0.0], [2.0, 0.0], [100.0, 0.0], [104.0, 0.0]])
    assert sorted(kmeans(latents, 2, key).tolist()) == [[1.0, 0.0], [102.0, 0.0]]


def test_kmeans_with_more_codes_than_latents(key):
    latents = jnp.asarray([[[0.0, 1.0], [2.0, 3.0]]])
    centers = kmeans(latents, 7, key)
    assert centers.shape == (7, 2) and bool(jnp.isfinite(centers).all())
    np.testing.assert_allclose(quantization_error(latents.reshape(-1, 2), centers), 0, atol=1e-9)


def test_codebooks_start_from_data_clusters_or_the_initializer(key):
    rng = np.random.default_rng(3)
    latents, codebook = jnp.asarray(rng.normal(size=(8, 10, 2)), jnp.float32), jnp.full((6, 2), 9.0)
    books = {
        init: init_codebook(codebook, latents, jax.random.key(0), init)
        for init in ("uniform", "data", "kmeans")
    }
    errors = [quantization_error(latents.reshape(-1, 2), book) for book in books.values()]
    assert errors[0] > errors[1] > errors[2]
    np.testing.assert_array_equal(books["uniform"], codebook)
    with pytest.raises(ValueError, match="zeros.*data, kmeans, uniform"):
        init_codebook(codebook, latents, key, "zeros")
