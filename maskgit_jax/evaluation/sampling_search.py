"""Search for the sampling settings of a run whose samples are best, by successive halving.

All candidates sample the same labels with the same random keys, first few images, then more of the
best third. They are compared with one half of the training images. The metrics that are reported,
before and after, are those of new samples and of the other half.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from maskgit_jax.configuration import InputError, require
from maskgit_jax.evaluation.evaluate import evaluation_options
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import check_image_sets
from maskgit_jax.evaluation.report import format_table
from maskgit_jax.evaluation.sampling import open_run_images, plan_sampling
from maskgit_jax.evaluation.search_candidates import (
    list_candidates,
    nfe_of,
    rung_sizes,
    successive_halving,
)
from maskgit_jax.evaluation.search_scores import METRICS, Scorer, SearchOptions
from maskgit_jax.files import write_text
from maskgit_jax.runs.directory import Run, write_sampling_defaults
from maskgit_jax.runs.lock import lock_run
from maskgit_jax.runs.progress import note
from maskgit_jax.settings import check_settings
from maskgit_jax.training.variables import weights_checksum

DEFAULT_NUM = 1800


SEARCH_FLAGS = (
    (list, "search", [], "Settings of which the best values are searched, such as steps,guidance."),
    *(
        (tuple(METRICS) if field.name == "metric" else type(field.default),
         f"search_{field.name}", field.default, field.metadata["help"])
        for field in dataclasses.fields(SearchOptions)
    ),
)  # fmt: skip
"""Flags of `evaluate`, see `command_line.define_flags`."""


def search_options(values: Mapping[str, Any]) -> SearchOptions:
    """Returns the options of a search from the values of `SEARCH_FLAGS`."""
    names = [field.name for field in dataclasses.fields(SearchOptions)]
    return SearchOptions(**{name: values[f"search_{name}"] for name in names})


class SearchResult(NamedTuple):
    """The result of a search.

    Attributes:
        settings: The best settings, {name: value}.
        changes: Those that differ from the run's, and that are its defaults now unless the search
            was not to write them or they are no better on the other half.
        before: Metric -> value of the run's settings, of new samples and the other half.
        after: The same of the best settings.
        text: Tables in Markdown, and what was written.
    """

    settings: dict[str, Any]
    changes: dict[str, Any]
    before: dict[str, float]
    after: dict[str, float]
    text: str


def search_sampling(
    run: Run,
    workdir: Path,
    options: EvaluationOptions,
    names: Sequence[str],
    search: SearchOptions,
    *,
    num: int | None = None,
    data: str = "",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Returns the sampling settings with which a run's samples are best.

    Writes `evaluation/sampling_search.json` and `.md`, and the settings into `config.json`.

    Args:
        run: A run that generates images.
        workdir: Its directory.
        options: Options of the evaluation.
        names: Settings to search.
        search: Options of the search.
        num: Samples in the last rung, by default `DEFAULT_NUM`.
        data: Real images, as in `config.data.source`; "" for those of the run.
        seed: Random seed of the samples.
        settings: Other sampling settings that differ from those of the run, for all candidates.

    Raises:
        InputError: A setting cannot be searched, there are too few images, or the run is locked.
    """
    check_settings(search)
    require(
        not (run.guide and search.write),
        "a guide is no setting of a run: the settings found with --guide are not written; add "
        "--nosearch_write",
    )
    config, real, sources = open_run_images(run, data)
    changes = dict(settings or {})
    sampling = plan_sampling(run, sources, config, options, num or DEFAULT_NUM, seed, changes)
    if sampling is None:
        raise InputError("--search needs a run that generates images, such as one of MaskGIT")
    for name in changes:
        require(name not in names, f"--{name} is given and searched; remove one of them")
        require(name in run.config.sampling, f"--{name} has no effect on --search; remove it")
    own, check = sampling.generator.generator.settings, sampling.generator.generator.check_settings
    limits = search.candidates, search.nfe
    candidates = list_candidates(own, sampling.settings, names, check, *limits)
    sizes, path = rung_sizes(sampling.num), workdir / "evaluation" / "sampling_search.json"
    sampling = dataclasses.replace(sampling, batch_size=min(sampling.batch_size, sizes[0]))
    weights = weights_checksum(run.variables, options.mesh)
    scorer = Scorer(sampling, real, options, search, weights, path)
    scorer.check()
    assert real.training is not None
    check_image_sets(real.training.shape, sampling.num, real, [], options.num_reference)
    if search.write:
        with lock_run(workdir):  # A run in training is refused before the work, not after it.
            pass
    shown, start = [*names, *changes], time.monotonic()
    ranked = successive_halving(candidates, sizes, _announced(scorer, candidates, sizes, shown))
    result = _conclude(scorer, run, workdir, ranked, candidates[0], shown)
    note(f"searched for {time.monotonic() - start:.0f} s; wrote {path} and {path.stem}.md")
    return result


