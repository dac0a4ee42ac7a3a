"""For how many steps each part is trained: as many as fit into its share of the budget here."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maskgit_jax.configuration import InputError, apply_changes, require, validate
from maskgit_jax.data.tokens import is_complete, read_description
from maskgit_jax.files import write_text
from maskgit_jax.lineage.systems import TRAININGS, Chosen, Training
from maskgit_jax.performance.step_record import TimingOptions
from maskgit_jax.performance.step_speed import measure_train
from maskgit_jax.runs.directory import read_config
from maskgit_jax.stage import Stage
from maskgit_jax.stages import stage_module
from maskgit_jax.training.variables import saved_steps

_MEASURING_SECONDS = 6.0
_SEEN = ("image_size", "channels", "input")  # keys of config.data in which all must agree


class Plan(NamedTuple):
    """Where everything is, and how long it is trained.

    Attributes:
        workdir: Of the whole lineage.
        chosen: Data and configurations.
        minutes: Budget of each system.
        num_steps: Of each training instead, 0 to follow the budget.
        reused: Training -> run directory that was made elsewhere.
        num: Images that each system makes, None for as many as there are training images.
        guidance: Of MaskGIT.
        judged_by: What else the figures depend on.
    """

    workdir: Path
    chosen: Chosen
    minutes: float
    num_steps: int
    reused: Mapping[str, str]
    num: int | None = None
    guidance: float = 0.0
    judged_by: str = ""

    @property
    def measured(self) -> Path:
        """The folder of what was measured; figures of other settings lie in others."""
        said = json.dumps([self.num, self.guidance, self.judged_by])
        return self.workdir / f"measured-{hashlib.sha256(said.encode()).hexdigest()[:8]}"

    def run(self, name: str) -> Path:
        """Returns the run directory of a training."""
        return Path(self.reused.get(name, self.workdir / name))

    def tokens(self, name: str) -> Path:
        """Returns the folder of the tokens of a training's tokenizer."""
        return self.workdir / "tokens" / name

    @property
    def _steps_file(self) -> Path:
        return self.workdir / "steps.json"

    def steps(self) -> dict[str, dict[str, float]]:
        """Returns, of what was decided: training -> `num_steps` and `seconds` of one."""
        if not self._steps_file.exists():
            return {}
        return json.loads(self._steps_file.read_text())

    def decided(self, name: str) -> bool:
        """Returns whether the length of a training is known."""
        return bool(self.num_steps) or name in self.reused or name in self.steps()

    def length(self, name: str) -> int:
        """Returns the number of steps of a training whose length is known."""
        return self.num_steps or int(self.steps()[name]["num_steps"])

    def finished(self, name: str) -> bool:
        """Returns whether a training has reached its end."""
        if name in self.reused:
            return bool(saved_steps(self.run(name)))
        return self.decided(name) and self.length(name) in saved_steps(self.run(name))

    def identity(self, name: str) -> str:
        """Returns eight hex digits of a finished training, others when it is trained again."""
        run = self.run(name)
        said = [str(saved_steps(run)[-1])]
        said += [(run / file).read_text() for file in ("config.json", "metrics.jsonl")]
        return hashlib.sha256("".join(said).encode()).hexdigest()[:8]

    def encoded(self, name: str) -> bool:
        """Returns whether the tokens of a tokenizer are there.

        Raises:
            InputError: They are those of another state of it.
        """
        folder = self.tokens(name)
        if not is_complete(folder):
            return False
        step, newest = read_description(str(folder))["step"], saved_steps(self.run(name))[-1]
        require(
            step == newest,
            f"{folder} was written by {self.run(name)} at step {step}, which is at {newest} now; "
            "delete these tokens and the trainings on them, or take another --workdir",
        )
        return True

    def decide(self, name: str, seconds: float) -> int:
        """Writes down and returns how many steps of so many seconds fit the budget."""
        share = TRAININGS[name].share
        num_steps = max(2, round(60.0 * self.minutes * share / seconds))
        found = self.steps() | {name: {"num_steps": num_steps, "seconds": seconds}}
        write_text(self._steps_file, json.dumps(found, indent=2) + "\n")
        return num_steps


def open_plan(plan: Plan) -> None:
    """Makes the folder, or compares with what was planned in it.

    Raises:
        InputError: The folder holds something else, or a run to be reused is of other images.
    """
    said = {
        "data": plan.chosen.data,
        "preset": plan.chosen.preset,
        "changes": plan.chosen.changes,
        "minutes": plan.minutes,
        "num_steps": plan.num_steps,
        "reused": dict(plan.reused),
    }
    said = json.loads(json.dumps(said))
    path = plan.workdir / "plan.json"
    if path.exists():
        before = json.loads(path.read_text())
        for key, value in said.items():
            require(
                before.get(key) == value,
                f"{plan.workdir} holds a lineage with {key} {before.get(key)}, not {value}; change "
                "it back or choose another --workdir",
            )
    for name, place in plan.reused.items():
        _check_reused(plan, TRAININGS[name], place)
    plan.workdir.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(said, indent=2) + "\n")


