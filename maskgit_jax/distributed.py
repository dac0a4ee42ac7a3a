"""Several processes as one program: on TPU slices, under Slurm, or by explicit flags.

Nothing here touches a device: `start` must come before JAX's first use of one.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from glob import glob
from typing import Any

import jax
import numpy as np

from maskgit_jax.configuration import InputError, require

HEARTBEAT_SECONDS = 30
"""A process that is silent for so long counts as dead, and all others end."""
PEER_DIED = 3
"""Exit code of a process that ends because another one died."""
_CONNECTION_ERRORS = (
    "Gloo", "NCCL", "Connection reset", "Connection closed", "UNAVAILABLE", "coordination",
)  # fmt: skip


def start(coordinator: str, num_processes: int, process_id: int) -> None:
    """Joins the other processes of this program, if there are any.

    Without flags the processes of a TPU slice and the tasks of a Slurm step find each other.

    Args:
        coordinator: HOST:PORT of process 0; "" to detect it.
        num_processes: Number of processes; 0 to detect it.
        process_id: Number of this process, from 0; -1 to detect it.

    Raises:
        InputError: Only some of the three are given, or the processes do not find each other.
    """
    given = [bool(coordinator), num_processes > 0, process_id >= 0]
    require(
        all(given) or not any(given),
        "--coordinator=HOST:PORT, --num_processes=N and --process_id=I go together; give all three "
        "or none",
    )
    if not any(given) and not (_under_slurm() or _on_tpu()):
        return
    if any(given):
        host, _, port = coordinator.rpartition(":")
        require(bool(host) and port.isdigit(), f"--coordinator is {coordinator}, not HOST:PORT")
        require(
            process_id < num_processes,
            f"--process_id is {process_id}; with --num_processes={num_processes} it must be at "
            f"most {num_processes - 1}",
        )
    try:
        jax.distributed.initialize(
            coordinator or None,
            num_processes or None,
            process_id if process_id >= 0 else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            # Explicit flags win over Slurm and TPU metadata.
            cluster_detection_method="deactivate" if any(given) else None,
            initialization_timeout=120,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the processes of this run do not find each other ({str(error).splitlines()[0]}); "
            "check that all were started and that --coordinator is the address of process 0"
        ) from error


def has_peers() -> bool:
    """Returns whether this process is one of several."""
    return jax.process_count() > 1


def is_main() -> bool:
    """Returns whether this is the process that writes the files of a run."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until all processes have called it with the same `name`."""
    if has_peers():
        # Imported here because it imports much that a single process does not need.
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def in_first_process(action: Callable[[], Any]) -> None:
    """Runs an action in the first process only; an `InputError` of it is raised in all of them."""
    message = ""
    if is_main():
        try:
            action()
        except InputError as error:
            message = str(error)
    if has_peers():
        from jax.experimental import multihost_utils

        text = np.frombuffer(message.encode()[:2000].ljust(2000), np.uint8)
        message = bytes(multihost_utils.broadcast_one_to_all(text)).decode().strip()
    require(not message, message)


def require_equal(value: int, message: str) -> None:
    """Raises `InputError(message)` unless all processes have the same number."""
    if has_peers():
        from jax.experimental import multihost_utils

        require(len(set(multihost_utils.process_allgather(value).tolist())) == 1, message)


def stop_together(step: int) -> bool:
    """Returns whether all processes stop after this step, because one of them got SIGTERM.

    All processes must call it after every step; the result is the same in all.
    """
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


def end_with_peers(error: Exception) -> None:
    """Ends this process with one line if the error says that another process died."""
    text = str(error)
    if has_peers() and any(word in text for word in _CONNECTION_ERRORS):
        print(
            "error: another process of this run died or no longer answers, so this one ends too; "
            "start all of them again, and the run resumes from its last checkpoint "
            f"({text.splitlines()[0][:160]})",
            file=sys.stderr,
            flush=True,
        )
        os._exit(PEER_DIED)  # a regular exit would wait for the dead process


def _under_slurm() -> bool:
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or "1"
    return "SLURM_STEP_NODELIST" in os.environ and int(tasks) > 1


def _on_tpu() -> bool:
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    devices = glob("/dev/accel*") or glob("/dev/vfio/[0-9]*")
    usable = bool(devices) and importlib.util.find_spec("libtpu") is not None
    return usable and (not platforms or "tpu" in platforms)
