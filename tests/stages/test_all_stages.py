"""Properties of every stage."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskgit_jax.arrays import to_uint8
from maskgit_jax.data.loader import eval_batches
from maskgit_jax.data.sources import open_sources
from maskgit_jax.stage import Variables
from maskgit_jax.stages import stage_module
from maskgit_jax.training.loop import compile_eval_step, evaluate_split
from maskgit_jax.training.sharding import (
    PARAMETER_AXES,
    make_mesh,
    path_name,
    tree_shardings,
)
from maskgit_jax.training.step import make_create_state, make_train_step
from tests.example import (
    PRIOR_NAMES,
    STAGE_NAMES,
    TOKENIZER_NAMES,
    digits_batch,
    preset,
    tiny_stage,
    tokenizer_stage,
)

# The stages that these leave out consist of the same parts.
ACCUMULATED = ("vqvae", "maskgit")
PRESETS = ("digits", "imagenet256")  # parameter names do not depend on sizes
PRESETS_OF_STAGES = [
    *((stage, preset) for preset in PRESETS for stage in STAGE_NAMES),
    *((stage, "folder_small") for stage in ("vqgan", "gpt", "maskgit")),
]


@functools.cache
def compiled_stage(name: str):
    """The tiny stage of this name with its compiled train step and its first state."""
    stage, config, frozen = tiny_stage(name)
    step = jax.jit(make_train_step(stage, config))
    return stage, config, frozen, step, new_state(stage, config, frozen, digits_batch())


def new_state(stage, config, frozen, batch):
    return jax.jit(make_create_state(stage, config))(jax.random.key(0), batch, frozen)


def assert_equal(one, other):
    paths = jax.tree_util.tree_leaves_with_path(one)
    for (path, a), b in zip(paths, jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path_name(path))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vqvae", {}),
        ("vqvae2", {}),
        ("vqgan", {}),
        ("vqgan", {"model__normalize_codes": True}),
        ("vqgan", {"model__quantizer_kind": "gumbel", "losses__quantizer_weight": 1.0}),
    ],
)
def test_codebooks_are_the_codes_that_the_decoder_reads(name, changes):
    stage, _, _ = tiny_stage(name, **changes)
    shapes = jax.eval_shape(stage.init, jax.random.key(0), digits_batch(), {})
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    codebooks = stage.exports.codebooks(variables)
    assert len(codebooks) == len(stage.exports.grids)
    leaves = jax.tree_util.tree_leaves_with_path(variables.params["autoencoder"])
    stored = {path_name(path): leaf for path, leaf in leaves if "codebook" in path_name(path)}
    for codes, own in zip(codebooks, reversed(stored.values()), strict=True):
        if "model__normalize_codes" in changes:
            own = own / np.linalg.norm(own, axis=1, keepdims=True)
        assert codes.shape == (16, 4)
        np.testing.assert_allclose(codes, own, rtol=1e-5)


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_gradients_reach_every_parameter_of_the_own_network(name):
    _, config, frozen, step, state = compiled_stage(name)
    metrics = {}
    for number in range(4):  # the discriminator starts at step 2
        batch = digits_batch(start=16 * number)
        state, metrics = step(state, frozen, batch, jax.random.key(1))
    assert {f"{network}/loss" for network in config.optimizers} <= set(metrics)
    # The first moment of Adam or Muon is 0 exactly where all gradients were.
    moments = {
        key: [moment for _, moment in optax.tree_utils.tree_get_all_with_path(o, "mu")]
        for key, o in state.optimizers.items()
    }
    assert set(moments) == set(config.optimizers)
    # An EMA codebook is set by `assign`, without gradient descent: its gradient must be 0.
    set_codebooks = "codebook_update" in config.model and config.model.codebook_update == "ema"
    for path, leaf in jax.tree_util.tree_leaves_with_path(moments):
        place = path_name(path)
        if set_codebooks and place.endswith("/codebook"):
            assert float(abs(leaf).max()) == 0, place
        elif not place.endswith("key/bias"):  # softmax ignores a common bias of all keys
            assert float(abs(leaf).max()) > 0, place


def test_a_loss_updates_only_its_own_network():
    stage, config, frozen = tiny_stage("vqgan", optimizers__autoencoder__start_step=10**6)
    batch = digits_batch()
    before = new_state(stage, config, frozen, batch)
    step = jax.jit(make_train_step(stage, config))
    state = before
    for _ in range(4):
        state, _ = step(state, frozen, batch, jax.random.key(0))
    assert_equal(state.params["autoencoder"], before.params["autoencoder"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, before.params)
    assert any(jax.tree.leaves(moved["discriminator"]))


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_the_loss_falls(name):
    _, config, frozen, step, state = compiled_stage(name)
    name = next(iter(config.optimizers))
    losses = []
    for number in range(20):
        batch = digits_batch(start=16 * number)
        state, metrics = step(state, frozen, batch, jax.random.key(0))
        losses.append(float(metrics[f"{name}/loss"]))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.mark.parametrize("name", ACCUMULATED)
def test_accumulation_averages_the_parts(name):
    # The first loss of a tokenizer is not random, so the average over the parts equals the whole;
    # priors sample masks and dropout, so there the two are only close.
    stage, config, frozen, step, state = compiled_stage(name)
    _, parts_config, _ = tiny_stage(name, training__accumulate_steps=4)
    batch = digits_batch()
    whole = step(state, frozen, batch, jax.random.key(0))[1]
    parts_step = jax.jit(make_train_step(stage, parts_config))
    parts = parts_step(state, frozen, batch, jax.random.key(0))[1]
    name = next(iter(config.optimizers))
    tolerance = 1e-5 if name in TOKENIZER_NAMES else 0.2
    np.testing.assert_allclose(parts[f"{name}/loss"], whole[f"{name}/loss"], rtol=tolerance)


@pytest.mark.parametrize(("stage_name", "preset_name"), PRESETS_OF_STAGES)
def test_every_parameter_matches_one_row_of_the_sharding_table(stage_name, preset_name):
    config = preset(stage_name, preset_name).unlock()
    config.data.num_classes = config.data.num_classes or 10
    size, channels = config.data.image_size, config.data.channels
    batch = {
        "image": jax.ShapeDtypeStruct((2, size, size, channels), np.uint8),
        "label": jax.ShapeDtypeStruct((2,), np.int32),
    }
    stages = {}
    if stage_name in PRIOR_NAMES:
        name = "vqgan" if stage_name == "token_critic" else tokenizer_stage(config)
        stages["tokenizer"] = stage_module(name).build(preset(name, preset_name), {})
    if stage_name == "token_critic":
        inner = preset("maskgit", preset_name).unlock()
        inner.data.num_classes = config.data.num_classes
        stages["generator"] = stage_module("maskgit").build(inner, stages)
    stage_module(stage_name).validate(config)
    stage = stage_module(stage_name).build(config, stages)
    abstract = jax.eval_shape(make_create_state(stage, config), jax.random.key(0), batch, {})
    mesh = make_mesh(type(config)(dict(layout="data", data=2, fsdp=2, tensor=2)))
    shardings = tree_shardings(abstract, mesh)  # raises for a name without a row
    specs = {str(leaf.spec) for leaf in jax.tree.leaves(shardings)}
    assert any("fsdp" in spec for spec in specs)
    assert len(PARAMETER_AXES) > 10


def test_a_parameter_without_a_row_is_an_error():
    mesh = make_mesh(preset("vqgan").mesh)
    with pytest.raises(ValueError, match="stranger/weight"):
        tree_shardings({"stranger": {"weight": jnp.zeros((4, 4))}}, mesh)


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_padded_rows_change_no_evaluation(name):
    stage, config, frozen, _, state = compiled_stage(name)
    variables = Variables(state.params, state.state, frozen)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    held_out, metrics = open_sources(config.data).evaluation, []
    for size in (16, 40):  # 360 held-out images: 22.5 and 9 batches
        batches, program = eval_batches(held_out, config.data, size), compile_eval_step(stage, mesh)
        metrics.append(evaluate_split(stage, variables, batches, mesh, program))
    # Priors sample their masks per batch.
    tolerance = 1e-5 if name in TOKENIZER_NAMES else 0.1
    for key in metrics[0]:
        np.testing.assert_allclose(metrics[0][key], metrics[1][key], rtol=tolerance, atol=0.01)


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_previews_are_images(name):
    stage, _, frozen, _, state = compiled_stage(name)
    variables, batch = Variables(state.params, state.state, frozen), digits_batch()
    for images in jax.jit(stage.preview)(variables, batch, jax.random.key(0)).values():
        assert images.ndim in (4, 5) and to_uint8(images).shape[-3:] == (16, 16, 1)


def test_variables_name_their_frozen_stages():
    stage, _, frozen = tiny_stage("maskgit")
    variables = jax.eval_shape(stage.init, jax.random.key(0), digits_batch(), frozen)
    assert isinstance(variables, Variables)
    assert set(variables.frozen) == {"tokenizer"}
