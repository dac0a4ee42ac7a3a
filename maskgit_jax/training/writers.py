"""Writers of a training run: console, metrics.jsonl, TensorBoard and preview images."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
from tensorboardX.summary import scalar
from tqdm import tqdm

from maskgit_jax.files import write_text
from maskgit_jax.images import write_image_grid


class Writers:
    """Writes metrics and previews of one run; only the first process of a run writes.

    Lines of `metrics.jsonl` after `first_step` (of a run that was killed after its last
    checkpoint) are removed, so that each step occurs once.
    """

    def __init__(self, workdir: Path, first_step: int, num_steps: int, batch_size: int):
        self._workdir, self._batch_size = workdir, batch_size
        self._metrics_path = workdir / "metrics.jsonl"
        self._keep_lines_until(first_step)
        folder = workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        # Not a SummaryWriter, whose thread hides errors: after one the queue fills and blocks.
        self._tensorboard = EventsWriter(str(folder / "events"))
        start = SessionLog(status=SessionLog.START)
        self._add_event(first_step + 1, session_log=start)  # removes later steps of a lost stretch
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            unit="step",
            disable=None,  # without a terminal, lines are printed instead
            dynamic_ncols=True,
            file=sys.stderr,
        )
        self._clock, self._clock_step, self._num_steps = time.monotonic(), first_step, num_steps

    def _keep_lines_until(self, step: int) -> None:
        if not self._metrics_path.exists():
            return
        lines = self._metrics_path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_text(self._metrics_path, "".join(kept))

    def progress(self, step: int, scalars: dict[str, float], networks: Collection[str]) -> None:
        """Writes training metrics with steps/s and images/s since the last call.

        Args:
            step: The step.
            scalars: The metrics.
            networks: The networks whose losses are shown.
        """
        now = time.monotonic()
        speed = (step - self._clock_step) / max(now - self._clock, 1e-9)
        self._clock, self._clock_step = now, step
        rates = {"steps_per_second": speed, "images_per_second": speed * self._batch_size}
        self._record(step, "train", {**scalars, **rates})
        losses = {f"{name}/loss": scalars[f"{name}/loss"] for name in networks}
        shown = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        shown += _format_bits(scalars)
        self._show(self._bar.update, step - self._bar.n)
        if self._bar.disable:
            left = (self._num_steps - step) / max(speed, 1e-9)
            self.note(
                f"step {step}/{self._num_steps}  {shown}  {speed:.2f} steps/s  "
                f"{speed * self._batch_size:.0f} images/s  {left:.0f} s left"
            )
        else:
            self._show(
                self._bar.set_postfix_str, f"{shown}  {speed * self._batch_size:.0f} images/s"
            )

    def evaluation(self, step: int, scalars: dict[str, float]) -> None:
        """Writes the metrics of an evaluation."""
        self._record(step, "eval", scalars)
        shown = "  ".join(map(_format_metric, scalars, scalars.values()))
        self.note(f"step {step}  evaluation: {shown}")

    def previews(self, step: int, previews: dict[str, np.ndarray]) -> None:
        """Writes `previews/<title>-<step>.png`, see `Stage.preview`."""
        for title, images in previews.items():
            path = self._workdir / "previews" / f"{title}-{step:07d}.png"
            write_image_grid(path, images)

    def restart_clock(self) -> None:
        """Excludes the time since the last `progress` from the next speed."""
        self._clock = time.monotonic()

    def note(self, text: str) -> None:
        """Prints a line."""
        self._show(tqdm.write, text, sys.stdout)

    def _record(self, step: int, split: str, scalars: dict[str, float]) -> None:
        with self._metrics_path.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **scalars}) + "\n")
        for name, value in scalars.items():
            self._add_event(step, summary=scalar(f"{split}/{name}", value))
        self._tensorboard.flush()

    def _add_event(self, step: int, **content: Any) -> None:
        self._tensorboard.write_event(Event(wall_time=time.time(), step=step, **content))

    def _show(self, show: Callable[..., Any], *arguments: Any) -> None:
        """Calls what prints; training goes on without the terminal, or the pipe's reader."""
        try:
            show(*arguments)
            sys.stdout.flush()
        except OSError:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    def close(self) -> None:
        """Flushes everything."""
        self._show(self._bar.close)
        self._tensorboard.close()


def _format_bits(scalars: dict[str, float]) -> str:
    """Returns the cross-entropy of a token prior beside those that need no network."""
    if "bits_per_token" not in scalars:
        return ""
    bits, *others = (
        f"{scalars[f'bits_per_token{kind}']:.3f}" for kind in ("", "_unigram", "_uniform")
    )
    return f"  {bits} bits per token (unigram {others[0]}, uniform {others[1]})"


def _format_metric(name: str, value: float) -> str:
    """Returns a metric as text; a cross-entropy also in bits."""
    bits = f" nats = {value / math.log(2):.4g} bits" if name.endswith("cross_entropy") else ""
    return f"{name} {value:.4g}{bits}"


class SilentWriters:
    """The same interface for the processes that do not write."""

    def progress(  # noqa: D102
        self, step: int, scalars: dict[str, float], networks: Collection[str]
    ) -> None: ...
    def evaluation(self, step: int, scalars: dict[str, float]) -> None: ...  # noqa: D102
    def previews(self, step: int, previews: dict[str, np.ndarray]) -> None: ...  # noqa: D102
    def restart_clock(self) -> None: ...  # noqa: D102
    def note(self, text: str) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102
