"""Lists the commands: `python -m maskgit_jax`."""

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent


def commands() -> dict[str, str]:
    """Returns command -> what it does and an example: the first line of each command's file."""
    found = {}
    for path in (*sorted(PACKAGE.glob("[a-z]*.py")), *sorted(PACKAGE.glob("*/__main__.py"))):
        line = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        name = path.stem if path.parent == PACKAGE else path.parent.name
        if f"`python -m maskgit_jax.{name} " in line:
            found[name] = line.replace("`", "").rstrip(".")
    return found


def main(words: list[str]) -> int:
    """Prints the commands; returns 2 if one was given, because it is written with a dot."""
    known = commands()
    if words:
        name = words[0] if words[0] in known else "COMMAND"
        print(f"error: write python -m maskgit_jax.{name} with a dot, and its flags after it; the "
              f"commands are {', '.join(known)}", file=sys.stderr)  # fmt: skip
        return 2
    print("\n".join([*known.values(), "--help after a command lists its flags."]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
