import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.quantizers.vector import (
    VectorQuantizer,
    init_ema,
    init_usage,
    initial_codebook,
    kmeans,
    reset_ema_of_restarted,
    restart_dead_codes,
    sample_latents,
    update_ema,
    update_usage,
)

CODEBOOK = np.asarray([[0.0, 0.0], [1.0, 1.0], [4.0, 0.0]], np.float32)


def apply(latents, codebook=CODEBOOK):
    module = VectorQuantizer(len(codebook), codebook.shape[1])
    return module.apply({"params": {"codebook": codebook}}, latents)


def test_nearest_code_by_hand():
    quantized = apply(jnp.asarray([[[0.9, 0.8], [3.0, 0.1]], [[0.1, -0.2], [9.0, 9.0]]]))
    np.testing.assert_array_equal(quantized.tokens, [[1, 2], [0, 2]])
    np.testing.assert_allclose(quantized.codes[0, 1], CODEBOOK[2], atol=1e-6)


def test_nearest_code_against_numpy():
    rng = np.random.default_rng(0)
    latents, codebook = rng.normal(size=(50, 6)), rng.normal(size=(20, 6))
    distance = ((latents[:, None] - codebook[None]) ** 2).sum(-1)
    tokens = apply(jnp.asarray(latents, jnp.float32), np.float32(codebook)).tokens
    np.testing.assert_array_equal(tokens, distance.argmin(-1))


def test_quantizing_twice_changes_nothing():
    once = apply(jnp.asarray(np.random.default_rng(0).normal(size=(9, 2)), jnp.float32))
    np.testing.assert_allclose(apply(once.codes).codes, once.codes, atol=1e-6)


def test_the_gradient_passes_straight_through():
    weight = jnp.asarray([[2.0, -3.0]])
    gradient = jax.grad(lambda z: (apply(z).codes * weight).sum())(jnp.asarray([[0.7, 0.6]]))
    np.testing.assert_allclose(gradient, weight)


def test_a_codebook_of_one_code():
    assert apply(jnp.ones((2, 2)), CODEBOOK[:1]).tokens.tolist() == [0, 0]


@pytest.mark.parametrize("patience", [0, 2])
def test_idle_codes_are_revived_after_patience(key, patience):
    use = init_usage(3, 2)
    latents = jnp.asarray([[0.9, 0.8], [3.5, 0.0]])  # codes 1 and 2; code 0 is idle
    for step in range(2):
        tokens = apply(latents).tokens
        step_key = jax.random.fold_in(key, step)
        use = update_usage(use, latents, tokens, step_key, jnp.int32(step), patience)
        book = restart_dead_codes(CODEBOOK, use, jnp.int32(step))
        if step == 0 or not patience:
            np.testing.assert_array_equal(book, CODEBOOK)
    np.testing.assert_array_equal(book[1:], CODEBOOK[1:])
    if patience:
        assert any((book[0] == row).all() for row in latents)
        assert use["idle"].tolist() == [0, 0, 0]


def test_revival_happens_once(key):
    use = update_usage(
        init_usage(3, 2), jnp.ones((4, 2)), jnp.ones((4,), jnp.int32), key, jnp.int32(5), 1
    )
    np.testing.assert_array_equal(restart_dead_codes(CODEBOOK, use, jnp.int32(6)), CODEBOOK)
    assert not np.array_equal(restart_dead_codes(CODEBOOK, use, jnp.int32(5)), CODEBOOK)


@pytest.mark.parametrize("num_codes", [4, 10])
def test_codes_are_drawn_from_the_data(key, num_codes):
    vectors = jnp.arange(12.0).reshape(2, 3, 2)
    codes = sample_latents(vectors, num_codes, key)
    known = {tuple(row) for row in vectors.reshape(-1, 2).tolist()}
    assert {tuple(row) for row in codes.tolist()} <= known
    if num_codes == 4:
        assert len({tuple(row) for row in codes.tolist()}) == 4


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_gradients_of_a_whole_quantizer_against_numpy(update):
    """A loss a . codes + w * quantizer loss, by latents and by the codebook, derived by hand."""
    rng = np.random.default_rng(0)
    latents, codebook, a = (rng.normal(size=(n, 3)).astype(np.float32) for n in (12, 5, 12))
    beta, weight = 0.25, 0.7

    def loss(latents, codebook):
        module = VectorQuantizer(5, 3, beta, update)
        quantized = module.apply({"params": {"codebook": codebook}}, latents)
        return (quantized.codes * a).sum() + weight * quantized.loss

    by_latents, by_codebook = jax.grad(loss, argnums=(0, 1))(latents, codebook)
    nearest = ((latents[:, None] - codebook[None]) ** 2).sum(-1).argmin(-1)
    slope = 2 * (latents - codebook[nearest]) / latents.size
    # Straight through: a as it is. Commitment: beta * slope. Codebook term: nothing.
    np.testing.assert_allclose(by_latents, a + weight * beta * slope, rtol=1e-4, atol=1e-6)
    expected = np.zeros_like(codebook)
    if update == "gradient":
        np.add.at(expected, nearest, -weight * slope)
    np.testing.assert_allclose(by_codebook, expected, rtol=1e-4, atol=1e-6)


