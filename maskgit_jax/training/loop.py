"""The training loop of every stage: compile once, step, log, evaluate, save, resume."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax import distributed
from maskgit_jax.arrays import to_uint8
from maskgit_jax.configuration import InputError, require
from maskgit_jax.files import storage_error
from maskgit_jax.stage import Stage, Variables
from maskgit_jax.training import sharding
from maskgit_jax.training.checkpoint import Checkpoints
from maskgit_jax.training.optimizers import learning_rate
from maskgit_jax.training.state import TrainState
from maskgit_jax.training.step import (
    TrainStep,
    empty_sums,
    make_create_state,
    make_eval_step,
    make_train_step,
)
from maskgit_jax.training.variables import inference_variables, saved_steps, with_sharding
from maskgit_jax.training.writers import SilentWriters, Writers

HostBatch = dict[str, np.ndarray]
PREVIEW_SIZE = 64
STEPS_IN_FLIGHT = 2
"""Steps that the devices may lag behind: enough to keep them busy, few enough to stop soon."""


class TrainingData(NamedTuple):
    """The batches of a run.

    Attributes:
        train: Endless iterator over this process's part of each batch; checkpoints hold its state.
        evaluation: () -> one pass over the held-out data in full batches with a `valid` mask.
    """

    train: grain.DatasetIterator
    evaluation: Callable[[], Iterator[HostBatch]]


class NotFinite(InputError):
    """A loss or gradient was not finite; the parameters were not updated with it."""


class _StopRequestedError(Exception):
    """A stop was requested during an evaluation."""


class Programs(NamedTuple):
    """The compiled functions of a run."""

    train_step: Callable
    eval_step: Callable
    preview: Callable


class Trainer:
    """Trains one stage in one run directory.

    Args:
        stage: The stage to train.
        config: Its configuration, resolved and validated.
        workdir: The run directory.
        data: The batches.
        frozen: Variables of the frozen stages and networks that the stage uses.
        mesh: The devices.
    """

    def __init__(
        self,
        stage: Stage,
        config: ConfigDict,
        workdir: str | Path,
        data: TrainingData,
        frozen: Mapping[str, Variables],
        mesh: Mesh,
    ):
        self.stage, self.config, self.workdir = stage, config, Path(workdir)
        self.data, self.mesh = data, mesh
        sharding.check_training_batch(config.training, mesh)
        self.root_key = jax.random.key(config.seed)
        # A compiled program, because a host cannot place the arrays of another host.
        replicate = sharding.pjit(lambda t: t, mesh, out_shardings=sharding.replicated(mesh))
        self.frozen = replicate(dict(frozen)) if frozen else {}
        self.checkpoints = Checkpoints(workdir, config.training)
        self.state_shardings: Any = None
        self.empty_sums: dict[str, np.ndarray] = {}
        self.state = self._restore_or_create()
        self.programs = self._compile()
        self.stop_requested = threading.Event()

    def _restore_or_create(self) -> TrainState:
        """Returns the latest saved state, or a new one whose parameters are created sharded."""
        create = make_create_state(self.stage, self.config)
        iterator_start = self.data.train.get_state()
        batch = sharding.put_batch(next(self.data.train), self.mesh)
        self.data.train.set_state(iterator_start)

        abstract = jax.eval_shape(create, self.root_key, batch, self.frozen)
        self.state_shardings = sharding.tree_shardings(abstract, self.mesh)
        self.empty_sums = empty_sums(
            self.stage, _inference_variables(abstract, self.frozen), batch, self.root_key
        )
        self._check_best_metric()
        step = self.checkpoints.latest_step()
        if step is not None:
            target = with_sharding(abstract, self.state_shardings)
            return self.checkpoints.restore(step, target, self.data.train)
        program = sharding.pjit(create, self.mesh, out_shardings=self.state_shardings)
        # Steps use the folds 0, 1, ...; initialization uses the largest one.
        init_key = jax.random.fold_in(self.root_key, 2**31 - 1)
        return program(init_key, batch, self.frozen)

    def _check_best_metric(self) -> None:
        settings = self.config.training
        if not (settings.keep_best and settings.best_metric):
            return
        metrics = sorted(self.stage.summarize(self.empty_sums).keys() - {"count"})
        require(
            settings.best_metric in metrics,
            f"config.training.best_metric is '{settings.best_metric}', which stage "
            f"'{self.config.stage}' does not evaluate; choose one of {', '.join(metrics)}",
        )

    def _compile(self) -> Programs:
        def preview(variables: Variables, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
            shown = jax.tree.map(lambda array: array[:PREVIEW_SIZE], batch)
            return jax.tree.map(to_uint8, dict(self.stage.preview(variables, shown, key)))

        replicated = sharding.replicated(self.mesh)
        return Programs(
            train_step=compile_train_step(
                make_train_step(self.stage, self.config), self.mesh, self.state_shardings
            ),
            eval_step=compile_eval_step(self.stage, self.mesh),
            preview=sharding.pjit(preview, self.mesh, out_shardings=replicated),
        )

    def run(self) -> None:
        """Trains until `num_steps`; saves and returns early if a stop was requested.

        Raises:
            NotFinite: A loss or gradient was not finite.
            InputError: The run directory can no longer be written, for example on a full disk.
        """
        try:
            with _StopSignals(self.stop_requested):
                self._run()
        except Exception as error:
            reason = storage_error(error)
            if not reason:
                raise
            saved = (saved_steps(self.workdir) or ["none"])[-1]
            raise InputError(
                f"{self.workdir} cannot be written: {reason}; the last complete checkpoint is step "
                f"{saved}; make room and run the same command again"
            ) from error

    def _run(self) -> None:
        step, num_steps = int(self.state.step), self.config.training.num_steps
        writers = self._writers(step)
        try:
            if step:
                writers.note(f"resuming {self.workdir} at step {step}")
            stopped = self._run_from(step, writers) < num_steps
            if stopped:
                writers.note("stop requested, saving")
                self._check_finite()
                self._save(int(self.state.step), None)
            self.checkpoints.wait()
            if stopped:
                writers.note(f"stopped at step {int(self.state.step)} of {num_steps}; saved")
        finally:
            self.checkpoints.close()
            writers.close()

    def _run_from(self, step: int, writers: Any) -> int:
        """Trains from a step until the end or a stop; returns the step that is reached."""
        settings = self.config.training
        window: list[dict[str, jax.Array]] = []
        in_flight: deque[dict[str, jax.Array]] = deque()
        while step < settings.num_steps and not self._should_stop(step):
            batch = sharding.put_batch(next(self.data.train), self.mesh)
            self.state, metrics = self.programs.train_step(
                self.state, self.frozen, batch, self.root_key
            )
            step += 1
            last = step == settings.num_steps
            window.append(metrics)
            in_flight.append(metrics)
            if len(in_flight) > STEPS_IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            if step % settings.log_every == 0 or last:
                self._check_finite()
                writers.progress(step, self._mean(window, step), self._acting(step))
                window = []
            evaluated = None
            if step % settings.eval_every == 0 or last:
                evaluated = self.evaluate()
            if evaluated is not None:
                writers.evaluation(step, evaluated)
            if (step % settings.preview_every == 0 or last) and not self._interrupted():
                writers.previews(step, self.preview())
            if step % settings.checkpoint_every == 0 or evaluated is not None or last:
                self._check_finite()
                self._save(step, evaluated)
            if evaluated is not None:
                writers.restart_clock()
        return step

    def _should_stop(self, step: int) -> bool:
        return distributed.stop_together(step) if distributed.has_peers() else self._interrupted()

    def _interrupted(self) -> bool:
        """Returns whether this process, if it is the only one, was asked to stop."""
        return self.stop_requested.is_set() and not distributed.has_peers()

    def _writers(self, step: int) -> Any:
        if not distributed.is_main():
            return SilentWriters()
        settings = self.config.training
        return Writers(self.workdir, step, settings.num_steps, settings.batch_size)

    def _save(self, step: int, metrics: dict[str, float] | None) -> None:
        self.checkpoints.save(step, self.state, self.data.train, self.config, metrics)

    def _mean(self, window: list[dict[str, jax.Array]], step: int) -> dict[str, float]:
        host = jax.device_get(window)
        means = {name: float(np.mean([row[name] for row in host])) for name in host[0]}
        for name in self.state.params:
            settings = self.config.optimizers[name]
            updates = self.config.training.num_steps - settings.start_step
            count = max(0, step - settings.start_step)
            means[f"{name}/learning_rate"] = float(
                np.asarray(learning_rate(settings, updates)(count))
            )
        return means

    def _acting(self, step: int) -> list[str]:
        """Returns the networks that have been trained by step `step`."""
        optimizers = self.config.optimizers
        return [name for name in self.state.params if optimizers[name].start_step < step]

    def _check_finite(self) -> None:
        failed = {name: int(step) for name, step in self.state.failed_at.items()}
        for name, step in failed.items():
            if step >= 0:
                saved = self.checkpoints.latest_step()
                raise NotFinite(
                    f"the loss or gradient of network '{name}' was not finite at step {step}; "
                    f"the last good checkpoint is step {saved} in {self.workdir}; run the same "
                    f"command again with a lower --config.optimizers.{name}.learning_rate and "
                    f"--allow_change=optimizers.{name}.learning_rate"
                )

    def variables(self) -> Variables:
        """Returns the variables to evaluate: the EMA of the parameters where one is kept."""
        return _inference_variables(self.state, self.frozen)

    def evaluate(self) -> dict[str, float] | None:
        """Returns the metrics of the held-out split, with the same random masks every time.

        They are None if a stop was requested before the end of the split.
        """

        def batches() -> Iterator[HostBatch]:
            for batch in self.data.evaluation():
                if self._interrupted():
                    raise _StopRequestedError
                yield batch

        variables, program = self.variables(), self.programs.eval_step
        try:
            return evaluate_split(
                self.stage, variables, batches(), self.mesh, program, self.empty_sums
            )
        except _StopRequestedError:
            return None

    def preview(self) -> dict[str, np.ndarray]:
        """Returns previews of the first held-out images: title -> uint8 [N, H, W, C]."""
        batch = sharding.put_batch(next(self.data.evaluation()), self.mesh)
        return jax.device_get(self.programs.preview(self.variables(), batch, jax.random.key(0)))


def _inference_variables(state: TrainState, frozen: Mapping[str, Variables]) -> Variables:
    return inference_variables(state.params, state.averages, state.state, frozen)


def compile_train_step(step: TrainStep, mesh: Mesh, state_shardings: Any) -> Callable:
    """Returns the compiled training step; it donates the memory of the state."""
    return sharding.pjit(
        step,
        mesh,
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def compile_eval_step(stage: Stage, mesh: Mesh) -> Callable:
    """Returns the compiled evaluation step for `evaluate_split`."""
    replicated = sharding.replicated(mesh)
    return sharding.pjit(make_eval_step(stage), mesh, out_shardings=replicated, donate_argnums=3)


def evaluate_split(
    stage: Stage,
    variables: Variables,
    batches: Iterator[HostBatch],
    mesh: Mesh,
    program: Callable,
    zeros: dict[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """Returns the stage's metrics of a whole split.

    Args:
        stage: The stage to evaluate.
        variables: Its variables.
        batches: The batches of the split.
        mesh: The devices.
        program: From `compile_eval_step`.
        zeros: From `empty_sums`; computed if not given.
    """
    sums = None
    for number, host_batch in enumerate(batches):
        batch = sharding.put_batch(host_batch, mesh)
        key = jax.random.fold_in(jax.random.key(0), number)
        if sums is None:
            zeros = zeros or empty_sums(stage, variables, batch, key)
            # Copies, because the program donates their memory.
            sums = jax.device_put(jax.tree.map(np.copy, zeros), sharding.replicated(mesh))
        sums = program(variables, batch, key, sums)
    sums = jax.device_get(sums)
    count = sums.pop("count")
    return stage.summarize({name: total / count for name, total in sums.items()})


class _StopSignals:
    """Turns SIGTERM, SIGHUP and Ctrl-C into a request to stop; a second one interrupts at once.

    With several processes JAX handles SIGTERM and tells the others; the others are passed on as
    SIGTERM. A terminal that is closed may send several SIGHUPs; nohup, which ignores them, is
    respected.
    """

    def __init__(self, requested: threading.Event):
        self._requested, self._before = requested, {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        numbers = {signal.SIGINT, signal.SIGHUP}
        numbers |= set() if distributed.has_peers() else {signal.SIGTERM}
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._request)

    def _request(self, number: int, frame: Any) -> None:
        del frame
        self._requested.set()
        again = signal.SIG_IGN if number == signal.SIGHUP else self._before[number]
        signal.signal(number, again)
        if distributed.has_peers():
            os.kill(os.getpid(), signal.SIGTERM)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
