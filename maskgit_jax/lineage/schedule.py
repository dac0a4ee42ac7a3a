"""What is trained, where, and for how many steps: as many as fit the budget on this machine."""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from maskgit_jax.configuration import (
    InputError,
    apply_changes,
    load_config,
    require,
    resolve_start_steps,
)
from maskgit_jax.data.tokens import is_complete, read_description, write_description
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.files import write_text
from maskgit_jax.lineage.systems import TRAININGS, Training
from maskgit_jax.performance.step_record import TimingOptions
from maskgit_jax.performance.step_speed import measure_train
from maskgit_jax.training.variables import saved_steps

_TIMING_SECONDS = 6.0
# Priors learn the tokens of center crops, and metrics compare with these: all stages train on them.
_TRAINING_IMAGES = {"data.crop": "center", "data.augmentations": ""}
_PRESETS = {"digits": "digits", "idx": "fashion_mnist", "folder": "folder"}


@dataclass(frozen=True)
class Schedule:
    """The options of a lineage, its folders, and the length of its trainings.

    Attributes:
        workdir: Folder of the lineage.
        data: Images, as in `config.data.source`.
        preset: Preset of all configurations.
        minutes: Budget: minutes of training for each system.
        num_steps: Steps of each training instead of the budget; 0 to follow the budget.
        changes: Stage -> keys of its configuration that differ from the preset.
        reused: Training -> run directory of a finished run that replaces it.
        configs: Folder of the configurations.
        num: Number of samples of each system; None for that of the training images.
        guidance: Guidance scale of MaskGIT.
        features: Name of the feature network.
        lpips: Weights of LPIPS, see `evaluation_options`.
        num_novelty: Maximum number of images whose nearest training image is searched.
    """

    workdir: Path
    data: str
    preset: str
    minutes: float
    num_steps: int = 0
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reused: Mapping[str, str] = field(default_factory=dict)
    configs: str = "configs"
    num: int | None = None
    guidance: float = 0.0
    features: Sequence[str] = ("classifier",)
    lpips: str = ""
    num_novelty: int = EvaluationOptions.num_novelty

    @property
    def evaluations(self) -> Path:
        """The folder of the evaluations; those with other options are in other folders."""
        options = [self.num, self.guidance, list(self.features), self.lpips, self.num_novelty]
        digest = hashlib.sha256(json.dumps(options).encode()).hexdigest()
        return self.workdir / f"evaluations-{digest[:8]}"

    def run(self, name: str) -> Path:
        """Returns the run directory of a training."""
        return Path(self.reused.get(name, self.workdir / name))

    def tokens(self, tokenizer: str) -> Path:
        """Returns the folder of the tokens of a tokenizer."""
        return self.workdir / "tokens" / tokenizer

    def preset_name(self, training: Training) -> str:
        """Returns the name of a training's preset, FILE:PRESET."""
        return f"{self.configs}/{training.stage}.py:{self.preset}"

    def configuration(self, training: Training) -> ConfigDict:
        """Returns the configuration of a training, with the length of its preset.

        Raises:
            InputError: The preset or a changed key does not exist.
        """
        try:
            return load_config(self.preset_name(training), **self._changed_keys(training))
        except InputError as error:
            raise InputError(
                f"'{training.name}' cannot be trained: {error}; or choose others with --systems"
            ) from error

    def _changed_keys(self, training: Training) -> dict[str, Any]:
        changes = self.changes.get(training.stage, {})
        return {"data.source": self.data, **_TRAINING_IMAGES, **training.changes, **changes}

    def scaled_changes(self, training: Training, num_steps: int) -> dict[str, Any]:
        """Returns the changed keys of a training of `num_steps` steps, scaled from its preset."""
        config = self.configuration(training)
        resolve_start_steps(config)
        changes: dict[str, Any] = {
            "training.num_steps": num_steps,
            "training.eval_every": num_steps,
            "training.keep_best": False,
        }
        for name, optimizer in config.optimizers.items():
            start = round(optimizer.start_step * num_steps / config.training.num_steps)
            changes[f"optimizers.{name}.start_step"] = start
            changes[f"optimizers.{name}.warmup_steps"] = min(
                optimizer.warmup_steps, num_steps // 10
            )
        if training.tokenizer:
            changes["tokenizer"] = str(self.run(training.tokenizer))
            changes["data.source"] = f"tokens:{self.tokens(training.tokenizer)}"
        return {**self._changed_keys(training), **changes}

    def training_configuration(self, training: Training, num_steps: int = 0) -> ConfigDict:
        """Returns the configuration of a training of its scheduled length, or of `num_steps`."""
        changes = self.scaled_changes(training, num_steps or self.length(training.name))
        return apply_changes(self.configuration(training).unlock(), changes)

    @property
    def _steps_file(self) -> Path:
        return self.workdir / "steps.json"

    def steps(self) -> dict[str, dict[str, float]]:
        """Returns training -> `num_steps` and `seconds` per step, of the measured trainings."""
        return json.loads(self._steps_file.read_text()) if self._steps_file.exists() else {}

    def has_length(self, name: str) -> bool:
        """Returns whether the length of a training is known."""
        return bool(self.num_steps) or name in self.reused or name in self.steps()

    def length(self, name: str) -> int:
        """Returns the number of steps of a training whose length is known."""
        return self.num_steps or int(self.steps()[name]["num_steps"])

    def set_length(self, name: str, seconds: float) -> int:
        """Stores and returns how many steps of `seconds` seconds fit a training's budget."""
        num_steps = max(2, round(60.0 * self.minutes * TRAININGS[name].share / seconds))
        steps = self.steps() | {name: {"num_steps": num_steps, "seconds": seconds}}
        write_text(self._steps_file, json.dumps(steps, indent=2) + "\n")
        return num_steps

    def is_finished(self, name: str) -> bool:
        """Returns whether a training has reached its last step."""
        if name in self.reused:
            return bool(saved_steps(self.run(name)))
        return self.has_length(name) and self.length(name) in saved_steps(self.run(name))

    def identity(self, name: str) -> str:
        """Returns eight hex digits of a finished training; they differ if it is trained again."""
        run = self.run(name)
        files = [(run / file).read_text() for file in ("config.json", "metrics.jsonl")]
        text = "".join([str(saved_steps(run)[-1]), *files])
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def is_encoded(self, tokenizer: str) -> bool:
        """Returns whether the tokens of a tokenizer are written.

        Raises:
            InputError: They are those of another checkpoint.
        """
        folder = self.tokens(tokenizer)
        if not is_complete(folder):
            return False
        written_by = read_description(str(folder)).get("training")
        if written_by is None:  # Interrupted before it was noted.
            return False
        require(
            written_by == self.identity(tokenizer),
            f"{folder} was written by another training of {self.run(tokenizer)} than the present "
            "one; delete these tokens and the trainings on them, or choose another --workdir",
        )
        return True

    def note_encoded(self, tokenizer: str) -> None:
        """Notes in a token dataset which training of the tokenizer wrote it."""
        folder = self.tokens(tokenizer)
        description = read_description(str(folder)) | {"training": self.identity(tokenizer)}
        write_description(folder, description)


