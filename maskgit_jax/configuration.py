"""Configurations: the base of all stages, presets, settings, and checks before compilation."""

import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from maskgit_jax.config_keys import key_value, unknown_key

CONDITIONS = ("edges", "low_resolution", "grey_levels", "paired")
"""Conditioning images: derived from the image, or (paired) its partner in `pairs:DIR`."""
_GREY_CONDITIONS = ("edges", "grey_levels")
MESH_LAYOUTS = {
    "data": {"data": -1, "fsdp": 1, "tensor": 1},
    "fsdp": {"data": 1, "fsdp": -1, "tensor": 1},
    "fsdp_tensor": {"data": 1, "fsdp": -1, "tensor": 2},
}
"""Sizes of the mesh axes; -1: all remaining devices."""


class InputError(ValueError):
    """An error that the user can fix; the message says what is wrong, then what to do.

    Commands print it as one line instead of a traceback.
    """


def base_config(stage: str = "", preset: str = "") -> ConfigDict:
    """Returns the keys that the configurations of all stages share: data, training, mesh.

    Sizes are global (a batch is divided among all devices), durations are steps.
    """
    return ConfigDict(
        dict(
            stage=stage,
            preset=preset,
            seed=0,
            dtype="float32",  # float32 | bfloat16
            init_from="",  # RUN or RUN@STEP whose parameters the training starts from
            data=dict(
                # digits | idx:DIR | folder:DIR | pairs:DIR | tfds:NAME | tokens:DIR
                source="digits",
                input="image",  # image | one of CONDITIONS: input of a tokenizer of conditions
                condition="",  # "" | one of CONDITIONS: conditioning image of each example
                condition_channels=0,  # 0: 1 of edges and grey_levels, otherwise the image's
                image_size=16,  # pixels; images are cropped to squares
                channels=1,  # 1: grey | 3: RGB
                num_classes=0,  # 0: read from the data
                class_names=(),  # read from the data
                crop="center",  # training crops: center | random | resized (random area, position)
                augmentations="",  # of training: names in data/augmentation.py, joined by commas
                eval_fraction=0.1,  # held out, if the source has no split for evaluation
                num_threads=2,  # that decode images
                prefetch=64,  # images that are read ahead
            ),
            training=dict(
                num_steps=1000,
                batch_size=64,  # of all devices together
                accumulate_steps=1,  # parts of a batch that are computed one after another
                log_every=0,  # 0: a twentieth of num_steps, 1 to 100 steps, see resolve_cadences
                eval_every=0,  # 0: a quarter of num_steps, 500 to 2,000 steps
                preview_every=0,  # 0: eval_every
                checkpoint_every=0,  # 0: a quarter of num_steps, 100 to 1,000 steps
                keep_last=2,  # number of newest checkpoints that are kept
                keep_best=True,  # keeps the checkpoint with the smallest best_metric, too
                best_metric="",  # of the evaluation during training; lower is better
            ),
            # layout: data | fsdp | fsdp_tensor. An axis: 0: by layout; -1: all remaining devices.
            mesh=dict(layout="data", data=0, fsdp=0, tensor=0),
            optimizers=dict(),
        )
    )


def optimizer(**changes: Any) -> ConfigDict:
    """Returns the optimizer settings of one network, with `changes` applied.

    Rates are per step, durations are steps. `learning_rate` rises linearly over `warmup_steps`,
    then stays constant, falls to 0 along a half cosine, or stays and falls linearly to 0 over the
    last `decay_fraction` of the steps ("wsd": warm-up, stable, decay; `schedule`).
    `weight_decay` applies to kernels only. `clip_norm` = 0: no clipping. The network is frozen
    until `start_step`, see `resolve_start_steps`. `ema_rate` = 0: no moving average of parameters.
    """
    config = ConfigDict(
        dict(
            optimizer="adam",  # adam | adamw | muon: of kernels, AdamW of everything else
            learning_rate=1e-4,
            muon_learning_rate=0.02,  # of kernels with optimizer=muon
            warmup_steps=0,
            schedule="constant",  # constant | cosine | wsd; the last two end at 0
            decay_fraction=0.2,  # of the steps in which the rate of schedule=wsd falls
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,  # of kernels
            clip_norm=0.0,  # of the gradient; 0: no clipping
            start_step=0,  # the network is frozen before it; 0: start_fraction of num_steps
            start_fraction=0.0,
            ema_rate=0.0,  # of the average of the parameters; 0: none
        )
    )
    return apply_changes(config, changes).unlock()


def choose_preset(name: str, presets: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping]:
    """Returns (name, changes) of a preset; an empty name selects the first one.

    Raises:
        InputError: The preset does not exist.
    """
    name = name or next(iter(presets))
    if name not in presets:
        raise InputError(f"no preset '{name}'; the presets are: {', '.join(presets)}")
    return name, presets[name]


