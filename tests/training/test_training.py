import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from maskgit_jax.arrays import normalize, to_uint8
from maskgit_jax.configuration import InputError, optimizer
from maskgit_jax.training.optimizers import (
    is_matrix,
    learning_rate,
    make_optimizer,
    muon_labels,
    update_average,
)
from maskgit_jax.training.sharding import (
    AXES,
    check_batch_size,
    make_mesh,
    partition_spec,
    pjit,
    replicated,
)
from maskgit_jax.training.step import make_train_step
from maskgit_jax.training.variables import weights_checksum
from maskgit_jax.training.writers import Writers
from tests.example import digits_batch, preset, tiny_stage
from tests.stages.test_all_stages import assert_equal, new_state


def test_warm_up_and_cosine_by_hand():
    settings = optimizer(learning_rate=1.0, warmup_steps=4, schedule="cosine")
    rate = learning_rate(settings, num_steps=12)
    np.testing.assert_allclose([rate(n) for n in range(4)], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    np.testing.assert_allclose([rate(n) for n in (4, 8, 12)], [1.0, 0.5, 0.0], atol=1e-6)
    assert learning_rate(optimizer(learning_rate=0.3), 10)(9) == 0.3


def test_warm_up_stable_decay_by_hand():
    settings = optimizer(learning_rate=1.0, warmup_steps=2, schedule="wsd", decay_fraction=0.4)
    rate = learning_rate(settings, num_steps=10)
    steps = [rate(n) for n in range(11)]
    np.testing.assert_allclose(steps, [0.5, *[1.0] * 6, 0.75, 0.5, 0.25, 0.0], atol=1e-6)
    longer = learning_rate(settings, num_steps=20)  # a resumed run goes on with the stable part
    np.testing.assert_allclose([longer(n) for n in (9, 12, 16, 20)], [1, 1, 0.5, 0], atol=1e-6)
    rising = learning_rate(optimizer(schedule="wsd", warmup_steps=5, learning_rate=1.0), 5)
    np.testing.assert_allclose([rising(n) for n in (0, 4)], [0.2, 1.0], atol=1e-6)


def test_weight_decay_acts_on_kernels_only():
    params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "codebook": jnp.ones(2)}
    adamw = make_optimizer(
        optimizer(optimizer="adamw", learning_rate=0.1, weight_decay=0.5), num_steps=10
    )
    zero = jax.tree.map(jnp.zeros_like, params)
    changes, _ = adamw.update(zero, adamw.init(params), params)
    np.testing.assert_allclose(changes["dense"]["kernel"], -0.05, rtol=1e-6)
    assert abs(changes["dense"]["bias"]).max() == abs(changes["codebook"]).max() == 0


def test_clipping_bounds_what_adam_sees():
    clipped = make_optimizer(optimizer(clip_norm=1.0), num_steps=10)
    params = {"kernel": jnp.zeros(2)}
    _, state = clipped.update({"kernel": jnp.asarray([30.0, 40.0])}, clipped.init(params))
    mean = state[1].mu["kernel"]
    np.testing.assert_allclose(mean, 0.1 * np.asarray([0.6, 0.8]), rtol=1e-5)


def test_muon_orthogonalizes_kernels_and_leaves_the_rest_to_adam():
    settings = dict(learning_rate=0.1, weight_decay=0.0)
    muon = make_optimizer(optimizer(optimizer="muon", muon_learning_rate=0.02, **settings), 10)
    adam = make_optimizer(optimizer(optimizer="adamw", **settings), 10)
    shapes = {
        "layers": {"mlp_in": {"kernel": (2, 8, 32), "bias": (2, 32)}},  # two stacked layers
        "conv1": {"kernel": (3, 3, 4, 6)},
        "head_codes": {"kernel": (8, 16)},
        "word_embedding": (16, 8),
    }
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    params = jax.tree.map(jnp.zeros, shapes, is_leaf=is_shape)
    normal = np.random.default_rng(0).standard_normal
    gradient = jax.tree.map(lambda s: jnp.float32(normal(s)), shapes, is_leaf=is_shape)
    changes, _ = muon.update(gradient, muon.init(params), params)
    by_adam, _ = adam.update(gradient, adam.init(params), params)

    kernels = changes["layers"]["mlp_in"]["kernel"]
    for kernel, scale in (*((k, 2.0) for k in kernels), (changes["conv1"]["kernel"], 1.0)):
        matrix = np.asarray(kernel).reshape(-1, kernel.shape[-1])  # [inputs, outputs]
        values = np.linalg.svd(matrix, compute_uv=False) / (0.02 * scale)
        assert values.min() > 0.6 and values.max() < 1.3  # what Newton-Schulz guarantees
    one = muon.init({"a": {"kernel": params["layers"]["mlp_in"]["kernel"][0]}})
    alone, _ = muon.update({"a": {"kernel": gradient["layers"]["mlp_in"]["kernel"][0]}}, one,
                           {"a": {"kernel": kernels[0]}})  # fmt: skip
    np.testing.assert_allclose(alone["a"]["kernel"], kernels[0], rtol=1e-4, atol=1e-6)
    for tree in (changes, by_adam):
        del tree["conv1"], tree["layers"]["mlp_in"]["kernel"]
    assert_equal(changes, by_adam)


