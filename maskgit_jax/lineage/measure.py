"""Evaluates the systems of the lineage, all by the same figures."""

import dataclasses
import datetime
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from maskgit_jax.configuration import require
from maskgit_jax.data.image_sets import random_subset
from maskgit_jax.decoding.parallel import DECODERS, num_network_evaluations
from maskgit_jax.decoding.settings import DecodeSettings
from maskgit_jax.evaluation import report
from maskgit_jax.evaluation.decoder_comparison import (
    DECODER_NAMES,
    DecoderComparison,
    settings_with_nfe,
)
from maskgit_jax.evaluation.evaluate import evaluate_run
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import open_real_images
from maskgit_jax.files import write_arrays, write_text
from maskgit_jax.lineage.schedule import Plan, training_minutes
from maskgit_jax.lineage.systems import TRAININGS, System
from maskgit_jax.pipelines.autoencoder import AutoencoderPipeline
from maskgit_jax.pipelines.generator import GeneratorPipeline
from maskgit_jax.runs.directory import Run, load_run
from maskgit_jax.stage import generator_of
from maskgit_jax.stages.token_priors import token_grids

SHOWN_RESTORED, SHOWN_MADE = 10, 20
_TIMED_BATCH, _CHOICE_SEED, _MOST_FOR_CHOICE = 64, 1, 2_000
_LOOKED_THROUGH = 200  # held-out images, for some of each class
REVISING = tuple(
    name
    for name in DECODER_NAMES
    if DECODERS[name.partition(":")[0]].revises and name != "token_critic"  # no other training
)


class Result(NamedTuple):
    """What is known of one system.

    Attributes:
        name: A key of `SYSTEMS`.
        figures: Name -> value, and the same figure of real images or None.
        parameters: Of what is needed to make images, or to restore them.
        tokens: Of an image; 0 for a vector of latents.
        passes: Through networks, one after another, for an image: those of the prior and one of
            the decoder; None for what makes no images.
        seconds: For an image, in batches of 64 (`decoder` included).
        minutes: Training -> wall time.
        runs: Training -> its identity, see `Plan.identity`.
        num: Images that were made for the figures.
        machine: That made them, for seconds.
        decoder: How tokens are drawn, "" where there is one way.
        tried: Decoder -> Frechet distance, where one was chosen.
        left_out: Figure -> why there is none.
    """

    name: str
    figures: Mapping[str, tuple[float, float | None]]
    parameters: int
    tokens: int
    passes: int | None
    seconds: float | None
    minutes: Mapping[str, float]
    runs: Mapping[str, str]
    num: int
    machine: str
    decoder: str
    tried: Mapping[str, float]
    left_out: Mapping[str, str]


class Pictures(NamedTuple):
    """What a system makes of images: uint8 [N, H, W, C] each.

    Attributes:
        originals: Held-out images.
        restored: What is left of them.
        made: Of all classes in turn; None for a system that makes none.
    """

    originals: np.ndarray
    restored: np.ndarray
    made: np.ndarray | None


def result_file(plan: Plan, system: System) -> Path:
    """Returns where the result of a system is kept; its pictures lie beside it."""
    return plan.measured / "systems" / f"{system.name}.json"


def read_result(plan: Plan, system: System) -> tuple[Result, Pictures] | None:
    """Returns what was found of a system; None if it was not evaluated, or trained since then."""
    path = result_file(plan, system)
    if not path.exists():
        return None
    said = json.loads(path.read_text())
    if set(said) != set(Result._fields):  # another version wrote it
        return None
    found = Result(**said)
    if any(not plan.finished(name) for name in system.trainings):
        return None
    if found.runs != {name: plan.identity(name) for name in system.trainings}:
        return None
    with np.load(path.with_suffix(".npz")) as arrays:
        pictures = Pictures(**{name: arrays.get(name) for name in Pictures._fields})
    return found, pictures


