"""Lower bounds of a program's time, from its FLOPs, memory traffic and messages."""

from collections.abc import Mapping
from typing import NamedTuple

from maskgit_jax.performance.chips import Chip


class Roofline(NamedTuple):
    """Seconds that one device needs at the peaks of its chip, for one run of a program.

    Attributes:
        compute: Time of the products of arrays; everything else counts as hidden behind them.
        memory: Time to read and write HBM.
        interconnect: Time to send to other chips, around a ring in both directions.
    """

    compute: float
    memory: float
    interconnect: float

    @property
    def overlapped(self) -> float:
        """Seconds if all three overlap: no run is faster."""
        return max(self)

    @property
    def serial(self) -> float:
        """Seconds if nothing overlaps."""
        return sum(self)

    @property
    def limit(self) -> str:
        """The one of the three that takes longest."""
        return max(self._fields, key=lambda name: getattr(self, name))


def roofline(chip: Chip, flops: Mapping[str, float], traffic: float, sent: float) -> Roofline:
    """Returns the lower bounds for one device.

    Args:
        chip: Chip of the device.
        flops: FLOPs of the device, by kind of number.
        traffic: Bytes that it reads and writes.
        sent: Bytes that it sends to other chips.
    """
    compute = sum(count / chip.peaks[kind] for kind, count in flops.items())
    return Roofline(compute, traffic / chip.memory_bandwidth, sent / chip.ring_bandwidth)


def mfu(chip: Chip, model_flops: float, devices: int, seconds: float) -> float:
    """Returns the model FLOPs utilization: the share of the chips' bfloat16 peak that is used.

    Args:
        chip: Chip of each device.
        model_flops: FLOPs of one run on all devices together, without rematerialization.
        devices: Number of devices.
        seconds: Time of one run; `Roofline.overlapped` gives the highest possible share.

    Source: Chowdhery et al. 2022, PaLM, appendix B.
    """
    return model_flops / (devices * chip.peaks["bfloat16"] * seconds)
