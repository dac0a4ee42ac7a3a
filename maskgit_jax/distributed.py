"""Several processes as one program: on TPU slices, under Slurm, or by explicit flags.

Nothing here touches a device: `start` must come before JAX's first use of one.
"""

import importlib.util
import os
import subprocess
import sys
from glob import glob

import jax

from maskgit_jax.configuration import InputError, require

HEARTBEAT_SECONDS = 30
"""After so long without a word a process counts as dead, and all others end."""
PEER_DIED = 3
"""Exit code of a process that ended because another one did."""

_PEER_LINE = (
    "error: another process of this run ended or no longer answers, so this one ends too; start "
    "all of them again, and the run goes on from its last checkpoint"
)
# Written by hand, and run without the package: it must live on when the process is aborted.
_FILTER = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
signs = (
    "JAX distributed service detected fatal errors",
    "Polled an error from coordination service",
    "The following tasks are unhealthy",
    "Failed to retrieve preemption notice from coordination service: UNAVAILABLE",
)
dead = False
for line in sys.stdin.buffer:
    text = line.decode(errors="replace")
    told = text.startswith(sys.argv[1])
    if not dead and (told or any(sign in text for sign in signs)):
        dead = True  # once: JAX and our own program may both find out
        sys.stderr.write(text if told else sys.argv[1] + chr(10))
    elif not dead and ("coordination_service" not in text or "] " not in text):
        sys.stderr.write(text)
    sys.stderr.flush()
"""


def start(coordinator: str, num_processes: int, process_id: int) -> None:
    """Joins the other processes of this program, if there are any.

    Without flags the processes of a TPU slice and the tasks of a Slurm step find each other.

    Args:
        coordinator: HOST:PORT of process 0; "" to find out by itself.
        num_processes: Of the program; 0 to find out.
        process_id: Of this one, from 0; -1 to find out.

    Raises:
        InputError: Some of the three are given and some are not, or nobody answers.
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
            f"--process_id is {process_id}; with --num_processes={num_processes} it is at most "
            f"{num_processes - 1}",
        )
    _filter_errors()
    try:
        jax.distributed.initialize(
            coordinator or None,
            num_processes or None,
            process_id if process_id >= 0 else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            # Around Slurm or a TPU too, what the flags say holds.
            cluster_detection_method="deactivate" if any(given) else None,
            initialization_timeout=120,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the processes of this run do not find each other ({str(error).splitlines()[0]}); "
            "check that all were started and that --coordinator is process 0's address"
        ) from error


def has_peers() -> bool:
    """Returns whether this process is one of several."""
    return jax.process_count() > 1


def is_main() -> bool:
    """Returns whether this process writes what only one may write."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until all processes have come here; `name` tells such places apart."""
    if has_peers():
        # It imports much that a single process does not need.
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def require_equal(value: int, message: str) -> None:
    """Raises `InputError(message)` unless all processes have the same number."""
    if has_peers():
        from jax.experimental import multihost_utils

        require(len(set(multihost_utils.process_allgather(value).tolist())) == 1, message)


def stop_together(step: int) -> bool:
    """Returns whether all processes stop after this step, because one of them got SIGTERM.

    All must ask after every step; they get the same answer at the same step.
    """
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


def end_with_peers(error: Exception) -> None:
    """Ends this process with one line if `error` is that another one died; else returns."""
    text = str(error)
    lost = ("Gloo", "NCCL", "Connection reset", "Connection closed", "UNAVAILABLE", "coordination")
    if has_peers() and any(word in text for word in lost):
        print(f"{_PEER_LINE} ({text.splitlines()[0][:160]})", file=sys.stderr, flush=True)
        os._exit(PEER_DIED)  # leaving in good order would wait for the dead one


def _under_slurm() -> bool:
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or "1"
    return "SLURM_STEP_NODELIST" in os.environ and int(tasks) > 1


def _on_tpu() -> bool:
    wanted = jax.config.jax_platforms
    devices = glob("/dev/accel*") or glob("/dev/vfio/[0-9]*")
    found = bool(devices) and importlib.util.find_spec("libtpu") is not None
    return found and (not wanted or "tpu" in wanted)


def _filter_errors() -> None:
    """Sends this process's errors through a filter that makes one line of a peer's death.

    When process 0 dies, JAX aborts the others at once, with a page of C++ frames.
    """
    screen = os.dup(2)
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", _FILTER, _PEER_LINE], stdin=subprocess.PIPE, stderr=screen
    )
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    os.close(screen)