def default_preset(data: str) -> str:
    """Returns the preset for a kind of data.

    Raises:
        InputError: There is none.
    """
    kind = data.partition(":")[0]
    require(
        kind in _PRESETS,
        f"--data={data} has no default preset; give digits, idx:DIR or folder:DIR, or a --preset",
    )
    return _PRESETS[kind]


def parse_changes(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns stage -> key -> value of words such as `vqgan.model.filters=32`.

    Raises:
        InputError: A word has another form, or its stage is not part of the lineage.
    """
    stages = {training.stage for training in TRAININGS.values()}
    changes: dict[str, dict[str, Any]] = {}
    for word in words:
        key, _, text = word.partition("=")
        stage, _, key = key.partition(".")
        require(
            "=" in word and bool(key) and stage in stages,
            f"--set={word} is not of the form STAGE.KEY=VALUE, such as vqgan.model.filters=32, "
            f"with a stage of: {', '.join(sorted(stages))}",
        )
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        changes.setdefault(stage, {})[key] = value
    return changes


def parse_reused_runs(words: Iterable[str]) -> dict[str, str]:
    """Returns training -> run directory of words such as `vqgan=runs/mine`.

    Raises:
        InputError: A word has another form, or there is no such training or run.
    """
    reused = {}
    for word in words:
        name, _, path = word.partition("=")
        require(
            name in TRAININGS and bool(path),
            f"--reuse_run={word} is not of the form TRAINING=RUN, with a training of: "
            f"{', '.join(TRAININGS)}",
        )
        require((Path(path) / "config.json").exists(), f"--reuse_run={word}: {path} holds no run")
        reused[name] = path
    return reused


def measure_length(schedule: Schedule, training: Training) -> None:
    """Times a few seconds of a training, and stores how many steps fit its budget.

    Raises:
        InputError: The configuration cannot be trained.
    """
    num_steps = schedule.configuration(training).training.num_steps
    config = schedule.training_configuration(training, num_steps)
    options = TimingOptions(3, _TIMING_SECONDS, lambda text: None)
    speed = measure_train(config, schedule.configs, options, synthetic=False)
    seconds = speed["step_seconds"]["total"]
    num_steps = schedule.set_length(training.name, seconds)
    length = f"{num_steps} steps in {num_steps * seconds / 60:.1f} minutes"
    print(f"  {training.name}: {seconds:.3f} s per step, {length}", flush=True)


def training_minutes(run: Path) -> float:
    """Returns the minutes that the training of a run took, from its metrics.

    Raises:
        InputError: They are missing or damaged.
    """
    path, seconds, last = run / "metrics.jsonl", 0.0, 0
    require(path.exists(), f"{path} is missing, so the training time of {run} is unknown")
    for line in path.read_text().splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is damaged: {error}") from error
        if values["split"] == "train":
            seconds += (values["step"] - last) / values["steps_per_second"]
            last = values["step"]
    return seconds / 60
