"""Systems, their trainings, and the length of these."""

import dataclasses
import json

import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.lineage import schedule as schedule_module
from maskgit_jax.lineage.checks import check_trainings, open_workdir
from maskgit_jax.lineage.commands import train_command, training_commands
from maskgit_jax.lineage.schedule import (
    Schedule,
    default_preset,
    measure_length,
    parse_changes,
    parse_reused_runs,
    training_minutes,
)
from maskgit_jax.lineage.systems import SYSTEMS, TRAININGS, needed_trainings, select_systems


def schedule_in(folder, **changes) -> Schedule:
    return dataclasses.replace(Schedule(folder / "lineage", "digits", "digits", 2.0), **changes)


def test_every_system_has_an_earlier_predecessor_and_the_whole_budget():
    names = list(SYSTEMS)
    assert SYSTEMS[names[0]].predecessor == ""
    for index, system in enumerate(SYSTEMS.values()):
        assert index == 0 or system.predecessor in names[:index]
        assert sum(TRAININGS[name].share for name in system.trainings) == 1.0


def test_tokenizers_are_trained_before_their_priors():
    order = [training.name for training in needed_trainings(SYSTEMS.values())]
    assert len(order) == len(set(order)) == len(TRAININGS)
    for training in TRAININGS.values():
        if training.tokenizer:
            assert order.index(training.tokenizer) < order.index(training.name)


def test_shared_trainings_are_needed_once():
    systems = select_systems(["vqgan_maskgit", "vqgan_gpt"])
    assert [system.name for system in systems] == ["vqgan_gpt", "vqgan_maskgit"]
    assert [each.name for each in needed_trainings(systems)] == ["vqgan", "gpt", "maskgit"]


def test_changes_keep_the_proportions_of_the_preset(tmp_path):
    schedule, training = schedule_in(tmp_path), TRAININGS["vqgan"]
    num_steps = 2 * schedule.configuration(training).training.num_steps
    changes = schedule.scaled_changes(training, num_steps)
    assert changes["optimizers.discriminator.start_step"] == 2 * 200
    assert changes["training.num_steps"] == changes["training.eval_every"] == 800
    short = schedule.training_configuration(training, 10).optimizers
    assert short.autoencoder.warmup_steps == 1 and short.discriminator.start_step == 5


def test_priors_learn_the_tokens_of_their_tokenizer(tmp_path):
    schedule = schedule_in(tmp_path, reused={"vqgan": "elsewhere"}, num_steps=10)
    config = schedule.training_configuration(TRAININGS["maskgit"])
    assert config.tokenizer == "elsewhere" and config.training.num_steps == 10
    assert config.data.source == f"tokens:{schedule.workdir}/tokens/vqgan"


def test_commands_list_all_changed_keys(tmp_path):
    schedule = schedule_in(tmp_path, num_steps=3)
    command = train_command(schedule, TRAININGS["autoencoder"])
    assert command.startswith("python -m maskgit_jax.train --config=configs/vae.py:digits ")
    assert "--config.model.posterior=none" in command
    assert f"--workdir={schedule.workdir}/autoencoder" in command
    modules = [line.split()[2] for line in training_commands(schedule, SYSTEMS.values())]
    assert modules.count("maskgit_jax.train") == 9 and modules.count("maskgit_jax.encode") == 3


def test_trainings_fill_their_share_of_the_budget(tmp_path):
    schedule = schedule_in(tmp_path)
    assert not schedule.has_length("vqgan")
    assert schedule.set_length("vqgan", seconds=0.1) == 600  # half of 2 minutes
    assert schedule.set_length("vae", seconds=0.1) == 1200
    assert schedule.length("vqgan") == 600
    assert schedule.has_length("vqgan") and not schedule.is_finished("vqgan")
    assert schedule.set_length("gpt", seconds=1e9) == 2


def test_measured_trainings_have_the_length_of_their_share(tmp_path, monkeypatch, capsys):
    measured = []

    def measure_train(config, configs, options, synthetic):
        measured.append(config)
        return {"step_seconds": {"total": 0.5}}

    monkeypatch.setattr(schedule_module, "measure_train", measure_train)
    schedule = schedule_in(tmp_path)
    measure_length(schedule, TRAININGS["vqgan"])
    assert measured[0].data.crop == "center" and measured[0].training.num_steps == 400
    assert schedule.steps() == {"vqgan": {"num_steps": 120, "seconds": 0.5}}
    assert "vqgan: 0.500 s per step, 120 steps in 1.0 minutes" in capsys.readouterr().out


