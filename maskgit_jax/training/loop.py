"""The one training loop: compile once, step, write, evaluate, save, resume."""

import os
import signal
import threading
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
from maskgit_jax.stage import Stage, Variables
from maskgit_jax.training import sharding
from maskgit_jax.training.checkpoint import Checkpoints, with_sharding
from maskgit_jax.training.optimizers import learning_rate
from maskgit_jax.training.state import TrainState, inference_variables
from maskgit_jax.training.step import (
    TrainStep,
    empty_sums,
    make_create_state,
    make_eval_step,
    make_train_step,
)
from maskgit_jax.training.writers import SilentWriters, Writers

HostBatch = dict[str, np.ndarray]
PREVIEW_SIZE = 64


class TrainingData(NamedTuple):
    """What a run learns from.

    Attributes:
        train: Endless iterator of this process's part of each batch; its state is saved.
        evaluation: () -> one pass over the held-out data in full batches with `valid`.
    """

    train: grain.DatasetIterator
    evaluation: Callable[[], Iterator[HostBatch]]


class NotFinite(InputError):
    """A loss or gradient was not finite; training stopped before it could do harm."""


class Programs(NamedTuple):
    """The compiled functions of a run."""

    train_step: Callable
    eval_step: Callable
    preview: Callable


class Trainer:
    """Trains one stage in one run directory.

    Args:
        stage: What is trained.
        config: Of the run; resolved and validated.
        workdir: The run directory.
        data: Batches.
        frozen: Finished stages that the stage needs.
        mesh: Devices.
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
        # As a program: hosts cannot put each other's arrays anywhere.
        everywhere = sharding.pjit(lambda t: t, mesh, out_shardings=sharding.replicated(mesh))
        self.frozen = everywhere(dict(frozen)) if frozen else {}
        self.checkpoints = Checkpoints(workdir, config.training)
        self.state_shardings, self.empty_sums = None, None
        self.state = self._restore_or_create()
        self.programs = self._compile()
        self.stop_requested = threading.Event()

    def _restore_or_create(self) -> TrainState:
        """Returns the newest saved state, or a new one; parameters are born sharded."""
        create = make_create_state(self.stage, self.config)
        iterator_start = self.data.train.get_state()
        batch = sharding.put_batch(next(self.data.train), self.mesh)
        self.data.train.set_state(iterator_start)

        abstract = jax.eval_shape(create, self.root_key, batch, self.frozen)
        self.state_shardings = sharding.tree_shardings(abstract, self.mesh)
        self.empty_sums = empty_sums(
            self.stage, _evaluated(abstract, self.frozen), batch, self.root_key
        )
        self._check_best_metric()
        step = self.checkpoints.latest_step()
        if step is not None:
            target = with_sharding(abstract, self.state_shardings)
            return self.checkpoints.restore(step, target, self.data.train)
        program = sharding.pjit(create, self.mesh, out_shardings=self.state_shardings)
        # The last fold belongs to the beginning: steps count up from 0.
        init_key = jax.random.fold_in(self.root_key, 2**31 - 1)
        return program(init_key, batch, self.frozen)

    def _check_best_metric(self) -> None:
        settings = self.config.training
        if not (settings.keep_best and settings.best_metric):
            return
        figures = sorted(self.stage.summarize(self.empty_sums).keys() - {"count"})
        require(
            settings.best_metric in figures,
            f"config.training.best_metric is '{settings.best_metric}', which stage "
            f"'{self.config.stage}' does not evaluate; choose one of {', '.join(figures)}",
        )

    def _compile(self) -> Programs:
        def preview(variables: Variables, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
            shown = jax.tree.map(lambda array: array[:PREVIEW_SIZE], batch)
            return jax.tree.map(to_uint8, dict(self.stage.preview(variables, shown, key)))

        everywhere = sharding.replicated(self.mesh)
        return Programs(
            train_step=compile_train_step(
                make_train_step(self.stage, self.config), self.mesh, self.state_shardings
            ),
            eval_step=compile_eval_step(self.stage, self.mesh),
            preview=sharding.pjit(preview, self.mesh, out_shardings=everywhere),
        )

    def run(self) -> None:
        """Trains to `num_steps`; returns early, after saving, if a stop was requested.

        Raises:
            NotFinite: A loss or gradient was not finite.
        """
        settings = self.config.training
        step = int(self.state.step)
        writers = self._writers(step)
        with _StopSignals(self.stop_requested):
            try:
                if step:
                    writers.note(f"resuming {self.workdir} at step {step}")
                self._run_from(step, writers)
                step = int(self.state.step)
                if step < settings.num_steps:
                    self._save(step, None)
                    writers.note(f"stopped at step {step} of {settings.num_steps}; saved")
            finally:
                self.checkpoints.close()
                writers.close()

    def _run_from(self, step: int, writers: Any) -> None:
        settings = self.config.training
        window: list[dict[str, jax.Array]] = []
        while step < settings.num_steps and not self._stops(step):
            batch = sharding.put_batch(next(self.data.train), self.mesh)
            self.state, metrics = self.programs.train_step(
                self.state, self.frozen, batch, self.root_key
            )
            step += 1
            last = step == settings.num_steps
            window.append(metrics)
            if step % settings.log_every == 0 or last:
                self._check_finite()
                writers.progress(step, self._mean(window, step))
                window = []
            evaluated = None
            if step % settings.eval_every == 0 or last:
                evaluated = self.evaluate()
                writers.evaluation(step, evaluated)
            if step % settings.preview_every == 0 or last:
                writers.pictures(step, self.preview())
            if step % settings.checkpoint_every == 0 or last:
                self._check_finite()
                self._save(step, evaluated)
            if evaluated is not None:
                writers.restart_clock()

    def _stops(self, step: int) -> bool:
        return (
            distributed.stop_together(step)
            if distributed.has_peers()
            else self.stop_requested.is_set()
        )

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
            player = self.config.optimizers[name]
            updates = self.config.training.num_steps - player.start_step
            count = max(0, step - player.start_step)
            means[f"{name}/learning_rate"] = float(learning_rate(player, updates)(count))
        return means

    def _check_finite(self) -> None:
        failed = {name: int(step) for name, step in self.state.failed_at.items()}
        for name, step in failed.items():
            if step >= 0:
                saved = self.checkpoints.latest_step()
                raise NotFinite(
                    f"the loss or gradient of player '{name}' was not finite at step {step}; "
                    f"the last good checkpoint is step {saved} in {self.workdir}; lower "
                    f"config.optimizers.{name}.learning_rate or set its clip_norm, and start again"
                )

    def variables(self) -> Variables:
        """Returns what is evaluated: running averages where they are kept."""
        return _evaluated(self.state, self.frozen)

    def evaluate(self) -> dict[str, float]:
        """Returns the figures of the whole held-out split; the same mask noise every time."""
        return evaluate_split(
            self.stage,
            self.variables(),
            self.data.evaluation(),
            self.mesh,
            self.programs.eval_step,
            self.empty_sums,
        )

    def preview(self) -> dict[str, np.ndarray]:
        """Returns titled pictures, uint8 [N, H, W, C], of the first held-out images."""
        batch = sharding.put_batch(next(self.data.evaluation()), self.mesh)
        return jax.device_get(self.programs.preview(self.variables(), batch, jax.random.key(0)))


def _evaluated(state: TrainState, frozen: Mapping[str, Variables]) -> Variables:
    return inference_variables(state.params, state.averages, state.state, frozen)


def compile_train_step(step: TrainStep, mesh: Mesh, state_shardings: Any) -> Callable:
    """Returns the program of a training step, which reuses the memory of the state."""
    return sharding.pjit(
        step,
        mesh,
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def compile_eval_step(stage: Stage, mesh: Mesh) -> Callable:
    """Returns the program that `evaluate_split` runs on every batch."""
    everywhere = sharding.replicated(mesh)
    return sharding.pjit(make_eval_step(stage), mesh, out_shardings=everywhere, donate_argnums=3)


def evaluate_split(
    stage: Stage,
    variables: Variables,
    batches: Iterator[HostBatch],
    mesh: Mesh,
    program: Callable,
    zeros: dict[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """Returns the stage's figures of all batches.

    Args:
        stage: What is evaluated.
        variables: Of the stage.
        batches: The split.
        mesh: Devices.
        program: Of `compile_eval_step`.
        zeros: Of `empty_sums`, where they are known already.
    """
    sums = None
    for number, host_batch in enumerate(batches):
        batch = sharding.put_batch(host_batch, mesh)
        key = jax.random.fold_in(jax.random.key(0), number)
        if sums is None:
            zeros = zeros or empty_sums(stage, variables, batch, key)
            # Copies, for the program takes their memory.
            sums = jax.device_put(jax.tree.map(np.copy, zeros), sharding.replicated(mesh))
        sums = program(variables, batch, key, sums)
    sums = jax.device_get(sums)
    count = sums.pop("count")
    return stage.summarize({name: total / count for name, total in sums.items()})


class _StopSignals:
    """Turns SIGTERM and Ctrl-C into a request; a second one interrupts as usual.

    Among several processes SIGTERM belongs to JAX, which tells the others; Ctrl-C becomes one.
    """

    def __init__(self, requested: threading.Event):
        self._requested, self._before = requested, {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        numbers = (signal.SIGINT,) if distributed.has_peers() else (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            self._before[number] = signal.signal(number, self._request)

    def _request(self, number: int, frame: Any) -> None:
        del frame
        self._requested.set()
        signal.signal(number, self._before[number])
        if distributed.has_peers():
            os.kill(os.getpid(), signal.SIGTERM)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
