"""The benchmark command and the measurements that it reports."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.performance import decoding_speed, step_record, step_speed
from maskgit_jax.performance.chips import Chip
from maskgit_jax.performance.decoding_speed import CACHED, MASKGIT, UNCACHED, Sizes
from maskgit_jax.performance.step_record import Seconds, TimingOptions, median_seconds, record
from maskgit_jax.runs.directory import write_config
from maskgit_jax.training.sharding import make_mesh
from tests.commands import refused, run
from tests.example import TINY, tiny_config

SMALL = ["decoding", "--width=16", "--layers=1", "--heads=2", "--mlp_width=32", "--codes=16",
        "--classes=3", "--steps=3", "--repeats=1"]  # fmt: skip
METHODS = (UNCACHED, CACHED, MASKGIT)
SIZES = Sizes(width=16, layers=3, heads=2, mlp_width=32, codes=16, classes=3, steps=3)


@pytest.fixture(scope="module")
def samplers():
    return decoding_speed.build_samplers(SIZES, 3, 2)


def test_decoding_command_writes_table_json_and_plot(tmp_path):
    out = tmp_path / "new/folder"
    code, printed, err = run(
        "benchmark", *SMALL, "--grids=3,2", "--batch_sizes=2", "--seconds=0", f"--out={out}"
    )
    assert code == 0, err[-3000:]
    values = json.loads((out / "decoding.json").read_text())
    rows = {(row["grid"], row["batch_size"], row["method"]): row for row in values["measurements"]}
    places = [(2, 2), (3, 2)]
    assert list(rows) == [(*place, method) for place in places for method in METHODS]
    for (grid, batch, method), row in rows.items():
        assert row["tokens"] == grid**2 and len(row["runs"]) == 1 and row["compile_seconds"] > 0
        assert row["nfe"] == (3 if method == MASKGIT else grid**2)
        scaled = row["nfe"] == 9  # without time only four network evaluations are timed
        assert row["measured"] == ("4 of 9 NFE" if scaled else "whole")
        assert row["seconds"] == pytest.approx(row["runs"][0] * (9 / 4 if scaled else 1))
        assert row["images_per_second"] == pytest.approx(batch / row["seconds"])
    growth = {name: rows[3, 2, name]["flops"] / rows[2, 2, name]["flops"] for name in METHODS}
    assert growth[UNCACHED] > (9 / 4) ** 2 > growth[CACHED] > 9 / 4 > growth[MASKGIT] > 2
    for ratio in values["ratios"]:
        place = ratio["grid"], ratio["batch_size"]
        for name, method in (("uncached", UNCACHED), ("cached", CACHED)):
            expected = rows[*place, method]["seconds"] / rows[*place, MASKGIT]["seconds"]
            assert ratio[f"{name}_over_maskgit"] == pytest.approx(expected)
    assert [(ratio["grid"], ratio["batch_size"]) for ratio in values["ratios"]] == places
    assert values["settings"]["width"] == 16 and values["environment"]["jax"] == jax.__version__
    text = (out / "decoding.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 6 and all(line in printed for line in lines)
    assert sum("4 of 9 NFE" in line for line in lines) == 2
    assert "width 16, layers 1" in text and "does not grow with the map" in text
    with Image.open(out / "decoding.png") as image:
        assert image.width > 500 and image.height > 500


def test_map_that_fits_the_time_is_measured_whole(samplers):
    row = decoding_speed.measure(samplers[1], 3, 2, repeats=3, seconds=60.0)
    assert row.measured == "whole" and row.nfe == 9 and len(row.runs) == 3
    assert row.seconds == sorted(row.runs)[1] and row.images_per_second == 2 / row.seconds
    assert row.flops == 9 * samplers[1].flops and row.bytes_read == 9 * samplers[1].bytes_read


def test_first_network_evaluations_equal_those_of_the_whole_map(samplers, key):
    label, (uncached, cached, _) = jnp.array([0, 2]), samplers
    sample = {one.method: jax.jit(one.sample, static_argnums=3) for one in (uncached, cached)}
    whole = sample[CACHED](cached.params, label, key.copy(), 9)
    assert whole.shape == (2, 9) and whole.min() >= 0 and whole.max() < 16
    for one, nfe in ((uncached, 9), (uncached, 4), (cached, 4)):
        tokens = sample[one.method](one.params, label, key.copy(), nfe)
        np.testing.assert_array_equal(tokens, whole[:, :nfe])


def test_flops_and_bytes_of_a_network_evaluation(samplers):
    uncached, cached, maskgit = samplers
    width, mlp, layers, codes, batch, tokens = 16, 32, 3, 16, 2, 9
    kernels = layers * (4 * width**2 + 2 * width * mlp)

    def products(positions: int, seen: int, heads: int) -> int:
        return 2 * batch * (positions * kernels + heads + layers * 2 * positions * seen * width)

    assert uncached.flops == products(tokens, tokens, tokens * width * codes)
    assert cached.flops == products(1, tokens, width * codes)
    head = tokens * (width**2 + width * codes)
    assert maskgit.flops == products(tokens + 1, tokens + 1, head)
    biases = layers * (4 * width + mlp + width + 4 * width) + 2 * width
    assert cached.bytes_read == 4 * (
        kernels + biases + width * codes + 2 * layers * batch * tokens * width
    )
    assert uncached.bytes_read == 4 * (kernels + biases + width * codes + tokens * width)
    assert maskgit.bytes_read == 4 * sum(leaf.size for leaf in jax.tree.leaves(maskgit.params))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing was given; the commands are: decoding"),
        (["speed"], "'speed' was given; the commands are: decoding"),
        (["decoding", "--grids=8,0"], "--grids is '8,0'; it takes numbers of at least 1"),
        (["decoding", "--width=18"], "--width is 18; it must be a multiple of --heads, 4"),
        (["decoding", "--grids=2,8"], "--steps is 8; the smallest map has only 4 tokens"),
        (["decoding", "--grid=8"], "grid"),
        (["decoding", "--out=setup.py"], "--out=setup.py"),
        (["train"], "--config is needed, such as --config=configs/vqgan.py:digits"),
        (["decoding", "--config=configs/vqgan.py:digits"], "decoding takes no --config"),
        (
            ["data", "--config=configs/vqgan.py:digits", "--synthetic"],
            "--synthetic has no effect on data",
        ),
        (["train", "--config=configs/no.py"], "no configuration 'configs/no.py'"),
    ],
)
def test_invalid_input_is_refused_in_one_line(arguments, message):
    assert message in refused("benchmark", *arguments)


SILENT = TimingOptions(1, 0.0, lambda text: None)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A run directory with nothing but a configuration."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_config(folder, tiny_config("vqgan"))
    return str(folder)


def check_rates(values, batch):
    assert values["batch_size"] == batch and values["devices"] == jax.device_count()
    total = values["step_seconds"]["total"]
    assert values["images_per_second"] == pytest.approx(batch / total)
    assert values["images_per_second_per_device"] == pytest.approx(
        batch / total / values["devices"]
    )
    assert values["mfu"] is None and values["peak_memory_bytes"] is None, "a CPU"
    if values["model_flops_per_step"] is not None:
        assert values["flops_per_second"] == pytest.approx(values["model_flops_per_step"] / total)
        assert any("no mfu" in note for note in values["notes"])


@pytest.mark.slow
def test_train_command_prints_and_writes_one_line(tmp_path):
    changes = [
        f"--config.{key}={value}"
        for key, value in {**TINY["vqvae"], "training.batch_size": 8}.items()
    ]
    code, out, err = run("benchmark", "train", "--config=vqvae:digits", *changes,
                         "--seconds=0.1", f"--out={tmp_path}")  # fmt: skip
    assert code == 0, err[-3000:]
    values = json.loads(out.splitlines()[-1])
    assert json.loads((tmp_path / "benchmark.jsonl").read_text()) == values
    assert values["images_per_second"] == pytest.approx(8 / values["step_seconds"]["total"])
    assert (values["command"], values["dtype"]) == ("train", "float32")
    assert (values["stage"], values["preset"]) == ("vqvae", "digits")
    seconds = values["step_seconds"]
    assert seconds["device"] > 0 and seconds["host_input"] > 0 and values["compile_seconds"] > 0
    assert seconds["waiting"] == max(0, seconds["total"] - seconds["device"])
    assert values["waiting_share"] == pytest.approx(seconds["waiting"] / seconds["total"])
    assert values["executed_flops_per_step"] == values["model_flops_per_step"] > 0
    assert values["compiled_memory_bytes"]["alias"] > 0, "the state is donated"
    assert values["jax"] == jax.__version__ and values["date"] and not values["synthetic"]


def test_training_is_measured_without_data_and_weights(tokenizer):
    config = tiny_config(
        "maskgit", tokenizer=tokenizer, data__source="folder:missing", model__remat=True
    )
    with pytest.raises(InputError, match="missing.*; or add --synthetic to measure with random"):
        step_speed.measure_train(config, "configs", SILENT, synthetic=False)
    values = step_speed.measure_train(config, "configs", SILENT, synthetic=True)
    check_rates(values, 16)
    assert values["step_seconds"]["total"] == values["step_seconds"]["device"]
    assert values["step_seconds"]["host_input"] is None and values["step_seconds"]["waiting"] == 0
    assert values["executed_flops_per_step"] > values["model_flops_per_step"], "rematerialized"
    assert "tokenizer has random weights" in values["notes"][0]
    assert not any("not finite" in note for note in values["notes"])


def test_sampling_is_measured(tokenizer):
    config = tiny_config("maskgit", tokenizer=tokenizer)
    values = step_speed.measure_sample(config, "configs", SILENT, 8)
    check_rates(values, 8)
    assert values["nfe"] == 3 and values["step_seconds"]["host_input"] is None
    with pytest.raises(InputError, match="'vqgan' generates no images"):
        step_speed.measure_sample(tiny_config("vqgan"), "configs", SILENT)


def test_reading_is_measured():
    values = step_speed.measure_data(tiny_config("vqgan"), SILENT)
    check_rates(values, 16)
    assert values["images_per_second_read"] == pytest.approx(16 / values["read_seconds"])
    assert values["step_seconds"]["device"] is None and values["model_flops_per_step"] is None
    with pytest.raises(InputError, match="num_classes is 7, but digits has 10 classes"):
        step_speed.measure_data(tiny_config("vqgan", data__num_classes=7), SILENT)


def test_mfu_by_hand(monkeypatch):
    kind = jax.devices()[0].device_kind
    chip = Chip("invented", (kind,), {"bfloat16": 1e3}, 1, 1, 1, "")
    monkeypatch.setattr(step_record, "chip_of", {kind: chip}.get)
    config = tiny_config("vqgan")
    mesh = make_mesh(config.mesh, jax.devices()[:2])
    values = record("train", config, mesh, 8, Seconds(0.5, 0.4, 0.2, 0.1), (300.0, 400.0), [])
    assert values["mfu"] == pytest.approx(300 / (2 * 1e3 * 0.5)) and values["notes"] == []
    assert values["flops_per_second"] == 600 and values["images_per_second"] == 16
    assert values["images_per_second_per_device"] == 8
    assert values["waiting_share"] == pytest.approx(0.2)


def test_number_of_timed_runs_fits_the_time():
    counts = []
    median_seconds(counts.append, TimingOptions(3, 0.0, print))
    assert counts == [1, 1], "one to see how long a step takes, one that counts"
    median_seconds(counts.append, TimingOptions(3, 60.0, print))
    assert counts[2:] == [1, 50, 50, 50]


def test_random_arrays_have_the_shapes_and_no_negative_variance(key):
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=where)
    count = jax.ShapeDtypeStruct((3,), jnp.int32, sharding=where)
    arrays = step_speed.random_arrays({"norm": {"var": shape}, "kernel": shape, "n": count}, key)
    assert (arrays["norm"]["var"] == 1).all() and (arrays["n"] == 0).all()
    assert float(arrays["kernel"].std()) == pytest.approx(0.02, rel=0.1)
    assert step_speed.random_arrays({}, key) == {}
