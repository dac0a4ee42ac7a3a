"""The search for sampling settings: candidates, successive halving, and a whole search."""

import dataclasses
import json
from functools import partial

import jax
import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.parallel import check_decode_settings, num_network_evaluations
from maskgit_jax.decoding.settings import (
    REMASK_SCHEDULES,
    AutoregressiveSettings,
    DecodeSettings,
    PriorSettings,
)
from maskgit_jax.evaluation.sampling_search import search_sampling
from maskgit_jax.evaluation.search_candidates import (
    list_candidates,
    rung_sizes,
    successive_halving,
)
from maskgit_jax.evaluation.search_scores import SearchOptions
from maskgit_jax.pipelines import classifier
from maskgit_jax.runs.directory import Run, read_config, write_config, write_sampling_defaults
from maskgit_jax.runs.lock import lock_run
from maskgit_jax.settings import check_settings
from maskgit_jax.training.sharding import make_mesh
from tests.example import digits_batch, tiny_config, tiny_stage

OWN = DecodeSettings()
CHECK = partial(
    check_decode_settings, num_tokens=16, codebook_size=16, has_null_label=True, has_critic=False
)


def candidates(*names, own=OWN, base=None, check=CHECK, limit=10**6, nfe=0):
    return list_candidates(own, base or own, names, check, limit, nfe)


def test_halving_keeps_a_third_and_the_first_candidate():
    assert rung_sizes(1800) == [200, 600, 1800] and rung_sizes(100) == [12, 34, 100]
    calls = []

    def loss(candidate, size):
        calls.append((candidate, size))
        return float(candidate)  # the first candidate is the worst

    ranked = successive_halving(range(26, -1, -1), [1, 3, 9], loss)
    assert [candidate for candidate, _ in ranked[:5]] == [0, 1, 2, 26, 3]
    assert ranked[3][1] == [26.0] * 3 and [len(losses) for _, losses in ranked].count(1) == 17
    assert [sum(size == each for _, size in calls) for each in (1, 3, 9)] == [27, 10, 4]


def test_of_equal_candidates_the_first_one_wins():
    ranked = successive_halving([3, 1, 2], [1, 2, 3], lambda candidate, size: 0.0)
    assert ranked[0][0] == 3


def test_candidates_are_all_combinations_or_a_fixed_choice_of_them():
    found = candidates("steps", "temperature")
    assert found[0] == OWN and len(set(found)) == len(found) == 5 * 5
    assert {each.steps for each in found} == {4, 6, 8, 12, 16}, "no more steps than tokens"
    few = candidates("steps", "temperature", "top_p", "decoder", "schedule", limit=9)
    assert few[0] == OWN and len(few) == 9
    assert few == candidates("steps", "temperature", "top_p", "decoder", "schedule", limit=9)
    assert len(candidates("temperature", own=AutoregressiveSettings(), check=check_settings)) == 5
    assert len(candidates("pixels", own=PriorSettings(), check=check_settings)) == 2
    decoders = {each.decoder for each in candidates("decoder")}
    assert "remask" in decoders and "token_critic" not in decoders
    given = dataclasses.replace(OWN, top_p=0.9)
    found = candidates("temperature", base=given)
    assert found[0] == OWN and all(each.top_p == 0.9 for each in found[1:])


def test_settings_without_effect_make_no_candidate():
    found = candidates("guidance", "guidance_schedule", "guidance_interval")
    unguided = [each for each in found if each.guidance == 0]
    intervals = [each for each in found if each.guidance_interval != (0.0, 1.0)]
    assert unguided == [OWN]
    assert intervals and all(each.guidance_schedule == "interval" for each in intervals)
    others = len(candidates("decoder")) - 1
    assert len(candidates("decoder", "remask_schedule")) == others + len(REMASK_SCHEDULES)
    for name in ("guidance_schedule", "remask_schedule", "remask_fraction"):
        with pytest.raises(InputError, match=f"--search={name}: no other value has an effect"):
            candidates(name)


def test_candidates_need_no_more_network_evaluations_than_given():
    found = candidates("steps", "guidance", "decoder", nfe=12)
    assert found[0] == OWN
    assert max(map(num_network_evaluations, found)) == 12
    assert any(each.decoder == "corrector" for each in found)
    assert 5 in {each.steps for each in candidates("steps", nfe=5)}, "the whole budget is tried"
    own = DecodeSettings(16, guidance=1.0)
    found = candidates("steps", own=own, nfe=12)
    assert found[0] == dataclasses.replace(own, steps=6)
    for nfe, names, message in (
        (1, ["steps"], "--search_nfe is 1, but the settings of the run with 1 step need 2"),
        (8, ["temperature"], "with 16 steps need 32 .*; raise it, search steps too"),
    ):
        with pytest.raises(InputError, match=message):
            candidates(*names, own=own, nfe=nfe)
    with pytest.raises(InputError, match="--search_nfe has no effect on this run"):
        candidates("temperature", own=AutoregressiveSettings(), check=check_settings, nfe=8)


