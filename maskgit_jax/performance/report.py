"""Checks of programs as text, as Markdown tables and as JSON."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from maskgit_jax.files import write_text
from maskgit_jax.performance.checks import Check
from maskgit_jax.performance.chips import GIBIBYTE
from maskgit_jax.performance.programs import AbstractRun

DISCLAIMER = (
    "Estimates by the compiler and by arithmetic: nothing ran on these devices, and real runs "
    "are slower."
)
EXPLANATION = f"""{DISCLAIMER}

- Memory is that of one device: arguments, temporaries, code, and outputs that do not reuse the
  memory of arguments. "Not compiled" counts weights, optimizer state, frozen networks and batch
  only, no activations.
- Model FLOPs are two for each multiplication in products of arrays, without rematerialization;
  executed FLOPs are those of one device, with rematerialization. What a partitioned program
  computes redundantly is not included.
- HBM traffic is that of a program in which everything else is fused into the products of arrays:
  arguments read, results written, factors and results of all products.
- Milliseconds are estimates at the chip's peaks: products at bfloat16 (float32 as JAX
  multiplies it by default), bytes read from and written to HBM, bytes sent around rings of two
  links. A step takes about the longest of the three, and their sum if nothing overlaps.
- MFU is the highest possible share of the bfloat16 peak, by the longest of the three. What no
  bound covers (small products, latencies, input, checkpoints) adds to the time.
"""
_UNITS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def record(check: Check, num_steps: int) -> dict[str, Any]:
    """Returns a check as JSON values: bytes, seconds and FLOPs.

    Args:
        check: Estimates for one program.
        num_steps: Steps of the whole training.
    """
    machine, memory, times = check.machine, check.memory, check.roofline
    values = {
        "machine": machine.name,
        "chip": machine.chip.name,
        "chips": len(machine.devices),
        "mesh": check.mesh,
        "program": check.program,
        "batch_size": check.batch_size,
        "compiled": check.compile_seconds is not None,
        "compile_seconds": check.compile_seconds,
        "failure": check.failure,
        "notes": list(check.notes),
        "memory_bytes": {**memory._asdict(), "total": memory.total,
                         "free": memory.capacity - memory.total},
        "fits": memory.fits and not check.failure,
        "model_flops": dict(check.model_flops),
        "flops_per_device": dict(check.flops),
        "hbm_bytes_per_device": check.traffic,
        "sent_bytes_per_device": check.sent,
        "collectives": grouped_collectives(check),
        "peaks": {"flops": machine.chip.peaks, "memory": machine.chip.memory_bandwidth,
                  "ring": machine.chip.ring_bandwidth, "source": machine.chip.source},
    }  # fmt: skip
    if check.failure:
        return values
    seconds = {"overlapped": times.overlapped, "serial": times.serial}
    values |= {
        "seconds": {**times._asdict(), **seconds, "limit": times.limit},
        "images_per_second": {name: check.batch_size / value for name, value in seconds.items()},
        "mfu_bound": check.mfu,
    }
    if check.program == "train":
        training = {name: num_steps * value for name, value in seconds.items()}
        values |= {"num_steps": num_steps, "training_seconds": training}
    return values


def grouped_collectives(check: Check) -> list[dict[str, Any]]:
    """Returns the collectives of one run, added up by kind and group size."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for collective, times in check.collectives.items():
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
    """Returns a check as about a dozen lines of text."""
    machine = check.machine
    each = check.batch_size / len(machine.devices)
    title = (
        f"{check.program} on {machine.name} ({_mesh(check)}), {check.batch_size} images "
        f"({each:g} a device), {_compiled(check, 'compiled in {:.0f} s')}"
    )
    if check.failure:
        return f"{title}\n  memory      DOES NOT FIT: {check.failure}"
    lines = [title, *_memory_lines(check), *_work_lines(check), *_time_lines(check, num_steps)]
    return "\n".join([*lines, *(f"  note        {note}" for note in check.notes)])


def _compiled(check: Check, form: str) -> str:
    seconds = check.compile_seconds
    return "not compiled" if seconds is None else form.format(seconds)


def _memory_lines(check: Check) -> list[str]:
    memory = check.memory
    free = memory.capacity - memory.total
    fits = f"fits, {_gib(free)} free" if memory.fits else f"DOES NOT FIT, {_gib(-free)} missing"
    if check.compile_seconds is None:
        fits += ", without activations"
    return [
        f"  memory      {_gib(memory.total)} of {_gib(memory.capacity)} a device: {fits}",
        f"              arguments {_gib(memory.arguments)}, outputs {_gib(memory.outputs)} "
        f"(aliased to arguments {_gib(memory.aliased)}),",
        f"              temporaries {_gib(memory.temporaries)}, code {_gib(memory.code)}",
    ]


