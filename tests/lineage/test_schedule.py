"""What is trained, and for how long."""

import json

import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.lineage.schedule import (
    Plan,
    check_trainings,
    open_plan,
    schedule,
    training_minutes,
)
from maskgit_jax.lineage.systems import (
    SYSTEMS,
    TRAININGS,
    Chosen,
    chosen_systems,
    needed_trainings,
    preset_of,
    read_changes,
    read_reused,
)

CHOSEN = Chosen("digits", "digits", {}, "configs")


def plan_in(folder, **changes) -> Plan:
    return Plan(folder / "lineage", CHOSEN, 2.0, 0, {})._replace(**changes)


def test_every_system_is_compared_with_an_earlier_one():
    names = list(SYSTEMS)
    assert SYSTEMS[names[0]].before == ""
    for place, system in enumerate(SYSTEMS.values()):
        assert all(name in TRAININGS for name in system.trainings)
        assert place == 0 or system.before in names[:place]


def test_every_system_has_the_same_budget():
    for system in SYSTEMS.values():
        assert sum(TRAININGS[name].share for name in system.trainings) == 1.0


def test_tokenizers_are_trained_before_those_that_learn_their_tokens():
    order = [training.name for training in needed_trainings(SYSTEMS.values())]
    assert len(order) == len(set(order)) == len(TRAININGS)
    for training in TRAININGS.values():
        if training.tokenizer:
            assert order.index(training.tokenizer) < order.index(training.name)


def test_only_what_is_asked_for_is_trained_once():
    systems = chosen_systems(["vqgan_maskgit", "vqgan_gpt"])
    assert [system.name for system in systems] == ["vqgan_gpt", "vqgan_maskgit"]
    assert [each.name for each in needed_trainings(systems)] == ["vqgan", "gpt", "maskgit"]


def test_a_plan_keeps_the_proportions_of_the_preset(tmp_path):
    config = CHOSEN.configuration(TRAININGS["vqgan"])
    changes = schedule(plan_in(tmp_path), TRAININGS["vqgan"], 2 * config.training.num_steps)
    assert changes["optimizers.discriminator.start_step"] == 2 * 200
    assert changes["training.num_steps"] == changes["training.eval_every"] == 800
    short = schedule(plan_in(tmp_path), TRAININGS["vqgan"], 10)
    assert short["optimizers.autoencoder.warmup_steps"] == 1
    assert short["optimizers.discriminator.start_step"] == 5


def test_priors_learn_the_tokens_of_their_tokenizer(tmp_path):
    plan = plan_in(tmp_path, reused={"vqgan": "elsewhere"})
    changes = schedule(plan, TRAININGS["maskgit"], 10)
    assert changes["tokenizer"] == "elsewhere"
    assert changes["data.source"] == f"tokens:{plan.workdir}/tokens/vqgan"


def test_steps_fill_a_trainings_share_of_the_budget(tmp_path):
    plan = plan_in(tmp_path)
    plan.workdir.mkdir()
    assert not plan.decided("vqgan")
    assert plan.decide("vqgan", seconds=0.1) == 600  # half of 2 minutes
    assert plan.decide("vae", seconds=0.1) == 1200
    assert plan.length("vqgan") == 600
    assert plan.decided("vqgan") and not plan.finished("vqgan")
    assert plan.decide("gpt", seconds=1e9) == 2


