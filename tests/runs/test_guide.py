"""Guidance by another run: laws of the samples, and runs that do not fit."""

import jax
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.pipelines.generator import GeneratorPipeline
from maskgit_jax.runs.directory import Run, build_stage
from maskgit_jax.runs.guide import load_guide, with_guide
from maskgit_jax.training.sharding import make_mesh
from tests.example import digits_batch, tiny_config, tiny_stage, tiny_tokenizer


def run_of(seed: int = 0, **changes) -> Run:
    stage, config, frozen = tiny_stage("maskgit", losses__label_dropout_rate=0.0, **changes)
    variables = jax.jit(stage.init)(jax.random.key(seed), digits_batch(), frozen)
    # An untrained network ignores its input: random weights do not.
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(seed), leaf.shape, leaf.dtype),
        variables.params,
    )
    stages = {"tokenizer": tiny_tokenizer()[0]}
    return Run(config, stage, variables._replace(params=params), 3, stages)


@pytest.fixture(scope="module")
def run():
    return run_of()


@pytest.fixture(scope="module")
def mesh(run):
    return make_mesh(run.config.mesh, jax.devices()[:1])


def tokens(run, mesh, **settings):
    pipeline = GeneratorPipeline(run, mesh)
    return next(pipeline.tokens([3, 1, 4, 1, 5], 7, pipeline.settings(True, **settings)))


def test_a_guide_acts_unless_it_is_the_run_itself(run, mesh):
    unguided = tokens(run, mesh)
    itself = with_guide(run, run, "runs/a", mesh)
    assert itself.guide == "runs/a at step 3"
    np.testing.assert_array_equal(tokens(itself, mesh, guidance=5.0), unguided)
    smaller = run_of(seed=1, model__num_layers=1)
    guided = with_guide(run, smaller, "runs/b", mesh)
    guided_tokens = tokens(guided, mesh, guidance=5.0)
    assert (guided_tokens != unguided).any()
    every = make_mesh(run.config.mesh, jax.devices())
    np.testing.assert_array_equal(tokens(guided, every, guidance=5.0), guided_tokens)
    larger = tokens(guided, mesh, guidance=5.0, size=(32, 16))
    assert larger.shape == (5, 2 * unguided.shape[1])
    with pytest.raises(InputError, match="the guide has no effect with guidance 0"):
        tokens(guided, mesh)
    with pytest.raises(InputError, match="or a guide"):
        tokens(run, mesh, guidance=1.0)


def test_guides_that_do_not_fit_are_refused(run, mesh, tmp_path):
    other = run.variables.frozen["tokenizer"]
    params = jax.tree.map(lambda leaf: leaf + 1, other.params)
    frozen = {"tokenizer": other._replace(params=params)}
    retrained = run._replace(variables=run.variables._replace(frozen=frozen))
    config = run.config.copy_and_resolve_references().unlock()
    config.data.class_names = tuple("abcdefghij")
    labelled, gpt = tiny_config("maskgit", losses__label_dropout_rate=0.1), tiny_config("gpt")
    dropped, autoregressive = (
        run._replace(config=other, stage=build_stage(other, run.stages, ""))
        for other in (labelled, gpt)
    )
    for own, guide, message in (
        (run, retrained, "--guide=runs/b generates tokens of another tokenizer"),
        (run, run._replace(config=config), "10 classes and this run 10, or their names differ"),
        (dropped, run, "--guide=runs/b was trained without label dropout"),
        (run, autoregressive, "--guide=runs/b holds stage 'gpt'; guidance by another run is for"),
        (autoregressive, run, "this run holds stage 'gpt'"),
    ):
        with pytest.raises(InputError, match=message):
            with_guide(own, guide, "runs/b", mesh)
    for place in (f"{tmp_path}/none", f"{tmp_path}@3", f"{tmp_path}/none@3"):
        with pytest.raises(InputError, match="holds no run"):
            load_guide(run, place, mesh)
