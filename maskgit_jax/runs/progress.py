"""Progress of long loops: bars on terminals and in notebooks, lines in logs."""

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

from maskgit_jax import distributed

LINE_EVERY = 10.0  # seconds between the lines of a log


def progress_bar(total: int, description: str, unit: str, initial: int = 0) -> Any:
    """Returns a tqdm bar or, without a terminal, what prints a line every ten seconds instead.

    Only the first process shows anything.
    """
    if "ipykernel" in sys.modules:  # a notebook is no terminal, but shows bars
        from tqdm.notebook import tqdm as notebook_tqdm

        return notebook_tqdm(total=total, initial=initial, desc=description, unit=unit)
    if not sys.stderr.isatty():
        return ProgressLines(total, description, unit, initial)
    disable = not distributed.is_main()
    return tqdm(total=total, initial=initial, desc=description, unit=unit, disable=disable)


def note(text: str) -> None:
    """Prints lines on stderr, above the bars of a terminal; the first process does."""
    if distributed.is_main():
        tqdm.write(text, file=sys.stderr)


class ProgressLines:
    """Progress as lines, `DESCRIPTION: 300 of 1000 images, 70 s left`; used like a tqdm bar."""

    def __init__(self, total: int, description: str, unit: str, initial: int = 0):
        self._total, self._description, self._unit = total, description, unit
        self._count, self._printed = initial, time.monotonic()
        self._first: tuple[int, float] | None = None  # after the first update, which may compile

    def update(self, count: int) -> None:
        """Adds to the count, and prints a line if the last one is ten seconds old."""
        self._count += count
        now = time.monotonic()
        first_count, first_time = self._first = self._first or (self._count, now)
        if now - self._printed < LINE_EVERY:
            return
        self._printed = now
        plural = f"{self._unit}es" if self._unit.endswith("ch") else f"{self._unit}s"
        line = f"{self._description}: {self._count} of {self._total} {plural}"
        if self._count > first_count:
            speed = (self._count - first_count) / max(now - first_time, 1e-9)
            line += f", {(self._total - self._count) / speed:.0f} s left"
        note(line)

    def close(self) -> None:
        """Ends; nothing is printed."""

    def __enter__(self) -> "ProgressLines":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
