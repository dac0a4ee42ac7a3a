"""Checks of programs as text, as Markdown tables and as numbers for JSON."""

from collections.abc import Sequence
from typing import Any

from maskgit_jax.performance.checks import Check
from maskgit_jax.performance.chips import GIBIBYTE
from maskgit_jax.performance.operations import total_operations

DISCLAIMER = (
    "Estimates by the compiler and by arithmetic: nothing ran on these devices, and real runs "
    "are slower."
)
EXPLANATION = f"""{DISCLAIMER}

- Memory is that of one device: arguments, temporaries and code, outputs that take the place of
  arguments not counted twice, tiles filled up. "Not compiled" counts weights, optimiser, frozen
  networks and batch only, no activations.
- Model FLOPs are two for each multiplication of products of arrays, without recomputation;
  executed ones are those in the compiled program, of each device.
- Milliseconds are bounds at the chip's peaks: products at bfloat16 (float32 as JAX multiplies it
  by default), bytes read from and written to HBM, bytes sent around rings of two links. A step
  takes at least the longest of the three, their sum if nothing overlaps.
- MFU is the share of the bfloat16 peak that model FLOPs can reach at best, by the longest of the
  three. What no bound knows (small products, latencies, input, checkpoints) comes on top.
"""
_UNITS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def record(check: Check, num_steps: int) -> dict[str, Any]:
    """Returns a check as plain numbers: bytes, seconds and floating-point operations.

    Args:
        check: Of one program.
        num_steps: Of the whole training.
    """
    machine, memory, line = check.machine, check.memory, check.roofline
    found = {
        "machine": machine.name,
        "chip": machine.chip.name,
        "chips": len(machine.devices),
        "mesh": check.mesh,
        "program": check.program,
        "batch_size": check.batch_size,
        "compiled": check.compiled,
        "compile_seconds": check.compile_seconds,
        "failure": check.failure,
        "notes": list(check.notes),
        "memory_bytes": {**memory._asdict(), "total": memory.total,
                         "room": memory.capacity - memory.total},
        "fits": memory.fits and not check.failure,
        "model_operations": check.model_operations,
        "operations_per_device": check.operations,
        "traffic_bytes_per_device": check.traffic,
        "sent_bytes_per_device": check.sent,
        "collectives": collectives(check),
        "peaks": {"operations": machine.chip.peaks, "memory": machine.chip.memory_bandwidth,
                  "ring": machine.chip.ring_bandwidth, "source": machine.chip.source},
    }  # fmt: skip
    if check.failure:
        return found
    times = {"overlapped": line.overlapped, "serial": line.serial}
    rates = {name: check.batch_size / seconds for name, seconds in times.items()}
    found |= {
        "seconds": {**line._asdict(), **times, "limit": line.limit},
        "images_per_second": rates,
        "utilisation_bound": check.utilisation,
    }
    if check.program == "train":
        whole = {name: num_steps * seconds for name, seconds in times.items()}
        found |= {"num_steps": num_steps, "training_seconds": whole}
    return found


