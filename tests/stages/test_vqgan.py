import jax
import jax.numpy as jnp
import numpy as np

from maskgit_jax.stages.tokenizers import summarize
from maskgit_jax.training.step import make_train_step
from tests.example import digits_batch, tiny_stage
from tests.stages.test_laws import new_state


def test_the_adaptive_game_with_batch_statistics():
    """taming's recipe: adaptive weight, batch norm, a discriminator that starts later."""
    stage, config, frozen = tiny_stage(
        "vqgan",
        losses__adaptive=True,
        losses__adversarial="hinge",
        losses__pixel="l1",
        discriminator__norm="batch",
    )
    state = new_state(stage, config, frozen, digits_batch())
    step = jax.jit(make_train_step(stage, config))
    weights, before = [], state.state["batch_stats"]["norm_1"]["mean"]
    for number in range(4):  # the discriminator starts at step 2
        batch = digits_batch(start=16 * number)
        state, metrics = step(state, frozen, batch, jax.random.key(0))
        weights.append(float(metrics["adversarial_weight"]))
    assert weights[:2] == [0.0, 0.0] and min(weights[2:]) > 0
    assert max(weights) <= 1e4 * config.losses.adversarial_weight
    assert float(abs(state.state["batch_stats"]["norm_1"]["mean"] - before).max()) > 0
    assert all(int(step) == -1 for step in state.failed_at.values())


def test_usage_and_perplexity_over_a_split_by_hand():
    means = {"psnr": jnp.float32(20.0), "codebook_histogram": jnp.asarray([0.5, 0.5, 0.0, 0.0])}
    figures = summarize(means)
    assert figures["codebook_usage"] == 0.5 and figures["psnr"] == 20.0
    np.testing.assert_allclose(figures["codebook_perplexity"], 2.0, rtol=1e-6)
