"""Settings that are declared once: default, range and help of a flag, a config key and a table.

Settings are fields of frozen dataclasses, made with `setting`.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

from maskgit_jax.configuration import require


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: Collection[str] = (),
    in_config: bool = True,
    candidates: Collection[Any] = (),
) -> Any:
    """Returns a field of a frozen dataclass of settings: its flag, config key, check and docs.

    Args:
        default: Of the field's type; hashable, because settings are static arguments.
        help: A sentence for `--help` and the table in the docs.
        minimum: Smallest allowed value.
        maximum: Largest allowed value.
        above: All values must be larger than this.
        choices: Allowed values; those that it holds when settings are checked.
        in_config: Whether `config.sampling` has the key.
        candidates: Values that a search tries; by default `choices`.
    """
    limits = {"minimum": minimum, "maximum": maximum, "above": above, "choices": choices}
    candidates = candidates or choices
    metadata = {"help": help, "in_config": in_config, "candidates": candidates, **limits}
    return dataclasses.field(default=default, metadata=metadata)


def settings_dict(cls: type) -> dict[str, Any]:
    """Returns the defaults of a settings class that a configuration holds, {name: default}."""
    fields = dataclasses.fields(cls)
    return {field.name: field.default for field in fields if field.metadata["in_config"]}


def check_settings(settings: Any, group: str = "") -> None:
    """Raises `InputError` for a value out of the range that its `setting` declares.

    Args:
        settings: Of a settings class.
        group: Before the names in messages, such as "config.masking.".
    """
    for field in dataclasses.fields(settings):
        value, limits = getattr(settings, field.name), field.metadata
        choices, above = limits["choices"], limits["above"]
        minimum, maximum = limits["minimum"], limits["maximum"]
        allowed = (
            (not choices or value in choices)
            and (minimum is None or value >= minimum)
            and (maximum is None or value <= maximum)
            and (above is None or value > above)
        )
        require(allowed, f"{group}{field.name} is {value!r}; it must be {setting_range(field)}")


def setting_range(field: dataclasses.Field) -> str:
    """Returns the values that a setting may have in words; "" for any."""
    limits = field.metadata
    if limits["choices"]:
        return f"one of {', '.join(limits['choices'])}"
    names = {"above": "above", "minimum": "at least", "maximum": "at most"}
    return " and ".join(
        f"{word} {limits[name]:g}" for name, word in names.items() if limits[name] is not None
    )


def setting_comments(cls: type, group: str) -> dict[str, str]:
    """Returns dotted key -> meaning and allowed values of the settings of a group of keys."""
    return {
        f"{group}.{field.name}": " ".join([field.metadata["help"], setting_range(field)]).strip()
        for field in dataclasses.fields(cls)
    }


def settings_table(cls: type) -> str:
    """Returns a Markdown table of a settings class: name, default, allowed values, meaning."""
    lines = ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        default = f"`{field.default}`" if field.default not in (None, "") else ""
        help = field.metadata["help"]
        lines.append(f"| `{field.name}` | {default} | {setting_range(field)} | {help} |")
    return "\n".join(lines) + "\n"
