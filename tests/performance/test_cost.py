"""FLOPs of sampling a 256x256 image with the paper's models, by XLA's analysis."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from maskgit_jax.stage import Variables
from maskgit_jax.stages import maskgit, vqgan
from maskgit_jax.stages.parallel_decoding import sampling_settings
from tests.example import preset


@pytest.fixture(scope="module")
def paper_models():
    tokenizer_config, config = preset("vqgan", "imagenet256"), preset("maskgit", "imagenet256")
    tokenizer = vqgan.build(tokenizer_config, {})
    stage = maskgit.build(config, {"tokenizer": tokenizer})
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.uint8)
    batch = {"image": image, "label": jax.ShapeDtypeStruct((1,), jnp.int32)}
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    one = jax.eval_shape(lambda: jax.random.key(0))
    frozen = jax.eval_shape(lambda k, b: tokenizer.init(k, b, {}), one, batch)
    variables = jax.eval_shape(lambda k, b: stage.init(k, b, {}), one, batch)
    return stage, tokenizer, Variables(variables.params, {}, {"tokenizer": frozen}), keys, config


def flops(function, *arguments) -> float:
    """Returns the number of floating-point operations; the body of a loop counts once."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_a_step_evaluates_the_transformer_once_and_the_decoder_runs_once(paper_models):
    stage, tokenizer, variables, keys, config = paper_models
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    tokens = jax.ShapeDtypeStruct((1, 256), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 256), jnp.bool_)
    settings = sampling_settings(config)
    sample = flops(
        lambda v, x, k: stage.exports.sample(v, {"label": x}, k, settings), variables, label, keys
    )
    transformer = flops(stage.exports.logits, variables, tokens, mask, label)
    decoder = flops(tokenizer.exports.decode, variables.frozen["tokenizer"], tokens)
    assert sample <= 1.01 * (transformer + decoder)
    # The loop that counts once runs exactly `steps` times.
    program = jax.make_jaxpr(lambda v, x, k: stage.exports.sample(v, {"label": x}, k, settings))(
        variables, label, keys
    )
    outer = [eqn.params["length"] for eqn in program.eqns if eqn.primitive.name == "scan"]
    assert outer == [settings.steps]


def test_guidance_costs_at_most_a_second_evaluation(paper_models):
    stage, _, variables, keys, config = paper_models
    label = jax.ShapeDtypeStruct((1,), jnp.int32)

    def cost(scale: float) -> float:
        settings = dataclasses.replace(sampling_settings(config), guidance=scale)
        sample = stage.exports.sample
        return flops(lambda v, x, k: sample(v, {"label": x}, k, settings), variables, label, keys)

    plain, with_guidance = cost(0.0), cost(1.0)
    assert plain < with_guidance < 2 * plain
