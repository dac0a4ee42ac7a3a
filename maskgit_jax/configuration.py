"""Base configuration of all stages, presets, and validation before anything is compiled."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

IMAGENET_DATA = {
    "data.source": "tfds:imagenet2012",
    "data.image_size": 256,
    "data.crop": "resized",
    "data.flip": True,
    "data.num_threads": 16,
    "data.prefetch": 512,
}
FOLDER_DATA = {
    "data.source": "folder:images",
    "data.image_size": 64,
    "data.crop": "random",
    "data.flip": True,
}
"""Changes that the presets of this kind of data begin with, whatever the stage."""
CONDITIONS = ("edges", "low_resolution", "grey_levels", "paired")
"""Pictures that can go with an image: derived from it, or (the last) its partner in `pairs:DIR`."""
_GREY_CONDITIONS = ("edges", "grey_levels")


MESH_LAYOUTS = {
    "data": {"data": -1, "fsdp": 1, "tensor": 1},
    "fsdp": {"data": 1, "fsdp": -1, "tensor": 1},
    "fsdp_tensor": {"data": 1, "fsdp": -1, "tensor": 2},
}
"""Sizes of the mesh's axes; -1 is all devices that are left."""


class InputError(ValueError):
    """Something the user gave cannot work; the message says what and how to mend it.

    Commands print it as one line instead of a traceback.
    """


def optimizer(**changes: Any) -> ConfigDict:
    """Returns the settings of one player's optimiser, with `changes` applied.

    Rates are per step, durations in steps. `learning_rate` rises linearly over `warmup_steps`,
    then stays ("constant") or falls along half a cosine to 0 at the end ("cosine").
    `weight_decay` acts on kernels only; `clip_norm` = 0 leaves gradients unclipped;
    `start_step` is when the player begins to learn; `ema_rate` = 0 keeps no running average.
    """
    config = ConfigDict(
        dict(
            optimizer="adam",
            learning_rate=1e-4,
            warmup_steps=0,
            schedule="constant",
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            clip_norm=0.0,
            start_step=0,
            ema_rate=0.0,
        )
    )
    return _changed(config, changes)


def parallel_sampling() -> ConfigDict:
    """Returns how tokens are decoded in parallel, see `decoding.parallel.DecodeSettings`."""
    return ConfigDict(
        dict(
            steps=8,
            choice_temperature=4.5,
            temperature=1.0,
            last_temperature=0.0,  # 0: as temperature
            guidance=0.0,
            guidance_schedule="constant",  # constant | linear | cosine | interval
            guidance_interval=(0.0, 1.0),
            # linear | cosine | square | cubic | sqrt | pow<x> | exponential | logarithmic | arccos
            schedule="cosine",
            # confidence | random | halton | token_critic | self_critic | remask | corrector
            decoder="confidence",
            remask_fraction=0.2,  # share of accepted tokens that a revising decoder looks at
            remask_schedule="rescale",  # cap | rescale | confidence | loop
            top_k=0,
            top_p=1.0,
        )
    )


def base_config(stage: str = "", preset: str = "") -> ConfigDict:
    """Returns what every stage's configuration has: data, training, mesh.

    Sizes are global (a batch is the batch of all devices together), durations are steps.
    """
    return ConfigDict(
        dict(
            stage=stage,
            preset=preset,
            seed=0,
            dtype="float32",
            data=dict(
                # digits | idx:DIR | folder:DIR | pairs:DIR | tfds:NAME | tokens:DIR
                source="digits",
                input="image",  # image | one of CONDITIONS: what a tokenizer of conditions learns
                condition="",  # "" | one of CONDITIONS: what a record carries beside its image
                # 0: as the kind has it; 1 for edges and grey_levels, the image's for
                # low_resolution and paired
                condition_channels=0,
                image_size=16,
                channels=1,
                num_classes=0,  # 0: read from the data
                class_names=(),
                crop="center",  # training: center | random | resized (random area and place)
                flip=False,
                eval_fraction=0.1,  # of sources without a split of their own
                num_threads=2,
                prefetch=64,
            ),
            training=dict(
                num_steps=1000,
                batch_size=64,
                accumulate_steps=1,
                log_every=20,
                eval_every=500,
                preview_every=500,
                checkpoint_every=500,
                keep_last=2,
                keep_best=True,
                best_metric="",  # smaller is better
            ),
            # layout: data | fsdp | fsdp_tensor. Of an axis: 0 as the layout has it, -1 all
            # devices that are left.
            mesh=dict(layout="data", data=0, fsdp=0, tensor=0),
        )
    )


def choose_preset(name: str, presets: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping]:
    """Returns (name, changes) of the preset; an empty name means the first one.

    Raises:
        InputError: There is no such preset.
    """
    name = name or next(iter(presets))
    if name not in presets:
        raise InputError(f"no preset '{name}'; the presets are: {', '.join(presets)}")
    return name, presets[name]


