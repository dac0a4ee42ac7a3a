"""The mesh, the table from parameter names to axes, and how programs are compiled.

`jax.experimental.pjit` became `jax.jit` with shardings; `pjit` here is that, under the mesh
and with the logical names that models use in `nn.with_logical_constraint`.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from maskgit_jax.arrays import PyTree
from maskgit_jax.configuration import MESH_LAYOUTS, InputError, base_config

AXES = ("data", "fsdp", "tensor")

RULES = (
    # activations
    ("batch", ("data", "fsdp")),
    ("length", None),
    ("embed", None),
    ("head_width", None),
    # both
    ("heads", "tensor"),
    ("mlp", "tensor"),
    # parameters
    ("width", "fsdp"),
    ("filters", "fsdp"),
    ("rows", "tensor"),
)

_NORM = r"(norm\w*|\w+_norm)"
PARAMETER_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    # The axes name the last dimensions; a leading axis of stacked layers is never sharded.
    (r"word_embedding", ("rows", None)),  # sharding its width rematerializes every lookup
    (r"position_embedding", (None, None)),
    (r"(query|key|value)/kernel", ("width", "heads")),
    (r"(query|key|value)/bias", ("heads",)),
    (r"qkv/kernel", ("width", None, "heads")),
    (r"qkv/bias", (None, "heads")),
    (r"value_residual", ()),
    (r"(final_)?modulation/kernel", ("width", None)),
    (r"(final_)?modulation/bias", (None,)),
    (r"patch_(in|out)/kernel", ("width", None)),
    (r"registers", (None, None)),
    (r"attention/out/kernel", ("heads", "width")),
    (r"attention/out/bias", (None,)),
    (r"mlp_(in|gate)/kernel", ("width", "mlp")),
    (r"mlp_(in|gate)/bias", ("mlp",)),
    (r"mlp_out/kernel", ("mlp", "width")),
    (r"mlp_out/bias", (None,)),
    (r"head_(dense|logit|codes)/kernel", ("width", None)),
    (r"head_(dense|logit|codes)/bias", (None,)),
    (r"head_bias", (None,)),
    (r"(token|class)_\w+/embedding", ("rows", None)),
    (r"embedding_\d+/embedding", ("rows", None)),
    (r"mix_\w+/kernel", (None, "filters")),
    (r"mix_\w+/bias", (None,)),
    (r"(to|from)_latents/kernel", (None, "width")),
    (r"(to|from)_latents/bias", (None,)),
    (r"log_variance", (None,)),
    (rf"{_NORM}/(scale|bias|mean|var|loc)", (None,)),
    (r"(conv\w*|shortcut|to_codes|from_codes|logits)/kernel", (None, None, None, "filters")),
    (r"(conv\w*|shortcut|to_codes|from_codes|logits)/bias", (None,)),
    (r"\w*attention\w*/(q|k|v|proj_out)/kernel", (None, "filters")),
    (r"\w*attention\w*/(q|k|v|proj_out)/bias", (None,)),
    (r"quantizer(_\w+)?/codebook", (None, None)),
    (r"quantizer/proj/kernel", (None, None)),
    (r"quantizer/proj/bias", (None,)),
    (r"usage/(idle|restarted_at)", (None,)),
    (r"usage/replacement", (None, None)),
    (r"ema/counts", (None,)),
    (r"ema/means", (None, None)),
    (r"ns_coeffs", (None,)),  # of Muon's state
)


def make_mesh(config: ConfigDict, devices: list[Any] | None = None) -> Mesh:
    """Returns the mesh of `config.mesh`; an axis of size -1 takes all remaining devices.

    A size of 0 is that of the layout. If the layout's open axis has a given size, `data` takes
    the remaining devices.

    Raises:
        InputError: The sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    layout = MESH_LAYOUTS[config.layout]
    sizes = [config[axis] or layout[axis] for axis in AXES]
    if -1 not in sizes and config.data == 0:
        sizes[0] = -1
    known = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) > 1 or any(size < -1 for size in sizes):
        raise InputError(
            f"config.mesh is {sizes}; sizes are positive or 0 (that of the layout), one may be -1"
        )
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    if np.prod(sizes) != len(devices):
        raise InputError(_wrong_mesh(config, known, len(devices)))
    # Automatic axes: explicit ones, the default, break convolutions and codebook look-ups.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def _wrong_mesh(config: ConfigDict, known: int, count: int) -> str:
    given = [f"config.mesh.{axis} is {config[axis]}" for axis in AXES if config[axis] > 0]
    there = "there is 1 device" if count == 1 else f"there are {count} devices"
    if not given:
        return f"config.mesh.layout={config.layout} needs a multiple of {known} devices; {there}"
    return (
        f"{' and '.join(given)}, but {there}; the sizes of the axes must multiply to the number of "
        "devices: remove one, or set it to -1 for all remaining devices"
    )