def _check_reused(plan: Plan, training: Training, place: str) -> None:
    found, wanted = read_config(place), plan.chosen.configuration(training)
    require(
        found.stage == training.stage,
        f"--reuse_run={training.name}={place}: it holds stage '{found.stage}', not '{training.stage}'",
    )
    for key in _SEEN:
        require(
            found.data[key] == wanted.data[key],
            f"--reuse_run={training.name}={place}: it was trained with data.{key} {found.data[key]}, "
            f"not {wanted.data[key]}",
        )
    require(
        not training.tokenizer or training.tokenizer in plan.reused,
        f"--reuse_run={training.name}={place}: name the tokenizer that it was trained on, too: "
        f"--reuse_run={training.tokenizer}=RUN",
    )
    require(
        bool(saved_steps(place)), f"--reuse_run={training.name}={place}: it has no checkpoint yet"
    )
    training_minutes(Path(place))


def check_trainings(plan: Plan, trainings: Iterable[Training]) -> None:
    """Refuses, before anything runs, trainings that would not fit together.

    Raises:
        InputError: A value cannot work, or a prior is not made for its tokenizer.
    """
    stages: dict[str, Stage] = {}
    first = None
    for training in trainings:
        reused = plan.reused.get(training.name)
        config = read_config(reused) if reused else plan.chosen.configuration(training)
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.data.num_classes = config.data.num_classes or 1  # whichever there are
            if training.tokenizer:
                config.tokenizer = str(plan.run(training.tokenizer))
        first = first or config.data
        for key in _SEEN:
            require(
                config.data[key] == first[key],
                f"{training.name} would have data.{key} {config.data[key]}, others {first[key]}; "
                f"figures of both cannot stand side by side: --set all stages alike",
            )
        validate(config)
        module = stage_module(training.stage)
        module.validate(config)
        require(
            training.stage != "maskgit"
            or not plan.guidance
            or config.losses.label_dropout_rate > 0,
            "--guidance needs a MaskGIT that knows no class: "
            "--set=maskgit.losses.label_dropout_rate=0.1",
        )
        inner = {"tokenizer": stages[training.tokenizer]} if training.tokenizer else {}
        stages[training.name] = module.build(config, inner)


def schedule(plan: Plan, training: Training, num_steps: int) -> dict[str, Any]:
    """Returns the changes that make a preset's plan one of so many steps, in its proportions."""
    config = plan.chosen.configuration(training)
    changes: dict[str, Any] = {
        "training.num_steps": num_steps,
        "training.eval_every": num_steps,
        "training.keep_best": False,
    }
    for name, player in config.optimizers.items():
        start = round(player.start_step * num_steps / config.training.num_steps)
        changes[f"optimizers.{name}.start_step"] = start
        changes[f"optimizers.{name}.warmup_steps"] = min(player.warmup_steps, num_steps // 10)
    if training.tokenizer:
        changes["tokenizer"] = str(plan.run(training.tokenizer))
        changes["data.source"] = f"tokens:{plan.tokens(training.tokenizer)}"
    return {**plan.chosen.changed(training), **changes}


def measure_speeds(plan: Plan, names: list[str], tell: Callable[[str], None]) -> None:
    """Decides how long trainings take, one after another, by trying each for a few seconds.

    Raises:
        InputError: A configuration cannot work.
    """
    for name in names:
        training = TRAININGS[name]
        config = plan.chosen.configuration(training)
        changes = schedule(plan, training, config.training.num_steps)
        config = apply_changes(config.unlock(), changes)
        effort = TimingOptions(3, _MEASURING_SECONDS, lambda text: None)
        found = measure_train(config, plan.chosen.configs, effort, synthetic=False)
        seconds = found["step_seconds"]["total"]
        num_steps = plan.decide(name, seconds)
        minutes = num_steps * seconds / 60
        tell(f"{name}: {seconds:.3f} s a step, so {num_steps} steps in {minutes:.1f} minutes")


def training_minutes(run: Path) -> float:
    """Returns the wall time that a run's training took, as its metrics tell.

    Raises:
        InputError: The run has told nothing.
    """
    path, seconds, last = run / "metrics.jsonl", 0.0, 0
    require(path.exists(), f"{path} is missing: nobody knows how long {run} was trained")
    for line in path.read_text().splitlines():
        try:
            said = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is damaged: {error}") from error
        if said["split"] == "train":
            seconds += (said["step"] - last) / said["steps_per_second"]
            last = said["step"]
    return seconds / 60
