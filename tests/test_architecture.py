"""The table of packages in ARCHITECTURE.md holds, and the names are the field's."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.example import ROOT

FILES = sorted((ROOT / "maskgit_jax").rglob("*.py"))
OLD_WORDS = (
    "judge|judges|judged|judging|player|players|surest|surety|nobody|recognised|picture|pictures|"
    "told|heard|originality|multipliers|revive|revived|mean_over_selected|likely_logits|"
    "keep_upper|code_width|network_passes"
)


@cache
def rows() -> dict[str, int]:
    """The row of each package and module in the table of ARCHITECTURE.md."""
    table = (ROOT / "ARCHITECTURE.md").read_text().split("```")[1]
    found = {}
    for line in table.strip().splitlines():
        number, names, *_ = re.split(r"\s{2,}", re.sub(r"^(\d+) +", r"\1  ", line), maxsplit=2)
        words = re.split(r"[\s,]+", line.split(None, 1)[1])
        for word in words:
            name = word.strip("/")
            place = ROOT / "maskgit_jax" / name
            if not (place.is_dir() or place.with_suffix(".py").exists()):
                if number == "10" and name in ("import_weights", "export_weights", ".py"):
                    continue
                break
            found[name] = int(number)
    return found


def package_of(path: Path) -> str:
    return path.relative_to(ROOT / "maskgit_jax").parts[0].removesuffix(".py")


def imports(source: str) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def upward_imports(path: Path, source: str) -> list[str]:
    """Imports of packages that are not below the file's own."""
    own, wrong = package_of(path), []
    for name in imports(source):
        parts = name.split(".")
        if parts[0] != "maskgit_jax" or len(parts) < 2 or parts[1] not in rows():
            continue
        same_row = rows()[parts[1]] == rows()[own] and rows()[own] > 0
        if parts[1] != own and (rows()[parts[1]] > rows()[own] or same_row):
            wrong.append(f"{path.relative_to(ROOT)}: {name}")
    return wrong


def test_every_file_stands_in_the_table_and_imports_only_from_lower_rows():
    files = [path for path in FILES if path.parent.name + path.name != "maskgit_jax__init__.py"]
    unknown = [str(path) for path in files if package_of(path) not in rows()]
    assert not unknown, "these files are not in the table of ARCHITECTURE.md"
    upward = [name for path in files for name in upward_imports(path, path.read_text())]
    assert not upward


def test_the_check_finds_an_import_from_above_and_from_the_same_row():
    path = ROOT / "maskgit_jax/losses/example.py"
    assert upward_imports(path, "from maskgit_jax.training import loop")
    assert upward_imports(path, "from maskgit_jax import networks")
    assert not upward_imports(path, "from maskgit_jax.losses import elbo")
    assert rows()["model"] == 9 and rows()["files"] == 0 and len(rows()) > 25


DECLARATIONS = ("configuration", "settings", "decoding.settings", "networks.layer_options")


def test_configs_import_only_the_declarations():
    allowed = tuple(f"maskgit_jax.{name}" for name in DECLARATIONS)
    wrong = [
        f"{path.name}: {name}"
        for path in (ROOT / "configs").glob("*.py")
        for name in imports(path.read_text())
        if name.startswith("maskgit_jax") and not name.startswith(allowed)
    ]
    assert not wrong


def test_files_are_short_and_hide_no_standard_module():
    long = [str(path) for path in FILES if len(path.read_text().splitlines()) > 400]
    stems = [path.stem for path in FILES if path.stem != "__init__"]
    assert not long and not set(stems) & sys.stdlib_module_names


def test_commands_are_thin():
    packages = ("lineage", "demo")
    commands = [name for name, row in rows().items() if row == 10 and name not in packages]
    files = [ROOT / f"maskgit_jax/{name}.py" for name in commands]
    files += [ROOT / f"maskgit_jax/{name}/__main__.py" for name in packages]
    long = [path.name for path in files if len(path.read_text().splitlines()) >= 100]
    assert len(commands) >= 7 and not long


def test_no_old_word_is_left_in_code_or_documentation():
    command = ["git", "grep", "-n", "-i", "-w", "-E", OLD_WORDS, "--"]
    excluded = [":!CHANGELOG.md", ":!LICENSE", ":!tests/test_architecture.py", ":!*.png"]
    found = subprocess.run([*command, *excluded], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "", "these words are not the field's; see CONTRIBUTING.md"
