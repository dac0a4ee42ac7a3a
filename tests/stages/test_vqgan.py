import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.arrays import normalize
from maskgit_jax.configuration import InputError
from maskgit_jax.networks.lpips import lpips_distance
from maskgit_jax.stage import Variables
from maskgit_jax.stages import stage_module, vqgan
from maskgit_jax.stages.tokenizers import summarize
from maskgit_jax.training.sharding import path_name
from maskgit_jax.training.step import make_create_state, make_train_step, network_gradients
from tests.example import digits_batch, preset, tiny_config, tiny_stage
from tests.networks.test_perceptual import params_of
from tests.stages.test_all_stages import new_state

ALL_LOSSES = {
    "losses__perceptual": "lpips",
    "losses__perceptual_weight": 0.5,
    "losses__r1_weight": 2.0,
    "losses__lecam_weight": 3.0,
    "losses__lecam_decay": 0.75,
}


@pytest.mark.slow
def test_adaptive_weight_with_batch_norm():
    """taming's recipe: adaptive weight, batch norm, a late discriminator."""
    stage, config, frozen = tiny_stage(
        "vqgan",
        losses__adaptive_weight=True,
        losses__adversarial="hinge",
        losses__reconstruction="l1",
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
    metrics = summarize(means)
    assert metrics["codebook_usage"] == 0.5 and metrics["psnr"] == 20.0
    np.testing.assert_allclose(metrics["codebook_perplexity"], 2.0, rtol=1e-6)


@pytest.fixture(scope="module")
def perceptual():
    return {"perceptual": Variables({"network": params_of("lpips")}, {}, {})}


def losses_at(stage, variables, step):
    return jax.jit(stage.losses)(variables, digits_batch(), jax.random.key(1), jnp.int32(step))


@pytest.mark.slow
def test_losses_with_all_terms_by_hand(perceptual):
    """Each term against an independent computation, with taming's patch discriminator."""
    stage, config, _ = tiny_stage("vqgan", **ALL_LOSSES)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), perceptual)
    image = normalize(jnp.asarray(digits_batch()["image"]))
    losses, (state, metrics) = losses_at(stage, variables, 5)
    exports = stage.exports
    decoded = jax.jit(lambda v: exports.decode(v, exports.encode(v, image)))(variables)
    distance = jax.jit(lpips_distance)(
        perceptual["perceptual"].params["network"], image, decoded
    ).mean()
    np.testing.assert_allclose(metrics["perceptual_loss"], 0.5 * distance, rtol=1e-3)

    discriminator = vqgan.build_discriminator(config)
    params = {"params": variables.params["discriminator"]}

    def logits_of(x):
        return discriminator.apply(params, x, train=True)

    real, fake = jax.jit(logits_of)(image), jax.jit(logits_of)(decoded)
    gradient = jax.jit(jax.vmap(jax.grad(lambda x: logits_of(x[None]).sum())))(image)
    r1 = (np.asarray(gradient, np.float64) ** 2).sum(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(metrics["r1"], r1, rtol=1e-4)
    lecam = (np.asarray(real) ** 2).mean() + (np.asarray(fake) ** 2).mean()  # averages are 0
    np.testing.assert_allclose(metrics["lecam"], lecam, rtol=1e-3)
    base = np.logaddexp(0, -real).mean() + np.logaddexp(0, fake).mean()
    np.testing.assert_allclose(losses["discriminator"], base + 2 * r1 + 3 * lecam, rtol=1e-3)
    np.testing.assert_allclose(state["lecam"]["lecam_real"], 0.25 * real.mean(), rtol=1e-4)
    np.testing.assert_allclose(state["lecam"]["lecam_fake"], 0.25 * fake.mean(), rtol=1e-3)
    generator = config.losses.adversarial_weight * np.logaddexp(0, -fake).mean()
    total = sum(metrics[name] for name in ("pixel_loss", "perceptual_loss", "quantizer_loss"))
    np.testing.assert_allclose(losses["autoencoder"], total + generator, rtol=1e-4)


@pytest.mark.slow
def test_gradients_with_all_terms_reach_both_networks(perceptual):
    changes = {"discriminator__kind": "stylegan", "losses__adaptive_weight": True}
    stage, config, _ = tiny_stage("vqgan", **ALL_LOSSES, **changes)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), perceptual)
    gradients, _, _, _ = jax.jit(
        lambda v: network_gradients(stage, v, digits_batch(), jax.random.key(1), jnp.int32(5))
    )(variables)
    assert set(gradients) == {"autoencoder", "discriminator"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = path_name(path)
        assert bool(jnp.isfinite(leaf).all()), name
        if not name.endswith("key/bias"):
            assert float(abs(leaf).max()) > 0, name


def test_the_perceptual_network_is_not_saved(perceptual):
    stage, config, _ = tiny_stage("vqgan", **ALL_LOSSES)
    create_state = make_create_state(stage, config)
    state = jax.eval_shape(create_state, jax.random.key(0), digits_batch(), perceptual)
    names = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert not any("vgg16" in name for name in names)
    assert any("lecam_real" in name for name in names)


def test_the_preset_of_the_official_tokenizer():
    """google-research/magvit's recipe of MaskGIT, on pixels in [-1, 1]."""
    config = preset("vqgan", "imagenet256")
    stage_module("vqgan").validate(config)
    assert (
        config.losses.perceptual == "resnet50_features" and config.losses.perceptual_weight == 0.1
    )
    assert config.losses.r1_weight == 10 * 4 and config.losses.reconstruction_weight == 1 / 4
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    discriminator = vqgan.build_discriminator(config)
    shapes = jax.eval_shape(
        lambda key, x: discriminator.init(key, x, train=True), jax.random.key(0), image
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 23_998_017


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"losses__perceptual": "vgg"}, "perceptual is 'vgg'; allowed: .*lpips"),
        ({"losses__perceptual": "lpips", "data__image_size": 8}, "images of 16 pixels or more"),
        ({"losses__perceptual_weight": -1.0}, "perceptual_weight is -1.0"),
        ({"losses__perceptual_weights": "vgg.pth"}, "set it to the network of these weights"),
        ({"discriminator__max_width": 0}, "max_width is 0"),
        ({"losses__lecam_decay": 1.0}, "lecam_decay is 1.0"),
        ({"discriminator__kind": "transformer"}, "kind is 'transformer'; allowed: patch"),
        ({"discriminator__norm": "batch", "losses__r1_weight": 1.0}, "norm is 'batch'"),
        ({"losses__adversarial_weight": 0.0, "losses__r1_weight": 1.0}, "without a discriminator"),
        ({"discriminator__num_layers": 5}, "too many for images of 16"),
    ],
)
def test_invalid_configurations_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        stage_module("vqgan").validate(tiny_config("vqgan", **changes))
