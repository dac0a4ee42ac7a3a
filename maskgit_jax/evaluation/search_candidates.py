"""Candidates of a search for sampling settings, and the choice among them."""

import dataclasses
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from maskgit_jax.configuration import InputError, require
from maskgit_jax.decoding.parallel import fit_steps, num_network_evaluations
from maskgit_jax.decoding.settings import DecodeSettings, unused_settings

Check = Callable[[Any], None]
"""settings -> None; raises `InputError` for settings that cannot work."""

RUNGS = 3
KEPT = 3  # one candidate of three goes on to the next rung, with three times as many images
MAX_COMBINATIONS = 20_000


def rung_sizes(num: int) -> list[int]:
    """Returns the numbers of images of each rung, ascending; the last one is `num`."""
    return [-(-num // KEPT**rung) for rung in reversed(range(RUNGS))]


def successive_halving(
    candidates: Sequence[Any], sizes: Sequence[int], loss: Callable[[Any, int], float]
) -> list[tuple[Any, list[float]]]:
    """Returns the candidates with their losses at each rung that they reached, the best first.

    Args:
        candidates: Hashable, all different. The first one reaches the last rung in any case.
        sizes: Number of images of each rung.
        loss: (candidate, number of images) -> loss; the lowest is the best.

    Source: Karnin et al. 2013, Almost Optimal Exploration in Multi-Armed Bandits. Differs: thirds.
    """
    losses: dict[Any, list[float]] = {candidate: [] for candidate in candidates}
    kept = list(candidates)
    for rung, size in enumerate(sizes):
        for candidate in kept:
            losses[candidate].append(loss(candidate, size))
        ranked = sorted(kept, key=lambda candidate: losses[candidate][-1])
        kept = ranked[: -(-len(candidates) // KEPT ** (rung + 1))]
        kept += [candidates[0]] * (candidates[0] not in kept)
    return sorted(losses.items(), key=lambda item: (-len(item[1]), item[1][-1]))


def nfe_of(settings: Any) -> int | None:
    """Returns the network evaluations per image of MaskGIT's settings, None of others."""
    return num_network_evaluations(settings) if isinstance(settings, DecodeSettings) else None


def list_candidates(
    own: Any, base: Any, names: Sequence[str], check: Check, limit: int, nfe: int = 0
) -> list[Any]:
    """Returns the settings to compare, first those of the run.

    The others are combinations of the values that the settings declare, all of them or a fixed
    random choice. Settings without effect stay as they are.

    Args:
        own: Settings of the run.
        base: The same with those that the user gives.
        names: Settings to search.
        check: See `Check`.
        limit: Number of candidates.
        nfe: Network evaluations per image that no candidate exceeds; 0: any number. If the run
            needs more, the first candidate is `base`, with fewer steps if steps are searched.

    Raises:
        InputError: There is nothing to search.
    """
    possible = {name: _possible_values(base, name, check) for name in dict.fromkeys(names)}
    if nfe:
        base = _fit_to_nfe(base, possible, nfe)

    def is_possible(settings: Any) -> bool:
        affordable = not nfe or num_network_evaluations(settings) <= nfe
        return affordable and not _refusal(check, settings)

    found = {settings: None for settings in (own, base) if is_possible(settings)}
    for chosen in _combinations(possible):
        if len(found) >= limit:
            break
        settings = dataclasses.replace(base, **chosen)
        unused = {name: getattr(base, name) for name in unused_settings(settings)}
        settings = dataclasses.replace(settings, **unused)
        if is_possible(settings):
            found[settings] = None
    require(
        len(found) > 1,
        f"--search={','.join(names)}: no other value has an effect on this run"
        + f" at {nfe} network evaluations" * bool(nfe),
    )
    return list(found)


def _possible_values(base: Any, name: str, check: Check) -> list[Any]:
    declared = {
        field.name: field.metadata["candidates"]
        for field in dataclasses.fields(base)
        if field.metadata["candidates"] and field.metadata["in_config"]
    }
    require(
        name in declared,
        f"--search has '{name}'; the settings of this run that can be searched are "
        f"{', '.join(declared)}",
    )
    values = list(dict.fromkeys([getattr(base, name), *declared[name]]))
    refusals = [_refusal(check, dataclasses.replace(base, **{name: value})) for value in values]
    possible = [value for value, refusal in zip(values, refusals, strict=True) if not refusal]
    require(
        len(possible) > 1,
        f"--search={name} has no other value to try: {next(filter(None, refusals), '')}",
    )
    return possible


def _refusal(check: Check, settings: Any) -> str:
    """Returns why settings cannot work, "" if they can."""
    try:
        check(settings)
    except InputError as error:
        return str(error)
    return ""


def _fit_to_nfe(base: Any, possible: dict[str, list[Any]], nfe: int) -> Any:
    """Returns settings with fewer steps, if those are searched; adds `nfe` to the steps to try."""
    require(
        isinstance(base, DecodeSettings),
        "--search_nfe has no effect on this run: its settings do not change the number of network "
        "evaluations; remove it",
    )
    hint = "raise it"
    if "steps" in possible:
        possible["steps"] = sorted({*possible["steps"], nfe})
        base = fit_steps(base, nfe)
    else:
        hint += ", search steps too, or give --steps"
    require(
        num_network_evaluations(base) <= nfe,
        f"--search_nfe is {nfe}, but the settings of the run with {base.steps} "
        f"step{'s' * (base.steps > 1)} need {num_network_evaluations(base)} network evaluations "
        f"per image; {hint}",
    )
    return base


def _combinations(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yields combinations of values in a fixed random order, at most `MAX_COMBINATIONS`."""
    total = math.prod(len(options) for options in values.values())
    for index in random.Random(0).sample(range(total), min(total, MAX_COMBINATIONS)):
        chosen, rest = {}, index
        for name, options in values.items():
            rest, place = divmod(rest, len(options))
            chosen[name] = options[place]
        yield chosen