def test_muon_orthogonalizes_each_part_of_a_fused_kernel():
    muon = make_optimizer(optimizer(optimizer="muon", weight_decay=0.0), 10)
    parts = np.random.default_rng(0).standard_normal((2, 8, 3, 8)).astype(np.float32)
    fused = {"layers": {"qkv": {"kernel": jnp.asarray(parts)}}}
    three = {"layers": {str(i): {"kernel": jnp.asarray(parts[:, :, i])} for i in range(3)}}
    found, expected = (
        muon.update(tree, muon.init(tree), tree)[0]["layers"] for tree in (fused, three)
    )
    for part in range(3):
        kernel = found["qkv"]["kernel"][:, :, part]
        np.testing.assert_allclose(kernel, expected[str(part)]["kernel"], rtol=1e-3, atol=1e-5)
    scalars = {"value_residual": "adam", "modulation": {"kernel": "adam"}, "registers": "adam"}
    zeros = {"value_residual": jnp.zeros(2), "modulation": {"kernel": jnp.zeros((2, 8, 48))},
             "registers": jnp.zeros((1, 8))}  # fmt: skip
    assert muon_labels(zeros) == scalars
    decayed = {"value_residual": False, "modulation": {"kernel": True}, "registers": False}
    assert is_matrix(zeros) == decayed


def test_the_running_average_starts_fast():
    average = update_average({"a": jnp.zeros(())}, {"a": jnp.ones(())}, 0.999, jnp.int32(0))
    np.testing.assert_allclose(average["a"], 0.9, rtol=1e-6)
    later = update_average({"a": jnp.zeros(())}, {"a": jnp.ones(())}, 0.9, jnp.int32(10**6))
    np.testing.assert_allclose(later["a"], 0.1, rtol=1e-5)


def test_a_waiting_player_keeps_its_optimiser_fresh():
    stage, config, frozen = tiny_stage("vqgan", optimizers__discriminator__start_step=3)
    before = new_state(stage, config, frozen, digits_batch())
    step = jax.jit(make_train_step(stage, config))
    state = before
    for number in range(4):
        assert_equal(state.optimizers["discriminator"], before.optimizers["discriminator"])
        state, _ = step(state, frozen, digits_batch(start=16 * number), jax.random.key(0))
    count = [leaf for leaf in jax.tree.leaves(state.optimizers["discriminator"]) if leaf.ndim == 0]
    assert all(int(leaf) == 1 for leaf in count)


def test_a_loss_that_is_not_finite_freezes_the_state():
    stage, config, frozen = tiny_stage("vqgan")
    step = jax.jit(make_train_step(stage, config))
    state = new_state(stage, config, frozen, digits_batch())
    poisoned = jax.tree.map(lambda x: x, state.params)
    poisoned["autoencoder"]["conv_out"]["bias"] = jnp.full((1,), jnp.nan)
    state = state._replace(params=poisoned, step=jnp.int32(7))
    after, _ = step(state, frozen, digits_batch(), jax.random.key(0))
    assert int(after.failed_at["autoencoder"]) == 7
    assert_equal(after._replace(failed_at=state.failed_at), state)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 1, 1), "config.mesh.data is 3 and .*fsdp is 1.*there are 8 devices"),
        ((-1, -1, 1), "one may be -1"),
        ((-2, 1, 1), "posit"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes, message):
    with pytest.raises(InputError, match=message):
        make_mesh(ConfigDict(dict(zip(AXES, sizes, strict=True), layout="data")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fsdp": 8}, "config.mesh.fsdp is 8, but there is 1 device; the sizes .* set it to -1"),
        ({"data": 2, "tensor": -1}, "config.mesh.data is 2, but there is 1 device"),
        ({"layout": "fsdp_tensor"}, "fsdp_tensor needs a multiple of 2 devices; there is 1 device"),
    ],
)
def test_a_mesh_for_more_devices_names_its_key(changes, message):
    config = preset("vqgan").mesh.unlock()
    config.update(changes)
    with pytest.raises(InputError, match=message):
        make_mesh(config, jax.devices()[:1])


