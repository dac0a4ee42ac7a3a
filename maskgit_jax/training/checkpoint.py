"""Checkpoints of a run: model, optimisers, position in the data, and config, by Orbax.

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
import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from maskgit_jax.arrays import PyTree
from maskgit_jax.configuration import InputError
from maskgit_jax.training.state import TrainState


def checkpoint_folder(workdir: str | Path) -> Path:
    """Returns where a run keeps its checkpoints."""
    return Path(workdir).resolve() / "checkpoints"


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
    """Returns the state whose items these are."""
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
    """Saves in the background, never half; keeps the last ones and the best one."""

    def __init__(self, workdir: str | Path, settings: ConfigDict):
        best = settings.best_metric
        policies = [checkpoint_managers.LatestN(settings.keep_last)]
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
        """Starts saving; returns as soon as the state is copied. A saved step is left alone."""
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
        """Returns the state of a step, on the shardings of `abstract`; moves the iterator there.

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
            raise damaged(self._folder / str(step), error) from error
        iterator.set_state(restored["input"])
        return join_items(restored)

    def wait(self) -> None:
        """Waits until what is being saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes saving and stops the background threads."""
        self._manager.close()


def damaged(folder: Path, error: Exception) -> InputError:
    """Returns the error for a checkpoint that cannot be read."""
    reason = " ".join(str(error).split())[:300]
    return InputError(
        f"checkpoint {folder} cannot be restored ({type(error).__name__}: {reason}); if the "
        "config was changed, change it back or choose another --workdir; if the checkpoint is "
        f"damaged, delete {folder} to go on from the one before it"
    )


def saved_steps(workdir: str | Path) -> list[int]:
    """Returns the steps of a run's complete checkpoints, ascending."""
    folder = checkpoint_folder(workdir)
    if not folder.is_dir():
        return []
    return sorted(int(child.name) for child in folder.iterdir() if child.name.isdigit())


def restore_model(folder: Path, abstract: PyTree) -> PyTree:
    """Returns the item `model` of one checkpoint, in the shape and shardings of `abstract`.

    Raises:
        InputError: The checkpoint is damaged, or belongs to another model.
    """
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder / "model", abstract)
    except Exception as error:
        raise damaged(folder, error) from error


def save_variables(folder: Path, variables: PyTree) -> None:
    """Writes variables once (a frozen stage copied into the run that uses it)."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, variables, force=True)


def restore_variables(folder: Path, abstract: PyTree) -> PyTree:
    """Returns what `save_variables` wrote.

    Raises:
        InputError: It is damaged.
    """
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder, abstract)
    except Exception as error:
        raise damaged(folder, error) from error


def with_sharding(abstract: PyTree, shardings: PyTree) -> PyTree:
    """Returns shapes with the shardings that restored arrays shall have."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