def apply_changes(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Sets dotted keys (`"model.width": 64`) in place, then locks and returns the config.

    Raises:
        InputError: The configuration lacks a key, or a value has the wrong type.
    """
    for key, value in changes.items():
        wrong = unknown_key(config, key)
        require(not wrong, wrong)
        group, _, leaf = key.rpartition(".")
        try:
            (key_value(config, group) if group else config)[leaf] = value
        except TypeError as error:
            kind = type(key_value(config, key)).__name__
            raise InputError(f"config.{key} is {value!r}; it must be of type {kind}") from error
    return config.lock()


def load_config(name: str, **changes: Any) -> ConfigDict:
    """Returns the configuration of a preset, such as `load_config("vqgan:digits")`.

    Args:
        name: STAGE or FILE, then optionally :PRESET: "vqgan", "vqgan:digits" or
            "configs/vqgan.py:digits". The installed package `configs` provides the stages.
        **changes: Values of dotted keys, `**{"training.num_steps": 100}`.

    Raises:
        InputError: The configuration, the preset or a key does not exist, or a value has the
            wrong type.
    """
    path, _, preset = name.partition(":")
    file = config_file(path)
    require(file.suffix == ".py", f"{path} is not a Python file; give one, such as vqgan.py")
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(preset)
    try:
        return apply_changes(config, changes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def config_file(path: str) -> Path:
    """Returns the file of a configuration: `path`, or else that of a stage in package `configs`.

    Args:
        path: A file, "configs/STAGE.py" or "STAGE".

    Raises:
        InputError: Neither exists.
    """
    file, package = Path(path), importlib.util.find_spec("configs")
    if file.is_file() or package is None or not package.origin:
        require(file.is_file(), f"no configuration '{path}'; give a file")
        return file
    stages = {found.stem: found for found in sorted(Path(package.origin).parent.glob("*.py"))}
    names = [name for name in stages if name not in ("__init__", "common")]
    require(
        file.stem in names and path in (file.stem, f"configs/{file.stem}.py"),
        f"no configuration '{path}'; give a file or one of {', '.join(names)}",
    )
    return stages[file.stem]


def default_workdir(stage: str, preset: str) -> str:
    """Returns the run directory that commands use by default."""
    return f"runs/{stage}-{preset}"


def resolve_cadences(config: ConfigDict) -> None:
    """Replaces the cadences that are 0 by steps derived from `training.num_steps`, in place.

    - `log_every`: a twentieth of the run, 1 to 100 steps.
    - `checkpoint_every`: a quarter of the run, 100 to 1,000 steps.
    - `eval_every`: a quarter of the run, 500 to 2,000 steps, as a multiple of `checkpoint_every`,
      because only checkpoints of evaluated steps can be the best one.
    - `preview_every`: `eval_every`.
    """
    training = config.training
    quarter = max(100, training.num_steps // 4)
    checkpoint = training.checkpoint_every or min(1_000, quarter)
    evaluation = min(2_000, max(500, quarter))
    if checkpoint < evaluation:
        evaluation -= evaluation % checkpoint
    evaluation = training.eval_every or evaluation
    training.log_every = training.log_every or min(100, max(1, training.num_steps // 20))
    training.checkpoint_every, training.eval_every = checkpoint, evaluation
    training.preview_every = training.preview_every or evaluation


def resolve_start_steps(config: ConfigDict, resumed: ConfigDict | None = None) -> None:
    """Replaces each `start_step` that is 0 by `start_fraction` of the run, in place.

    A resumed run keeps the steps at which its networks started, also if it becomes longer.
    """
    before = resumed.optimizers if resumed else {}
    for name, settings in config.optimizers.items():
        share = round(settings.start_fraction * config.training.num_steps)
        started = before[name].start_step if name in before else share
        settings.start_step = settings.start_step or started


def changed_config(config: ConfigDict | str, changes: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of a configuration, or of a preset, with changed keys.

    Args:
        config: A configuration, or a name for `load_config`.
        changes: Dotted key -> value; "__" stands for ".".

    Raises:
        InputError: As `load_config`.
    """
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    if isinstance(config, str):
        return load_config(config, **changes)
    return apply_changes(config.copy_and_resolve_references().unlock(), changes)


def require(condition: bool, message: str) -> None:
    """Raises `InputError(message)` unless the condition holds."""
    if not condition:
        raise InputError(message)


def require_one_of(config: ConfigDict, key: str, allowed: Collection[str]) -> None:
    """Raises `InputError` unless the value of the dotted `key` is one of `allowed`."""
    value, words = key_value(config, key), [word or "'' (none)" for word in allowed]
    require(value in allowed, f"config.{key} is '{value}'; allowed: {', '.join(words)}")


def require_at_least(config: ConfigDict, minimum: float, *keys: str) -> None:
    """Raises `InputError` unless the values of all dotted `keys` are at least `minimum`."""
    for key in keys:
        value = key_value(config, key)
        require(value >= minimum, f"config.{key} is {value}; it must be at least {minimum}")


def check_seed(seed: int, name: str = "seed") -> None:
    """Raises `InputError` for a seed that is not in 0 .. 2**32 - 1: JAX drops higher bits."""
    require(0 <= seed < 2**32, f"{name} is {seed}; it must be between 0 and {2**32 - 1}")


def condition_channels(data: ConfigDict) -> int:
    """Returns the number of channels of the conditioning images; 0 without a condition.

    Args:
        data: `config.data`.

    Raises:
        InputError: `condition_channels` differs from the channels of this kind of condition.
    """
    condition, channels = data.condition, data.condition_channels
    if not condition:
        return 0
    default = 1 if condition in _GREY_CONDITIONS else data.channels
    require(
        channels in (0, default) or condition == "paired",
        f"config.data.condition_channels is {channels}, but {condition} of these images have "
        f"{default}; set it to 0",
    )
    return channels or default


def validate_conditions(data: ConfigDict) -> None:
    """Raises `InputError` unless the source can provide input and condition of `config.data`."""
    input, condition, source = data.input, data.condition, data.source
    require(
        data.condition_channels in (0, 1, 3),
        f"config.data.condition_channels is {data.condition_channels}; it must be 0, 1 or 3",
    )
    if input == "image" and not condition:
        return
    require(
        input == "image" or not condition,
        f"config.data.input is '{input}' and config.data.condition is '{condition}'; set the input "
        "to train a tokenizer of conditions, or the condition to train on images with conditions",
    )
    key = f"config.data.condition={condition}" if condition else f"config.data.input={input}"
    require(
        not source.startswith("tokens:"),
        f"{key} needs images, but {source} holds tokens only; set config.data.source to the "
        "images that were encoded",
    )
    require(
        "paired" not in (input, condition) or source.startswith("pairs:"),
        f"{key} needs pairs of images, which {source} lacks; set config.data.source=pairs:DIR "
        "with the images in DIR/image and DIR/condition",
    )
    require(
        input not in _GREY_CONDITIONS or data.channels == 1,
        f"{key} gives grey images; set config.data.channels=1",
    )
    condition_channels(data)


def validate(config: ConfigDict) -> None:
    """Checks the values that do not depend on the stage.

    Raises:
        InputError: A value is out of range; the message names the key.
    """
    require_one_of(config, "dtype", ("float32", "bfloat16"))
    require_one_of(config, "mesh.layout", MESH_LAYOUTS)
    require_one_of(config, "data.input", ("image", *CONDITIONS))
    require_one_of(config, "data.condition", ("", *CONDITIONS))
    counts = ("num_steps", "batch_size", "accumulate_steps", "keep_last")
    require_at_least(config, 1, *(f"training.{key}" for key in counts))
    cadences = ("log_every", "eval_every", "preview_every", "checkpoint_every")
    require_at_least(config, 0, *(f"training.{key}" for key in cadences))
    check_seed(config.seed, "config.seed")
    data, training = config.data, config.training
    require(
        training.batch_size % training.accumulate_steps == 0,
        f"config.training.batch_size is {training.batch_size}; it must be a multiple of "
        f"config.training.accumulate_steps, {training.accumulate_steps}",
    )
    require(data.channels in (1, 3), f"config.data.channels is {data.channels}; it must be 1 or 3")
    require(
        0 < data.eval_fraction < 1,
        f"config.data.eval_fraction is {data.eval_fraction}; it must be in (0, 1)",
    )
    validate_conditions(data)
    for name, settings in config.optimizers.items():
        key = f"optimizers.{name}"
        require_one_of(config, f"{key}.optimizer", ("adam", "adamw", "muon"))
        require_one_of(config, f"{key}.schedule", ("constant", "cosine", "wsd"))
        ema_rate, learning_rate = settings.ema_rate, settings.learning_rate
        require(0 <= ema_rate < 1, f"config.{key}.ema_rate is {ema_rate}; it must be in [0, 1)")
        require_at_least(config, 0, f"{key}.start_step")
        require(
            0 < settings.decay_fraction <= 1,
            f"config.{key}.decay_fraction is {settings.decay_fraction}; it must be in (0, 1]",
        )
        require(
            learning_rate > 0,
            f"config.{key}.learning_rate is {learning_rate}; it must be positive",
        )
