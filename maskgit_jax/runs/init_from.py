"""Fine-tuning: a training that starts from the parameters of another run.

Parameters are taken by name and shape. Where the number of codes, classes or positions changed,
the entries that mean the same are taken (`Stage.layouts`) and maps of positions are interpolated.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, PyTree
from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.sources import class_numbers
from maskgit_jax.hints import ABSENT, changed_keys
from maskgit_jax.priors.maskgit import resize_positions
from maskgit_jax.runs.directory import Run, abstract_variables, load_run, split_step
from maskgit_jax.stage import Layout, Stage, Variables
from maskgit_jax.training.sharding import path_name, pjit
from maskgit_jax.training.state import TrainState
from maskgit_jax.training.variables import weights_checksum

_TRANSFORMERS = {"maskgit": "prior", "token_critic": "critic"}
"""Stages -> their networks that are the same, except for the head."""
_MIN_SHARE = 0.01
"""With less of the parameters a run counts as one of another network: only biases are equal."""


class Entries(NamedTuple):
    """What an array takes from that of another run, along one axis.

    Attributes:
        axis: The axis.
        rows: The number of each entry in the other array, -1 where it starts anew, [n].
        maps: Maps of positions to interpolate: first entry, rows and columns here, then there.
        parts: Name -> entries that are taken or interpolated, and their number in all.
    """

    axis: int
    rows: np.ndarray
    maps: tuple[tuple[int, tuple[int, int], int, tuple[int, int]], ...]
    parts: Mapping[str, tuple[int, int]]


Taken = Mapping[str, Entries | None]
"""Path of a parameter -> what is taken, None for the whole array; others start anew."""


class Start(NamedTuple):
    """What a new run takes from another one.

    Attributes:
        variables: Those of the other run; its networks have the names of the new run's.
        taken: Network -> what its parameters take.
        report: The table to print, whole lines.
    """

    variables: Variables
    taken: Mapping[str, Taken]
    report: str


def load_source(config: ConfigDict, mesh: Mesh) -> Run:
    """Loads the run of `config.init_from`.

    Raises:
        InputError: There is none, or it has other networks than the stage of `config`.
    """
    folder, step = split_step(config.init_from)
    try:
        run = load_run(folder, mesh, step)
    except InputError as error:
        raise InputError(f"config.init_from: {error}") from error
    stages = (config.stage, run.config.stage)
    require(
        stages[0] == stages[1] or all(stage in _TRANSFORMERS for stage in stages),
        f"config.init_from={config.init_from} is a run of stage '{stages[1]}', whose networks are "
        f"not those of stage '{stages[0]}'; give a run of configs/{stages[0]}.py",
    )
    return run


def plan_start(
    config: ConfigDict, stage: Stage, run: Run, frozen: Mapping[str, Variables], mesh: Mesh
) -> Start:
    """Returns what a new run takes from another one.

    Args:
        config: The configuration of the new run, with its classes.
        stage: Its stage.
        run: From `load_source`.
        frozen: The frozen stages of the new run.
        mesh: Devices.

    Raises:
        InputError: They share no network.
    """
    variables = run.variables
    if config.stage != run.config.stage:
        network = variables.params[_TRANSFORMERS[run.config.stage]]
        variables = variables._replace(params={_TRANSFORMERS[config.stage]: network})
    classes, new = class_rows(config, run.config), abstract_variables(stage, config).params
    taken = {
        name: match_network(
            tree, variables.params.get(name, {}), stage.layouts, run.stage.layouts, classes
        )
        for name, tree in new.items()
    }
    counts = {name: count_taken(tree, stage.layouts, taken[name]) for name, tree in new.items()}
    total, anew = (sum(each[key] for each in counts.values()) for key in ("all", "anew"))
    require(
        total - anew >= _MIN_SHARE * total,
        f"config.init_from={config.init_from} has no network of this run: {total - anew:,} of "
        f"{total:,} parameters have its names and sizes{_changed_sizes(config, run.config)}",
    )
    title = f"parameters from {split_step(config.init_from)[0]} at step {run.step}:"
    lines = [title, *_table(counts), *_details(new, taken), *_warnings(run, frozen, mesh)]
    return Start(variables, taken, "".join(f"{line}\n" for line in lines))


def class_rows(config: ConfigDict, before: ConfigDict) -> tuple[int, ...]:
    """Returns the number of each class among those of another run, -1 for a new one.

    Classes are compared by name where both runs know the names, otherwise by number.
    """
    now, then = (max(1, each.data.num_classes) for each in (config, before))
    names, known = config.data.class_names, before.data.class_names
    if (len(names), len(known)) == (now, then):
        return class_numbers(names, known)
    return tuple(number if number < then else -1 for number in range(now))


def match_network(
    new: PyTree,
    old: PyTree,
    layouts: Sequence[Layout],
    old_layouts: Sequence[Layout],
    classes: Sequence[int],
) -> Taken:
    """Returns what the parameters of a network take from those of another one.

    Args:
        new: Shapes of the new network.
        old: Arrays or shapes of the other network.
        layouts: Of the new network.
        old_layouts: Of the other one.
        classes: From `class_rows`.
    """
    shapes, found = _flat(old), {}
    for path, leaf in _flat(new).items():
        if path not in shapes:
            continue
        shape, before = leaf.shape, shapes[path].shape
        layout, old_layout = _layout(path, layouts), _layout(path, old_layouts)
        if layout is None or old_layout is None or _is_equal(layout, old_layout, classes):
            if shape == before:
                found[path] = None
        elif _without(shape, layout.axis) == _without(before, layout.axis):
            entries = match_entries(layout, old_layout, shape[layout.axis], classes)
            if (entries.rows >= 0).any() or entries.maps:
                found[path] = entries
    return found


def match_entries(layout: Layout, old: Layout, length: int, classes: Sequence[int]) -> Entries:
    """Returns what an array takes, part by part; a part that the other one lacks starts anew.

    Args:
        layout: Of the array.
        old: Of the other array.
        length: Entries of the array.
        classes: From `class_rows`.
    """
    rows, maps, parts, firsts = np.full(length, -1, np.int32), [], {}, _first_entries(old)
    for name, start in _first_entries(layout).items():
        size, before = layout.parts[name], old.parts.get(name, 0)
        count, known = _num_entries(size), _num_entries(before)
        numbers = np.full(count, -1, np.int32)
        if isinstance(size, tuple) and isinstance(before, tuple) and size != before:
            maps.append((start, size, firsts[name], before))
            parts[name] = (count, count)
            continue
        numbers[: min(count, known)] = np.arange(min(count, known))
        if name == "classes":
            numbers[:] = classes
        rows[start : start + count] = np.where(numbers >= 0, numbers + firsts.get(name, 0), -1)
        parts[name] = (int((numbers >= 0).sum()), count)
    return Entries(layout.axis, rows, tuple(maps), parts)


def take_entries(new: Array, old: Array, entries: Entries | None) -> Array:
    """Returns an array with the entries that it takes from another one."""
    if entries is None:
        return jnp.copy(old)
    shape = [1] * new.ndim
    shape[entries.axis] = -1
    taken = jnp.take(old, np.maximum(entries.rows, 0), axis=entries.axis)
    array = jnp.where((entries.rows >= 0).reshape(shape), taken, new)
    for start, grid, old_start, old_grid in entries.maps:
        positions = old[old_start : old_start + math.prod(old_grid)]
        positions = resize_positions(positions, old_grid, grid)
        array = array.at[start : start + len(positions)].set(positions)
    return array


def take_variables(new: Variables, old: Variables, taken: Mapping[str, Taken]) -> Variables:
    """Returns the variables of a new run with what it takes from another one.

    Running statistics are taken by name and shape, except the usage of codes, which refers to steps
    of the other run. Means of codes that the other run lacks start from the codebook.
    """
    params = {}
    for name, tree in new.params.items():
        arrays, others = _flat(tree), _flat(old.params.get(name, {}))
        arrays |= {
            path: take_entries(arrays[path], others[path], entries)
            for path, entries in taken[name].items()
        }
        params[name] = jax.tree.unflatten(jax.tree.structure(tree), arrays.values())
    state, statistics = _flat(new.state), _flat(old.state)
    for path, array in state.items():
        known = statistics.get(path)
        if known is not None and known.shape == array.shape and "usage" not in path.split("/"):
            state[path] = jnp.copy(known)
        elif path.endswith("ema/means"):
            level = path.removesuffix("ema/means").strip("/")
            quantizer = f"quantizer_{level}" if level else "quantizer"
            state[path] = jnp.copy(params["autoencoder"][quantizer]["codebook"])
    state = jax.tree.unflatten(jax.tree.structure(new.state), state.values())
    return new._replace(params=params, state=state)


def start_training(state: TrainState, start: Start, mesh: Mesh) -> TrainState:
    """Returns a state before the first step that starts from another run, sharded as it was."""

    def merge(state: TrainState, old: Variables) -> tuple:
        new = take_variables(Variables(state.params, state.state, {}), old, start.taken)
        averages = {name: jax.tree.map(jnp.copy, new.params[name]) for name in state.averages}
        return new.params, new.state, averages

    now = (state.params, state.state, state.averages)
    shardings = jax.tree.map(lambda array: array.sharding, now)
    old = start.variables._replace(frozen={})
    params, running, averages = pjit(merge, mesh, out_shardings=shardings)(state, old)
    return state._replace(params=params, state=running, averages=averages)


def count_taken(tree: PyTree, layouts: Sequence[Layout], taken: Taken) -> dict[str, int]:
    """Returns numbers of parameters: all, taken as arrays and as rows, interpolated, anew.

    Padding does not count.
    """
    counts: dict[str, int] = {key: 0 for key in ("all", "arrays", "rows", "interpolated", "anew")}
    for path, leaf in _flat(tree).items():
        layout, entries = _layout(path, layouts), taken.get(path)
        length = leaf.shape[layout.axis] if layout else 1
        used = sum(map(_num_entries, layout.parts.values())) if layout else 1
        size = math.prod(leaf.shape) // length
        counts["all"] += used * size
        if entries is None:
            counts["arrays" if path in taken else "anew"] += used * size
            continue
        kept = int((entries.rows >= 0).sum())
        interpolated = sum(math.prod(grid) for _, grid, _, _ in entries.maps)
        counts["rows"] += kept * size
        counts["interpolated"] += interpolated * size
        counts["anew"] += (used - kept - interpolated) * size
    return counts


def _table(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    titles = ("parameters", "taken", "rows kept", "interpolated", "started anew")
    lines = [f"{'network':<14}" + "".join(f"{title:>14}" for title in titles)]
    for name, row in counts.items():
        lines.append(f"{name:<14}" + "".join(f"{value:>14,}" for value in row.values()))
    return lines


def _details(new: Mapping[str, PyTree], taken: Mapping[str, Taken]) -> list[str]:
    """Returns which rows are kept, which maps interpolated, and which parameters start anew."""
    lines = {}
    for name, tree in new.items():
        for path, entries in taken[name].items():
            if entries is None:
                continue
            parts = [f"{part} {kept} of {count}" for part, (kept, count) in entries.parts.items()]
            sizes = [f"{_grid(old)} to {_grid(now)}" for _, now, _, old in entries.maps]
            maps = f"; interpolated from {', '.join(sizes)}" * bool(sizes)
            lines.setdefault(f"{', '.join(parts)}{maps}", []).append(f"{name}/{path}")
        anew = [f"{name}/{path}" for path in _flat(tree) if path not in taken[name]]
        if anew:
            more = [f"{len(anew) - 3} more of {name}"] if len(anew) > 3 else []
            lines.setdefault("started anew", []).extend([*anew[:3], *more])
    return [f"  {', '.join(paths)}: {text}" for text, paths in lines.items()]


def _warnings(run: Run, frozen: Mapping[str, Variables], mesh: Mesh) -> list[str]:
    """Returns a line if a prior learned the tokens of another tokenizer than the new one's."""
    old, new = (each.get("tokenizer") for each in (run.variables.frozen, frozen))
    if old is None or weights_checksum(old, mesh) == weights_checksum(new, mesh):
        return []
    return [
        "  warning: these parameters were trained on the tokens of another tokenizer, whose codes "
        "mean something else"
    ]