def test_training_minutes_are_the_time_of_all_steps(tmp_path):
    lines = [
        {"step": 60, "split": "train", "steps_per_second": 1.0},
        {"step": 60, "split": "eval"},
        {"step": 180, "split": "train", "steps_per_second": 2.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert training_minutes(tmp_path) == pytest.approx(2.0)
    with pytest.raises(InputError, match="is unknown"):
        training_minutes(tmp_path / "other")


def test_a_workdir_holds_one_schedule(tmp_path):
    schedule = schedule_in(tmp_path)
    open_workdir(schedule)
    more = dataclasses.replace(schedule, num=100)
    open_workdir(more)  # evaluations with other options have folders of their own
    assert schedule.evaluations != more.evaluations
    with pytest.raises(InputError, match=r"with minutes 2\.0, not 3\.0; change it back"):
        open_workdir(dataclasses.replace(schedule, minutes=3.0))


def write_run(folder, step: int) -> None:
    (folder / f"checkpoints/{step}").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    line = {"step": step, "split": "train", "steps_per_second": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def test_tokens_of_an_earlier_checkpoint_are_refused(tmp_path):
    schedule = schedule_in(tmp_path, reused={"vqgan": str(tmp_path / "mine")})
    write_run(tmp_path / "mine", 10)
    assert not schedule.is_encoded("vqgan")
    schedule.tokens("vqgan").mkdir(parents=True)
    description = {"step": 10, "grids": [[4, 4]], "input": "image"}
    (schedule.tokens("vqgan") / "tokens.json").write_text(json.dumps(description))
    assert not schedule.is_encoded("vqgan"), "interrupted before the end"
    schedule.note_encoded("vqgan")
    before = schedule.identity("vqgan")
    assert schedule.is_encoded("vqgan")
    write_run(tmp_path / "mine", 20)
    assert schedule.identity("vqgan") != before
    with pytest.raises(InputError, match="by another training of .*mine than the present one"):
        schedule.is_encoded("vqgan")


def test_changes_are_python_literals():
    words = [
        "vqgan.model.filters=8",
        "vae.losses.beta=2.0",
        "vqgan.model.channel_multipliers=(1, 2)",
    ]
    assert parse_changes(words) == {
        "vqgan": {"model.filters": 8, "model.channel_multipliers": (1, 2)},
        "vae": {"losses.beta": 2.0},
    }


@pytest.mark.parametrize(
    "word, message",
    [
        ("vqgan.model.filters", "STAGE.KEY=VALUE"),
        ("critic.model.width=3", "with a stage of: gpt"),
        ("vqgan=3", "STAGE.KEY=VALUE"),
    ],
)
def test_malformed_changes_are_refused(word, message):
    with pytest.raises(InputError, match=message):
        parse_changes([word])


@pytest.mark.parametrize(
    "word, guidance, message",
    [
        (
            "vqgan.model.filter=3",
            0.0,
            r"'vqgan' cannot be trained: .* no key 'config.model.filter'",
        ),
        ("vqgan.model.codebook_size=64", 0.0, r"lineage/vqgan has 64 codes, but .* is 128"),
        ("maskgit.model.grid=(8, 8)", 0.0, r"\(4, 4\)"),
        ("maskgit.losses.label_dropout_rate=0.0", 1.0, "--guidance needs a MaskGIT that"),
        ("vqgan.training.batch_size=0", 0.0, "must be at least 1"),
        ("vqgan.data.image_size=32", 0.0, "maskgit would have data.image_size 16, others 32"),
    ],
)
def test_trainings_that_do_not_fit_are_refused_before_the_first(tmp_path, word, guidance, message):
    trainings = needed_trainings(select_systems(["vqgan_maskgit"]))
    check_trainings(schedule_in(tmp_path, guidance=1.0), trainings)
    changes = parse_changes([word])
    with pytest.raises(InputError, match=message):
        check_trainings(schedule_in(tmp_path, changes=changes, guidance=guidance), trainings)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="choose from autoencoder, vae"):
        select_systems(["vqgan"])
    with pytest.raises(InputError, match="TRAINING=RUN"):
        parse_reused_runs(["vqgan"])
    with pytest.raises(InputError, match="holds no run"):
        parse_reused_runs(["vqgan=/nowhere"])
    with pytest.raises(InputError, match="or a --preset"):
        default_preset("tfds:cifar10")