def test_parameters_are_divided_where_they_can_be():
    mesh = make_mesh(ConfigDict(dict(layout="data", data=2, fsdp=2, tensor=2)))
    name = "prior/layers/attention/query/kernel"
    assert tuple(partition_spec(name, (4, 8, 8), mesh)) == (None, "fsdp", "tensor")
    assert tuple(partition_spec(name, (4, 7, 8), mesh)) == (None, None, "tensor")
    assert tuple(partition_spec("opt/0/mu/" + name, (4, 8, 8), mesh))[1] == "fsdp"
    for name in ("level1_attention0/k", "mid_attention/proj_out"):
        assert partition_spec(f"autoencoder/encoder/{name}/kernel", (8, 8), mesh)[-1] == "fsdp"
    for name in ("autoencoder/quantizer/proj/bias", "discriminator/norm_1/loc"):
        assert not any(partition_spec(name, (8,), mesh))
    with pytest.raises(InputError, match="multiple of the 4 data shards"):
        check_batch_size(6, mesh, "batch")


def test_activations_are_constrained_inside_the_compiled_step():
    # `with mesh:` would turn nn.with_logical_constraint silently into nothing.
    stage, _, frozen = tiny_stage("maskgit")
    batch = digits_batch()
    variables = jax.jit(stage.init)(jax.random.key(0), batch, frozen)
    mesh = make_mesh(preset("vqgan").mesh)
    hidden = jnp.ones((16, 16), bool)
    program = pjit(stage.exports.logits, mesh)
    text = program.lower(variables, jnp.zeros((16, 16), int), hidden, batch["label"]).as_text()
    assert "sharding_constraint" in text or "Sharding" in text


def test_pixels_survive_the_way_in_and_out():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(to_uint8(normalize(pixels)), pixels)
    assert to_uint8(jnp.asarray([-3.0, 3.0])).tolist() == [0, 255]


def test_only_the_losses_of_networks_that_act_are_shown(tmp_path, capsys):
    writers = Writers(tmp_path, first_step=0, num_steps=8, batch_size=2)
    for step, acting in ((1, ["autoencoder"]), (2, ["autoencoder", "discriminator"])):
        writers.progress(step, {"autoencoder/loss": 1.0, "discriminator/loss": 2.0}, acting)
    writers.close()
    first, second = capsys.readouterr().out.splitlines()
    assert "discriminator" not in first and "discriminator/loss 2.0000" in second
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert all("discriminator/loss" in line for line in lines)


def test_a_cross_entropy_is_shown_in_bits_beside_its_baselines(tmp_path, capsys):
    writers = Writers(tmp_path, first_step=0, num_steps=8, batch_size=2)
    bits = {"bits_per_token": 3.0, "bits_per_token_unigram": 5.0, "bits_per_token_uniform": 7.0}
    writers.progress(1, {"prior/loss": 2.0, **bits}, ["prior"])
    writers.evaluation(1, {"token_cross_entropy": math.log(8), "token_accuracy": 0.5})
    writers.close()
    train, evaluation = capsys.readouterr().out.splitlines()
    assert "prior/loss 2.0000  3.000 bits per token (unigram 5.000, uniform 7.000)" in train
    assert "token_cross_entropy 2.079 nats = 3 bits  token_accuracy 0.5" in evaluation


def test_metrics_of_a_lost_stretch_are_removed_on_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"step": 7, "cut')
    writers = Writers(tmp_path, first_step=4, num_steps=8, batch_size=2)
    writers.progress(5, {"prior/loss": 1.0, "other/loss": 2.0}, ["prior"])
    writers.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert lines[-1]["images_per_second"] == 2 * lines[-1]["steps_per_second"]


def test_a_checksum_of_weights_depends_on_every_bit_and_on_no_mesh():
    tree = {"a": jnp.arange(24, dtype=jnp.bfloat16).reshape(4, 6), "b": {"c": jnp.ones(())}}
    one = make_mesh(preset("vqgan").mesh, jax.devices()[:1])
    eight = make_mesh(ConfigDict(dict(layout="data", data=1, fsdp=2, tensor=4)))
    sharded = jax.device_put(tree, jax.tree.map(lambda _: replicated(eight), tree))
    checksum = weights_checksum(tree, one)
    assert checksum == weights_checksum(sharded, eight) == weights_checksum(tree, one)
    others = [{**tree, "a": tree["a"].at[3, 5].add(1)}, {**tree, "a": tree["a"].reshape(6, 4)},
              {**tree, "d": tree["b"]}, {"a": tree["a"], "b": {"d": tree["b"]["c"]}}]  # fmt: skip
    assert len({checksum, *(weights_checksum(other, one) for other in others)}) == 5
