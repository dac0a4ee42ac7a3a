"""The least time that a program's operations, memory traffic and messages can take."""

from typing import NamedTuple

from maskgit_jax.performance.chips import Chip
from maskgit_jax.performance.operations import Operations


class Roofline(NamedTuple):
    """Seconds that one device needs at the peaks of its chip, for one run of a program.

    Attributes:
        compute: For products of arrays; everything else is taken to be hidden behind them.
        memory: For reading and writing HBM.
        interconnect: For sending to other chips, around a ring in both directions.
    """

    compute: float
    memory: float
    interconnect: float

    @property
    def overlapped(self) -> float:
        """Returns the seconds if all three go on at once: no run can be faster."""
        return max(self)

    @property
    def serial(self) -> float:
        """Returns the seconds if nothing overlaps."""
        return sum(self)

    @property
    def limit(self) -> str:
        """Returns which of the three takes longest."""
        return max(self._fields, key=lambda name: getattr(self, name))


def roofline(chip: Chip, operations: Operations, traffic: float, sent: float) -> Roofline:
    """Returns the seconds of each of the three.

    Args:
        chip: Of the device.
        operations: Of one device, by kind of number.
        traffic: Bytes that it reads and writes.
        sent: Bytes that it sends to other chips.
    """
    compute = sum(count / chip.peaks[kind] for kind, count in operations.items())
    return Roofline(compute, traffic / chip.memory_bandwidth, sent / chip.ring_bandwidth)


def utilisation(chip: Chip, model_operations: float, devices: int, seconds: float) -> float:
    """Returns the model FLOPs utilisation (MFU): of what the chips can do at bfloat16, the share.

    Args:
        chip: Of a device.
        model_operations: Of all devices together, without recomputation.
        devices: How many.
        seconds: Of a run; those of `Roofline.overlapped` give the highest share possible.

    Source: Chowdhery et al. 2022, PaLM, appendix B.
    """
    return model_operations / (devices * chip.peaks["bfloat16"] * seconds)
