"""Evaluation of the systems of a lineage, all by the same metrics."""

import dataclasses
import datetime
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from maskgit_jax.configuration import require
from maskgit_jax.data.image_sets import random_subset
from maskgit_jax.data.protocol import Source
from maskgit_jax.decoding.parallel import DECODERS, num_network_evaluations
from maskgit_jax.decoding.settings import DecodeSettings
from maskgit_jax.evaluation import report
from maskgit_jax.evaluation.decoder_comparison import (
    DECODER_NAMES,
    DecoderComparison,
    settings_with_nfe,
)
from maskgit_jax.evaluation.evaluate import evaluate_loaded
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import open_real_images
from maskgit_jax.files import write_arrays, write_text
from maskgit_jax.lineage.schedule import Schedule, training_minutes
from maskgit_jax.lineage.systems import TRAININGS, System
from maskgit_jax.model import Model, load
from maskgit_jax.stage import generator_of
from maskgit_jax.stages.token_priors import token_grids

NUM_RECONSTRUCTIONS, NUM_SAMPLES = 10, 20  # shown on the page
_TIMED_BATCH = 64
_SELECTION_SEED, _SELECTION_NUM = 1, 2_000  # samples that a remasking decoder is selected by
_NUM_SEARCHED = 200  # held-out images among which some of each class are looked up
REMASKING_DECODERS = tuple(
    name
    for name in DECODER_NAMES
    if DECODERS[name.partition(":")[0]].revises and name != "token_critic"  # needs its own training
)


class Result(NamedTuple):
    """The evaluation of one system.

    Attributes:
        name: A key of `SYSTEMS`.
        metrics: Name -> value, and the value of real images or None.
        parameters: Number of parameters that sampling needs, or else reconstruction.
        tokens: Tokens per image; 0 for latent vectors.
        nfe: Sequential network evaluations per image, those of the prior and one of the decoder;
            None if the system generates no images.
        seconds: Seconds per sampled image, in batches of 64, decoder included.
        minutes: Training -> its minutes.
        runs: Training -> its identity, see `Schedule.identity`.
        num: Number of samples behind the metrics.
        machine: Date and machine of the evaluation.
        decoder: Decoder of the tokens and its settings; "" if there is no choice.
        decoder_distances: Decoder -> Frechet distance by which the decoder was selected.
        skipped: Metric -> reason why it is missing.
    """

    name: str
    metrics: Mapping[str, tuple[float, float | None]]
    parameters: int
    tokens: int
    nfe: int | None
    seconds: float | None
    minutes: Mapping[str, float]
    runs: Mapping[str, str]
    num: int
    machine: str
    decoder: str
    decoder_distances: Mapping[str, float]
    skipped: Mapping[str, str]


class Examples(NamedTuple):
    """Images of one system for the page, uint8 [N, H, W, C] each.

    Attributes:
        originals: Held-out images.
        reconstructions: Their reconstructions.
        samples: Samples of all classes in turn; None if the system generates no images.
    """

    originals: np.ndarray
    reconstructions: np.ndarray
    samples: np.ndarray | None


def _result_file(schedule: Schedule, system: System) -> Path:
    return schedule.evaluations / "systems" / f"{system.name}.json"


def read_result(schedule: Schedule, system: System) -> tuple[Result, Examples] | None:
    """Returns the stored evaluation of a system; None if there is none of the current runs."""
    path = _result_file(schedule, system)
    if not path.exists():
        return None
    values = json.loads(path.read_text())
    if set(values) != set(Result._fields):  # written by another version
        return None
    if any(not schedule.is_finished(name) for name in system.trainings):
        return None
    if values["runs"] != {name: schedule.identity(name) for name in system.trainings}:
        return None
    with np.load(path.with_suffix(".npz")) as arrays:
        examples = Examples(*(arrays.get(name) for name in Examples._fields))
    return Result(**values), examples


