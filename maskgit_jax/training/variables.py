"""Variables on disk, without what only training needs: the steps of a run, and its model.

Sampling imports this module; Orbax is imported where something is read or written.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from maskgit_jax import distributed
from maskgit_jax.arrays import PyTree
from maskgit_jax.configuration import InputError
from maskgit_jax.stage import Variables
from maskgit_jax.training.sharding import pjit, replicated, tree_shardings


def inference_variables(
    params: Mapping[str, PyTree],
    averages: Mapping[str, PyTree],
    state: PyTree,
    frozen: Mapping[str, Variables],
) -> Variables:
    """Returns the variables for inference: the EMA of the parameters where one is kept."""
    return Variables({**params, **averages}, state, frozen)


def checkpoint_folder(workdir: str | Path) -> Path:
    """Returns the folder of a run's checkpoints."""
    return Path(workdir).resolve() / "checkpoints"


def saved_steps(workdir: str | Path) -> list[int]:
    """Returns the steps of a run's complete checkpoints, ascending."""
    folder = checkpoint_folder(workdir)
    if not folder.is_dir():
        return []
    return sorted(int(child.name) for child in folder.iterdir() if child.name.isdigit())


def with_sharding(abstract: PyTree, shardings: PyTree) -> PyTree:
    """Returns shapes with the shardings that restored arrays shall have."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def restore_model(folder: Path, mesh: Mesh) -> PyTree:
    """Returns the item `model` of one checkpoint, sharded over the mesh.

    Raises:
        InputError: The checkpoint is damaged.
    """
    return _restore(folder / "model", mesh, folder)


def read_saved_config(folder: Path) -> dict[str, Any]:
    """Returns the configuration that one checkpoint was trained with, as JSON values."""
    import orbax.checkpoint as ocp

    try:
        return dict(ocp.JsonCheckpointHandler().restore(folder / "config"))  # pyright: ignore
    except Exception as error:
        raise damaged_checkpoint(folder, error) from error


def restore_variables(folder: Path, mesh: Mesh) -> PyTree:
    """Returns the variables that `save_variables` wrote, sharded over the mesh.

    Raises:
        InputError: They are damaged.
    """
    return _restore(folder, mesh, folder)


def _restore(place: Path, mesh: Mesh, folder: Path) -> PyTree:
    import orbax.checkpoint as ocp

    try:
        # The shapes come from the checkpoint: tracing the initialization takes seconds.
        metadata = ocp.StandardCheckpointHandler().metadata(place)  # pyright: ignore
        shapes = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), metadata.tree)
        abstract = with_sharding(shapes, tree_shardings(shapes, mesh))
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(place, abstract)
    except Exception as error:
        raise damaged_checkpoint(folder, error) from error


def save_variables(folder: Path, variables: PyTree) -> None:
    """Writes variables once: a frozen stage that is copied into the run that uses it."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, variables, force=True)


def save_untrained(workdir: Path, params: PyTree, state: PyTree, config: Mapping) -> None:
    """Writes the checkpoint of step 0 of a run whose parameters come from elsewhere.

    It has the items `model` and `config` only: the run can be loaded, but not resumed.
    """
    import orbax.checkpoint as ocp

    model = {"params": params, "averages": {}, "state": state}
    items = {"model": ocp.args.StandardSave(model), "config": ocp.args.JsonSave(dict(config))}
    with ocp.CheckpointManager(checkpoint_folder(workdir)) as manager:
        manager.save(0, args=ocp.args.Composite(**items))


def weights_checksum(variables: PyTree, mesh: Mesh) -> str:
    """Returns 16 hex digits that depend on every bit of all arrays, the same on every mesh."""
    if distributed.has_peers():  # A host reads only the arrays that it holds completely.
        variables = pjit(lambda tree: tree, mesh, out_shardings=replicated(mesh))(variables)
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()[:16]


def damaged_checkpoint(folder: Path, error: Exception) -> InputError:
    """Returns the error for a checkpoint that cannot be restored."""
    reason = " ".join(str(error).split())[:300]
    return InputError(
        f"checkpoint {folder} cannot be restored ({type(error).__name__}: {reason}); if the "
        "config was changed, change it back or choose another --workdir; if the checkpoint is "
        f"damaged, delete {folder} to resume from the one before it"
    )
