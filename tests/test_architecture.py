"""The rooms of the house: a file imports only from rooms below its own."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = (
    ("arrays", "configuration"),
    ("distributed",),
    ("stage", "command_line"),
    ("losses", "networks"),
    ("autoencoders", "priors", "decoding"),
    ("stages", "training", "data", "metrics"),
    ("interop",),
    ("pipelines",),
    ("costs",),
    ("judging",),
    (
        "train",
        "sample",
        "edit",
        "evaluate",
        "encode",
        "demo",
        "compile_check",
        "benchmark",
        "lineage",
    ),
)
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
FILES = sorted((ROOT / "maskgit_jax").rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT / "maskgit_jax").parts[0]
    return first.removesuffix(".py")


def imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def forbidden(path: Path, source: str) -> list[str]:
    """Imports of rooms that do not lie below the file's own."""
    own = room_of(path)
    wrong = []
    for name in imports(ast.parse(source)):
        parts = name.split(".")
        if parts[0] != "maskgit_jax" or len(parts) < 2 or parts[1] not in ROW_OF:
            continue
        if parts[1] != own and ROW_OF[parts[1]] >= ROW_OF[own]:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_imports_only_from_rooms_below(path):
    if path == ROOT / "maskgit_jax/__init__.py":
        return
    assert room_of(path) in ROW_OF, f"{path} stands in no room of the table"
    assert not forbidden(path, path.read_text())


def test_the_check_sees_an_import_from_above_and_from_beside():
    path = ROOT / "maskgit_jax/losses/example.py"
    assert forbidden(path, "from maskgit_jax.training import loop") != []
    assert forbidden(path, "from maskgit_jax import networks") != []
    assert forbidden(path, "from maskgit_jax.losses import elbo") == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.name)
def test_configs_import_only_the_configuration(path):
    allowed = ("maskgit_jax.configuration", "maskgit_jax.decoding.settings")
    names = [name for name in imports(ast.parse(path.read_text())) if "maskgit_jax" in name]
    assert all(name.startswith(allowed) for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_short_and_hide_no_standard_module(path):
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in sys.stdlib_module_names or path.stem == "__init__"