def search_loaded(
    run: Run,
    workdir: Path,
    mesh: Mesh,
    names: Sequence[str],
    num: int | None = None,
    seed: int = 0,
    features: Sequence[str] = ("classifier",),
    batch_size: int = 128,
    **options: Any,
) -> dict[str, Any]:
    """Returns the best sampling settings, {name: value}.

    Args:
        run: A run that generates images.
        workdir: Its directory, of which they are the defaults afterwards.
        mesh: Devices.
        names: Settings to search.
        num: See `search_sampling`.
        seed: Random seed of the samples.
        features: Feature networks, of which the first is used; see `evaluation_options`.
        batch_size: Images per batch.
        options: Fields of `SearchOptions`: metric, nfe, candidates, write.

    Raises:
        InputError: A setting or an option cannot be used, or the run is in training.
    """
    known = [field.name for field in dataclasses.fields(SearchOptions)]
    for name in options:
        require(name in known, f"a search has no option '{name}'; choose from {', '.join(known)}")
    shared = evaluation_options(mesh, features=features, batch_size=batch_size)
    search = SearchOptions(**options)
    return search_sampling(run, workdir, shared, names, search, num=num, seed=seed).settings


def _announced(
    scorer: Scorer, candidates: Sequence[Any], sizes: Sequence[int], names: Sequence[str]
) -> Callable[[Any, int], float]:
    """Returns the scorer's loss, which also prints a line for each candidate."""
    metric, counts = scorer.search.metric, dict.fromkeys(sizes, 0)
    sign = 1 if METRICS[metric].better == "lower" else -1

    def loss(settings: Any, count: int) -> float:
        value = scorer.loss(settings, count)
        counts[count] += 1
        note(
            f"rung {sizes.index(count) + 1} of {len(sizes)}, {count} images, candidate "
            f"{counts[count]}: {metric} {sign * value:.4g} with {_words(settings, names)}"
        )
        return value

    note(f"searching {', '.join(names)} with {len(candidates)} candidates")
    return loss


def _words(settings: Any, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {_word(getattr(settings, name))}" for name in names)


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def _conclude(
    scorer: Scorer,
    run: Run,
    workdir: Path,
    ranked: list[tuple[Any, list[float]]],
    current: Any,
    names: Sequence[str],
) -> SearchResult:
    """Measures the best settings on the other half, writes them and the tables."""
    search, best, own = scorer.search, ranked[0][0], scorer.sampling.generator.generator.settings
    before = scorer.report(current)
    after = scorer.report(best) if best != current else before
    sign = 1 if METRICS[search.metric].better == "lower" else -1
    is_better = sign * after[search.metric] <= sign * before[search.metric]
    kept = [field.name for field in dataclasses.fields(own) if field.metadata["in_config"]]
    values = {name: getattr(best, name) for name in kept}
    changes = {name: value for name, value in values.items() if value != getattr(own, name)}
    words = ", ".join(
        f"{name} {_word(getattr(own, name))} -> {_word(value)}" for name, value in changes.items()
    )
    if not changes:
        outcome = "The settings of the run are the best of the candidates; nothing is changed."
    elif not is_better:
        outcome = (
            f"Best of the search: {words}; no better on the other half, so nothing is changed."
        )
    elif not search.write:
        outcome = f"Best settings: {words}. They are not written; the run keeps its own."
    else:
        write_sampling_defaults(workdir, changes)
        outcome = f"New defaults of {workdir}: {words}. Flags and keywords still override them."
    table = _format_search(scorer, run, ranked, names, {"before": current, "after": best},
                           {"before": before, "after": after})  # fmt: skip
    text = f"{table}\n{outcome}\n"
    scorer.stored["searches"].append({
        **dataclasses.asdict(search), "names": list(names), "num": scorer.sampling.num,
        "step": run.step, "previous": {name: getattr(own, name) for name in kept},
        "best": values, "before": before, "after": after, "outcome": outcome,
    })  # fmt: skip
    write_text(scorer.path, json.dumps(scorer.stored, indent=1) + "\n")
    write_text(scorer.path.with_suffix(".md"), f"# Sampling search\n\n{text}")
    return SearchResult(values, changes, before, after, text)


def _format_search(
    scorer: Scorer,
    run: Run,
    ranked: list[tuple[Any, list[float]]],
    names: Sequence[str],
    settings: dict[str, Any],
    reported: dict[str, dict[str, float]],
) -> str:
    """Returns the scores of all candidates, and the metrics before and after."""
    search, sizes, num = scorer.search, rung_sizes(scorer.sampling.num), scorer.sampling.num
    metric, (first, second) = METRICS[search.metric], scorer.halves
    sign = 1 if metric.better == "lower" else -1
    rows = [("settings", "NFE", *(f"{size} images" for size in sizes))]
    for candidate, losses in ranked:
        cells = [f"{sign * loss:.4g}" for loss in losses] + [""] * (len(sizes) - len(losses))
        rows.append((_words(candidate, names), f"{nfe_of(candidate) or ''}", *cells))
    head = [*next(iter(reported.values()))]
    report = [("", "settings", "NFE", *head)]
    for title, chosen in settings.items():
        values = [f"{reported[title][name]:.4g}" for name in head]
        report.append((title, _words(chosen, names), f"{nfe_of(chosen) or ''}", *values))
    limit = f", at most {search.nfe} network evaluations" * bool(search.nfe)
    return "\n".join([
        f"{run.config.stage} at step {run.step}: {search.metric} ({metric.better} is better), "
        f"{scorer.extractor.network.identity}, seed {scorer.sampling.seed}{limit}.", "",
        f"Compared with {len(first)} training images of {scorer.real.name}:", "",
        format_table(rows), "",
        f"{num} new samples, compared with the {len(second)} other training images:", "",
        format_table(report), "",
    ])  # fmt: skip
