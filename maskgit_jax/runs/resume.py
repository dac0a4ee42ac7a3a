"""What may change when a run is resumed; everything else must stay as it was."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.config_keys import flat_keys
from maskgit_jax.configuration import require
from maskgit_jax.data.sources import absolute_source
from maskgit_jax.hints import ABSENT, changed_keys
from maskgit_jax.runs.directory import load_variables, read_config
from maskgit_jax.stages import stage_module
from maskgit_jax.training.variables import checkpoint_folder, saved_steps, weights_checksum

MAY_CHANGE = {
    "training.num_steps": "longer or shorter, but not below the step that is reached; a cosine "
    "or wsd schedule follows the new length from there on",
    "training.*_every": "when to log, evaluate, preview and save",
    "training.keep_*": "which checkpoints are kept",
    "training.best_metric": "which checkpoint is the best",
    "mesh.*": "devices",
    "data.num_threads": "reading",
    "data.prefetch": "reading",
    "data.source": "the directory, if the data were moved; the kind of source must stay",
    "model.remat": "memory against time",
    "model.attention": "kernel",
    "sampling.*": "defaults of sampling",
    "preset": "a name",
}
"""Keys that may change on resume, as patterns -> what they are."""
MUST_STAY = (
    "stage", "model.*", "discriminator.*", "data.source", "data.image_size", "data.channels",
    "data.input", "data.condition*", "optimizers.*.optimizer", "optimizers.*.ema_rate",
    "optimizers.*.clip_norm",
)  # fmt: skip
"""Keys that no flag lets change: the stored arrays would not fit, or would mean something else."""
_FROM_DATA = ("data.num_classes", "data.class_names")  # compared when the data are opened


def check_resumable(config: ConfigDict, workdir: Path, allowed: Sequence[str] = ()) -> list[str]:
    """Compares a configuration with that of the run in a directory, if there is one.

    Args:
        config: The configuration, resolved, except for the classes.
        workdir: The run directory.
        allowed: Other keys, or groups of keys, that the user lets change.

    Returns:
        What changes, one text per key.

    Raises:
        InputError: A key changed that may not; the message names it.
    """
    if not (workdir / "config.json").exists():
        return []
    before, steps = read_config(workdir), saved_steps(workdir)
    require(
        before.stage == config.stage,
        f"{workdir} holds a run of stage '{before.stage}', not '{config.stage}'; choose another "
        "--workdir",
    )
    if not steps:
        return []
    _check_trained(workdir, steps[-1])
    frozen = {*stage_module(config.stage).needs(config)}  # compared by `check_frozen`
    changes = {
        key: f"config.{key} was {old!r} and is {new!r}"
        for key, (old, new) in _changed_keys(before, config).items()
        if key not in frozen
    }
    refused = {key: text for key, text in changes.items() if not _may_change(key, before, config)}
    names = [name.removeprefix("config.") for name in allowed]
    _check_allowed(names, config)
    _refuse_others(refused, names, workdir, steps[-1])
    require(
        config.training.num_steps >= steps[-1],
        f"config.training.num_steps is {config.training.num_steps}, but {workdir} is at step "
        f"{steps[-1]} already; set it to more, or choose another --workdir",
    )
    return [*changes.values()]


def _check_trained(workdir: Path, step: int) -> None:
    """Refuses a run of imported weights, which has no optimizers to go on with."""
    folder = checkpoint_folder(workdir) / str(step)
    require(
        (folder / "training").exists() or not (folder / "model").exists(),
        f"{workdir} holds weights that were not trained there; train on from them by "
        f"--config.init_from={workdir} in another --workdir",
    )


def _refuse_others(
    changes: Mapping[str, str], allowed: Sequence[str], workdir: Path, step: int
) -> None:
    fixed = [text for key, text in changes.items() if _matches(key, MUST_STAY)]
    require(
        not fixed,
        f"{workdir} holds another model: {_some(fixed)}; change it back or choose another "
        "--workdir",
    )
    left = {key: text for key, text in changes.items() if not _is_named(key, allowed)}
    require(
        not left,
        f"{workdir} was trained to step {step} with another configuration: "
        f"{_some([*left.values()])}; change it back, choose another --workdir, or train on with "
        f"the new values by --allow_change={','.join(left)}",
    )


def _check_allowed(names: Sequence[str], config: ConfigDict) -> None:
    for name in names:
        keys = [key for key in flat_keys(config) if _is_named(key, [name])]
        require(bool(keys), f"--allow_change={name}: the configuration has no such key")
        fixed = [key for key in keys if _matches(key, MUST_STAY) and not _matches(key, MAY_CHANGE)]
        require(
            fixed != keys,
            f"--allow_change={name}: the checkpoint would not fit another config.{keys[0]}; choose "
            "another --workdir",
        )


def _is_named(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _may_change(key: str, before: ConfigDict, config: ConfigDict) -> bool:
    if key == "data.source":
        kinds = {each.data.source.partition(":")[0] for each in (before, config)}
        return len(kinds) == 1
    return _matches(key, MAY_CHANGE)


def _matches(key: str, patterns: Sequence[str] | Mapping[str, str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return ", ".join(texts[:3]) + more


def _changed_keys(before: ConfigDict, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    changes = changed_keys(before, config)
    old, new = (absolute_source(each.data.source) for each in (before, config))
    if old == new:
        changes.pop("data.source", None)
    if not (before.get("init_from", "") or config.init_from):
        changes.pop("init_from", None)  # a run of a version without this key
    return {key: pair for key, pair in changes.items() if key not in _FROM_DATA}


def check_frozen(config: ConfigDict, workdir: Path, mesh: Mesh) -> None:
    """Compares the frozen stages that a configuration names with the copies in a resumed run.

    Raises:
        InputError: A configuration names another stage than the run was trained with.
    """
    if not saved_steps(workdir):
        return
    module = stage_module(config.stage)
    before = module.needs(read_config(workdir))
    for name, source in module.needs(config).items():
        old, copy = before.get(name, ABSENT), workdir / "frozen" / name
        if name not in config or source == old or not (copy / "config.json").exists():
            continue
        same = Path(source).resolve() == Path(old).resolve() or (
            (Path(source) / "config.json").exists()
            and weights_checksum(load_variables(source, mesh), mesh)
            == weights_checksum(load_variables(copy, mesh), mesh)
        )
        require(
            same,
            f"{workdir} was trained with config.{name} {old}, of which it holds a copy, and "
            f"config.{name} is {source}, with other weights; change it back or choose another "
            "--workdir",
        )