def measure_system(schedule: Schedule, system: System, options: EvaluationOptions) -> None:
    """Evaluates a system whose runs are finished, and stores the result.

    Raises:
        InputError: A run is missing or cannot be evaluated.
    """
    first = load(schedule.run(system.first_stage), mesh=options.mesh)
    evaluations = [_evaluate(schedule, system.first_stage, first, options)]
    model, settings, distances, tokens = first, {}, {}, 0
    if system.prior:
        model = load(schedule.run(system.prior), mesh=options.mesh)
        _check_same_tokenizer(first, model)
        with model.config.unlocked():
            model.config.data.source = schedule.data
        tokens = sum(height * width for height, width in token_grids(model.config))
        if model.config.stage == "maskgit" and schedule.guidance:
            settings = {"guidance": schedule.guidance}
        if system.remasking:
            settings, distances = _remasking_settings(schedule, system, model, options, settings)
        evaluations.append(_evaluate(schedule, system.prior, model, options, settings))
    real, _ = open_real_images(schedule.configuration(TRAININGS[system.first_stage]).data)
    assert real.held_out is not None
    originals = select_of_each_class(real.held_out)
    samples, seconds, nfe, decoder = _sample(model, settings, tokens)
    result = Result(
        name=system.name,
        metrics={each.name: _values(each) for part in evaluations for each in part.metrics},
        parameters=_num_parameters(first) + (_num_parameters(model) if system.prior else 0),
        tokens=tokens,
        nfe=nfe,
        seconds=seconds,
        minutes={name: training_minutes(schedule.run(name)) for name in system.trainings},
        runs={name: schedule.identity(name) for name in system.trainings},
        num=evaluations[-1].settings.get("num", 0),
        machine=_machine(),
        decoder=decoder,
        decoder_distances=distances,
        skipped={name: reason for part in evaluations for name, reason in part.skipped.items()},
    )
    path = _result_file(schedule, system)
    examples = Examples(originals, first.reconstruct(originals), samples)._asdict()
    stored = {name: images for name, images in examples.items() if images is not None}
    write_arrays(path.with_suffix(".npz"), stored)
    write_text(path, json.dumps(result._asdict(), indent=2) + "\n")


def _evaluate(
    schedule: Schedule,
    name: str,
    model: Model,
    options: EvaluationOptions,
    settings: Mapping[str, Any] | None = None,
) -> report.Evaluation:
    """Returns the evaluation of a training with these sampling settings, stored if there is one."""
    words = [f"{key}-{value}" for key, value in sorted((settings or {}).items())]
    folder = schedule.evaluations / "runs" / "-".join([name, schedule.identity(name), *words])
    if (folder / "evaluation.json").exists():
        return report.read(folder)[-1]
    print(f"  evaluating {' '.join([name, *words])}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = evaluate_loaded(
        model.run, model.workdir, options, data=schedule.data, num=schedule.num, settings=settings
    )
    report.write(folder, evaluation)
    return evaluation


def _check_same_tokenizer(first: Model, prior: Model) -> None:
    tokenizer = jax.tree.leaves(first.run.variables.params)
    frozen = jax.tree.leaves(prior.run.variables.frozen["tokenizer"].params)
    require(
        len(tokenizer) == len(frozen)
        and all(
            a.shape == b.shape and bool((a == b).all())
            for a, b in zip(tokenizer, frozen, strict=True)
        ),
        f"{prior.workdir} was trained on another tokenizer than {first.workdir} is now; train it "
        "again, or reuse the two runs that belong together",
    )


def _values(metric: report.Metric) -> tuple[float, float | None]:
    """Returns a metric's value and that of real images; shares instead of counts."""
    if metric.name not in ("novelty_train_copies", "sample_duplicates"):
        return metric.value, metric.real_value
    real = None if metric.real_value is None else metric.real_value / max(1, metric.real_count)
    return metric.value / max(1, metric.count), real


def _machine() -> str:
    devices, today = jax.devices(), datetime.date.today().isoformat()
    return (
        f"{today}, {len(devices)} x {devices[0].device_kind}, {os.cpu_count()} CPUs, "
        f"JAX {jax.__version__}"
    )


