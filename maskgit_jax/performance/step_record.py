"""What is told of the speed of a step, and how it is timed."""

import datetime
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.performance.chips import chip_of
from maskgit_jax.performance.roofline import utilisation

MOST_STEPS = 50  # of a run that is timed: batches that wait for the device need memory


class TimingOptions(NamedTuple):
    """How long to measure.

    Attributes:
        repeats: Runs that are timed, for their median; fewer where they do not fit.
        seconds: About how long they may take together.
        tell: Is told what goes on.
    """

    repeats: int
    seconds: float
    tell: Callable[[str], None]


class Seconds(NamedTuple):
    """Of one step.

    Attributes:
        total: As it is when everything runs together.
        device: With a batch that lies on the devices already; None if nothing was computed.
        host_input: To read a batch and put it on the devices, with nothing else going on.
        waiting: By how much the whole takes longer than the devices alone.
    """

    total: float
    device: float | None = None
    host_input: float | None = None
    waiting: float | None = None


def median_seconds(run: Callable[[int], None], effort: TimingOptions) -> float:
    """Returns the median seconds of one step.

    Args:
        run: Does so many steps and returns when all is done.
        effort: Of all runs together, after a first step that tells how many fit.
    """
    probe = max(_timed(run, 1), 1e-9)
    fitting = int(effort.seconds / probe)
    repeats = max(1, min(effort.repeats, fitting))
    count = max(1, min(MOST_STEPS, fitting // repeats))
    return statistics.median(_timed(run, count) / count for _ in range(repeats))


def _timed(run: Callable[[int], None], count: int) -> float:
    start = time.perf_counter()
    run(count)
    return time.perf_counter() - start


def record(
    command: str,
    config: ConfigDict,
    mesh: Mesh,
    batch_size: int,
    seconds: Seconds,
    operations: tuple[float | None, float | None],
    notes: list[str],
) -> dict[str, Any]:
    """Returns what was found, as JSON has it.

    Args:
        command: train, sample or data.
        config: Of the run.
        mesh: Devices.
        batch_size: Of all devices together.
        seconds: Of one step.
        operations: Of one step of all devices: without and with recomputation.
        notes: What else must be known.
    """
    device, rate = mesh.devices.flat[0], batch_size / seconds.total
    chip, (model, executed) = chip_of(device.device_kind), operations
    mfu = None
    if model is not None:
        if chip is None:
            notes = [*notes, f"no mfu: the peak of '{device.device_kind}' is not known"]
        else:
            mfu = utilisation(chip, model, mesh.size, seconds.total)
    share = None if seconds.waiting is None else seconds.waiting / seconds.total
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
        "waiting_share": share,
        "model_flops_per_step": model,
        "executed_flops_per_step": executed,
        "flops_per_second": None if model is None else model / seconds.total,
        "mfu": mfu,
        "notes": notes,
    }


def machine(executable: Any, compile_seconds: float | None) -> dict[str, Any]:
    """Returns memory, time of compiling, version and date.

    Args:
        executable: What ran; None if nothing was compiled.
        compile_seconds: Of it.
    """
    stats = jax.devices()[0].memory_stats() or {}
    found: dict[str, Any] = {"peak_memory_bytes": stats.get("peak_bytes_in_use")}
    if executable is not None and (memory := executable.memory_analysis()) is not None:
        names = ("argument", "output", "alias", "temp", "generated_code")
        found["compiled_memory_bytes"] = {
            name: getattr(memory, f"{name}_size_in_bytes") for name in names
        }
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**found, "compile_seconds": compile_seconds, "jax": jax.__version__, "date": date}
