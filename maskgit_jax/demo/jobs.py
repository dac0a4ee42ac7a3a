"""Jobs: their events, the queue, and the one thread that owns the devices and does them in turn."""

import json
import secrets
import sys
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

from maskgit_jax.configuration import InputError

MAX_WAITING = 32
MAX_BYTES = 128 * 2**20  # of the events of finished jobs
INTERNAL_ERROR = "an internal error stopped this; the terminal of the server shows it"


class QueueFullError(InputError):
    """Too many jobs wait."""


class CancelledError(Exception):
    """The user cancelled the job that runs."""


class Job:
    """A job with the events that it has had so far.

    Args:
        work: Does the job and returns the members of the event "done".
    """

    def __init__(self, work: "Callable[[Job], dict[str, Any]]"):
        self.id = secrets.token_urlsafe(12)
        self.state = "queued"  # then running; done, failed or cancelled
        self.events: list[str] = []  # JSON
        self.num_bytes = 0
        self.cancelled = threading.Event()
        self.work: Callable[[Job], dict[str, Any]] | None = work
        self.place = -1
        self._listeners: set[Callable[[], Any]] = set()
        self._lock = threading.Lock()

    @property
    def is_finished(self) -> bool:
        """Whether no event will follow."""
        return self.state in ("done", "failed", "cancelled")

    def emit(self, kind: str, **members: Any) -> None:
        """Adds an event and calls the listeners."""
        event = json.dumps({"type": kind, **members}, separators=(",", ":"))
        with self._lock:
            self.events.append(event)
            self.num_bytes += len(event)
            listeners = tuple(self._listeners)
        for listener in listeners:
            with suppress(RuntimeError):  # the event loop of a client that left is closed
                listener()

    def finish(self, state: str, **members: Any) -> None:
        """Adds the last event; the state changes first, so that who reads the event knows it."""
        self.state, self.work = state, None  # the work holds images
        self.emit(state, **members)

    def check(self) -> None:
        """Raises `CancelledError` if the user has cancelled the job."""
        if self.cancelled.is_set():
            raise CancelledError

    @contextmanager
    def listen(self, listener: Callable[[], Any]) -> Iterator[None]:
        """Calls a function, in any thread, at each event that is added inside the block."""
        with self._lock:
            self._listeners.add(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.discard(listener)


class JobQueue:
    """Jobs in the order of their arrival, done by one thread.

    Args:
        clean: Returns the message of an error without names of files.
        max_waiting: Jobs that may wait.
        max_bytes: Of the events of finished jobs; the oldest ones are dropped.
    """

    def __init__(
        self,
        clean: Callable[[Exception], str] = str,
        max_waiting: int = MAX_WAITING,
        max_bytes: int = MAX_BYTES,
    ):
        self._clean, self._max_waiting, self._max_bytes = clean, max_waiting, max_bytes
        self._waiting: deque[Job | Callable[[], None]] = deque()
        self._running: Job | None = None
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="devices", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Adds a job.

        Raises:
            QueueFullError: Too many wait.
        """
        with self._changed:
            waiting = sum(isinstance(item, Job) for item in self._waiting)
            if waiting >= self._max_waiting:
                raise QueueFullError(f"{waiting} jobs are waiting; try again in a while")
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._update_places()
            self._changed.notify()

    def call(self, function: Callable[[], Any]) -> "Future[Any]":
        """Calls a function in the thread that owns the devices, after what waits already."""
        future: Future[Any] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        with self._changed:
            self._waiting.append(run)
            self._changed.notify()
        return future

    def get(self, name: str) -> Job | None:
        """Returns a job by its id; None if it is unknown or was dropped."""
        with self._changed:
            return self._jobs.get(name)

    def cancel(self, job: Job) -> None:
        """Cancels a job: at once if it waits, otherwise at its next decoding step."""
        with self._changed:
            job.cancelled.set()
            if job in self._waiting:
                self._waiting.remove(job)
                job.finish("cancelled")
                self._update_places()

    def _update_places(self) -> None:
        """Emits the place of each waiting job that changed: the number of jobs before it."""
        place = int(self._running is not None)
        for job in self._waiting:
            if isinstance(job, Job):
                if job.place != place:
                    job.place = place
                    job.emit("queued", place=place)
                place += 1

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                item = self._waiting.popleft()
                if isinstance(item, Job):
                    self._running, item.state = item, "running"
            if not isinstance(item, Job):
                item()
                continue
            self._do(item)
            with self._changed:
                self._running = None
                self._update_places()
                self._drop_finished()

    def _do(self, job: Job) -> None:
        job.emit("started")
        start, work = time.monotonic(), job.work
        assert work is not None
        try:
            job.check()
            members = work(job)
            job.finish("done", **members, seconds=round(time.monotonic() - start, 3))
        except CancelledError:
            job.finish("cancelled")
        except InputError as error:
            job.finish("failed", error=self._clean(error))
        except Exception as error:
            job.finish("failed", error=report_internal(error))

    def _drop_finished(self) -> None:
        finished = [job for job in self._jobs.values() if job.is_finished]
        num_bytes = sum(job.num_bytes for job in finished)
        for job in finished[:-1]:
            if num_bytes <= self._max_bytes and len(finished) <= 1000:
                break
            num_bytes -= job.num_bytes
            finished = finished[1:]
            del self._jobs[job.id]


def report_internal(error: Exception) -> str:
    """Prints the traceback of an unexpected error to the terminal; returns a line for the user."""
    if "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError):
        return "the memory of the devices does not suffice; ask for fewer or smaller images"
    traceback.print_exception(error, file=sys.stderr)
    return INTERNAL_ERROR
