"""Accuracy against the thinking budget, one panel a model: what was measured beside what was fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D

from tslaw.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tslaw.plots.view import TaskView

CURVE_POINTS = 60
DODGE = 0.012
"""Arms of one panel stand this far apart (as a share of the axis), so that their intervals do not hide each other."""


def accuracy_budget(view: TaskView) -> Figure:
    """Posterior median and 90% band of every arm, with measured points and their binomial intervals."""
    models = style.by_size(view)
    columns = min(3, len(models)) if len(models) != 4 else 2
    rows = -(-len(models) // columns)
    fig, body = style.new_figure(view, 0.8 + 2.15 * rows)
    axes = np.atleast_1d(body.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)).ravel()
    bits = style.bit_styles(view.posterior.weight_bits)
    axes[0].set_xscale("log")
    for ax, model in zip(axes, models, strict=False):
        _panel(ax, view, model, bits)
    for ax in axes[len(models) :]:
        ax.set_visible(False)
    style.accuracy_axis(axes[0])
    budgets = view.posterior.budgets
    margin = max(budgets[-1] / budgets[0], 1.2) ** 0.05
    axes[0].set_xlim(budgets[0] / margin, budgets[-1] * margin)
    for ax in axes[max(0, len(models) - columns) : len(models)]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("Thinking budget (tokens)")
    for ax in axes[::columns]:
        ax.set_ylabel("Accuracy")
    handles = [
        Line2D([], [], color=s.colour, marker=s.marker, ls=s.line, ms=4, label=f"{b:g}-bit weights")
        for b, s in bits.items()
    ]
    handles.append(Line2D([], [], color="#777777", marker="|", ls="", ms=9, label="measured, 90% binomial"))
    handles.append(Line2D([], [], color="#777777", alpha=0.3, lw=6, label="posterior, 90%"))
    body.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.4)
    body.suptitle(f"{view.posterior.family}, {view.posterior.task}: accuracy against thinking budget")
    return fig


def _panel(ax: Axes, view: TaskView, model: str, bits: dict[float, style.BitStyle]) -> None:
    budgets = view.posterior.budgets
    curve = np.geomspace(budgets.min(), budgets.max(), CURVE_POINTS)
    arms = [a for a in view.posterior.family_arms("equation") if a.model == model]
    for place, arm in enumerate(arms):
        drawn = bits[arm.weight_bits]
        low, middle, high = np.quantile(view.posterior.arm_accuracy(arm, curve), (0.05, 0.5, 0.95), axis=0)
        ax.fill_between(curve, low, high, color=drawn.colour, alpha=0.17, lw=0)
        ax.plot(curve, middle, color=drawn.colour, ls=drawn.line)
        seen = view.probes[arm.position] > 0
        accuracy = view.observed[arm.position, seen]
        ends = style.binomial_interval(accuracy, view.probes[arm.position, seen])
        shift = (budgets.max() / budgets.min()) ** (DODGE * (place - (len(arms) - 1) / 2))
        ax.vlines(budgets[seen] * shift, *ends, color=drawn.colour, lw=0.8)
        ax.plot(
            budgets[seen] * shift, accuracy, ls="", marker=drawn.marker, ms=3.6, mfc="white", mec=drawn.colour, mew=0.9
        )
    style.log_budget_axis(ax, budgets)
    ax.set_title(model, loc="left")
