"""The benchmark of decoding, run as a user runs it, and the counts it reports."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError, apply_changes
from maskgit_jax.performance import decoding_speed, step_record, step_speed
from maskgit_jax.performance.chips import Chip
from maskgit_jax.performance.decoding_speed import CACHED, MASKGIT, UNCACHED, Sizes
from maskgit_jax.performance.step_record import Seconds, TimingOptions, median_seconds, record
from maskgit_jax.training.sharding import make_mesh
from tests.example import preset
from tests.test_commands import refused, run

TINY = ["decoding", "--width=16", "--layers=1", "--heads=2", "--mlp_width=32", "--codes=16",
        "--classes=3", "--steps=3", "--repeats=1"]  # fmt: skip
WAYS = (UNCACHED, CACHED, MASKGIT)
SIZES = Sizes(width=16, layers=3, heads=2, mlp_width=32, codes=16, classes=3, steps=3)


@pytest.fixture(scope="module")
def ways():
    return decoding_speed.decoding_ways(SIZES, 3, 2)


def test_the_command_writes_table_numbers_and_picture(tmp_path):
    out = tmp_path / "new/place"
    code, printed, err = run(
        "benchmark", *TINY, "--grids=3,2", "--batch_sizes=2", "--seconds=0", f"--out={out}"
    )
    assert code == 0, err[-3000:]
    found = json.loads((out / "decoding.json").read_text())
    rows = {(row["grid"], row["batch_size"], row["way"]): row for row in found["rows"]}
    places = [(2, 2), (3, 2)]
    assert list(rows) == [(*place, way) for place in places for way in WAYS]
    for (grid, batch, way), row in rows.items():
        assert row["tokens"] == grid**2 and len(row["runs"]) == 1 and row["compile_seconds"] > 0
        assert row["passes"] == (3 if way == MASKGIT else grid**2)
        scaled = row["passes"] == 9  # in no time at all only four passes are timed
        assert row["measured"] == ("4 of 9 passes" if scaled else "whole")
        assert row["seconds"] == pytest.approx(row["runs"][0] * (9 / 4 if scaled else 1))
        assert row["images_per_second"] == pytest.approx(batch / row["seconds"])
    growth = {way: rows[3, 2, way]["operations"] / rows[2, 2, way]["operations"] for way in WAYS}
    assert growth[UNCACHED] > (9 / 4) ** 2 > growth[CACHED] > 9 / 4 > growth[MASKGIT] > 2
    for ratio in found["ratios"]:
        place = ratio["grid"], ratio["batch_size"]
        for name, way in (("uncached", UNCACHED), ("cached", CACHED)):
            expected = rows[*place, way]["seconds"] / rows[*place, MASKGIT]["seconds"]
            assert ratio[f"{name}_over_maskgit"] == pytest.approx(expected)
    assert [(ratio["grid"], ratio["batch_size"]) for ratio in found["ratios"]] == places
    assert found["settings"]["width"] == 16 and found["environment"]["jax"] == jax.__version__
    text = (out / "decoding.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 6 and all(line in printed for line in lines)
    assert sum("4 of 9 passes" in line for line in lines) == 2
    assert "width 16, layers 1" in text and "does not grow with the map" in text
    with Image.open(out / "decoding.png") as picture:
        assert picture.width > 500 and picture.height > 500


def test_what_fits_is_measured_whole(ways):
    row = decoding_speed.measure(ways[1], 3, 2, repeats=3, seconds=60.0)
    assert row.measured == "whole" and row.passes == 9 and len(row.runs) == 3
    assert row.seconds == sorted(row.runs)[1] and row.images_per_second == 2 / row.seconds
    assert (
        row.operations == 9 * ways[1].pass_operations and row.bytes_read == 9 * ways[1].pass_bytes
    )


def test_the_first_passes_are_those_of_the_whole_map(ways, key):
    label, (uncached, cached, _) = jnp.array([0, 2]), ways
    draw = {way.name: jax.jit(way.draw, static_argnums=3) for way in (uncached, cached)}
    whole = draw[CACHED](cached.params, label, key.copy(), 9)
    assert whole.shape == (2, 9) and whole.min() >= 0 and whole.max() < 16
    for way, passes in ((uncached, 9), (uncached, 4), (cached, 4)):
        some = draw[way.name](way.params, label, key.copy(), passes)
        np.testing.assert_array_equal(some, whole[:, :passes])


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    def program(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=5)[0]

    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    assert decoding_speed.operations(program, x) == 5 * 2 * 8**3


def test_operations_and_bytes_of_a_pass_are_those_worked_out_by_hand(ways):
    uncached, cached, maskgit = ways
    width, mlp, layers, codes, batch, tokens = 16, 32, 3, 16, 2, 9
    kernels = layers * (4 * width**2 + 2 * width * mlp)

    def products(places: int, seen: int, extra: int) -> int:
        """Two operations for each multiplication of a matrix."""
        return 2 * batch * (places * (kernels + extra) + layers * 2 * places * seen * width)

    by_hand = {
        UNCACHED: products(tokens, tokens, width * codes),
        CACHED: products(1, tokens, width * codes),
        MASKGIT: products(tokens + 1, tokens + 1, width**2 + width * codes),
    }
    for way in ways:
        # Norms, softmax, GELU and the like come on top; at a width of 16 they weigh.
        assert by_hand[way.name] < way.pass_operations < 1.6 * by_hand[way.name]
    biases = layers * (4 * width + mlp + width + 4 * width) + 2 * width
    assert cached.pass_bytes == 4 * (
        kernels + biases + width * codes + 2 * layers * batch * tokens * width
    )
    assert uncached.pass_bytes == 4 * (kernels + biases + width * codes + tokens * width)
    assert maskgit.pass_bytes == 4 * sum(leaf.size for leaf in jax.tree.leaves(maskgit.params))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing was given; the commands are: decoding"),
        (["speed"], "'speed' was given; the commands are: decoding"),
        (["decoding", "--grids=8,0"], "--grids holds '0'; it takes whole numbers from 1 on"),
        (["decoding", "--width=18"], "--width is 18, which is no multiple of --heads, 4"),
        (["decoding", "--grids=2,8"], "--steps is 8; the smallest map has only 4 tokens"),
        (["decoding", "--grid=8"], "grid"),
        (["decoding", "--out=setup.py"], "--out=setup.py cannot be made a folder"),
        (["train"], "--config is needed, such as --config=configs/vqgan.py:digits"),
        (["decoding", "--config=configs/vqgan.py:digits"], "decoding takes no --config"),
        (["data", "--config=configs/vqgan.py:digits", "--synthetic"], "leave out --synthetic"),
        (["train", "--config=configs/no.py"], "no configuration 'configs/no.py'"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message):
    assert message in refused("benchmark", *arguments)


TINY_CHANGES = {
    "vqgan": {"model.filters": 4, "model.codebook_dim": 4, "discriminator.filters": 4,
              "model.codebook_size": 16, "model.channel_multipliers": (1, 2), "discriminator.num_layers": 1,
              "training.batch_size": 8},
    "maskgit": {"model.width": 16, "model.num_layers": 1, "model.num_heads": 2,
                "model.mlp_width": 32, "sampling.steps": 2, "training.batch_size": 8},
}  # fmt: skip
SILENT = TimingOptions(1, 0.0, lambda text: None)


def tiny(stage, **more):
    return apply_changes(preset(stage, "digits").unlock(), {**TINY_CHANGES[stage], **more})


def check_rates(found, batch):
    assert found["batch_size"] == batch and found["devices"] == jax.device_count()
    total = found["step_seconds"]["total"]
    assert found["images_per_second"] == pytest.approx(batch / total)
    assert found["images_per_second_per_device"] == pytest.approx(batch / total / found["devices"])
    assert found["mfu"] is None and found["peak_memory_bytes"] is None, "a CPU"
    if found["model_flops_per_step"] is not None:
        assert found["flops_per_second"] == pytest.approx(found["model_flops_per_step"] / total)
        assert any("no mfu" in note for note in found["notes"])


def test_the_train_command_prints_and_writes_one_line(tmp_path):
    changes = [f"--config.{key}={value}" for key, value in TINY_CHANGES["vqgan"].items()]
    code, out, err = run("benchmark", "train", "--config=configs/vqgan.py:digits", *changes,
                         "--seconds=0.1", f"--out={tmp_path}")  # fmt: skip
    assert code == 0, err[-3000:]
    found = json.loads(out.splitlines()[-1])
    assert json.loads((tmp_path / "benchmark.jsonl").read_text()) == found
    assert found["images_per_second"] == pytest.approx(8 / found["step_seconds"]["total"])
    assert (found["command"], found["config"]) == ("train", "configs/vqgan.py")
    assert (found["stage"], found["preset"], found["dtype"]) == ("vqgan", "digits", "float32")
    seconds = found["step_seconds"]
    assert seconds["device"] > 0 and seconds["host_input"] > 0 and found["compile_seconds"] > 0
    assert seconds["waiting"] == max(0, seconds["total"] - seconds["device"])
    assert found["waiting_share"] == pytest.approx(seconds["waiting"] / seconds["total"])
    assert found["executed_flops_per_step"] == found["model_flops_per_step"] > 0
    assert found["compiled_memory_bytes"]["alias"] > 0, "the state is donated"
    assert found["jax"] == jax.__version__ and found["date"] and not found["synthetic"]


def test_training_is_measured_without_data_and_without_a_tokenizer():
    config = tiny("maskgit", **{"data.source": "folder:missing", "model.remat": True})
    with pytest.raises(InputError, match="missing.*; or add --synthetic to measure with made-up"):
        step_speed.measure_train(config, "configs", SILENT, synthetic=False)
    found = step_speed.measure_train(config, "configs", SILENT, synthetic=True)
    check_rates(found, 8)
    assert found["step_seconds"]["total"] == found["step_seconds"]["device"]
    assert found["step_seconds"]["host_input"] is None and found["step_seconds"]["waiting"] == 0
    assert found["executed_flops_per_step"] > found["model_flops_per_step"], "recomputed"
    assert "tokenizer has random weights" in found["notes"][0]
    assert not any("not finite" in note for note in found["notes"])


def test_sampling_is_measured():
    found = step_speed.measure_sample(tiny("maskgit"), "configs", SILENT, 16)
    check_rates(found, 16)
    assert found["passes"] == 2 and found["step_seconds"]["host_input"] is None
    with pytest.raises(InputError, match="'vqgan' generates no images"):
        step_speed.measure_sample(tiny("vqgan"), "configs", SILENT)


def test_reading_is_measured():
    found = step_speed.measure_data(tiny("vqgan"), SILENT)
    check_rates(found, 8)
    assert found["images_per_second_read"] == pytest.approx(8 / found["read_seconds"])
    assert found["step_seconds"]["device"] is None and found["model_flops_per_step"] is None
    with pytest.raises(InputError, match="num_classes is 7, but digits has 10 classes"):
        step_speed.measure_data(tiny("vqgan", **{"data.num_classes": 7}), SILENT)


def test_utilisation_is_that_worked_out_by_hand(monkeypatch):
    kind = jax.devices()[0].device_kind
    chip = Chip("made-up", (kind,), {"bfloat16": 1e3}, 1, 1, 1, "")
    monkeypatch.setattr(step_record, "chip_of", {kind: chip}.get)
    config = tiny("vqgan")
    mesh = make_mesh(config.mesh, jax.devices()[:2])
    found = record("train", config, mesh, 8, Seconds(0.5, 0.4, 0.2, 0.1), (300.0, 400.0), [])
    assert found["mfu"] == pytest.approx(300 / (2 * 1e3 * 0.5)) and found["notes"] == []
    assert found["flops_per_second"] == 600 and found["images_per_second"] == 16
    assert found["images_per_second_per_device"] == 8
    assert found["waiting_share"] == pytest.approx(0.2)


def test_as_many_runs_are_timed_as_fit():
    counts = []
    median_seconds(counts.append, TimingOptions(3, 0.0, print))
    assert counts == [1, 1], "one to see how long it takes, one that counts"
    median_seconds(counts.append, TimingOptions(3, 60.0, print))
    assert counts[2:] == [1, 50, 50, 50]


def test_random_arrays_have_the_shapes_and_no_negative_variance(key):
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=where)
    count = jax.ShapeDtypeStruct((3,), jnp.int32, sharding=where)
    made = step_speed.random_arrays({"norm": {"var": shape}, "kernel": shape, "n": count}, key)
    assert (made["norm"]["var"] == 1).all() and (made["n"] == 0).all()
    assert float(made["kernel"].std()) == pytest.approx(0.02, rel=0.1)
    assert step_speed.random_arrays({}, key) == {}