def measure_system(
    plan: Plan,
    system: System,
    asked: EvaluationOptions,
    tell: Callable[[str], None],
) -> None:
    """Evaluates a system and writes what was found.

    Args:
        plan: Where the runs are; those of this system are trained.
        system: What to evaluate.
        asked: How to measure.
        tell: Is told what goes on.

    Raises:
        InputError: A run is missing or cannot be measured.
    """
    evaluations = {"first": _evaluated(plan, system.first, asked, {}, tell)}
    first = load_run(plan.run(system.first), asked.mesh)
    maker, tried, own = first, {}, {}
    if system.prior:
        maker = load_run(plan.run(system.prior), asked.mesh)
        _check_same_tokenizer(plan, system, first, maker)
        with maker.config.unlocked():
            maker.config.data.source = plan.chosen.data
        if maker.config.stage == "maskgit":
            own = {"guidance": plan.guidance} if plan.guidance else {}
        if system.revises:
            own, tried = _best_revising(plan, system.prior, maker, asked, own, tell)
        evaluations["prior"] = _evaluated(plan, system.prior, asked, own, tell)
    real, _ = open_real_images(plan.chosen.configuration(TRAININGS[system.first]).data)
    originals = _one_of_each(real.held_out)
    restored = AutoencoderPipeline(first, asked.mesh).reconstruct(originals)
    made = passes = seconds = None
    decoder = ""
    if generator_of(maker.stage.exports) is not None:
        generator = GeneratorPipeline(maker, asked.mesh)
        settings = generator.settings(**own)
        passes, decoder = _passes(maker, settings), _said(settings)
        made, seconds = _made(generator, settings)
    figures, left_out = {}, {}
    for evaluation in evaluations.values():
        figures |= {each.name: _values(each) for each in evaluation.metrics}
        left_out |= evaluation.skipped
    result = Result(
        system.name,
        figures,
        _parameters(first, "discriminator") + (_parameters(maker) if system.prior else 0),
        sum(height * width for height, width in token_grids(maker.config)) if system.prior else 0,
        passes,
        seconds,
        {name: training_minutes(plan.run(name)) for name in system.trainings},
        {name: plan.identity(name) for name in system.trainings},
        evaluations["prior" if system.prior else "first"].settings.get("num", 0),
        machine(),
        decoder,
        tried,
        left_out,
    )
    path = result_file(plan, system)
    pictures = Pictures(originals, restored, made)._asdict()
    shown = {name: value for name, value in pictures.items() if value is not None}
    write_arrays(path.with_suffix(".npz"), shown)
    write_text(path, json.dumps(result._asdict(), indent=2) + "\n")


def _evaluated(
    plan: Plan,
    name: str,
    asked: EvaluationOptions,
    decoding: Mapping[str, Any],
    tell: Callable[[str], None],
) -> report.Evaluation:
    """Returns the evaluation of a run; what was evaluated before is read."""
    ways = [f"{key}-{value}" for key, value in sorted(decoding.items())]
    folder = plan.measured / "evaluations" / "-".join([name, plan.identity(name), *ways])
    if (folder / "evaluation.json").exists():
        return report.read(str(folder))[-1]
    tell(f"evaluating {name} {' '.join(ways)}")
    folder.mkdir(parents=True, exist_ok=True)
    found = evaluate_run(
        plan.run(name), asked, data=plan.chosen.data, num=plan.num, settings=decoding
    )
    report.write(folder, found)
    return found


def _check_same_tokenizer(plan: Plan, system: System, first: Run, prior: Run) -> None:
    own = jax.tree.leaves(first.variables.params)
    frozen = jax.tree.leaves(prior.variables.frozen["tokenizer"].params)
    require(
        len(own) == len(frozen)
        and all(
            a.shape == b.shape and bool((a == b).all()) for a, b in zip(own, frozen, strict=True)
        ),
        f"{plan.run(system.prior)} was trained on another tokenizer than {plan.run(system.first)} "
        "is now; train it again, or reuse the two that belong together",
    )


def _values(figure: report.Metric) -> tuple[float, float | None]:
    """Returns the value and that of real images; of what is counted, the shares."""
    if figure.name not in ("novelty_train_copies", "sample_duplicates"):
        return figure.value, figure.real_value
    real = None if figure.real_value is None else figure.real_value / max(1, figure.real_count)
    return figure.value / max(1, figure.count), real


