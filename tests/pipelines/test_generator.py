"""Laws of sampling, with untrained models: an image depends on its seed, number and label only."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.pipelines.generator import GeneratorPipeline
from maskgit_jax.runs.directory import Run
from maskgit_jax.training.sharding import make_mesh, path_name
from tests.example import digits_batch, tiny_stage, tiny_tokenizer, tokenizer_stage

SLOW_DECODERS = ("halton", "self_critic", "corrector")
AUTOREGRESSIVE = ("gpt", "pixelcnn")
LABELS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


@cache
def run_of(name: str) -> Run:
    stage, config, frozen = tiny_stage(name)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    stages = {} if name == "vae" else {"tokenizer": tiny_tokenizer(tokenizer_stage(config))[0]}
    return Run(config, stage, variables, 1, stages)


@cache
def pipeline(name: str, devices: int = 1) -> GeneratorPipeline:
    run = run_of(name)
    return GeneratorPipeline(run, make_mesh(run.config.mesh, jax.devices()[:devices]))


def sample(pipeline, labels=LABELS, **options) -> np.ndarray:
    return np.concatenate(list(pipeline(labels, seed=7, **options))).astype(int)


@pytest.mark.parametrize(
    "name",
    ["maskgit", "vae", *(pytest.param(name, marks=pytest.mark.slow) for name in AUTOREGRESSIVE)],
)
def test_image_i_is_the_same_for_any_batch_size_number_of_devices_and_of_images(name):
    images = sample(pipeline(name), batch_size=3)
    assert len({image.tobytes() for image in images}) == len(images), "one key per image"
    same = [
        (images, sample(pipeline(name), batch_size=8)),
        (images, sample(pipeline(name, 8), batch_size=8)),
        (images[:4], sample(pipeline(name), LABELS[:4], batch_size=3)),
        (images[5:], sample(pipeline(name), batch_size=3, start=5)),
        # The labels of other images have no effect.
        (images[:1], sample(pipeline(name), [3, *LABELS[:0:-1]], batch_size=3)[:1]),
    ]
    for expected, found in same:
        np.testing.assert_allclose(found, expected, atol=1, err_msg="rounding only")


@pytest.mark.parametrize(
    "decoder",
    ["random", "remask", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_DECODERS)],
)
def test_every_decoder_draws_per_image(decoder):
    one = pipeline("maskgit")
    settings = one.settings(decoder=decoder, choice_temperature=1.0)
    few, many = (
        np.concatenate(list(one.tokens(LABELS, 7, settings, batch_size=size))) for size in (3, 11)
    )
    np.testing.assert_array_equal(few, many)


def test_at_temperature_0_tokens_do_not_depend_on_the_seed():
    for name in ("maskgit", "gpt"):
        one = pipeline(name)
        changes = {"steps": 1} if name == "maskgit" else {}
        settings = one.settings(temperature=0.0, **changes)
        first, second = (next(one.tokens([3, 1, 4], seed, settings)) for seed in (0, 1))
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("name", "scaled", "scale"),
    [
        ("maskgit", "", float("nan")),
        ("maskgit", "head_codes", 1e12),
        ("gpt", "head_logit", 1e12),
        ("vae", "", float("inf")),
    ],
)
def test_weights_that_give_no_finite_logits_are_refused(name, scaled, scale):
    run = run_of(name)

    def damage(path, leaf):
        return leaf * jnp.float32(scale) if scaled in path_name(path) else leaf

    params = jax.tree_util.tree_map_with_path(damage, run.variables.params)
    damaged = run._replace(variables=run.variables._replace(params=params))
    mesh = make_mesh(run.config.mesh, jax.devices()[:1])
    with pytest.raises(InputError, match="outputs are not finite"):
        sample(GeneratorPipeline(damaged, mesh), LABELS[:3], batch_size=3)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64 - 1])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(InputError, match=f"seed is {seed}; it must be between 0 and 4294967295"):
        pipeline("vae")([0], seed)


def test_temperatures_and_guidance_share_a_program_that_gives_the_same_samples():
    stage, config, frozen = tiny_stage("maskgit", losses__label_dropout_rate=0.1)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    run = Run(config, stage, variables, 1, {})
    one = GeneratorPipeline(run, make_mesh(config.mesh, jax.devices()[:1]))
    for changes in (
        {"temperature": 2, "guidance": np.float32(0.3), "last_temperature": 0.5},
        {"temperature": 0.8, "guidance": 1.5, "last_temperature": 1.2},
    ):
        settings = one.settings(choice_temperature=3.0, **changes)
        tokens = next(one.tokens([3, 1, 4], 7, settings))
    assert one._tokens.cache_size() == 1
    static = jax.jit(stage.exports.sample_tokens, static_argnums=3)
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(7), n))(jnp.arange(3))
    expected = static(variables, {"label": jnp.asarray([3, 1, 4])}, keys, settings)
    np.testing.assert_array_equal(tokens, expected)
    zero = one.settings(temperature=np.float32(0), choice_temperature=0.0, guidance=0)
    assert (next(one.tokens([3, 1, 4], 7, zero)) >= 0).all()
    assert one._tokens.cache_size() == 2, "0 means another program"