def test_an_unknown_update_is_refused(key):
    with pytest.raises(ValueError, match="momentum.*gradient, ema"):
        VectorQuantizer(4, 2, update="momentum").init(key, jnp.zeros((1, 2)))


def test_running_means_against_numpy_with_an_unused_and_a_revived_code(key):
    """Three batches; code 0 is never chosen, code 3 is revived after the second."""
    rng = np.random.default_rng(1)
    codebook, decay = rng.normal(size=(4, 2)).astype(np.float32), 0.9
    running = init_ema(jnp.asarray(codebook))
    count, total = np.ones(4), codebook.astype(np.float64)
    for step in range(3):
        latents = rng.normal(size=(2, 5, 2)).astype(np.float32)
        tokens = rng.integers(1, 3 if step == 1 else 4, size=(2, 5)).astype(np.int32)
        running = update_ema(running, jnp.asarray(latents), jnp.asarray(tokens), decay)
        one_hot = np.eye(4)[tokens.ravel()]
        count = decay * count + (1 - decay) * one_hot.sum(0)
        total = decay * total + (1 - decay) * one_hot.T @ latents.reshape(-1, 2)
        if step == 1:
            use = {
                "restarted_at": jnp.asarray([-1, 0, -1, step]),
                "replacement": jnp.full((4, 2), 7.0),
            }
            running = reset_ema_of_restarted(running, use, jnp.int32(step))
            count[3], total[3] = 1.0, 7.0
        np.testing.assert_allclose(running["counts"], count, rtol=1e-5)
        np.testing.assert_allclose(running["means"], total / count[:, None], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(running["means"][0], codebook[0])


def test_a_code_unused_for_ages_stays_and_then_follows_its_latents():
    def idle(running, _):
        return update_ema(running, jnp.zeros((4, 2)), jnp.full((4,), 2), 0.9), None

    running, _ = jax.lax.scan(idle, init_ema(jnp.asarray(CODEBOOK)), length=2000)
    assert running["counts"][1] < 1e-30
    np.testing.assert_array_equal(running["means"][:2], CODEBOOK[:2])
    running = update_ema(running, jnp.asarray([[2.0, 3.0]]), jnp.asarray([1]), 0.9)
    np.testing.assert_allclose(running["means"][1], [2.0, 3.0], rtol=1e-6)


def quantization_error(latents, codebook):
    distance = ((np.asarray(latents)[:, None] - np.asarray(codebook)[None]) ** 2).sum(-1)
    return distance.min(axis=1).mean()


def test_kmeans_is_nearer_to_the_data_than_a_draw_and_never_gets_worse():
    rng = np.random.default_rng(2)
    latents = jnp.asarray(rng.normal(size=(300, 4)) + 5 * rng.integers(0, 3, (300, 1)), jnp.float32)
    books = [kmeans(latents, 12, jax.random.key(0), iterations) for iterations in range(6)]
    errors = [quantization_error(latents, book) for book in books]
    assert errors[-1] < 0.9 * errors[0]
    assert all(later <= earlier + 1e-5 for earlier, later in zip(errors, errors[1:], strict=False))


def test_codebooks_start_from_data_clusters_or_the_initialiser():
    rng = np.random.default_rng(3)
    latents, start = jnp.asarray(rng.normal(size=(8, 10, 2)), jnp.float32), jnp.full((6, 2), 9.0)
    books = {
        name: initial_codebook(start, latents, jax.random.key(0), name)
        for name in ("uniform", "data", "kmeans")
    }
    errors = [quantization_error(latents.reshape(-1, 2), book) for book in books.values()]
    assert errors[0] > errors[1] > errors[2]
    np.testing.assert_array_equal(books["uniform"], start)
    assert {tuple(row) for row in books["data"].tolist()} <= {
        tuple(row) for row in latents.reshape(-1, 2).tolist()
    }


def test_kmeans_finds_two_clusters_by_hand(key):
    # Lloyd's iterations reach these centres from any two of the four points.
    latents = jnp.asarray([[0.0, 0.0], [2.0, 0.0], [100.0, 0.0], [104.0, 0.0]])
    assert sorted(kmeans(latents, 2, key).tolist()) == [[1.0, 0.0], [102.0, 0.0]]


def test_kmeans_with_more_codes_than_latents(key):
    latents = jnp.asarray([[[0.0, 1.0], [2.0, 3.0]]])
    centres = kmeans(latents, 7, key)
    assert centres.shape == (7, 2) and bool(jnp.isfinite(centres).all())
    np.testing.assert_allclose(quantization_error(latents.reshape(-1, 2), centres), 0, atol=1e-9)


def test_an_unknown_start_is_refused(key):
    with pytest.raises(ValueError, match="zeros.*data, kmeans, uniform"):
        initial_codebook(jnp.zeros((2, 2)), jnp.zeros((3, 2)), key, "zeros")
