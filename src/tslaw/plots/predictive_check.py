"""Posterior predictive check: measured accuracies against replicated ones, cell by cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D

from tslaw.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tslaw.plots.view import TaskView


def predictive_check(view: TaskView) -> Figure:
    """Left: measured against replicated accuracy. Right: their difference, arm by arm and budget by budget."""
    measured = view.probes > 0
    low, middle, high = np.quantile(view.replicates, (0.05, 0.5, 0.95), axis=0)
    # A replicate is a count over the same number of probes: half a count of slack keeps rounding errors from deciding.
    slack = 0.5 / np.maximum(view.probes, 1.0)
    inside = (view.observed >= low - slack) & (view.observed <= high + slack)
    fig, body = style.new_figure(view, 3.7)
    left, right = body.subplots(1, 2, width_ratios=(1.0, 1.55))
    bits = style.bit_styles(view.posterior.weight_bits)
    _scatter(left, view, low, middle, high, inside & measured, measured)
    _strip(right, view, low, middle, high, inside & measured, measured)
    handles = [
        Line2D([], [], ls="", marker=s.marker, color="black", mfc="black", ms=4, label=f"{b:g}-bit weights")
        for b, s in bits.items()
    ]
    handles.append(
        Line2D(
            [], [], ls="", marker="o", mfc="white", mec=style.RED, mew=1.2, ms=5, label="measured outside the interval"
        )
    )
    handles.append(Line2D([], [], color="#9a9a9a", lw=2, label="replicated, 90%"))
    body.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.2, handlelength=1.4)
    n, hits = int(measured.sum()), int((inside & measured).sum())
    name = f"{view.posterior.family}, {view.posterior.task}: posterior predictive"
    body.suptitle(f"{name}, {hits} of {n} cells ({hits / n:.0%}) inside their 90% intervals")
    return fig


def _scatter(
    ax: Axes,
    view: TaskView,
    low: np.ndarray,
    middle: np.ndarray,
    high: np.ndarray,
    inside: np.ndarray,
    measured: np.ndarray,
) -> None:
    top = float(max(high[measured].max(), view.observed[measured].max())) * 1.05
    ax.plot([0, top], [0, top], color="#777777", lw=0.8)
    ax.vlines(view.observed[measured], low[measured], high[measured], color="#9a9a9a", lw=1.2)
    for arm in range(len(view.posterior.arms)):
        _points(ax, view, arm, view.observed[arm], middle[arm], inside[arm], measured[arm])
    ax.set(xlabel="Measured accuracy", ylabel="Replicated accuracy", xlim=(0, top), ylim=(0, top))


def _strip(
    ax: Axes,
    view: TaskView,
    low: np.ndarray,
    middle: np.ndarray,
    high: np.ndarray,
    inside: np.ndarray,
    measured: np.ndarray,
) -> None:
    """Cells side by side: arms from small to large, within an arm budgets from short to long."""
    n_budgets = len(view.posterior.budgets)
    order = [a.position for m in style.by_size(view) for a in view.posterior.family_arms("equation") if a.model == m]
    for place, arm in enumerate(order):
        x = place * (n_budgets + 1) + np.arange(n_budgets)
        ax.vlines(
            x[measured[arm]], *(100 * (e - middle)[arm, measured[arm]] for e in (low, high)), color="#9a9a9a", lw=1.2
        )
        _points(ax, view, arm, x, 100 * (view.observed - middle)[arm], inside[arm], measured[arm])
        if place:
            ax.axvline(place * (n_budgets + 1) - 1, color="#dddddd", lw=0.6)
    centres = np.arange(len(order)) * (n_budgets + 1) + (n_budgets - 1) / 2
    names = [f"{view.posterior.models[a]} {view.posterior.weight_bits[a]:g}" for a in order]
    ax.set_xticks(centres, names, rotation=90)
    ax.axhline(0.0, color="#777777", lw=0.8)
    ax.grid(axis="x", visible=False)
    ax.set(xlabel="Model and weight bits (budgets rise within each)", ylabel="Measured - replicated (% points)")


def _points(
    ax: Axes, view: TaskView, arm: int, x: np.ndarray, y: np.ndarray, inside: np.ndarray, measured: np.ndarray
) -> None:
    marker = style.bit_styles(view.posterior.weight_bits)[float(view.posterior.weight_bits[arm])].marker
    ax.plot(x[inside], y[inside], ls="", marker=marker, color="black", ms=2.6, zorder=3)
    outside = measured & ~inside
    ax.plot(x[outside], y[outside], ls="", marker=marker, mfc="white", mec=style.RED, mew=1.2, ms=4, zorder=4)
