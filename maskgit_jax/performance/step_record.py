"""How a step is timed, and the record of its speed."""

import datetime
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.performance.chips import chip_of
from maskgit_jax.performance.roofline import mfu

MAX_STEPS = 50
"""Steps of a timed run at most, because batches that wait for the device need memory."""


class TimingOptions(NamedTuple):
    """How long to measure.

    Attributes:
        repeats: Timed runs, of which the median counts; fewer if they do not fit.
        seconds: Approximate time of all runs together.
        log: Called with progress messages.
    """

    repeats: int
    seconds: float
    log: Callable[[str], None]


class Seconds(NamedTuple):
    """Seconds of one step.

    Attributes:
        total: With input and computation running together.
        device: With a batch that is on the devices already; None if nothing was computed.
        host_input: To read a batch and transfer it to the devices, with nothing else running.
        waiting: Difference of `total` and `device`: the devices wait for the input.
    """

    total: float
    device: float | None = None
    host_input: float | None = None
    waiting: float | None = None


def median_seconds(run: Callable[[int], None], options: TimingOptions) -> float:
    """Returns the median seconds of one step.

    Args:
        run: Runs so many steps and returns when all are done.
        options: A first step tells how many steps fit.
    """
    probe = max(_time(run, 1), 1e-9)
    fitting = int(options.seconds / probe)
    repeats = max(1, min(options.repeats, fitting))
    count = max(1, min(MAX_STEPS, fitting // repeats))
    return statistics.median(_time(run, count) / count for _ in range(repeats))


def _time(run: Callable[[int], None], count: int) -> float:
    start = time.perf_counter()
    run(count)
    return time.perf_counter() - start


def record(
    command: str,
    config: ConfigDict,
    mesh: Mesh,
    batch_size: int,
    seconds: Seconds,
    flops: tuple[float | None, float | None] = (None, None),
    notes: Sequence[str] = (),
    executable: Any = None,
    compile_seconds: float | None = None,
) -> dict[str, Any]:
    """Returns the measurement as JSON values.

    Args:
        command: train, sample or data.
        config: Configuration of the run.
        mesh: Devices.
        batch_size: Images of one step, on all devices together.
        seconds: Seconds of one step.
        flops: FLOPs of one step on all devices, without and with rematerialization.
        notes: Remarks.
        executable: The compiled program; None if nothing was compiled.
        compile_seconds: Its compilation time.
    """
    device, rate = mesh.devices.flat[0], batch_size / seconds.total
    chip, (model, executed) = chip_of(device.device_kind), flops
    utilization = None
    if model is not None and chip is not None:
        utilization = mfu(chip, model, mesh.size, seconds.total)
    elif model is not None:
        notes = [*notes, f"no mfu: the peak of '{device.device_kind}' is not known"]
    waiting = seconds.waiting
    return {
        "command": command,
        "stage": config.stage,
        "preset": config.preset,
        "device": device.device_kind,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "dtype": config.dtype,
        "batch_size": batch_size,
        "images_per_second": rate,
        "images_per_second_per_device": rate / mesh.size,
        "step_seconds": seconds._asdict(),
        "waiting_share": None if waiting is None else waiting / seconds.total,
        "model_flops_per_step": model,
        "executed_flops_per_step": executed,
        "flops_per_second": None if model is None else model / seconds.total,
        "mfu": utilization,
        "notes": list(notes),
        "peak_memory_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        **_compiled_memory(executable),
        "compile_seconds": compile_seconds,
        "jax": jax.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _compiled_memory(executable: Any) -> dict[str, Any]:
    memory = None if executable is None else executable.memory_analysis()
    if memory is None:
        return {}
    names = ("argument", "output", "alias", "temp", "generated_code")
    sizes = {name: getattr(memory, f"{name}_size_in_bytes") for name in names}
    return {"compiled_memory_bytes": sizes}
