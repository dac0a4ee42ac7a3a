"""MaskGIT and Token-Critic as stages: conditions, inpainting, guidance, the critic's errors."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.parallel import MaskedTokens, StepPlan, plan
from maskgit_jax.decoding.sampling import image_keys
from maskgit_jax.stage import Variables
from maskgit_jax.stages import stage_module
from maskgit_jax.stages.token_critic import critic_errors
from maskgit_jax.stages.token_priors import bits_metrics
from tests.example import digits_batch, tiny_config, tiny_stage, tiny_tokenizer

CODES, TOKENS, OPTIONS = 16, 16, "model__layer_options"


def batch_with_edges(size: int = 16) -> dict[str, np.ndarray]:
    batch = digits_batch(size)
    return {**batch, "condition": (batch["image"] > 99).astype(np.uint8) * 255}


def image_conditional_stage():
    config = tiny_config(
        "maskgit",
        data__condition="edges",
        condition_tokenizer="runs/edges",
        losses__label_dropout_rate=0.5,
        model__layer_options__zero_init=False,  # else an untrained network ignores its input
    )
    tokenizer, variables = tiny_tokenizer()
    condition, condition_variables = tiny_tokenizer("vqvae", data__input="edges")
    stages = {"tokenizer": tokenizer, "condition_tokenizer": condition}
    stage = stage_module("maskgit").build(config, stages)
    frozen = {"tokenizer": variables, "condition_tokenizer": condition_variables}
    return stage, jax.jit(stage.init)(jax.random.key(0), batch_with_edges(), frozen)


@pytest.mark.slow
def test_images_depend_on_the_condition_and_guidance_keeps_it():
    stage, variables = image_conditional_stage()
    generator, batch = stage.exports, batch_with_edges(8)
    assert generator.needs == ("condition",) and generator.logits is None
    with pytest.raises(InputError, match="with condition images generates"):
        generator.check_settings(replace(generator.settings, size=(32, 32)))
    loss = jax.jit(stage.losses)(variables, batch, jax.random.key(1), 0)[0]["prior"]
    assert np.isfinite(loss)
    sample = jax.jit(generator.sample, static_argnums=3)
    settings = replace(generator.settings, guidance=2.0, steps=2, temperature=1e-3)
    inputs = {name: batch[name] for name in ("label", "condition")}
    key = jax.random.key(2)
    keys = image_keys(key, jnp.arange(8))
    # A prior that depends on the condition only: guidance by class then changes nothing.
    params = dict(variables.params["prior"])
    table = params["word_embedding"]
    table = table.at[CODES : CODES + 10].set(table[CODES + 11])  # every class is the null class
    params["word_embedding"] = table.at[CODES + 12 :].multiply(100.0)
    variables = variables._replace(params={"prior": params})
    unguided = sample(variables, inputs, keys, replace(settings, guidance=0.0))
    assert unguided.shape == (8, 16, 16, 1)
    np.testing.assert_allclose(sample(variables, inputs, keys, settings), unguided, atol=1e-4)
    reversed_inputs = {**inputs, "condition": batch["condition"][::-1]}
    assert abs(sample(variables, reversed_inputs, keys, settings) - unguided).max() > 1e-3
    previews = jax.eval_shape(stage.preview, variables, batch, key)
    assert previews["condition_original_and_samples"].shape == (8, 4, 16, 16, 1)


def test_inpainting_preserves_known_pixels():
    stage, _, frozen = tiny_stage("maskgit")
    batch = digits_batch(4)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    mask = np.repeat((np.arange(16) >= 8)[None, :, None], 4, axis=0).repeat(16, axis=2)
    inputs = {"label": batch["label"], "image": batch["image"], "mask": mask}
    generator = stage.exports
    sample = jax.jit(generator.sample, static_argnums=3)
    keys = jax.random.split(jax.random.key(1), 4)
    images = sample(variables, inputs, keys, generator.settings)
    known = batch["image"] / 127.5 - 1.0
    np.testing.assert_allclose(images[:, :8], known[:, :8], atol=1e-6)
    assert abs(images[:, 8:] - known[:, 8:]).max() > 0.1


@pytest.mark.slow
def test_the_critic_is_trained_alone_and_decides_which_tokens_are_masked_again():
    stage, _, frozen = tiny_stage("token_critic")
    batch, keys = digits_batch(), jax.random.split(jax.random.key(3), 8)
    variables = jax.jit(stage.init)(jax.random.key(0), batch, frozen)
    assert isinstance(variables, Variables) and set(variables.params) == {"critic"}
    assert set(variables.frozen) == {"generator", "tokenizer"}
    metrics = jax.jit(stage.evaluate)(variables, batch, jax.random.key(1))
    np.testing.assert_allclose(metrics["critic_cross_entropy"].mean(), np.log(2), atol=0.15)

    params = jax.tree.map(jnp.zeros_like, variables.params["critic"])
    # Log odds that depend on the code only: small codes are real, large ones generated.
    codes = jnp.arange(CODES) * 1.0
    table = params["word_embedding"].at[:CODES, 0].set(codes).at[:CODES, 1].set(-codes)
    params["word_embedding"] = table
    params["final_norm"]["scale"] = jnp.ones_like(params["final_norm"]["scale"])
    params["head_logit"]["kernel"] = params["head_logit"]["kernel"].at[0].set(-1.0)
    variables = variables._replace(params={"critic": params})
    generator = stage.exports
    settings = replace(generator.settings, steps=8, choice_temperature=0.0)
    sample, fill_step = (
        jax.jit(function, static_argnums=number)
        for function, number in ((generator.sample_tokens, 3), (generator.fill_step, 6))
    )
    inputs = {"label": jnp.zeros(8, jnp.int32)}
    tokens = sample(variables, inputs, keys, settings)
    by_confidence = sample(variables, inputs, keys, replace(settings, decoder="confidence"))
    assert tokens.mean() < 0.6 * by_confidence.mean(), "unlikely tokens are resampled"
    editable, masks = jnp.ones((8, TOKENS), bool), []
    state = MaskedTokens(
        jnp.zeros((8, TOKENS), jnp.int32), editable, jnp.full((8, TOKENS), jnp.inf)
    )
    steps = plan(np.full(8, TOKENS), settings)
    for number in range(settings.steps):
        step = StepPlan(*(values[number] for values in steps))
        state = fill_step(variables, inputs, state, editable, keys, step, settings)
        masks.append(np.asarray(state.mask))
    np.testing.assert_array_equal(state.tokens, tokens)
    assert any((~b & a).any() for b, a in pairwise(masks)), "accepted tokens are masked again"


SMALL_OPTIONS = {f"{OPTIONS}__positions": "both", f"{OPTIONS}__patch_size": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "size"),
    [("maskgit", SMALL_OPTIONS, (8, 24)), ("token_critic", {}, (32, 16))],
)
def test_images_of_other_sizes_are_sampled(name, changes, size):
    stage, _, frozen = tiny_stage(name, **changes)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    generator, inputs = stage.exports, {"label": jnp.asarray([1, 2])}
    settings = replace(generator.settings, size=size, steps=2)
    generator.check_settings(settings)
    keys = image_keys(jax.random.key(1), jnp.arange(2))
    image = jax.jit(generator.sample, static_argnums=3)(variables, inputs, keys, settings)
    assert image.shape == (2, *size, 1) and np.isfinite(image).all()


def test_impossible_sizes_are_refused():
    generator = tiny_stage("maskgit", **SMALL_OPTIONS)[0].exports
    for size in ((20, 16), (16, 17), (0, 16)):
        with pytest.raises(InputError, match="must be multiples of 8 pixels"):
            generator.check_settings(replace(generator.settings, size=size))


def test_critic_errors_by_hand():
    log_odds = jnp.asarray([[2.0, -2.0, 0.5, -1.0]])
    generated = jnp.asarray([[False, True, True, False]])
    errors, correct = critic_errors(log_odds, generated)
    np.testing.assert_allclose(errors[0], np.log1p(np.exp([-2.0, -2.0, 0.5, 1.0])), rtol=1e-6)
    assert correct[0].tolist() == [1, 1, 0, 0]


def test_a_critic_needs_a_class_conditional_maskgit():
    tokenizer, _ = tiny_tokenizer()
    gpt, _, _ = tiny_stage("gpt")
    for generator in (tokenizer, gpt):
        with pytest.raises(InputError, match="is no run of a class-conditional MaskGIT"):
            stage_module("token_critic").build(
                tiny_config("token_critic"), {"generator": generator, "tokenizer": tokenizer}
            )


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("maskgit", {"masking__schedule": "pow"}, "config.masking.schedule is 'pow'; allowed"),
        ("token_critic", {"masking__order": "row"}, "config.masking.order is 'row'; it must be"),
        (
            "maskgit",
            {"masking__complementary": True, "training__batch_size": 15},
            "accumulate_steps is 15; make it even",
        ),
        ("maskgit", {"sampling__decoder": "token_critic"}, "train configs/token_critic.py"),
        ("maskgit", {"model__head": "free"}, "allowed: tied, tied_linear, linear"),
        (
            "maskgit",
            {f"{OPTIONS}__conditioning": "adaln", "model__norm": "post"},
            "set --config.model.norm=pre",
        ),
        ("maskgit", {f"{OPTIONS}__conditioning": "class"}, "one of token, adaln, both"),
        ("token_critic", {f"{OPTIONS}__patch_size": 3}, "must be multiples of config.model.layer"),
        ("gpt", {f"{OPTIONS}__num_registers": 1}, "num_registers is 1, but .*; set it to 0"),
        ("gpt", {f"{OPTIONS}__patch_size": 2}, "patch_size is 2, but .*; set it to 1"),
        ("gpt", {f"{OPTIONS}__conditioning": "adaln"}, "set it to token or both"),
        ("maskgit", {"model__initialization": "x"}, "allowed: official, scaled"),
        ("maskgit", {"losses__reduction": "images"}, "allowed: examples, tokens"),
        ("maskgit", {"data__condition": "edges"}, "set both for image-conditional generation"),
        ("token_critic", {"data__condition": "edges"}, "needs a class-conditional generator"),
        ("token_critic", {"model__num_heads": 3}, "not a multiple of config.model.num_heads"),
        ("token_critic", {"losses__label_dropout_rate": 1.0}, r"must be in \[0, 1\)"),
    ],
)
def test_invalid_configurations_are_refused(stage, changes, message):
    with pytest.raises(InputError, match=message):
        stage_module(stage).validate(tiny_config(stage, **changes))


def test_bits_per_token_are_compared_with_those_of_no_network():
    tokens = jnp.arange(32).reshape(2, 16) % 4
    errors = jnp.full((2, 16), np.log(8.0)).at[:, 8:].set(0.0)
    metrics = bits_metrics(errors, tokens, 16, jnp.arange(32).reshape(2, 16) % 16 < 8)
    np.testing.assert_allclose(metrics["bits_per_token"], 3.0, rtol=1e-6)
    np.testing.assert_allclose(bits_metrics(errors, tokens, 16)["bits_per_token"], 1.5, rtol=1e-6)
    assert metrics["bits_per_token_uniform"] == 4.0
    assert 2.0 <= metrics["bits_per_token_unigram"] < 2.1


@pytest.mark.parametrize("name", ["maskgit", "gpt", "token_critic"])
def test_training_measures_bits_per_token(name):
    stage, _, frozen = tiny_stage(name)
    arguments = (digits_batch(), jax.random.key(1), 0)
    variables = jax.eval_shape(stage.init, arguments[1], digits_batch(), frozen)
    metrics = jax.eval_shape(stage.losses, variables, *arguments)[1][1]
    kinds = ("", "_unigram", "_uniform")
    assert all(metrics[f"bits_per_token{kind}"].shape == () for kind in kinds)
