"""Arithmetic of bounds by hand."""

import json

import jax
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.performance import machines, report
from maskgit_jax.performance.checks import Check, Memory, check_program
from maskgit_jax.performance.chips import GIBIBYTE, chip_named
from maskgit_jax.performance.machines import Machine, read_machine
from maskgit_jax.performance.programs import build_system, train_program
from maskgit_jax.performance.roofline import Roofline, roofline, utilisation
from maskgit_jax.performance.usage import Collective
from maskgit_jax.training.sharding import make_mesh
from tests.example import preset

V5E = chip_named("v5e")


def example(**changes) -> Check:
    """16 chips of which each computes 1.97 TFLOP in 10 ms and sends 1.5 GB in 15 ms."""
    check = Check(
        machine=Machine("v5e:4x4", V5E, jax.devices("cpu")[:1] * 16),
        mesh={"data": 16, "fsdp": 1, "tensor": 1},
        program="train",
        batch_size=512,
        compiled=True,
        compile_seconds=21.4,
        memory=Memory(3 * GIBIBYTE, 2 * GIBIBYTE, 2 * GIBIBYTE, GIBIBYTE, 0, 0, V5E.memory),
        model_operations={"bfloat16": 15.76e12},
        operations={"bfloat16": 1.97e12},
        traffic=1.638e9,
        collectives=((Collective("all-reduce", 0.4e9, 16), 2.0),),
        roofline=roofline(V5E, {"bfloat16": 1.97e12}, 1.638e9, 1.5e9),
    )
    return check._replace(**changes)


def test_each_term_is_its_amount_over_its_peak():
    line = roofline(V5E, {"bfloat16": 197e9, "float32_highest": 197e9}, 819e6, 300e6)
    assert line == pytest.approx((1e-3 + 6e-3, 1e-3, 3e-3))
    assert line.overlapped == pytest.approx(7e-3) and line.serial == pytest.approx(11e-3)
    assert line.limit == "compute"
    assert Roofline(1.0, 2.0, 3.0).limit == "interconnect"


def test_utilisation_is_one_where_the_model_alone_takes_all_the_time():
    assert utilisation(V5E, 16 * 197e12, 16, 1.0) == 1
    assert utilisation(V5E, 16 * 197e12, 16, 4.0) == 0.25


def test_a_check_adds_up():
    check = example()
    assert check.sent == 2 * 2 * 15 / 16 * 0.4e9
    assert check.memory.total == 4 * GIBIBYTE and check.memory.fits
    # Half of what is executed is the model's: 10 of 15 ms are products, the link takes 15.
    assert check.utilisation == pytest.approx(0.5 * 10 / 15)
    found = report.record(check, num_steps=1000)
    assert found["images_per_second"]["overlapped"] == pytest.approx(512 / 15e-3)
    assert found["images_per_second"]["serial"] == pytest.approx(512 / 27e-3)
    assert found["training_seconds"]["overlapped"] == pytest.approx(15)
    assert found["memory_bytes"]["room"] == 11.75 * GIBIBYTE
    (row,) = found["collectives"]
    assert row == {"kind": "all-reduce", "group": 16, "count": 2, "payload_bytes": 0.8e9,
                   "sent_bytes": 1.5e9}  # fmt: skip
    json.dumps(found)


def test_the_text_says_all_that_matters():
    said = report.text(example(), num_steps=1000)
    for words in (
        "train on v5e:4x4 (data 16), 512 images (32 a device), compiled in 21 s",
        "4.00 GiB of 15.75 GiB a device: fits, 11.75 GiB left",
        "2 all-reduce among 16: payload 800 MB, sent 1500 MB",
        "compute 10 ms, HBM 2 ms, interconnect 15 ms",
        "15 ms overlapped (interconnect), 27 ms one after another",
        "18,963 - 34,133 images/s, MFU at most 33.3%",
        "1,000 steps in 15 - 27 s",
    ):
        assert words in said


def test_what_does_not_fit_is_said():
    memory = example().memory._replace(temporaries=14 * GIBIBYTE)
    said = report.text(example(memory=memory), 1)
    assert "DOES NOT FIT, 1.25 GiB missing" in said
    failed = example(failure="it is too large", compiled=False)
    assert "DOES NOT FIT: it is too large" in report.text(failed, 1)
    assert report.record(failed, 1)["fits"] is False
    rows = report.table([example(), example(memory=memory), failed], 1).splitlines()
    assert len(rows) == 5 and len({row.count("|") for row in rows}) == 1
    assert ["yes" in rows[2], "no" in rows[3], "no" in rows[4]] == [True] * 3


def test_gpus_are_reckoned_from_weights_optimiser_and_gradients():
    config = preset("vqvae", "digits").unlock()
    config.training.batch_size = 64
    machine = read_machine("h100:8")
    mesh = make_mesh(config.mesh, machine.devices)
    system = build_system(config)
    program = train_program(system, mesh)
    check = check_program(program, machine, mesh, {"float32": 8e9})
    params = sum(leaf.size for leaf in jax.tree.leaves(program.arguments[0].params))
    assert check.collectives == ((Collective("all-reduce", 4 * params, 8), 1.0),)
    # At least the parameters, two moments and the average, read and written.
    assert check.traffic > 2 * 4 * 4 * params
    assert not check.compiled and check.compile_seconds == 0
    assert check.memory.temporaries == 0 and check.memory.fits
    assert "fits" in report.text(check, 1) and "without activations" in report.text(check, 1)
    line = check.roofline
    assert line.interconnect == pytest.approx(2 * 7 / 8 * 4 * params / 450e9)


@pytest.mark.parametrize("name", ["h100", "h100:0", "v5e", "v5e:x4", "tpu:4x4", "h100:2x", ""])
def test_a_wrong_machine_is_refused(name):
    with pytest.raises(InputError, match="it is a chip .* such as v5e:4x4"):
        read_machine(name)


def test_gpus_have_no_topology():
    with pytest.raises(InputError, match="of GPUs it is a number"):
        read_machine("h100:2x4")


def test_without_the_compiler_of_tpus_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(machines, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'maskgit_jax\[tpu\]' or libtpu"):
        read_machine("v5e:4x4")
