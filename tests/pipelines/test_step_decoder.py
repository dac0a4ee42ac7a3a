"""Decoding step by step with an untrained MaskGIT: laws that hold for any weights."""

from functools import cache

import jax
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.settings import DECODERS, Decoder, DecodeSettings
from maskgit_jax.pipelines.step_decoder import BATCH_SIZES, StepDecoder, batch_rows
from maskgit_jax.runs.directory import Run
from maskgit_jax.training.sharding import make_mesh
from tests.example import digits_batch, tiny_stage, tiny_tokenizer

LABELS = [3, None, 4, 1]
NO_LOCK = np.zeros((4, 4), bool)


@cache
def decoder() -> StepDecoder:
    stage, config, frozen = tiny_stage("maskgit", losses__label_dropout_rate=0.1)
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    run = Run(config, stage, variables, 1, {"tokenizer": tiny_tokenizer()[0]})
    return StepDecoder(run, make_mesh(config.mesh, jax.devices()[:1]))


def settings(any_size: bool = False, **changes):
    return decoder().pipeline.settings(
        any_size, **{"steps": 6, "choice_temperature": 1.0, **changes}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder": "self_critic", "guidance": 1.5},
        *(
            pytest.param(changes, marks=pytest.mark.slow)
            for changes in (
                {"temperature": 0.9, "last_temperature": 0.5, "top_k": 5},
                {"decoder": "halton", "temperature": 0.0, "steps": 1},
                {"decoder": "remask", "remask_schedule": "loop"},
                {"decoder": "corrector"},
                {"decoder": "moment"},
                {"guidance": 2.0, "guidance_schedule": "interval", "guidance_interval": (0.3, 0.8)},
                {"size": (32, 24)},
            )
        ),
    ],
)
def test_the_tokens_are_those_of_the_program_of_all_steps(changes):
    chosen = settings(True, **changes)
    expected = next(decoder().pipeline.tokens(LABELS, 7, chosen))
    states = []
    tokens = decoder().generate(LABELS, 7, chosen, states.append)
    np.testing.assert_array_equal(tokens.reshape(4, -1), expected)
    assert [state.step for state in states] == list(range(chosen.steps + 1))
    assert states[0].mask.all() and not states[-1].mask.any()
    for state in states:
        assert state.tokens.shape == state.confidence.shape == tokens.shape
        assert ((state.confidence == 0) == state.mask).all() and (state.confidence <= 1).all()


def test_one_program_serves_all_steps_schedules_temperatures_seeds_labels_and_masks():
    before = decoder().program.cache_size()
    for number, changes in enumerate(
        (
            {},
            {"steps": 3, "schedule": "arccos", "temperature": 0.7, "last_temperature": 1.2},
            {"choice_temperature": 0.0, "start_step": 2, "remask_fraction": 0.5},
            {"guidance_schedule": "cosine", "size": (16, 16)},  # without effect
        )
    ):
        decoder().generate([number, None], number, settings(True, **changes))
    for mask in (np.eye(4, dtype=bool), ~np.eye(4, dtype=bool)):
        decoder().resume(np.ones((4, 4), int), mask, ~mask & (mask[0] > 0), 3)
    assert decoder().program.cache_size() <= before + 1
    assert decoder().programs(2, settings(steps=5)) <= decoder().compiled
    other = settings(top_k=3)
    assert not decoder().programs(2, other) & decoder().compiled
    decoder().generate([1], 0, other)
    assert decoder().programs(2, other) <= decoder().compiled
    assert not decoder().programs(2, other, (4, 6)) & decoder().compiled


