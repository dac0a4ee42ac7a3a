"""VQ-VAE and VQ-VAE-2: EMA codebooks, several levels, invalid configurations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.arrays import normalize
from maskgit_jax.configuration import InputError
from maskgit_jax.data.tokens import open_tokens, read_description, write_description, write_split
from maskgit_jax.runs.fit import check_token_dataset
from maskgit_jax.stage import join_levels, split_levels
from maskgit_jax.stages import maskgit, stage_module
from maskgit_jax.stages.tokenizers import summarize
from maskgit_jax.stages.vqvae2 import drop_levels, level_grids
from maskgit_jax.training.step import make_train_step
from tests.example import digits_batch, preset, tiny_config, tiny_stage, tiny_tokenizer
from tests.stages.test_all_stages import new_state


def codebooks(name, tree, state):
    """Codebook and state of each level."""
    if name == "vqvae":
        return [(tree["autoencoder"]["quantizer"]["codebook"], state)]
    return [
        (tree["autoencoder"][f"quantizer_{level}"]["codebook"], state[level]) for level in state
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vqvae", "vqvae2"])
def test_ema_codebooks_are_assigned_and_unused_codes_stay(name):
    """Neither AdamW nor its weight decay moves a codebook that is updated by EMA."""
    stage, config, frozen = tiny_stage(
        name,
        model__codebook_update="ema",
        model__restart_dead_codes_after=3,
        optimizers__autoencoder__optimizer="adamw",
        optimizers__autoencoder__weight_decay=0.5,
    )
    state = new_state(stage, config, frozen, digits_batch())
    before = codebooks(name, state.params, state.state)
    step, used = jax.jit(make_train_step(stage, config)), 0
    for number in range(5):
        state, _ = step(state, frozen, digits_batch(start=16 * number), jax.random.key(0))
        after = codebooks(name, state.params, state.state)
        if number < 2:  # no code is dead before the third batch
            used = used + np.stack([level["usage"]["idle"] == 0 for _, level in after])
            for (old, _), (new, _), level_used in zip(before, after, used, strict=True):
                unused = level_used == 0
                np.testing.assert_array_equal(np.asarray(new)[unused], np.asarray(old)[unused])
    averages = codebooks(name, state.averages, state.state)
    for (old, _), (book, level), (average, _) in zip(before, after, averages, strict=True):
        np.testing.assert_array_equal(book, level["ema"]["means"])
        np.testing.assert_array_equal(average, book)
        assert float(abs(book - old).max()) > 0
        restarted = level["usage"]["restarted_at"] == 4
        np.testing.assert_array_equal(level["ema"]["counts"][restarted], 1.0)


def test_split_levels_is_the_inverse_of_join_levels():
    rng = np.random.default_rng(0)
    grids = ((1, 2), (2, 3))
    maps = tuple(jnp.asarray(rng.integers(0, 9, (4, *grid))) for grid in grids)
    tokens = join_levels(maps)
    assert tokens.shape == (4, 8)
    np.testing.assert_array_equal(tokens[:, :2], maps[0][:, 0])
    for one, other in zip(maps, split_levels(tokens, grids), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="7 tokens"):
        split_levels(tokens[:, 1:], grids)


@pytest.mark.slow
@pytest.mark.parametrize("levels,grids", [(2, ((4, 4), (8, 8))), (3, ((2, 2), (4, 4), (8, 8)))])
def test_tokens_and_metrics_of_all_levels(levels, grids):
    stage, variables = tiny_tokenizer("vqvae2", model__num_levels=levels)
    assert stage.exports.grids == grids
    image = normalize(jnp.asarray(digits_batch()["image"]))
    tokens = jax.jit(stage.exports.encode)(variables, image)
    assert tokens.shape == (16, sum(h * w for h, w in grids)) and tokens.dtype == jnp.int32
    assert jax.jit(stage.exports.decode)(variables, tokens).shape == image.shape
    metrics = jax.jit(stage.evaluate)(variables, digits_batch(), jax.random.key(0))
    metrics = summarize({name: value.mean(axis=0) for name, value in metrics.items()})
    middle = {"codebook_usage_middle"} if levels == 3 else set()
    assert {"codebook_usage_top", "codebook_usage_bottom"} | middle <= set(metrics)
    assert metrics["reconstruction_mse_top_only"] > 0
    top = split_levels(tokens, grids)[0]
    np.testing.assert_allclose(
        metrics["codebook_usage_top"], len(np.unique(np.asarray(top))) / 16, rtol=1e-6
    )


def test_grids_of_the_published_model():
    assert level_grids(preset("vqvae2", "imagenet256")) == ((32, 32), (64, 64))


def test_level_dropout_drops_the_finest_levels(key):
    codes = tuple(jnp.ones((4000, side, side, 2)) for side in (1, 2, 3))
    top, middle, bottom = (
        np.asarray(level).reshape(4000, -1) for level in drop_levels(codes, key, 0.4)
    )
    assert (top == 1).all()
    for level in (middle, bottom):  # the whole map of an image is dropped or kept
        assert (level.min(axis=1) == level.max(axis=1)).all()
    no_middle, no_bottom = middle[:, 0] == 0, bottom[:, 0] == 0
    assert (no_bottom | ~no_middle).all()
    np.testing.assert_allclose([no_bottom.mean(), no_middle.mean()], [0.4, 0.2], atol=0.03)
    assert drop_levels(codes, jax.random.clone(key), 0.0) is codes


def test_with_level_dropout_the_loss_depends_on_the_key():
    stage, _, frozen = tiny_stage("vqvae2", losses__level_dropout_rate=0.5)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    losses = jax.jit(lambda key: stage.losses(variables, digits_batch(), key, jnp.int32(0))[0])
    first, again, other = (losses(jax.random.key(n))["autoencoder"] for n in (0, 0, 1))
    assert first == again and first != other


@pytest.mark.parametrize(
    "name,changes,message",
    [
        ("vqvae", {"model__codebook_update": "momentum"}, "codebook_update is 'momentum'"),
        ("vqvae", {"model__codebook_init": "zeros"}, "codebook_init is 'zeros'"),
        ("vqvae", {"model__codebook_decay": 1.0}, "codebook_decay is 1.0"),
        ("vqvae", {"model__restart_dead_codes_after": -1}, "restart_dead_codes_after is -1"),
        ("vqvae", {"data__image_size": 30}, "30 is not a multiple of 4"),
        ("vqvae", {"model__num_downsamplings": 0}, "num_downsamplings is 0"),
        ("vqvae", {"losses__reconstruction": "l3"}, "l1, l2"),
        ("vqvae2", {"model__codebook_update": "momentum"}, "allowed: gradient, ema"),
        ("vqvae2", {"data__image_size": 30}, "30 is not a multiple of 4"),
        ("vqvae2", {"model__num_levels": 4}, "num_levels is 4; allowed: 2, 3"),
        ("vqvae2", {"model__bottom_downsamplings": 0}, "bottom_downsamplings is 0"),
        ("vqvae2", {"losses__level_dropout_rate": 1.0}, "level_dropout_rate is 1.0"),
    ],
)
def test_invalid_configurations_are_refused(name, changes, message):
    with pytest.raises(InputError, match=message):
        stage_module(name).validate(tiny_config(name, **changes))


@pytest.mark.slow
def test_maskgit_trains_on_one_level_and_refuses_two():
    config = tiny_config("maskgit")
    tokenizer, tokenizer_variables = tiny_tokenizer("vqvae")
    stage = maskgit.build(config, {"tokenizer": tokenizer})
    frozen = {"tokenizer": tokenizer_variables}
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    losses = jax.jit(stage.losses)(variables, digits_batch(), jax.random.key(1), jnp.int32(0))[0]
    assert bool(jnp.isfinite(losses["prior"]))
    two = stage_module("vqvae2").build(tiny_config("vqvae2"), {})
    with pytest.raises(InputError, match="has 2 token maps"):
        maskgit.build(config, {"tokenizer": two})


@pytest.mark.parametrize("grids", [((4, 4),), ((4, 4), (8, 8))])
def test_token_datasets_keep_their_grids_and_maskgit_refuses_two(tmp_path, grids):
    count = sum(h * w for h, w in grids)
    rows = np.random.default_rng(0).integers(0, 16, (6, count))
    for split in ("train", "evaluation"):
        write_split(tmp_path, split, [(rows[:4], np.zeros(4)), (rows[4:], np.ones(2))], 6, 16)
    description = {"codebook_size": 16, "grids": [list(g) for g in grids], "class_names": ["a"]}
    write_description(tmp_path, {**description, "input": "image"})
    assert read_description(str(tmp_path))["grids"] == [list(grid) for grid in grids]
    train = open_tokens(str(tmp_path), preset("maskgit").data).train
    np.testing.assert_array_equal(train[5]["tokens"], rows[5])
    if len(grids) == 2:
        with pytest.raises(InputError, match="holds 2 token maps of each image"):
            check_token_dataset(tiny_config("maskgit", data__source=f"tokens:{tmp_path}"))
