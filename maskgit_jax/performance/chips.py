"""Accelerators and their peak rates, as their manufacturers state them."""

from typing import NamedTuple

from maskgit_jax.configuration import InputError

GIBIBYTE = 2**30
NUMBERS = ("bfloat16", "float32", "float32_highest")
"""Kinds of products: by the type of the factors; the last one at the highest precision."""


class Chip(NamedTuple):
    """Peak rates of one chip; of a TPU with two cores, both together.

    Attributes:
        name: As in `--topology=NAME:SIZES`.
        kinds: Its values of `jax.Device.device_kind`.
        peaks: One of `NUMBERS` -> dense floating-point operations per second. At JAX's default
            precision a TPU multiplies float32 in one pass of bfloat16, and an NVIDIA GPU as TF32;
            at the highest precision a TPU takes six passes, and a GPU does without tensor cores.
        memory: Bytes of HBM that programs can use. Of a TPU's 32 (v4), 16, 96 and 32 GiB these are
            the limits that its compiler (libtpu 0.0.42) names when a program is too large.
        memory_bandwidth: Bytes per second of HBM.
        ring_bandwidth: Bytes per second that a chip can send while collectives run around a ring
            in both directions. On a TPU these are two of its links (four of v5e and v6e, six of
            v4 and v5p), which every topology has; collectives around several axes of a torus can
            be faster. On a GPU it is all of NVLink, through its switches.
        source: Web page with the numbers.
    """

    name: str
    kinds: tuple[str, ...]
    peaks: dict[str, float]
    memory: float
    memory_bandwidth: float
    ring_bandwidth: float
    source: str

    @property
    def is_tpu(self) -> bool:
        """Whether programs can be compiled for the chip without having one."""
        return self.name.startswith("v")


def _tpu(
    name: str, kinds: tuple[str, ...], peak: float, memory: float, bandwidth: float, link: float
) -> Chip:
    """Returns a TPU; `link` is the bandwidth of one link in one direction."""
    peaks = {"bfloat16": peak, "float32": peak, "float32_highest": peak / 6}
    source = f"https://docs.cloud.google.com/tpu/docs/{name}"
    return Chip(name, kinds, peaks, memory, bandwidth, 2 * link, source)


def _gpu(
    name: str,
    kinds: tuple[str, ...],
    peaks: tuple[float, float, float],
    memory: float,
    bandwidth: float,
    nvlink: float,
    source: str,
) -> Chip:
    """Returns a GPU; `nvlink` is the bandwidth of all links in one direction."""
    source = f"https://www.nvidia.com/{source}"
    return Chip(
        name, kinds, dict(zip(NUMBERS, peaks, strict=True)), memory, bandwidth, nvlink, source
    )


# Google states the bandwidth of all links of a chip in both directions: 400 GB/s for the four of
# v5e, 1200 for the six of v5p, 800 for the four of v6e. The six links of v4, 50 GB/s each, are from
# Jouppi et al. 2023, TPU v4. NVIDIA states peaks "with sparsity", twice the dense ones here, and
# the bandwidth of NVLink in both directions.
CHIPS = (
    _tpu("v4", ("TPU v4",), 275e12, 30.75 * GIBIBYTE, 1200e9, 50e9),
    _tpu("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 15.75 * GIBIBYTE, 819e9, 50e9),
    _tpu("v5p", ("TPU v5", "TPU v5p"), 459e12, 95.74 * GIBIBYTE, 2765e9, 100e9),
    _tpu("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 31.25 * GIBIBYTE, 1638e9, 100e9),
    _gpu("a100", ("NVIDIA A100-SXM4-80GB",), (312e12, 156e12, 19.5e12), 80e9, 2039e9, 300e9,
         "en-us/data-center/a100/"),
    _gpu("h100", ("NVIDIA H100 80GB HBM3",), (989.4e12, 494.7e12, 66.9e12), 80e9, 3350e9, 450e9,
         "en-us/data-center/h100/"),
    _gpu("h200", ("NVIDIA H200",), (989.4e12, 494.7e12, 66.9e12), 141e9, 4800e9, 450e9,
         "en-us/data-center/h200/"),
)  # fmt: skip


def chip_named(name: str) -> Chip:
    """Returns the chip with a name such as "v5e".

    Raises:
        InputError: There is no such chip.
    """
    for chip in CHIPS:
        if chip.name == name:
            return chip
    known = ", ".join(chip.name for chip in CHIPS)
    raise InputError(f"no chip '{name}'; the chips are: {known}")


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip of a `jax.Device.device_kind`; None if it is unknown, such as a CPU."""
    return next((chip for chip in CHIPS if device_kind in chip.kinds), None)
