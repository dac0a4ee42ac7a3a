"""Groups of chips by name: TPU topologies that can be compiled for without having one, and GPUs."""

import math
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import jax
from jax.experimental import topologies

from maskgit_jax.configuration import InputError, require
from maskgit_jax.performance.chips import CHIPS, Chip, chip_named

EXAMPLES = "v5e:4x4, v5e:16x16, v4:2x2x2, v5p:4x4x4, v6e:8x8, h100:8"
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",  # of this host; the topology is named beside it
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a second process would abort
}


class Machine(NamedTuple):
    """Chips that a program is compiled for, or at least reckoned for.

    Attributes:
        name: As the user gave it.
        chip: Of which kind all are.
        devices: Of a TPU's topology, which can be compiled for and hold no arrays; for GPUs so
            many processors stand in, and nothing is compiled.
    """

    name: str
    chip: Chip
    devices: list[jax.Device]


def prepare_environment(names: Sequence[str]) -> None:
    """Sets what compiling for a TPU without one needs; before JAX looks for devices.

    Args:
        names: Of the machines, for `read_machine`.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")  # no TPU is looked for, nor used
    gpus = [_numbers(name) for name in names]
    jax.config.update("jax_num_cpu_devices", max((n[0] for n in gpus if len(n) == 1), default=1))


def _numbers(name: str) -> list[int]:
    kind, _, sizes = name.partition(":")
    require(
        any(chip.name == kind for chip in CHIPS)
        and bool(re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,3})*", sizes)),
        f"--topology is '{name}'; it is a chip ({', '.join(chip.name for chip in CHIPS)}) and how "
        f"many, such as {EXAMPLES}",
    )
    return [int(size) for size in sizes.split("x")]


def read_machine(name: str) -> Machine:
    """Returns the chips of a name: KIND:SIZES of a TPU's topology, or KIND:NUMBER of GPUs.

    Raises:
        InputError: There is no such chip or topology, or no compiler for TPUs.
    """
    numbers, chip = _numbers(name), chip_named(name.partition(":")[0])
    count = math.prod(numbers)
    if chip.is_tpu:
        devices = _tpu_devices(name, numbers)
        assert len(devices) == count, "one device is one chip"
        return Machine(name, chip, devices)
    require(len(numbers) == 1, f"--topology is '{name}'; of GPUs it is a number, as in h100:8")
    return Machine(name, chip, jax.devices("cpu")[:count])


def _tpu_devices(name: str, sizes: list[int]) -> list[jax.Device]:
    require(
        find_spec("libtpu") is not None,
        "compiling for a TPU needs its compiler, libtpu, which is not installed; "
        "pip install 'maskgit_jax[tpu]' or libtpu",
    )
    # A host has 2x2 chips, unless it is said that it has one.
    settings: dict = {"chips_per_host_bounds": (1, 1, 1)} if set(sizes) == {1} else {}
    if name.startswith("v4"):
        settings["chip_config_name"] = "megacore"  # both cores of a chip as one device
    try:
        found = topologies.get_topology_desc(name, "tpu", **settings)
    except Exception as error:  # whatever the compiler of TPUs raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"--topology is '{name}', which the compiler of TPUs refuses ({reason}); it takes "
            f"{EXAMPLES}"
        ) from error
    return list(found.devices)
