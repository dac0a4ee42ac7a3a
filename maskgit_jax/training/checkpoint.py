"""Checkpoints of a run: model, optimizers, position in the data, and config, written by Orbax.

A checkpoint has separate items, so that sampling reads only `model`:
    model:     params, averages, state
    training:  step, optimizers, failed_at
    input:     JSON: the state of the input iterator, the same on all processes, however many
    config:    JSON
"""

import json
from pathlib import Path
from typing import Any

import grain
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from maskgit_jax.arrays import PyTree
from maskgit_jax.training.state import TrainState
from maskgit_jax.training.variables import checkpoint_folder, damaged_checkpoint


def split_items(state: TrainState) -> dict[str, PyTree]:
    """Returns the items `model` and `training` of a state."""
    return {
        "model": {"params": state.params, "averages": state.averages, "state": state.state},
        "training": {
            "step": state.step,
            "optimizers": state.optimizers,
            "failed_at": state.failed_at,
        },
    }


def join_items(items: Any) -> TrainState:
    """Returns the state that consists of these items."""
    model, training = items["model"], items["training"]
    return TrainState(
        training["step"],
        model["params"],
        model["state"],
        model["averages"],
        training["optimizers"],
        training["failed_at"],
    )


class Checkpoints:
    """Saves checkpoints in the background and atomically; keeps the latest and the best."""

    def __init__(self, workdir: str | Path, settings: ConfigDict):
        best = settings.best_metric
        policies: list[Any] = [checkpoint_managers.LatestN(settings.keep_last)]
        if settings.keep_best and best:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics[best],
                    reverse=True,  # the smallest is the best
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._folder = checkpoint_folder(workdir)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
            ),
        )

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: TrainState,
        iterator: grain.DatasetIterator,
        config: ConfigDict,
        metrics: dict[str, float] | None,
    ) -> None:
        """Starts to save a step, unless it is saved already; returns when the state is copied."""
        if step in self._manager.all_steps():
            return
        items = split_items(state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(items["model"]),
                training=ocp.args.StandardSave(items["training"]),
                input=ocp.args.JsonSave(iterator.get_state()),
                config=ocp.args.JsonSave(json.loads(config.to_json())),
            ),
            metrics=metrics,
            force=True,
        )

    def restore(
        self, step: int, abstract: TrainState, iterator: grain.DatasetIterator
    ) -> TrainState:
        """Returns the state of a step, sharded like `abstract`; sets the position of the iterator.

        Raises:
            InputError: The checkpoint is damaged, or belongs to another model.
        """
        items = split_items(abstract)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardRestore(items["model"]),
                    training=ocp.args.StandardRestore(items["training"]),
                    input=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:
            raise damaged_checkpoint(self._folder / str(step), error) from error
        iterator.set_state(restored["input"])
        return join_items(restored)

    def wait(self) -> None:
        """Waits until all checkpoints are on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes saving and stops the background threads."""
        self._manager.close()