def machine() -> str:
    """Returns where and when figures are made."""
    devices, today = jax.devices(), datetime.date.today().isoformat()
    return (
        f"{today}, {len(devices)} x {devices[0].device_kind}, {os.cpu_count()} CPUs, "
        f"JAX {jax.__version__}"
    )


def _best_revising(
    plan: Plan,
    name: str,
    run: Run,
    asked: EvaluationOptions,
    decoding: Mapping[str, Any],
    tell: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns the settings of the decoder that is best on other samples, and all distances.

    All take as many network passes as the published decoder does. Without classes nothing is
    tried: remasking is taken as the run has it.
    """
    generator = GeneratorPipeline(run, asked.mesh)
    own = generator.settings(**decoding)
    passes = num_network_evaluations(dataclasses.replace(own, guidance=0.0))
    if generator.num_classes < 2:
        chosen = settings_with_nfe("remask", passes, own.guidance, own)
        return {**decoding, "decoder": "remask", "steps": chosen.steps}, {}
    bench = DecoderComparison(run, asked, min(plan.num or _MOST_FOR_CHOICE, _MOST_FOR_CHOICE))
    path = plan.measured / "evaluations" / f"decoders-{plan.identity(name)}.json"
    tried = json.loads(path.read_text()) if path.exists() else {}
    found = {way: settings_with_nfe(way, passes, own.guidance, own) for way in REVISING}
    for way, settings in found.items():
        if way not in tried:
            tell(f"trying decoder {way}")
            images, _ = bench.sample(settings, seed=_CHOICE_SEED)
            tried[way] = bench.evaluate(way, images, bench.labels).frechet_distance
            write_text(path, json.dumps(tried) + "\n")
    best = found[min(tried, key=tried.__getitem__)]
    changed = {"decoder": best.decoder, "steps": best.steps}
    if best.decoder == "remask":
        changed["remask"] = best.remask
    return {**decoding, **changed}, tried


def _one_of_each(source: Any) -> np.ndarray:
    """Returns images of as many classes as there are, the first ones of each, in their order."""
    seen: dict[tuple[int, int], np.ndarray] = {}
    counts: dict[int, int] = {}
    some = random_subset(source, _LOOKED_THROUGH)
    for index in range(len(some)):
        record = some[index]
        label = record["label"]
        counts[label] = counts.get(label, 0) + 1
        seen[counts[label], label] = record["image"]
    return np.stack([seen[key] for key in sorted(seen)[:SHOWN_RESTORED]])


def _passes(run: Run, settings: Any) -> int:
    if isinstance(settings, DecodeSettings):
        return num_network_evaluations(settings) + 1
    if "grid" in run.config.model or "grids" in run.config.model:
        return sum(height * width for height, width in token_grids(run.config)) + 1
    return 1


def _said(settings: Any) -> str:
    if not isinstance(settings, DecodeSettings):
        return ""
    kind = f":{settings.remask_schedule}" if settings.decoder == "remask" else ""
    guidance = f", guidance {settings.guidance:g}" if settings.guidance else ""
    return f"{settings.decoder}{kind}, {settings.steps} steps{guidance}"


def _made(generator: GeneratorPipeline, settings: Any) -> tuple[np.ndarray, float]:
    """Returns images of all classes in turn, and the seconds for one."""
    labels = np.arange(2 * _TIMED_BATCH) % max(1, generator.num_classes)
    images, begun = [], 0.0
    for batch in generator(list(labels), 0, settings, _TIMED_BATCH):
        images.append(batch)
        begun = begun or time.monotonic()  # the first one is compiled
    seconds = (time.monotonic() - begun) / sum(map(len, images[1:]))
    return np.concatenate(images)[:SHOWN_MADE], seconds


def _parameters(run: Run, without: str = "") -> int:
    players = {name: tree for name, tree in run.variables.params.items() if name != without}
    return sum(leaf.size for leaf in jax.tree.leaves(players))
