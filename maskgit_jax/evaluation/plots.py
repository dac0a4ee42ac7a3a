"""Figures as pictures."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maskgit_jax.configuration import require
from maskgit_jax.files import atomic_path

_ACTIVE, _INACTIVE = "tab:blue", "tab:red"


def posterior_plot(
    path: Path,
    kl_per_unit: np.ndarray,
    active_statistic: np.ndarray,
    epsilons: np.ndarray,
    collapsed_share: np.ndarray,
    threshold: float = 0.01,
) -> None:
    """Writes a PNG that shows which latent units carry information.

    On the left the divergence of each unit, the largest first, coloured by whether the unit is
    active; on the right the share of collapsed units against epsilon, whose axis is logarithmic.

    Args:
        path: The file; it appears when it is complete.
        kl_per_unit: Mean divergence of each unit, nats, [Z].
        active_statistic: Variance of the posterior mean of each unit, [Z].
        epsilons: Of the curve, nats, above 0, [E].
        collapsed_share: In [0, 1], [E].
        threshold: A unit is active if its statistic is above.

    Raises:
        InputError: Arrays that belong together differ in length, or an epsilon is not above 0.

    Source: Burda et al. 2015 (active units) and Lucas et al. 2019 (the curve).
    """
    kl_per_unit, active_statistic = np.asarray(kl_per_unit), np.asarray(active_statistic)
    epsilons, collapsed_share = np.asarray(epsilons), np.asarray(collapsed_share)
    require(
        kl_per_unit.ndim == 1 and kl_per_unit.shape == active_statistic.shape,
        f"divergences {kl_per_unit.shape} and statistics {active_statistic.shape} must be [Z]",
    )
    require(
        epsilons.ndim == 1 and epsilons.shape == collapsed_share.shape,
        f"epsilons {epsilons.shape} and shares {collapsed_share.shape} must be [E]",
    )
    require(bool((epsilons > 0).all()), "epsilons must be above 0: their axis is logarithmic")
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    bars, curve = figure.subplots(1, 2)
    order = np.argsort(-kl_per_unit, kind="stable")
    active = active_statistic[order] > threshold
    for units, colour, name in ((active, _ACTIVE, "active"), (~active, _INACTIVE, "inactive")):
        if not units.any():
            continue
        label = f"{name}: {np.count_nonzero(units)} of {len(units)}"
        place, height = np.flatnonzero(units), kl_per_unit[order][units]
        bars.bar(place, height, color=colour, label=label)
        bars.plot(place, height, "o", color=colour, markersize=4)  # bars of nearly 0 do not show
    bars.set_ylim(0.0, 1.05 * max(0.1, kl_per_unit.max()))  # what is nothing shall look so
    bars.set(xlabel="unit, by divergence", ylabel="KL from the prior (nats)", title="Units")
    bars.legend()
    curve.plot(epsilons, 100.0 * collapsed_share)
    curve.set(xscale="log", xlabel="epsilon (nats)", ylabel="collapsed units (%)", ylim=(-2, 102),
              title="Collapse")  # fmt: skip
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