def collectives(check: Check) -> list[dict[str, Any]]:
    """Returns the collectives of one run added up by kind and size of group."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for collective, times in check.collectives:
        row = rows.setdefault(
            (collective.kind, collective.group),
            {"kind": collective.kind, "group": collective.group, "count": 0,
             "payload_bytes": 0, "sent_bytes": 0},
        )  # fmt: skip
        row["count"] += times
        row["payload_bytes"] += times * collective.payload
        row["sent_bytes"] += times * collective.sent
    return sorted(rows.values(), key=lambda row: -row["sent_bytes"])


def text(check: Check, num_steps: int) -> str:
    """Returns a check for reading, in a dozen lines."""
    machine = check.machine
    how = f"compiled in {check.compile_seconds:.0f} s" if check.compiled else "not compiled"
    each = check.batch_size / len(machine.devices)
    lines = [
        f"{check.program} on {machine.name} ({_mesh(check)}), {check.batch_size} images "
        f"({each:g} a device), {how}"
    ]
    if check.failure:
        return "\n".join([*lines, f"  memory      DOES NOT FIT: {check.failure}"])
    lines += [*_memory_lines(check), *_work_lines(check), *_time_lines(check, num_steps)]
    return "\n".join([*lines, *(f"  note        {note}" for note in check.notes)])


def _memory_lines(check: Check) -> list[str]:
    memory = check.memory
    room = memory.capacity - memory.total
    fits = f"fits, {_gib(room)} left" if memory.fits else f"DOES NOT FIT, {_gib(-room)} missing"
    if not check.compiled:
        fits += ", without activations"
    return [
        f"  memory      {_gib(memory.total)} of {_gib(memory.capacity)} a device: {fits}",
        f"              arguments {_gib(memory.arguments)}, outputs {_gib(memory.outputs)} "
        f"(in place of arguments {_gib(memory.aliased)}),",
        f"              temporaries {_gib(memory.temporaries)}, code {_gib(memory.code)}, "
        f"arguments never read {_gib(memory.unread)}",
    ]


def _work_lines(check: Check) -> list[str]:
    without = "" if check.compiled else ", without activations"
    lines = [
        f"  operations  model {total_operations(check.model_operations) / 1e12:.4g} TFLOP, "
        f"executed {total_operations(check.operations) / 1e12:.4g} TFLOP a device",
        f"  traffic     {check.traffic / 1e9:.4g} GB a device{without}",
        f"  sent        {check.sent / 1e9:.4g} GB a device",
    ]
    for row in collectives(check):
        lines.append(
            f"              {row['count']:g} {row['kind']} among {row['group']}: payload "
            f"{row['payload_bytes'] / 1e6:.4g} MB, sent {row['sent_bytes'] / 1e6:.4g} MB"
        )
    return lines


def _time_lines(check: Check, num_steps: int) -> list[str]:
    line = check.roofline
    lines = [
        f"  at least    compute {_ms(line.compute)}, HBM {_ms(line.memory)}, interconnect "
        f"{_ms(line.interconnect)}",
        f"              {_ms(line.overlapped)} overlapped ({line.limit}), {_ms(line.serial)} one "
        "after another",
        f"              {_between(check)} images/s, MFU at most {check.utilisation:.1%}",
    ]
    if check.program == "train":
        lines.append(f"              {num_steps:,} steps in {_training(check, num_steps)}")
    return lines


def table(checks: Sequence[Check], num_steps: int) -> str:
    """Returns a Markdown table with a row for each check."""
    head = ("machine", "mesh", "program", "images", "GiB of", "fits", "model TFLOP",
            "executed / device", "HBM GB", "sent GB", "compute ms", "HBM ms", "link ms",
            "images/s", "MFU <=", "training", "compile s")  # fmt: skip
    rows = [head, tuple("-" * len(word) for word in head)]
    rows += [_row(check, num_steps) for check in checks]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(check: Check, num_steps: int) -> tuple[str, ...]:
    memory, line, machine = check.memory, check.roofline, check.machine
    start = (
        machine.name,
        _mesh(check),
        check.program,
        str(check.batch_size),
        f"{memory.total / GIBIBYTE:.2f} / {memory.capacity / GIBIBYTE:.4g}",
        "no" if check.failure or not memory.fits else "yes" if check.compiled else "weights do",
        f"{total_operations(check.model_operations) / 1e12:.4g}",
    )
    if check.failure:
        return (*start, *[""] * 10)
    return (
        *start,
        f"{total_operations(check.operations) / 1e12:.4g}",
        f"{check.traffic / 1e9:.3g}",
        f"{check.sent / 1e9:.3g}",
        *(f"{1e3 * seconds:.3g}" for seconds in line),
        _between(check),
        f"{check.utilisation:.1%}",
        _training(check, num_steps) if check.program == "train" else "",
        f"{check.compile_seconds:.0f}" if check.compiled else "not compiled",
    )


def _mesh(check: Check) -> str:
    return (
        ", ".join(f"{axis} {size}" for axis, size in check.mesh.items() if size > 1) or "1 device"
    )


def _training(check: Check, num_steps: int) -> str:
    """Returns how long the training takes if everything overlaps, and if nothing does."""
    times = [num_steps * seconds for seconds in (check.roofline.overlapped, check.roofline.serial)]
    unit, name = next(((length, name) for length, name in _UNITS if times[0] >= length), (1.0, "s"))
    return " - ".join(f"{seconds / unit:.3g}" for seconds in times) + f" {name}"


def _gib(size: float) -> str:
    return f"{size / GIBIBYTE:.2f} GiB"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms"


def _between(check: Check) -> str:
    """Returns the images a second if nothing overlaps, and if everything does."""
    line = check.roofline
    rates = [check.batch_size / seconds for seconds in (line.serial, line.overlapped)]
    return " - ".join(f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}" for rate in rates)
