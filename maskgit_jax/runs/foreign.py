"""Runs made of published weights of other projects, and weights of runs in their formats."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.configuration import (
    require,
    resolve_cadences,
    resolve_start_steps,
    validate,
)
from maskgit_jax.files import (
    atomic_path,
    check_output_file,
    create_output_directory,
    user_path,
    write_text,
)
from maskgit_jax.interop.formats import AUTO, EXPORTS, choose_format, read_format
from maskgit_jax.interop.imported import Imported, stage_config
from maskgit_jax.interop.weight_files import Weights, read_weights
from maskgit_jax.runs.directory import load_variables, read_config, write_config
from maskgit_jax.stage import Stage
from maskgit_jax.stages import stage_module
from maskgit_jax.training.variables import save_untrained, save_variables


class _Part(NamedTuple):
    """A tokenizer or generator that was read: the stage, and an entry of `import.json`."""

    imported: Imported
    provenance: dict[str, Any]


def import_run(
    tokenizer: str | Path,
    generator: str | Path,
    workdir: str | Path,
    format: str = AUTO,
    image_size: int = 0,
) -> Path:
    """Writes a run with published weights, and returns its directory.

    Without a generator it is a run of the tokenizer; otherwise a run of the generator with the
    tokenizer as its frozen stage, and with the tokenizer of its condition images if the file has
    one. `import.json` says what the run was made of.

    Args:
        tokenizer: A file or folder of weights; "": the tokenizer is in the generator's file.
        generator: Likewise; "": none.
        workdir: The run directory, which must not exist or be empty.
        format: Name of the format; "auto" recognizes it.
        image_size: Side of the images in pixels; 0: that of the format.

    Raises:
        InputError: A file cannot be read or is of no known format, or `workdir` is not empty.
    """
    require(
        bool(str(tokenizer) or str(generator)),
        "--tokenizer is needed: a file or folder of weights",
    )
    folder = _empty_directory(workdir)
    first, second = _read_parts(tokenizer, generator, format, image_size)
    provenance = {"tokenizer": first.provenance}
    with atomic_path(folder) as unfinished:
        unfinished.mkdir(parents=True)
        if second is None:
            _write_run(unfinished, _config(first.imported), first.imported)
        else:
            frozen = {"tokenizer": first.imported, **second.imported.frozen}
            _write_generator(unfinished, folder, frozen, second.imported)
            provenance["generator"] = second.provenance
        write_text(unfinished / "import.json", json.dumps(provenance, indent=2) + "\n")
    return folder


def _read_parts(
    tokenizer: str | Path, generator: str | Path, format: str, image_size: int
) -> tuple[_Part, _Part | None]:
    """Returns tokenizer and generator. A generator decides the size of the tokenizer's images."""
    weights = read_weights(str(tokenizer) or str(generator))
    first = _read("tokenizer", weights, format, image_size)
    if str(generator) == "":
        return first, None
    others = read_weights(generator) if str(tokenizer) else weights
    second = _read("generator", others, format, image_size, first.imported)
    size = second.imported.changes["data.image_size"]
    if size != first.imported.changes["data.image_size"]:
        chosen = choose_format(weights, "tokenizer", format)
        first = first._replace(imported=read_format(weights, chosen, size))
    return first, second


def _empty_directory(workdir: str | Path) -> Path:
    """Returns the run directory to write; it does not exist."""
    require(str(workdir) != "", "--workdir is needed: the run directory to write")
    folder = Path(user_path(workdir))
    require(
        not (folder / "config.json").exists(),
        f"{folder} holds a run already; choose another --workdir",
    )
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    require(empty, f"{folder} is not empty; choose another --workdir")
    shutil.rmtree(folder.with_name(f"{folder.name}.unfinished"), ignore_errors=True)
    create_output_directory(folder.parent, "--workdir")
    return folder


def _read(
    part: str,
    weights: Weights,
    format: str,
    image_size: int,
    tokenizer: Imported | None = None,
) -> _Part:
    chosen = choose_format(weights, part, format)
    imported = read_format(weights, chosen, image_size, tokenizer)
    provenance = {
        "file": weights.path.name,
        "sha256": _checksum(weights),
        "format": chosen.name,
        "dropped": list(imported.dropped),
    }
    return _Part(imported, provenance)


def _checksum(weights: Weights) -> str:
    with weights.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _config(imported: Imported, **changes: Any) -> ConfigDict:
    """Returns the valid configuration of a stage."""
    config = stage_config(imported, **changes).copy_and_resolve_references().unlock()
    resolve_cadences(config)
    resolve_start_steps(config)
    validate(config)
    stage_module(imported.stage).validate(config)
    return config.lock()


def _stage(config: ConfigDict, **frozen: Stage) -> Stage:
    return stage_module(config.stage).build(config, frozen)


def _write_generator(
    folder: Path, final: Path, frozen: Mapping[str, Imported], generator: Imported
) -> None:
    """Writes a run with frozen stages into `folder`, which becomes `final`."""
    configs = {name: _config(imported) for name, imported in frozen.items()}
    config = _config(generator, **{name: str(final / "frozen" / name) for name in frozen})
    stages = {name: _stage(inner) for name, inner in configs.items()}
    _stage(config, **stages)  # raises if codebook or token map do not fit
    for name, imported in frozen.items():
        place = folder / "frozen" / name
        variables = {"params": imported.params, "state": imported.state}
        save_variables(place.resolve() / "variables", variables)
        write_config(place, configs[name])
    _write_run(folder, config, generator)


def _write_run(folder: Path, config: ConfigDict, imported: Imported) -> None:
    save_untrained(folder, imported.params, imported.state, json.loads(config.to_json()))
    write_config(folder, config)


def export_weights(workdir: str | Path, out: str | Path, format: str, mesh: Mesh) -> Path:
    """Writes the weights of a run, averages where they are kept, in a format; returns the file.

    Args:
        workdir: A run, or a copy of a finished stage inside one, RUN/frozen/tokenizer.
        out: The file; of "diffusers" the folder.
        format: One of `interop.formats.EXPORTS`.
        mesh: The devices.

    Raises:
        InputError: There is no run, or the format cannot hold it.
    """
    found = [each for each in EXPORTS if each.name == format]
    names = ", ".join(each.name for each in EXPORTS)
    require(bool(found), f"--format is '{format}'; a run can be written as: {names}")
    require(str(workdir) != "", "--workdir is needed: a run")
    require(str(out) != "", "--out is needed: the file to write")
    config, path = read_config(user_path(workdir)), check_output_file(out)
    require(format != "diffusers" or not path.exists(), f"--out={out} exists; name a new folder")
    variables = jax.device_get(load_variables(user_path(workdir), mesh))
    with atomic_path(path) as unfinished:
        found[0].write(config, variables, unfinished)
    return path