def _work_lines(check: Check) -> list[str]:
    return [
        f"  FLOPs       model {_tera(check.model_flops)} TFLOP, "
        f"executed {_tera(check.flops)} TFLOP a device",
        f"  HBM         {check.traffic / 1e9:.4g} GB a device",
        f"  sent        {check.sent / 1e9:.4g} GB a device",
        *(
            f"              {row['count']:g} {row['kind']} among {row['group']}: payload "
            f"{row['payload_bytes'] / 1e6:.4g} MB, sent {row['sent_bytes'] / 1e6:.4g} MB"
            for row in grouped_collectives(check)
        ),
    ]


def _time_lines(check: Check, num_steps: int) -> list[str]:
    times = check.roofline
    lines = [
        f"  at peak     compute {_ms(times.compute)}, HBM {_ms(times.memory)}, interconnect "
        f"{_ms(times.interconnect)}",
        f"              {_ms(times.overlapped)} overlapped (limit: {times.limit}), "
        f"{_ms(times.serial)} serial",
        f"              {_images_per_second(check)} images/s, MFU at most {check.mfu:.1%}",
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
    memory = check.memory
    compiled = check.compile_seconds is not None
    start = (
        check.machine.name,
        _mesh(check),
        check.program,
        str(check.batch_size),
        f"{memory.total / GIBIBYTE:.2f} / {memory.capacity / GIBIBYTE:.4g}",
        "no" if check.failure or not memory.fits else "yes" if compiled else "weights do",
        _tera(check.model_flops),
    )
    if check.failure:
        return (*start, *[""] * 10)
    return (
        *start,
        _tera(check.flops),
        f"{check.traffic / 1e9:.3g}",
        f"{check.sent / 1e9:.3g}",
        *(f"{1e3 * seconds:.3g}" for seconds in check.roofline),
        _images_per_second(check),
        f"{check.mfu:.1%}",
        _training(check, num_steps) if check.program == "train" else "",
        _compiled(check, "{:.0f}"),
    )


def _mesh(check: Check) -> str:
    axes = [f"{axis} {size}" for axis, size in check.mesh.items() if size > 1]
    return ", ".join(axes) or "1 device"


def _tera(flops: Mapping[str, float]) -> str:
    return f"{sum(flops.values()) / 1e12:.4g}"


def _training(check: Check, num_steps: int) -> str:
    """Returns the time of the training if everything overlaps, and if nothing does."""
    times = [num_steps * seconds for seconds in (check.roofline.overlapped, check.roofline.serial)]
    unit, name = next(((length, name) for length, name in _UNITS if times[0] >= length), (1.0, "s"))
    return " - ".join(f"{seconds / unit:.3g}" for seconds in times) + f" {name}"


def _gib(size: float) -> str:
    return f"{size / GIBIBYTE:.2f} GiB"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms"


def _images_per_second(check: Check) -> str:
    """Returns the images per second if nothing overlaps, and if everything does."""
    rates = [
        check.batch_size / value for value in (check.roofline.serial, check.roofline.overlapped)
    ]
    return " - ".join(f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}" for rate in rates)


def headline(run: AbstractRun) -> str:
    """Returns the stage, the preset and the number of parameters of each network."""
    counts = ", ".join(f"{name} {count:,} parameters" for name, count in run.num_parameters.items())
    return f"{run.config.stage}:{run.config.preset}, {counts}"


def write_report(folder: Path, run: AbstractRun, checks: Sequence[Check]) -> None:
    """Writes compile_check.json and compile_check.md."""
    config, steps = run.config, run.config.training.num_steps
    versions = {name: version(name) for name in ("jax", "jaxlib")}
    versions["libtpu"] = version("libtpu") if find_spec("libtpu") else "not installed"
    values = {
        "stage": config.stage,
        "preset": config.preset,
        "config": json.loads(config.to_json()),
        "parameters": run.num_parameters,
        "versions": versions,
        "warning": DISCLAIMER,
        "checks": [record(check, steps) for check in checks],
    }
    write_text(folder / "compile_check.json", json.dumps(values, indent=2) + "\n")
    installed = ", ".join(f"{name} {number}" for name, number in versions.items())
    markdown = f"# {headline(run)}\n\n{steps:,} steps; {installed}.\n\n"
    write_text(folder / "compile_check.md", f"{markdown}{table(checks, steps)}\n{EXPLANATION}")
