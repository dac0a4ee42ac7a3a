"""Plots of metrics."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maskgit_jax.configuration import require
from maskgit_jax.files import atomic_path

_ACTIVE, _INACTIVE = "tab:blue", "tab:red"


def plot_posteriors(
    path: Path,
    kl_per_unit: np.ndarray,
    unit_activity: np.ndarray,
    epsilons: np.ndarray,
    collapsed_share: np.ndarray,
    threshold: float = 0.01,
) -> None:
    """Writes a PNG file that shows which latent units carry information.

    Left: the KL of each unit, largest first; the color tells active units. Right: the share of
    collapsed units over epsilon.

    Args:
        path: File to write.
        kl_per_unit: Mean KL of each unit, nats, [Z].
        unit_activity: Variance of the posterior mean of each unit, [Z].
        epsilons: Epsilons of the curve, nats, above 0, [E].
        collapsed_share: Share of collapsed units in [0, 1], [E].
        threshold: Units with a larger activity are active.

    Raises:
        InputError: Shapes differ, or an epsilon is not above 0.

    Source: Burda et al. 2015 (active units) and Lucas et al. 2019 (the curve).
    """
    kl_per_unit, unit_activity = np.asarray(kl_per_unit), np.asarray(unit_activity)
    epsilons, collapsed_share = np.asarray(epsilons), np.asarray(collapsed_share)
    require(
        kl_per_unit.ndim == 1 and kl_per_unit.shape == unit_activity.shape,
        f"KL {kl_per_unit.shape} and activity {unit_activity.shape} must both be [Z]",
    )
    require(
        epsilons.ndim == 1 and epsilons.shape == collapsed_share.shape,
        f"epsilons {epsilons.shape} and shares {collapsed_share.shape} must both be [E]",
    )
    require(bool((epsilons > 0).all()), "epsilons must be above 0; their axis is logarithmic")
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    bars, curve = figure.subplots(1, 2)
    order = np.argsort(-kl_per_unit, kind="stable")
    active = unit_activity[order] > threshold
    for units, color, name in ((active, _ACTIVE, "active"), (~active, _INACTIVE, "inactive")):
        if not units.any():
            continue
        label = f"{name}: {np.count_nonzero(units)} of {len(units)}"
        position, height = np.flatnonzero(units), kl_per_unit[order][units]
        bars.bar(position, height, color=color, label=label)
        bars.plot(position, height, "o", color=color, markersize=4)  # bars close to 0 are invisible
    bars.set_ylim(0.0, 1.05 * max(0.1, kl_per_unit.max()))  # a KL close to 0 must look small
    bars.set(xlabel="unit, sorted by KL", ylabel="KL from the prior (nats)", title="Units")
    bars.legend()
    curve.plot(epsilons, 100.0 * collapsed_share)
    curve.set(xscale="log", xlabel="epsilon (nats)", ylabel="collapsed units (%)", ylim=(-2, 102),
              title="Collapse")  # fmt: skip
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
