"""What sampling one 256x256 image with the paper's models costs, by XLA's own analysis."""

import jax
import jax.numpy as jnp
import pytest

from maskgit_jax.stage import Variables
from maskgit_jax.stages import maskgit, vqgan
from tests.example import preset


@pytest.fixture(scope="module")
def paper():
    tokenizer_config, config = preset("vqgan", "imagenet256"), preset("maskgit", "imagenet256")
    tokenizer = vqgan.build(tokenizer_config, {})
    stage = maskgit.build(config, {"tokenizer": tokenizer})
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.uint8)
    batch = {"image": image, "label": jax.ShapeDtypeStruct((1,), jnp.int32)}
    key = jax.eval_shape(lambda: jax.random.key(0))
    frozen = jax.eval_shape(lambda k, b: tokenizer.init(k, b, {}), key, batch)
    own = jax.eval_shape(lambda k, b: stage.init(k, b, {}), key, batch)
    return stage, tokenizer, Variables(own.params, {}, {"tokenizer": frozen}), key, config


def flops(function, *arguments) -> float:
    """Floating-point operations; the body of a loop is counted once."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_one_pass_of_the_transformer_a_step_and_one_of_the_decoder(paper):
    stage, tokenizer, variables, key, config = paper
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    tokens = jax.ShapeDtypeStruct((1, 256), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 256), jnp.bool_)
    settings = maskgit.sampling_settings(config)
    sample = flops(
        lambda v, x, k: stage.exports.sample(v, {"label": x}, k, settings), variables, label, key
    )
    one_pass = flops(stage.exports.logits, variables, tokens, mask, label)
    decoder = flops(tokenizer.exports.decode, variables.frozen["tokenizer"], tokens)
    assert sample <= 1.01 * (one_pass + decoder)
    # The loop that is counted once runs exactly `steps` times.
    program = jax.make_jaxpr(lambda v, x, k: stage.exports.sample(v, {"label": x}, k, settings))(
        variables, label, key
    )
    outer = [eqn.params["length"] for eqn in program.eqns if eqn.primitive.name == "scan"]
    assert outer == [settings.steps]


def test_guidance_costs_a_second_pass_and_no_more(paper):
    stage, _, variables, key, config = paper
    label = jax.ShapeDtypeStruct((1,), jnp.int32)

    def cost(scale: float) -> float:
        settings = maskgit.sampling_settings(config)._replace(guidance=scale)
        sample = stage.exports.sample
        return flops(lambda v, x, k: sample(v, {"label": x}, k, settings), variables, label, key)

    plain, with_guidance = cost(0.0), cost(1.0)
    assert plain < with_guidance < 2 * plain
