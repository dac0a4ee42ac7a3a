"""Both VQ-VAEs: codebooks that are set, several levels, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.arrays import normalize
from maskgit_jax.configuration import InputError
from maskgit_jax.data.tokens import open_tokens, read_description, write_description, write_split
from maskgit_jax.stage import join_levels, split_levels
from maskgit_jax.stages import STAGES, maskgit
from maskgit_jax.stages.tokenizers import summarize
from maskgit_jax.stages.vqvae2 import drop_levels, level_grids
from maskgit_jax.training.step import make_train_step
from tests.commands import refused
from tests.example import digits_batch, preset, tiny_config, tiny_stage, tiny_tokenizer
from tests.stages.test_all_stages import new_state


def level_parts(name, tree, state):
    """(codebook, statistics) of each level."""
    if name == "vqvae":
        return [(tree["autoencoder"]["quantizer"]["codebook"], state)]
    return [
        (tree["autoencoder"][f"quantizer_{level}"]["codebook"], state[level]) for level in state
    ]


@pytest.mark.parametrize("name", ["vqvae", "vqvae2"])
def test_codebooks_of_running_means_are_set_in_parameters_and_average(name):
    changes = dict(model__codebook_update="ema", optimizers__autoencoder__optimizer="adamw")
    stage, config, frozen = tiny_stage(
        name,
        **changes,
        optimizers__autoencoder__weight_decay=0.5,
        model__restart_dead_codes_after=3,
    )
    state = new_state(stage, config, frozen, digits_batch())
    before = level_parts(name, state.params, state.state)
    step = jax.jit(make_train_step(stage, config))
    for number in range(5):
        state, _ = step(state, frozen, digits_batch(start=16 * number), jax.random.key(0))
    learned = level_parts(name, state.params, state.state)
    averaged = level_parts(name, state.averages, state.state)
    for (old, _), (book, statistics), (mean, _) in zip(before, learned, averaged, strict=True):
        np.testing.assert_array_equal(book, statistics["running"]["means"])
        np.testing.assert_array_equal(mean, book)
        assert float(abs(book - old).max()) > 0
        revived = statistics["use"]["restarted_at"] == 4
        np.testing.assert_array_equal(statistics["running"]["counts"][revived], 1.0)


@pytest.mark.parametrize("name", ["vqvae", "vqvae2"])
def test_an_unused_codebook_of_running_means_never_moves(name):
    """Far from all latents nothing is chosen but one code, and neither Adam nor decay acts."""
    stage, config, frozen = tiny_stage(
        name, model__codebook_update="ema", model__restart_dead_codes_after=0
    )
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    state = new_state(stage, config, frozen, digits_batch())
    chosen = [  # codes that some batch uses
        np.zeros((16,), bool) for _ in level_parts(name, state.params, state.state)
    ]
    before = [book for book, _ in level_parts(name, state.params, state.state)]
    step = jax.jit(make_train_step(stage, config))
    for number in range(3):
        state, _ = step(state, frozen, digits_batch(start=16 * number), jax.random.key(0))
        for seen, (_, part) in zip(
            chosen, level_parts(name, state.params, state.state), strict=True
        ):
            seen |= np.asarray(part["use"]["idle"]) == 0
    after = [book for book, _ in level_parts(name, state.params, state.state)]
    assert set(variables.params) == {"autoencoder"}
    for old, new, seen in zip(before, after, chosen, strict=True):
        np.testing.assert_array_equal(np.asarray(new)[~seen], np.asarray(old)[~seen])


def test_levels_are_split_as_they_were_joined():
    rng = np.random.default_rng(0)
    grids = ((1, 2), (2, 3))
    maps = tuple(jnp.asarray(rng.integers(0, 9, (4, *grid))) for grid in grids)
    tokens = join_levels(maps)
    assert tokens.shape == (4, 8)
    np.testing.assert_array_equal(tokens[:, :2], maps[0][:, 0])
    for own, again in zip(maps, split_levels(tokens, grids), strict=True):
        np.testing.assert_array_equal(own, again)
    with pytest.raises(ValueError, match="7 tokens"):
        split_levels(tokens[:, 1:], grids)


@pytest.mark.parametrize("levels,grids", [(2, ((4, 4), (8, 8))), (3, ((2, 2), (4, 4), (8, 8)))])
def test_tokens_of_all_levels_come_coarsest_first_and_decode(levels, grids):
    stage, variables = tiny_tokenizer("vqvae2", model__num_levels=levels)
    assert stage.exports.grids == grids
    image = normalize(jnp.asarray(digits_batch()["image"]))
    tokens = jax.jit(stage.exports.encode)(variables, image)
    assert tokens.shape == (16, sum(h * w for h, w in grids)) and tokens.dtype == jnp.int32
    assert jax.jit(stage.exports.decode)(variables, tokens).shape == image.shape
    means = jax.tree.map(
        lambda figures: figures.mean(axis=0),
        dict(jax.jit(stage.evaluate)(variables, digits_batch(), jax.random.key(0))),
    )
    figures = summarize(means)
    middle = {"codebook_usage_middle"} if levels == 3 else set()
    assert {"codebook_usage_top", "codebook_usage_bottom"} | middle <= set(figures)
    assert figures["reconstruction_mse_top_only"] > 0
    top = split_levels(tokens, grids)[0]
    np.testing.assert_allclose(
        figures["codebook_usage_top"], len(np.unique(np.asarray(top))) / 16, rtol=1e-6
    )


def test_the_published_maps_of_256_pixels():
    assert level_grids(preset("vqvae2", "imagenet256")) == ((32, 32), (64, 64))


def test_dropped_levels_are_the_finest_of_the_share_asked_for(key):
    codes = tuple(jnp.ones((4000, side, side, 2)) for side in (1, 2, 3))
    top, middle, bottom = (
        np.asarray(own).reshape(4000, -1) for own in drop_levels(codes, key, 0.4)
    )
    assert (top == 1).all()
    for own in (middle, bottom):  # whole maps of an image, or nothing of them
        assert (own.min(axis=1) == own.max(axis=1)).all()
    lost_middle, lost_bottom = middle[:, 0] == 0, bottom[:, 0] == 0
    assert (lost_bottom | ~lost_middle).all()
    np.testing.assert_allclose([lost_bottom.mean(), lost_middle.mean()], [0.4, 0.2], atol=0.03)
    assert drop_levels(codes, jax.random.clone(key), 0.0) is codes


def test_with_level_dropout_the_loss_depends_on_the_key():
    stage, _, frozen = tiny_stage("vqvae2", losses__level_dropout_rate=0.5)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    losses = jax.jit(lambda key: stage.losses(variables, digits_batch(), key, jnp.int32(0))[0])
    one, same, other = (losses(jax.random.key(n))["autoencoder"] for n in (0, 0, 1))
    assert one == same and one != other


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
def test_what_cannot_work_is_refused(name, changes, message):
    with pytest.raises(InputError, match=message):
        STAGES[name].validate(tiny_config(name, **changes))


def test_maskgit_learns_the_tokens_of_a_vqvae_and_refuses_those_of_two_levels():
    config = tiny_config("maskgit")
    one, one_variables = tiny_tokenizer("vqvae")
    stage = maskgit.build(config, {"tokenizer": one})
    frozen = {"tokenizer": one_variables}
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    losses = jax.jit(stage.losses)(variables, digits_batch(), jax.random.key(1), jnp.int32(0))[0]
    assert bool(jnp.isfinite(losses["prior"]))
    two, _ = tiny_tokenizer("vqvae2")
    with pytest.raises(InputError, match="makes 2 token maps of each image"):
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
        message = refused(
            "train",
            "--config=configs/maskgit.py",
            f"--config.data.source=tokens:{tmp_path}",
            f"--workdir={tmp_path / 'run'}",
        )
        assert "holds 2 token maps of each image" in message