def path_name(path: tuple) -> str:
    """Returns a tree path as `network/module/parameter`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def partition_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Returns how an array of a train state is partitioned, from the table.

    A dimension that the mesh axis does not divide is not partitioned.

    Raises:
        ValueError: No row of the table matches the name, or several do.
    """
    if not shape:
        return PartitionSpec()
    rows = [axes for pattern, axes in PARAMETER_AXES if re.search(rf"(^|/){pattern}$", name)]
    if len(rows) != 1:
        raise ValueError(f"{name} {shape} matches {len(rows)} rows of PARAMETER_AXES, not 1")
    rules = dict(RULES)
    mesh_axes = [None] * (len(shape) - len(rows[0])) + [axis and rules[axis] for axis in rows[0]]
    divided = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(mesh_axes, shape, strict=True)
    ]
    return PartitionSpec(*divided)


def tree_shardings(tree: PyTree, mesh: Mesh) -> PyTree:
    """Returns a NamedSharding for each array of a tree (parameters, moments, averages)."""

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, partition_spec(path_name(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def num_shards(mesh: Mesh) -> int:
    """Returns the number of shards of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def all_devices() -> Mesh:
    """Returns the mesh for inference: all devices on the data axis."""
    return make_mesh(base_config().mesh)


def round_up_to_shards(count: int, mesh: Mesh) -> int:
    """Returns the smallest multiple of the number of batch shards that is at least `count`."""
    return -(-count // num_shards(mesh)) * num_shards(mesh)


def check_batch_size(batch_size: int, mesh: Mesh, key: str) -> None:
    """Raises `InputError` unless the batch size is a multiple of the number of batch shards."""
    shards = num_shards(mesh)
    if batch_size % shards:
        raise InputError(f"{key} is {batch_size}, not a multiple of the {shards} data shards")


def check_training_batch(training: ConfigDict, mesh: Mesh) -> None:
    """Raises `InputError` unless each accumulated part of a batch can be sharded evenly."""
    part = training.batch_size // training.accumulate_steps
    check_batch_size(part, mesh, "config.training.batch_size / config.training.accumulate_steps")


def process_rows(batch_size: int) -> slice:
    """Returns the rows of a global batch that this process places on its devices."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global arrays [B, ...] of this process's part of a batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def pjit(function: Callable, mesh: Mesh, **settings: Any) -> Callable:
    """Compiles a function for a mesh; `settings` are those of `jax.jit`.

    Model code is traced under the mesh and `RULES`. The result has `lower`, like `jax.jit`'s.
    """
    compiled = jax.jit(function, **settings)

    def call(*arguments: Any, **keywords: Any) -> Any:
        with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
            return compiled(*arguments, **keywords)

    def lower(*arguments: Any, **keywords: Any) -> Any:
        with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
            return compiled.lower(*arguments, **keywords)

    call.lower = lower  # pyright: ignore[reportFunctionMemberAccess]
    call.cache_size = compiled._cache_size  # pyright: ignore
    call.clear_cache = compiled.clear_cache  # pyright: ignore
    return call