def apply_changes(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Sets dotted keys (`"model.width": 64`) in place, then locks and returns the config."""
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        if leaf not in node:
            raise KeyError(key)
        node[leaf] = value
    return config.lock()


def default_workdir(stage: str, preset: str) -> str:
    """Returns the run directory that a command uses when none is given."""
    return f"runs/{stage}-{preset}"


def require(condition: bool, message: str) -> None:
    """Raises `InputError(message)` unless the condition holds."""
    if not condition:
        raise InputError(message)


def require_one_of(config: ConfigDict, key: str, allowed: tuple[str, ...]) -> None:
    """Raises `InputError` unless the value under the dotted `key` is one of `allowed`."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    require(value in allowed, f"config.{key} is '{value}'; allowed: {', '.join(allowed)}")


def condition_channels(data: ConfigDict) -> int:
    """Returns the number of channels of the condition that a record carries; 0 without one.

    Args:
        data: `config.data`.

    Raises:
        InputError: `condition_channels` is a number that this kind of condition cannot have.
    """
    kind, asked = data.condition, data.condition_channels
    if not kind:
        return 0
    own = 1 if kind in _GREY_CONDITIONS else data.channels
    require(
        asked in (0, own) or kind == "paired",
        f"config.data.condition_channels is {asked}, but {kind} of these images have {own}; set "
        "it to 0",
    )
    return asked or own


def validate_conditions(data: ConfigDict) -> None:
    """Checks that the view and the condition can be had from the source.

    Args:
        data: `config.data`.

    Raises:
        InputError: They cannot; the message says what to do.
    """
    view, condition, source = data.input, data.condition, data.source
    require(
        data.condition_channels in (0, 1, 3), "config.data.condition_channels must be 0, 1 or 3"
    )
    if view == "image" and not condition:
        return
    require(
        view == "image" or not condition,
        f"config.data.input is '{view}' and config.data.condition is '{condition}'; set the view "
        "to train a tokenizer of conditions, the condition to train on images with conditions, "
        "not both",
    )
    asked = f"config.data.condition={condition}" if condition else f"config.data.input={view}"
    require(
        not source.startswith("tokens:"),
        f"{asked} needs pictures, but {source} holds tokens only; set config.data.source to the "
        "images that they were made of",
    )
    require(
        "paired" not in (view, condition) or source.startswith("pairs:"),
        f"{asked} needs a picture beside each image, which {source} lacks; set "
        "config.data.source=pairs:DIR, where DIR/image and DIR/condition hold them",
    )
    require(
        view not in _GREY_CONDITIONS or data.channels == 1,
        f"{asked} gives grey pictures; set config.data.channels=1",
    )
    condition_channels(data)


def validate(config: ConfigDict) -> None:
    """Checks what does not depend on the stage.

    Raises:
        InputError: A value is outside of its range; the message names the key.
    """
    require_one_of(config, "dtype", ("float32", "bfloat16"))
    require_one_of(config, "mesh.layout", tuple(MESH_LAYOUTS))
    require_one_of(config, "data.crop", ("center", "random", "resized"))
    for key in ("num_steps", "batch_size", "accumulate_steps", "log_every", "eval_every",
                "preview_every", "checkpoint_every", "keep_last"):  # fmt: skip
        value = config.training[key]
        require(value >= 1, f"config.training.{key} is {value}; it must be at least 1")
    require(
        config.training.batch_size % config.training.accumulate_steps == 0,
        f"config.training.batch_size {config.training.batch_size} is not a multiple of "
        f"config.training.accumulate_steps {config.training.accumulate_steps}",
    )
    require(config.data.channels in (1, 3), "config.data.channels must be 1 or 3")
    require(0 < config.data.eval_fraction < 1, "config.data.eval_fraction must be in (0, 1)")
    require_one_of(config, "data.input", ("image", *CONDITIONS))
    require(
        config.data.condition in ("", *CONDITIONS),
        f"config.data.condition is '{config.data.condition}'; allowed: {', '.join(CONDITIONS)}, "
        "or '' for none",
    )
    validate_conditions(config.data)
    for name, settings in config.optimizers.items():
        require_one_of(config, f"optimizers.{name}.optimizer", ("adam", "adamw"))
        require_one_of(config, f"optimizers.{name}.schedule", ("constant", "cosine"))
        require(
            0 <= settings.ema_rate < 1,
            f"config.optimizers.{name}.ema_rate is {settings.ema_rate}; it must be in [0, 1)",
        )
        require(
            settings.learning_rate > 0, f"config.optimizers.{name}.learning_rate must be positive"
        )


def _changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    for key, value in changes.items():
        if key not in config:
            raise KeyError(key)
        config[key] = value
    return config


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: Collection[str] = (),
    in_config: bool = True,
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
    """
    limits = {"minimum": minimum, "maximum": maximum, "above": above, "choices": choices}
    metadata = {"help": help, "in_config": in_config, **limits}
    return dataclasses.field(default=default, metadata=metadata)


def settings_dict(cls: type) -> dict[str, Any]:
    """Returns the defaults of a settings class that a configuration holds, {name: default}."""
    fields = dataclasses.fields(cls)
    return {field.name: field.default for field in fields if field.metadata["in_config"]}


def check_settings(settings: Any) -> None:
    """Raises `InputError` for a value out of the range that its `setting` declares."""
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
        require(allowed, f"{field.name} is {value!r}; it must be {setting_range(field)}")


def setting_range(field: dataclasses.Field) -> str:
    """Returns the values that a setting may have in words; "" for any."""
    limits = field.metadata
    if limits["choices"]:
        return f"one of {', '.join(limits['choices'])}"
    names = {"above": "above", "minimum": "at least", "maximum": "at most"}
    return " and ".join(
        f"{word} {limits[name]:g}" for name, word in names.items() if limits[name] is not None
    )


def settings_table(cls: type) -> str:
    """Returns a Markdown table of a settings class: name, default, allowed values, meaning."""
    lines = ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        default = f"`{field.default}`" if field.default not in (None, "") else ""
        help = field.metadata["help"]
        lines.append(f"| `{field.name}` | {default} | {setting_range(field)} | {help} |")
    return "\n".join(lines) + "\n"