@pytest.mark.parametrize(
    "changes", [{}, pytest.param({"decoder": "corrector"}, marks=pytest.mark.slow)]
)
def test_a_decoding_that_is_stopped_goes_on_as_if_it_had_not_been(changes):
    chosen, states = settings(**changes), []
    tokens = decoder().generate([3], 7, chosen, states.append)
    for state in states[:-1]:
        seen = []
        image, mask = state.tokens[0], state.mask[0]
        given = (chosen, seen.append, 1, state.confidence[0])
        again = decoder().resume(image, mask, NO_LOCK, 3, 7, *given)
        np.testing.assert_array_equal(again, tokens)
        assert [each.step for each in seen] == list(range(state.step, 7))


@pytest.mark.parametrize("name", ["confidence", "self_critic"])
def test_locked_tokens_never_change_and_others_only_if_the_decoder_revises(name):
    rng = np.random.default_rng(0)
    image, states = rng.integers(0, 16, (4, 4)), []
    mask, locked = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    mask[0], locked[2:] = True, True
    changes = {"decoder": name, "remask_fraction": 1.0, "choice_temperature": 9.0}
    chosen = settings(steps=4, schedule="linear", **changes)
    tokens = decoder().resume(image, mask, locked, None, 1, chosen, states.append, num=4)
    for state in states:
        np.testing.assert_array_equal(state.tokens[:, 2:], np.stack([image[2:]] * 4))
        assert not state.mask[:, 2:].any() and (state.confidence[:, 2:] == 1).all()
    assert len({candidate.tobytes() for candidate in tokens}) == 4
    assert (tokens[:, 1] != image[1]).any() == (name == "self_critic")
    # 8 tokens are not locked: 8, 6, 4, 2 of them would be masked before the four steps.
    assert [state.step for state in states] == [2, 3, 4]


def test_a_function_that_raises_stops_the_decoding_within_one_step():
    def stop(state):
        if state.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoder().generate([3], 7, settings(), stop)
    assert (decoder().generate([3], 7, settings()) >= 0).all()


def test_batches_have_few_sizes_and_little_padding():
    mesh = decoder().mesh
    for num in range(1, 200):
        batches = list(batch_rows(num, mesh))
        assert [row for rows, count in batches for row in rows[:count]] == list(range(num))
        assert {len(rows) for rows, _ in batches} <= set(BATCH_SIZES)
        assert sum(len(rows) for rows, _ in batches) * 3 <= num * 4
    with_four = list(batch_rows(4, mesh))
    assert [len(rows) for rows, _ in with_four] == [4]


def test_token_maps_of_any_size_are_decoded():
    maps = np.random.default_rng(0).integers(0, 16, (5, 4, 6))
    images = decoder().images(maps)
    assert images.shape == (5, 16, 24, 1) and images.dtype == np.uint8
    np.testing.assert_allclose(decoder().images(maps[4:])[0].astype(int), images[4], atol=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": NO_LOCK}, "no token is masked"),
        ({"locked": ~NO_LOCK}, "a masked token is locked"),
        ({"tokens": np.full((4, 4), 16)}, "the codes 0 to 15"),
        ({"locked": np.zeros((4, 5), bool)}, "three maps"),
        ({"label": 10}, "label 10 is out of range"),
        ({"num": 0}, "num is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_state_that_is_none_of_the_run_is_refused(changes, message):
    half = np.arange(16).reshape(4, 4) < 8
    given = {"tokens": np.zeros((4, 4), int), "mask": half, "locked": NO_LOCK, "label": 3}
    with pytest.raises(InputError, match=message):
        decoder().resume(**{**given, **changes})


def test_labels_are_checked():
    with pytest.raises(InputError, match="no label is given"):
        decoder().generate([])
    with pytest.raises(InputError, match="label 11 is out of range"):
        decoder().generate([11])


def test_a_rule_that_reads_the_number_of_steps_fails(monkeypatch):
    def rule(state, settings):
        return state.mask & (settings.steps > 3)

    monkeypatch.setitem(DECODERS, "by_steps", Decoder(rule, DecodeSettings))
    with pytest.raises(TypeError, match="NoneType"):
        decoder().generate([1], 0, settings(decoder="by_steps"))
