"""Keys of configurations: what is wrong with a misspelt one, and a listing with comments."""

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from ml_collections import ConfigDict


def unknown_key(config: ConfigDict, key: str) -> str:
    """Returns what is wrong with a dotted key, "" if the configuration has it.

    The text names the key, the nearest one, and the keys of its group.
    """
    path, group = "config", config
    for part in key.split("."):
        if not isinstance(group, ConfigDict):
            return f"there is no key 'config.{key}': {path} is a value, not a group of keys"
        if part not in group:
            nearest = nearest_key(config, key)
            hint = f"the nearest one is config.{nearest}; " if nearest else ""
            return f"there is no key 'config.{key}'; {hint}{path} has {', '.join(group)}"
        path, group = f"{path}.{part}", group[part]
    return ""


def nearest_key(config: ConfigDict, key: str) -> str:
    """Returns the key that resembles a misspelt one most, "" if none does."""

    def similarity(known: str) -> tuple[float, float]:
        ends = key.rpartition(".")[2], known.rpartition(".")[2]
        last, whole = (SequenceMatcher(None, *pair).ratio() for pair in (ends, (key, known)))
        return last + whole / 2, last

    best = max(flat_keys(config), key=similarity)
    return best if similarity(best)[1] > 0.7 else ""


def flat_keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Yields the dotted keys of all values; an empty group counts as a value."""
    for key, value in config.items():
        if isinstance(value, ConfigDict) and value:
            yield from flat_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def flat_values(config: ConfigDict) -> dict[str, Any]:
    """Returns dotted key -> value of a configuration."""
    return {key: key_value(config, key) for key in flat_keys(config)}


def key_value(config: ConfigDict, key: str) -> Any:
    """Returns the value of a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def format_config(config: ConfigDict, comments: Mapping[str, str]) -> str:
    """Returns a line `config.KEY = VALUE  # comment` for each key, those without a group first.

    Args:
        config: The configuration.
        comments: Dotted key -> comment; `optimizers.KEY` stands for all networks.
    """
    lines, group = [], ""
    for key in sorted(flat_keys(config), key=lambda key: "." in key):
        if group != (group := key.rpartition(".")[0]):
            lines += ["", *(f"# {comments[name]}" for name in (group,) if name in comments)]
        general = f"optimizers.{key.rpartition('.')[2]}" if key.startswith("optimizers.") else key
        line, comment = f"config.{key} = {key_value(config, key)!r}", comments.get(general)
        lines.append(f"{line:<48}  # {comment}" if comment else line)
    return "\n".join(lines)


def source_comments(source: str) -> dict[str, str]:
    """Returns dotted key -> comment of the keys that Python source declares.

    Keys are the keywords of `dict(...)` calls that are returned or assigned to `config.GROUP`, and
    assignments to `config.KEY`. A comment stands on the line of its key or before it.
    """
    trailing, before = _comments(source)
    found: dict[str, str] = {}

    def add(key: str, line: int) -> None:
        comment = trailing.get(line) or before.get(line)
        if comment:
            found.setdefault(key, comment)

    def visit(prefix: str, value: ast.expr, line: int = 0) -> None:
        if isinstance(value, ast.Call) and ast.unparse(value.func) in ("dict", "ConfigDict"):
            for argument in value.args:
                visit(prefix, argument, line)
            for keyword in value.keywords:
                if keyword.lineno > line:  # a comment on one line with its group is the group's
                    add(f"{prefix}{keyword.arg}", keyword.lineno)
                visit(f"{prefix}{keyword.arg}.", keyword.value, keyword.lineno)

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Return) and node.value is not None:
            visit("", node.value)
        elif isinstance(node, ast.Assign):
            owner, _, key = ast.unparse(node.targets[0]).partition(".")
            if owner == "config":
                add(key, node.lineno)
                visit(f"{key}." if key else "", node.value, node.lineno if key else 0)
    return found


def _comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """Returns line -> its comment, and line -> the comments of the lines just before it."""
    trailing, before, pending = {}, {}, []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            if token.line.lstrip().startswith("#"):
                pending.append(text)
            elif not text.startswith(("fmt:", "pyright:", "noqa")):
                trailing[line] = text
        elif token.string.strip() and pending:
            before[line], pending = " ".join(pending), []
    return trailing, before
