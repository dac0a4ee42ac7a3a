"""Machines by name: TPU topologies, for which programs compile without a TPU, and GPU hosts."""

import math
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from maskgit_jax.configuration import InputError, require
from maskgit_jax.performance.chips import CHIPS, Chip, chip_named

EXAMPLES = "v5e:4x4, v5e:16x16, v4:2x2x2, v5p:4x4x4, v6e:8x8, h100:8"
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",  # of this host; the topology is a separate name
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a second process would abort
}


class Machine(NamedTuple):
    """The chips for which a program is compiled or calculated.

    Attributes:
        name: Name of the machine, such as "v5e:4x4".
        chip: Kind of all chips.
        devices: The abstract devices of a TPU topology, which hold no arrays. For GPUs as many CPU
            devices, because nothing is compiled.
    """

    name: str
    chip: Chip
    devices: list[Any]


def prepare_environment(names: Sequence[str]) -> None:
    """Prepares the process to compile for TPUs without one; call it before JAX finds its devices.

    Args:
        names: Names of the machines, for `read_machine`.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")  # JAX must not look for a TPU
    gpus = [_numbers(name) for name in names]
    jax.config.update("jax_num_cpu_devices", max((n[0] for n in gpus if len(n) == 1), default=1))


def _numbers(name: str) -> list[int]:
    kind, _, sizes = name.partition(":")
    require(
        any(chip.name == kind for chip in CHIPS)
        and bool(re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,3})*", sizes)),
        f"--topology is '{name}'; it must be a chip ({', '.join(chip.name for chip in CHIPS)}) and "
        f"sizes, such as {EXAMPLES}",
    )
    return [int(size) for size in sizes.split("x")]


def read_machine(name: str) -> Machine:
    """Returns a machine: CHIP:SIZES is a TPU topology, CHIP:NUMBER a number of GPUs.

    Raises:
        InputError: There is no such chip or topology, or the compiler for TPUs is not installed.
    """
    numbers, chip = _numbers(name), chip_named(name.partition(":")[0])
    count = math.prod(numbers)
    if chip.is_tpu:
        devices = _tpu_devices(name, numbers)
        assert len(devices) == count, "one device is one chip"
        return Machine(name, chip, devices)
    require(
        len(numbers) == 1, f"--topology is '{name}'; for GPUs it must be a number, as in h100:8"
    )
    return Machine(name, chip, jax.devices("cpu")[:count])


def _tpu_devices(name: str, sizes: list[int]) -> list[Any]:
    require(
        find_spec("libtpu") is not None,
        "compiling for a TPU needs libtpu, its compiler, which is not installed; run "
        "pip install libtpu",
    )
    # A host has 2x2 chips unless the topology is a single chip.
    settings: dict = {"chips_per_host_bounds": (1, 1, 1)} if set(sizes) == {1} else {}
    if name.startswith("v4"):
        settings["chip_config_name"] = "megacore"  # both cores of a chip as one device
    try:
        topology = topologies.get_topology_desc(name, "tpu", **settings)
    except Exception as error:  # of any type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"--topology is '{name}', which libtpu does not know ({reason}); use one such as "
            f"{EXAMPLES}"
        ) from error
    return list(topology.devices)
