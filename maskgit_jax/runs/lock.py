"""The lock of a run directory: one training at a time."""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from maskgit_jax.configuration import InputError

RENEW_SECONDS, STALE_SECONDS = 10.0, 60.0


@contextmanager
def lock_run(workdir: Path) -> Iterator[None]:
    """Holds the file `lock` of a run directory, which names the host and the process.

    The kernel frees the lock of a process that dies. Some network file systems share no locks
    between hosts: the owner renews the time of the file, and another host takes over a lock that
    was not renewed for `STALE_SECONDS`.

    Raises:
        InputError: Another process trains the run, or the file cannot be written.
    """
    path, done = workdir / "lock", threading.Event()
    try:
        file = _acquire(path)
        os.ftruncate(file, 0)
        os.pwrite(file, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error

    def renew() -> None:
        while not done.wait(RENEW_SECONDS):
            with suppress(OSError):
                os.utime(file)

    threading.Thread(target=renew, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        path.unlink(missing_ok=True)
        os.close(file)
        with suppress(OSError):  # A refused run leaves no empty directory.
            workdir.rmdir()


def _acquire(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        shared = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _refuse(path, os.pread(file, 1000, 0))
        except OSError:  # This file system has no locks.
            shared = False
        owner = os.pread(file, 1000, 0)
        host = owner.decode(errors="replace").partition(" ")[0]
        if host and not (shared and host == socket.gethostname()):
            _wait_until_stale(path, owner)
        # The former owner may have removed the file since it was opened.
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            return file
        os.close(file)


def _wait_until_stale(path: Path, owner: bytes) -> None:
    """Returns when the owner on another host is known to be dead or has finished."""

    def renewed() -> float | None:
        try:
            with path.open() as file:  # Opening makes NFS look at the file again.
                return os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None

    start = renewed()
    if start is None or time.time() - start > 10 * STALE_SECONDS:
        return
    print(f"{path} names another host; waiting until it is known whether that training still "
          f"runs, {STALE_SECONDS:.0f} s at most", flush=True)  # fmt: skip
    deadline = time.monotonic() + STALE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, STALE_SECONDS / 10))
        now = renewed()
        if now is None:
            return
        if now != start:
            _refuse(path, owner)


def _refuse(path: Path, owner: bytes) -> NoReturn:
    host, _, process = owner.decode(errors="replace").strip().partition(" ")
    name = f"process {process} on {host}" if process else "another process"
    raise InputError(
        f"{path.parent} is being trained by {name}; wait for it, stop it, or choose another "
        "--workdir"
    )