def test_settings_that_cannot_be_searched_are_refused():
    with pytest.raises(InputError, match="--search has 'stepz'; the settings of this run that can"):
        candidates("stepz")
    with pytest.raises(InputError, match="'steps'; .* are temperature, top_k, top_p$"):
        candidates("steps", own=AutoregressiveSettings(), check=check_settings)
    unguided = partial(CHECK, has_null_label=False)
    with pytest.raises(InputError, match="--search=guidance has no other value to try: guidance n"):
        candidates("guidance", check=unguided)


@pytest.fixture(scope="module")
def run():
    stage, config, frozen = tiny_stage("maskgit")
    variables = jax.jit(stage.init)(jax.random.key(0), digits_batch(), frozen)
    return Run(config, stage, variables, 3, {"tokenizer": tiny_stage("vqgan")[0]})


SEARCH = SearchOptions("kernel_distance", candidates=4)


@pytest.mark.slow
def test_misuse_of_a_search_is_refused_before_any_work(run, options, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "fit_classifier", None)
    write_config(tmp_path, run.config)
    frechet, accuracy = SearchOptions(), SearchOptions("classifier_accuracy")
    for search, words, message in (
        (SearchOptions("fid"), {}, "metric is 'fid'; it must be one of frechet_distance"),
        (SearchOptions(candidates=1), {}, "candidates is 1; it must be at least 2"),
        (frechet, {"num": 300}, "samples 34 images; frechet.* needs 65: give --num=577 or more"),
        (SEARCH, {"settings": {"steps": 2}}, "--steps is given and searched"),
        (SEARCH, {"settings": {"pixels": "draw"}}, "has no setting 'pixels'"),
        (accuracy, {"num": 40}, "samples 5 images; classifier_accuracy"),
    ):
        with pytest.raises(InputError, match=message):
            search_sampling(run, tmp_path, options, ["steps"], search, **words)
    with lock_run(tmp_path), pytest.raises(InputError, match="is being trained by process"):
        search_sampling(run, tmp_path, options, ["steps"], SEARCH)
    with pytest.raises(InputError, match="--guide are not written; add --nosearch_write"):
        search_sampling(run._replace(guide="RUN"), tmp_path, options, ["steps"], SEARCH)
    none = dataclasses.replace(options, features={})
    with pytest.raises(InputError, match="--search needs a feature network"):
        search_sampling(run, tmp_path, none, ["steps"], SEARCH)


def test_new_defaults_change_nothing_else_in_the_configuration(tmp_path):
    write_config(tmp_path, tiny_config("maskgit"))
    before = read_config(tmp_path).to_dict()
    changes = {"guidance_interval": (0.25, 0.75), "temperature": 0.9, "decoder": "halton"}
    write_sampling_defaults(tmp_path, changes)
    after = read_config(tmp_path)
    assert after.to_dict() == before | {"sampling": before["sampling"] | changes}
    assert after.is_locked and not (tmp_path / "lock").exists()


@pytest.mark.slow
def test_a_search_writes_the_best_settings_and_resumes(run, options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classifier, "STEPS", 20)
    options = dataclasses.replace(options, mesh=make_mesh(run.config.mesh, jax.devices()[:1]))
    write_config(tmp_path, run.config)
    names = ["temperature", "choice_temperature"]
    words = {"num": 90, "settings": {"schedule": "linear"}}
    result = search_sampling(run, tmp_path, options, names, SEARCH, **words)
    stored = json.loads((tmp_path / "evaluation/sampling_search.json").read_text())
    scores = stored["scores"]["kernel_distance"]
    assert 4 + 2 + 1 <= len(scores) <= 4 + 3 + 2, "the settings of the run are always kept"
    assert stored["searches"][0]["previous"]["schedule"] == "cosine"
    assert {"classifier_accuracy", "recall"} <= result.after.keys()
    assert "rung 3 of 3, 90 images" in capsys.readouterr().err
    sampling = read_config(tmp_path).sampling.to_dict()
    better = result.after["kernel_distance"] <= result.before["kernel_distance"]
    expected = result.changes if better else {}
    assert sampling == run.config.sampling.to_dict() | expected
    assert ("New defaults" in result.text) == bool(expected)
    text = (tmp_path / "evaluation/sampling_search.md").read_text()
    assert text.endswith(result.text) and "| before |" in text and "schedule linear" in text
    # Scores are stored: only the report samples again.
    again = search_sampling(run, tmp_path, options, names, SEARCH, **words)
    assert again.settings == result.settings
    np.testing.assert_allclose([*again.after.values()], [*result.after.values()])
    stored = json.loads((tmp_path / "evaluation/sampling_search.json").read_text())
    assert stored["scores"]["kernel_distance"] == scores and len(stored["searches"]) == 2
