"""MaskGIT and its critic as stages: conditions, completion, guidance, judgement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.stage import Variables
from maskgit_jax.stages import STAGES
from maskgit_jax.stages.token_critic import judgement
from tests.example import digits_batch, tiny_config, tiny_stage, tiny_tokenizer

CODES, PLACES = 16, 16


def batch_with_edges(size: int = 16) -> dict[str, np.ndarray]:
    batch = digits_batch(size)
    return {**batch, "condition": (batch["image"] > 99).astype(np.uint8) * 255}


def conditioned():
    config = tiny_config(
        "maskgit",
        data__condition="edges",
        condition_tokenizer="runs/edges",
        losses__label_dropout_rate=0.5,
    )
    tokenizer, variables = tiny_tokenizer()
    reader, reader_variables = tiny_tokenizer("vqvae", data__input="edges")
    stage = STAGES["maskgit"].build(config, {"tokenizer": tokenizer, "condition_tokenizer": reader})
    frozen = {"tokenizer": variables, "condition_tokenizer": reader_variables}
    return stage, jax.jit(stage.init)(jax.random.key(0), batch_with_edges(), frozen)


def test_images_are_made_from_conditions_and_guidance_keeps_them():
    stage, variables = conditioned()
    generator, batch = stage.exports, batch_with_edges(8)
    assert generator.needs == ("condition",) and generator.logits is None
    error = jax.jit(stage.losses)(variables, batch, jax.random.key(1), 0)[0]["prior"]
    assert np.isfinite(error)
    sample = jax.jit(generator.sample, static_argnums=3)
    settings = generator.settings._replace(guidance=2.0, steps=2, temperature=1e-3)
    wanted = {name: batch[name] for name in ("label", "condition")}
    one = sample(variables, wanted, jax.random.key(2), settings)
    assert one.shape == (8, 16, 16, 1)
    # A prior that cares for the condition only: guidance by class then changes nothing.
    params = dict(variables.params["prior"])
    table = params["word_embedding"]
    params["word_embedding"] = table.at[CODES : CODES + 10].set(table[CODES + 11])  # as no class
    params["word_embedding"] = params["word_embedding"].at[CODES + 12 :].multiply(100.0)
    blind = variables._replace(params={"prior": params})
    key = jax.random.key(2)
    plain = sample(blind, wanted, key, settings._replace(guidance=0.0))
    np.testing.assert_allclose(sample(blind, wanted, key, settings), plain, atol=1e-4)
    other = {**wanted, "condition": batch["condition"][::-1]}
    assert abs(sample(blind, other, key, settings) - plain).max() > 1e-3
    previews = jax.eval_shape(stage.preview, variables, batch, key)
    assert previews["condition_original_and_samples"].shape == (8, 4, 16, 16, 1)


def test_given_halves_are_completed():
    stage, _, frozen = tiny_stage("maskgit")
    batch = digits_batch(4)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    mask = np.repeat((np.arange(16) >= 8)[None, :, None], 4, axis=0).repeat(16, axis=2)
    wanted = {"label": batch["label"], "image": batch["image"], "mask": mask}
    generator = stage.exports
    made = jax.jit(generator.sample, static_argnums=3)(
        variables, wanted, jax.random.key(1), generator.settings
    )
    known = batch["image"] / 127.5 - 1.0
    np.testing.assert_allclose(made[:, :8], known[:, :8], atol=1e-6)
    assert abs(made[:, 8:] - known[:, 8:]).max() > 0.1


def test_the_critic_decides_what_comes_back():
    stage, _, frozen = tiny_stage("token_critic")
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    params = jax.tree.map(jnp.zeros_like, variables.params["critic"])
    # Log odds that depend on nothing but the code: small codes are real, large ones forged.
    params["word_embedding"] = params["word_embedding"].at[:CODES, 0].set(jnp.arange(CODES) * 1.0)
    params["word_embedding"] = params["word_embedding"].at[:CODES, 1].set(-jnp.arange(CODES) * 1.0)
    params["final_norm"]["scale"] = jnp.ones_like(params["final_norm"]["scale"])
    params["head_logit"]["kernel"] = params["head_logit"]["kernel"].at[0].set(-1.0)
    variables = variables._replace(params={"critic": params})
    generator = stage.exports
    settings = generator.settings._replace(steps=8, choice_temperature=0.0)
    shape = (8, PLACES)
    wanted, key = {"label": jnp.zeros(8, jnp.int32)}, jax.random.key(3)
    fill = jax.jit(generator.fill, static_argnums=5)
    nothing = (jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool))
    by_critic, way = fill(variables, wanted, *nothing, key, settings)
    by_surety, _ = fill(variables, wanted, *nothing, key, settings._replace(decoder="confidence"))
    assert by_critic.mean() < 0.6 * by_surety.mean(), "what the critic dislikes is drawn again"
    assert (~way.mask[:-1] & way.mask[1:]).any(), "accepted tokens come back"


def test_judgement_by_hand():
    odds = jnp.asarray([[2.0, -2.0, 0.5, -1.0]])
    made = jnp.asarray([[False, True, True, False]])
    error, right = judgement(odds, made)
    expected = np.log1p(np.exp([-2.0, -2.0, 0.5, 1.0]))
    np.testing.assert_allclose(error[0], expected, rtol=1e-6)
    assert right[0].tolist() == [1, 1, 0, 0]


def test_a_critic_needs_a_generator_of_tokens():
    tokenizer, _ = tiny_tokenizer()
    config = tiny_config("token_critic")
    with pytest.raises(InputError, match="holds no MaskGIT that makes images of a class"):
        STAGES["token_critic"].build(config, {"generator": tokenizer, "tokenizer": tokenizer})
    gpt, _, _ = tiny_stage("gpt")
    with pytest.raises(InputError, match="holds no MaskGIT"):
        STAGES["token_critic"].build(config, {"generator": gpt, "tokenizer": tokenizer})


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("maskgit", {"masking__schedule": "pow"}, "config.masking.schedule is 'pow'; allowed"),
        ("maskgit", {"sampling__decoder": "token_critic"}, "train configs/token_critic.py"),
        ("maskgit", {"model__head": "free"}, "config.model.head is 'free'; allowed: tied, linear"),
        ("maskgit", {"model__initialization": "x"}, "allowed: official, scaled"),
        ("maskgit", {"losses__reduction": "images"}, "allowed: examples, tokens"),
        ("maskgit", {"data__condition": "edges"}, "images made from others need both"),
        ("token_critic", {"data__condition": "edges"}, "images made of a class only"),
        ("token_critic", {"model__num_heads": 3}, "not a multiple of config.model.num_heads"),
        ("token_critic", {"losses__label_dropout_rate": 1.0}, r"must be in \[0, 1\)"),
    ],
)
def test_configurations_that_cannot_work_are_refused(stage, changes, message):
    with pytest.raises(InputError, match=message):
        STAGES[stage].validate(tiny_config(stage, **changes))


def test_the_generator_of_a_critic_is_frozen():
    stage, _, frozen = tiny_stage("token_critic")
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    assert isinstance(variables, Variables) and set(variables.params) == {"critic"}
    assert set(variables.frozen) == {"generator", "tokenizer"}
    batch, key = digits_batch(), jax.random.key(1)
    figures = jax.jit(stage.evaluate)(variables, batch, key)
    np.testing.assert_allclose(figures["critic_cross_entropy"].mean(), np.log(2), atol=0.15)
