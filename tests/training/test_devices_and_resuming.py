"""Training on several devices and resumed training, of the stages that differ in it."""

import jax
import numpy as np
import pytest

from maskgit_jax.training.sharding import put_batch
from tests.example import tiny_stage, trainer
from tests.stages.test_all_stages import assert_equal

# The stages that these leave out consist of the same parts.
SHARDED = ("vqgan", "maskgit")
RESUMED = SHARDED  # with running state, and a prior; VQ-VAE resumes in tests/test_commands.py


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_one_device_equals_eight(name, tmp_path):
    results = []
    for devices, mesh in ((1, {}), (8, {"mesh__fsdp": 2, "mesh__tensor": 2})):
        stage, config, frozen = tiny_stage(name, training__num_steps=4, **mesh)
        run = trainer(stage, config, frozen, tmp_path / str(devices), devices)
        metrics = []
        for _ in range(4):
            batch = put_batch(next(run.data.train), run.mesh)
            step = run.programs.train_step
            run.state, values = step(run.state, run.frozen, batch, run.root_key)
            metrics.append(jax.device_get(values))
        results.append([*metrics, run.evaluate()])
        assert run.programs.train_step.cache_size() == 1, "compiled once"
        run.checkpoints.close()
    for one, eight in zip(*results, strict=True):
        for key, value in one.items():
            # Adam's first steps follow signs: gradients after them agree less exactly.
            tolerance = 1e-4 if "gradient" in key else 1e-5
            np.testing.assert_allclose(
                eight[key], value, rtol=tolerance, atol=tolerance, err_msg=key
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_resumed_equals_uninterrupted_bit_for_bit(name, tmp_path):
    stage, config, frozen = tiny_stage(name)
    whole = trainer(stage, config, frozen, tmp_path / "whole")
    whole.run()
    half = trainer(stage, config, frozen, tmp_path / "half")
    train_step = whole.programs.train_step  # compiled once for all three

    def stop_after_four(*arguments):
        result = train_step(*arguments)
        if int(result[0].step) == 4:
            half.stop_requested.set()
        return result

    half.programs = whole.programs._replace(train_step=stop_after_four)
    half.run()
    assert int(half.state.step) == 4
    resumed = trainer(stage, config, frozen, tmp_path / "half")
    assert int(resumed.state.step) == 4
    resumed.programs = whole.programs
    resumed.run()
    assert_equal(resumed.state, whole.state)
    assert resumed.evaluate() == whole.evaluate() == whole.evaluate()