def test_minutes_are_those_that_the_steps_took(tmp_path):
    lines = [
        {"step": 60, "split": "train", "steps_per_second": 1.0},
        {"step": 60, "split": "eval"},
        {"step": 180, "split": "train", "steps_per_second": 2.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert training_minutes(tmp_path) == pytest.approx(2.0)
    with pytest.raises(InputError, match="nobody knows how long"):
        training_minutes(tmp_path / "other")


def test_a_folder_keeps_to_its_plan(tmp_path):
    plan = plan_in(tmp_path)
    open_plan(plan)
    open_plan(plan._replace(num=100))  # figures of other counts lie beside each other
    assert plan.measured != plan._replace(num=100).measured
    with pytest.raises(InputError, match=r"with minutes 2\.0, not 3\.0; change it back"):
        open_plan(plan._replace(minutes=3.0))


def write_run(folder, step: int) -> None:
    (folder / f"checkpoints/{step}").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    line = {"step": step, "split": "train", "steps_per_second": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def test_what_was_trained_again_is_known_and_its_tokens_are_refused(tmp_path):
    plan = plan_in(tmp_path, reused={"vqgan": str(tmp_path / "mine")})
    write_run(tmp_path / "mine", 10)
    assert not plan.encoded("vqgan")
    plan.tokens("vqgan").mkdir(parents=True)
    description = {"step": 10, "grids": [[4, 4]]}
    (plan.tokens("vqgan") / "tokens.json").write_text(json.dumps(description))
    before = plan.identity("vqgan")
    assert plan.encoded("vqgan")
    write_run(tmp_path / "mine", 20)
    assert plan.identity("vqgan") != before
    with pytest.raises(InputError, match="at step 10, which is at 20 now; delete these tokens"):
        plan.encoded("vqgan")


def test_changes_are_read_as_python_writes_them():
    words = [
        "vqgan.model.filters=8",
        "vae.losses.beta=2.0",
        "vqgan.model.channel_multipliers=(1, 2)",
    ]
    assert read_changes(words) == {
        "vqgan": {"model.filters": 8, "model.channel_multipliers": (1, 2)},
        "vae": {"losses.beta": 2.0},
    }


@pytest.mark.parametrize(
    "word, said",
    [
        ("vqgan.model.filters", "STAGE.KEY=VALUE"),
        ("critic.model.width=3", "with a stage of: gpt"),
        ("vqgan=3", "STAGE.KEY=VALUE"),
    ],
)
def test_unreadable_changes_are_refused(word, said):
    with pytest.raises(InputError, match=said):
        read_changes([word])


def test_changes_of_unknown_keys_are_refused():
    chosen = CHOSEN._replace(changes={"vqgan": {"model.filter": 3}})
    with pytest.raises(InputError, match=r"vqgan\.model\.filter=.*no such key"):
        chosen.configuration(TRAININGS["vqgan"])


def check(tmp_path, *words: str, **changes) -> None:
    chosen = CHOSEN._replace(changes=read_changes(words))
    names = ["vqgan_maskgit"]
    plan = plan_in(tmp_path, chosen=chosen, **changes)
    check_trainings(plan, needed_trainings(chosen_systems(names)))


@pytest.mark.parametrize(
    "word, guidance, said",
    [
        ("vqgan.model.codebook_size=64", 0.0, r"lineage/vqgan has 64 codes, but .* is 128"),
        ("maskgit.model.grid=(8, 8)", 0.0, r"makes a grid of \(4, 4\) tokens"),
        ("maskgit.losses.label_dropout_rate=0.0", 1.0, "--guidance needs a MaskGIT that"),
        ("vqgan.training.batch_size=0", 0.0, "must be at least 1"),
        ("vqgan.data.image_size=32", 0.0, "maskgit would have data.image_size 16, others 32"),
    ],
)
def test_trainings_that_do_not_fit_are_refused_before_the_first(tmp_path, word, guidance, said):
    check(tmp_path, guidance=1.0)
    with pytest.raises(InputError, match=said):
        check(tmp_path, word, guidance=guidance)


def test_what_does_not_exist_is_refused():
    with pytest.raises(InputError, match="there are: autoencoder, vae"):
        chosen_systems(["vqgan"])
    with pytest.raises(InputError, match="NAME=RUN"):
        read_reused(["vqgan"])
    with pytest.raises(InputError, match="holds no run"):
        read_reused(["vqgan=/nowhere"])
    with pytest.raises(InputError, match="for others name a --preset"):
        preset_of("tfds:cifar10")