def _grid(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"


def _changed_sizes(config: ConfigDict, before: ConfigDict) -> str:
    """Returns the end of a message: which sizes differ."""
    changes = [
        f"config.{key} is {now!r} here and {then!r} there"
        for key, (then, now) in changed_keys(before, config).items()
        if key.startswith(("model.", "data.channels")) and ABSENT not in (then, now)
    ]
    return f"; {', '.join(changes[:3])}" * bool(changes)


def _flat(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def _layout(path: str, layouts: Sequence[Layout]) -> Layout | None:
    return next((each for each in layouts if re.search(rf"(^|/){each.parameters}$", path)), None)


def _num_entries(size: int | tuple[int, int]) -> int:
    return math.prod(size) if isinstance(size, tuple) else size


def _first_entries(layout: Layout) -> dict[str, int]:
    """Returns the first entry of each part that has any."""
    sizes = [_num_entries(size) for size in layout.parts.values()]
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    named = zip(layout.parts, starts, sizes, strict=True)
    return {name: start for name, start, size in named if size}


def _without(shape: tuple[int, ...], axis: int) -> list[int]:
    return [size for number, size in enumerate(shape) if number != axis % len(shape)]


def _is_equal(layout: Layout, old: Layout, classes: Sequence[int]) -> bool:
    """Returns whether the entries of two arrays mean the same in the same order."""
    same_classes = "classes" not in layout.parts or [*classes] == [*range(len(classes))]
    return layout.parts == old.parts and same_classes
