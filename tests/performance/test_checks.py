"""Estimates by hand: rooflines, checks and their reports."""

import json

import jax
import pytest

from maskgit_jax.configuration import InputError, load_config
from maskgit_jax.performance import machines, report
from maskgit_jax.performance.checks import Check, CheckOptions, Memory, check_config
from maskgit_jax.performance.chips import GIBIBYTE, chip_named
from maskgit_jax.performance.collectives import Collective
from maskgit_jax.performance.machines import Machine, read_machine
from maskgit_jax.performance.roofline import Roofline, mfu, roofline

V5E = chip_named("v5e")


def example(**changes) -> Check:
    """16 chips; each computes 1.97 TFLOP in 10 ms and sends 1.5 GB in 15 ms."""
    check = Check(
        machine=Machine("v5e:4x4", V5E, jax.devices("cpu")[:1] * 16),
        mesh={"data": 16, "fsdp": 1, "tensor": 1},
        program="train",
        batch_size=512,
        compile_seconds=21.4,
        memory=Memory(3 * GIBIBYTE, 2 * GIBIBYTE, 2 * GIBIBYTE, GIBIBYTE, 0, V5E.memory),
        model_flops={"bfloat16": 15.76e12},
        flops={"bfloat16": 1.97e12},
        traffic=1.638e9,
        collectives={Collective("all-reduce", 0.4e9, 16): 2.0},
    )
    return check._replace(**changes)


def test_each_bound_is_an_amount_divided_by_a_peak():
    times = roofline(V5E, {"bfloat16": 197e9, "float32_highest": 197e9}, 819e6, 300e6)
    assert times == pytest.approx((1e-3 + 6e-3, 1e-3, 3e-3))
    assert times.overlapped == pytest.approx(7e-3) and times.serial == pytest.approx(11e-3)
    assert times.limit == "compute"
    assert Roofline(1.0, 2.0, 3.0).limit == "interconnect"


def test_mfu_is_one_where_model_flops_take_all_the_time():
    assert mfu(V5E, 16 * 197e12, 16, 1.0) == 1
    assert mfu(V5E, 16 * 197e12, 16, 4.0) == 0.25


def test_record_of_a_check_adds_up():
    check = example()
    assert check.sent == 2 * 2 * 15 / 16 * 0.4e9
    assert check.memory.total == 4 * GIBIBYTE and check.memory.fits
    # Half of the executed FLOPs are the model's: products take 10 ms of 15, the link takes 15.
    assert check.mfu == pytest.approx(0.5 * 10 / 15)
    values = report.record(check, num_steps=1000)
    assert values["images_per_second"]["overlapped"] == pytest.approx(512 / 15e-3)
    assert values["images_per_second"]["serial"] == pytest.approx(512 / 27e-3)
    assert values["training_seconds"]["overlapped"] == pytest.approx(15)
    assert values["memory_bytes"]["free"] == 11.75 * GIBIBYTE
    (row,) = values["collectives"]
    assert row == {"kind": "all-reduce", "group": 16, "count": 2, "payload_bytes": 0.8e9,
                   "sent_bytes": 1.5e9}  # fmt: skip
    json.dumps(values)


def test_text_of_a_check():
    text = report.text(example(), num_steps=1000)
    for words in (
        "train on v5e:4x4 (data 16), 512 images (32 a device), compiled in 21 s",
        "4.00 GiB of 15.75 GiB a device: fits, 11.75 GiB free",
        "2 all-reduce among 16: payload 800 MB, sent 1500 MB",
        "compute 10 ms, HBM 2 ms, interconnect 15 ms",
        "15 ms overlapped (limit: interconnect), 27 ms serial",
        "18,963 - 34,133 images/s, MFU at most 33.3%",
        "1,000 steps in 15 - 27 s",
    ):
        assert words in text


def test_programs_that_do_not_fit_are_marked():
    memory = example().memory._replace(temporaries=14 * GIBIBYTE)
    assert "DOES NOT FIT, 1.25 GiB missing" in report.text(example(memory=memory), 1)
    failed = example(failure="it is too large", compile_seconds=None)
    assert "DOES NOT FIT: it is too large" in report.text(failed, 1)
    assert report.record(failed, 1)["fits"] is False
    rows = report.table([example(), example(memory=memory), failed], 1).splitlines()
    assert len(rows) == 5 and len({row.count("|") for row in rows}) == 1
    assert ["yes" in rows[2], "no" in rows[3], "no" in rows[4]] == [True] * 3


def test_gpus_are_calculated_from_shapes(monkeypatch):
    monkeypatch.setattr("maskgit_jax.performance.checks.prepare_environment", lambda names: None)
    # Each device of Muon computes the whole update.
    config = load_config("vqvae:digits", **{"optimizers.autoencoder.optimizer": "adam"})
    run, checks = check_config(config, ["h100:8", "a100:4"], CheckOptions(images_per_device=2))
    assert [(check.program, check.batch_size) for check in checks] == [("train", 16), ("train", 8)]
    parameters = sum(run.num_parameters.values())
    (check, other) = checks
    assert check.collectives == {Collective("all-reduce", 4 * parameters, 8): 1.0}
    # At least the parameters, two moments and the average, read and written.
    assert check.traffic > 2 * 4 * 4 * parameters
    assert check.compile_seconds is None and check.memory.fits
    assert check.memory.temporaries == check.memory.code == 0
    assert 8 * sum(check.flops.values()) == sum(check.model_flops.values())
    assert check.flops == other.flops and check.traffic == other.traffic, "equal shares"
    text = report.text(check, 1)
    assert "not compiled" in text and "fits" in text and "without activations" in text
    sent = 2 * 7 / 8 * 4 * parameters
    assert check.roofline.interconnect == pytest.approx(sent / 450e9)


@pytest.mark.parametrize("name", ["h100", "h100:0", "v5e", "v5e:x4", "tpu:4x4", "h100:2x", ""])
def test_invalid_machine_is_refused(name):
    with pytest.raises(InputError, match="it must be a chip .* such as v5e:4x4"):
        read_machine(name)


def test_gpus_have_no_topology():
    with pytest.raises(InputError, match="for GPUs it must be a number"):
        read_machine("h100:2x4")


def test_missing_tpu_compiler_is_named(monkeypatch):
    monkeypatch.setattr(machines, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="run pip install libtpu"):
        read_machine("v5e:4x4")