def _remasking_settings(
    schedule: Schedule,
    system: System,
    model: Model,
    options: EvaluationOptions,
    settings: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns the settings of the remasking decoder that is best on other samples.

    All decoders take as many network evaluations as the run's own. Without classes none are
    compared: the settings are those of `remask` with the schedule of the run.

    Returns:
        The settings, and decoder -> Frechet distance.
    """
    run_settings = model.generator.settings(**settings)
    nfe = num_network_evaluations(dataclasses.replace(run_settings, guidance=0.0))
    if model.generator.num_classes < 2:
        chosen = settings_with_nfe("remask", nfe, run_settings.guidance, run_settings)
        return {**settings, "decoder": "remask", "steps": chosen.steps}, {}
    num = min(schedule.num or _SELECTION_NUM, _SELECTION_NUM)
    comparison = DecoderComparison(model.run, options, num)
    path = schedule.evaluations / "runs" / f"decoders-{schedule.identity(system.prior)}.json"
    distances = json.loads(path.read_text()) if path.exists() else {}
    candidates = {
        name: settings_with_nfe(name, nfe, run_settings.guidance, run_settings)
        for name in REMASKING_DECODERS
    }
    for name, candidate in candidates.items():
        if name not in distances:
            print(f"  sampling with decoder {name}", flush=True)
            images, _ = comparison.sample(candidate, seed=_SELECTION_SEED)
            metrics = comparison.evaluate(name, images, comparison.labels)
            distances[name] = metrics.frechet_distance
            write_text(path, json.dumps(distances) + "\n")
    best = candidates[min(distances, key=distances.__getitem__)]
    changes = {"decoder": best.decoder, "steps": best.steps}
    if best.decoder == "remask":
        changes["remask_schedule"] = best.remask_schedule
    return {**settings, **changes}, distances


def select_of_each_class(source: Source) -> np.ndarray:
    """Returns the first images of each label in turn, uint8 [N, H, W, C], N at most 10."""
    found: dict[tuple[int, int], np.ndarray] = {}
    counts: dict[int, int] = {}
    subset = random_subset(source, _NUM_SEARCHED)
    for index in range(len(subset)):
        record = subset[index]
        label = record["label"]
        counts[label] = counts.get(label, 0) + 1
        found[counts[label], label] = record["image"]
    return np.stack([found[key] for key in sorted(found)[:NUM_RECONSTRUCTIONS]])


def _sample(
    model: Model, settings: Mapping[str, Any], tokens: int
) -> tuple[np.ndarray | None, float | None, int | None, str]:
    """Returns samples of all classes in turn, seconds per image, NFE, and the decoder in words."""
    if generator_of(model.run.stage.exports) is None:
        return None, None, None, ""
    chosen, nfe, decoder = model.generator.settings(**settings), tokens + 1, ""
    if isinstance(chosen, DecodeSettings):
        nfe = num_network_evaluations(chosen) + 1
        schedule = f":{chosen.remask_schedule}" if chosen.decoder == "remask" else ""
        guidance = f", guidance {chosen.guidance:g}" if chosen.guidance else ""
        decoder = f"{chosen.decoder}{schedule}, {chosen.steps} steps{guidance}"
    labels = np.arange(2 * _TIMED_BATCH) % max(1, model.generator.num_classes)
    images, start = [], 0.0
    for batch in model.generator(labels.tolist(), 0, chosen, _TIMED_BATCH):
        images.append(batch)
        start = start or time.monotonic()  # the first batch compiles the program
    seconds = (time.monotonic() - start) / sum(map(len, images[1:]))
    return np.concatenate(images)[:NUM_SAMPLES], seconds, nfe, decoder


def _num_parameters(model: Model) -> int:
    """Returns the number of parameters that sampling and reconstruction need."""
    networks = dict(model.run.variables.params)
    networks.pop("discriminator", None)
    return sum(leaf.size for leaf in jax.tree.leaves(networks))
