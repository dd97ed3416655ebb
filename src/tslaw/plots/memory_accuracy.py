"""Accuracy against memory with a Pareto frontier: figure 1 of Kim et al. (2025, arXiv 2510.10964) with uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tslaw.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from tslaw.fit.frontier import Frontier
    from tslaw.plots.view import TaskView


def memory_accuracy(view: TaskView, frontier: Frontier, batch: float) -> Figure:
    """One curve an arm with a full KV cache over its token budgets: posterior mean, 90% band, points filled by their
    membership of `frontier`, which is that of such arms alone."""
    fig, body = style.new_figure(view, 4.6)
    ax = body.subplots()
    ax.set_xscale("log")
    memory = np.array([c.memory for c in frontier.configurations])
    unit = style.memory_unit(memory)
    models = style.by_size(view)
    colours, bits = style.model_colours(models), style.bit_styles(view.posterior.weight_bits)
    _frontier_line(ax, frontier, memory / unit.size)
    for arm, model, width, *_ in sorted(view.posterior.family_arms("equation")):
        own = [i for i, c in enumerate(frontier.configurations) if (c.model, c.weight_bits) == (model, width)]
        accuracy = frontier.accuracy[:, own]
        low, high = np.quantile(accuracy, style.BAND, axis=0)
        drawn = bits[float(width)]
        ax.fill_between(memory[own] / unit.size, low, high, color=colours[model], alpha=0.16, lw=0)
        ax.plot(memory[own] / unit.size, accuracy.mean(axis=0), color=colours[model], ls=drawn.line, lw=1.1)
        _measured(ax, view, frontier, arm, unit, colours[model], drawn.marker)
    ax.set_xlim(memory[0] / unit.size / 1.12, memory[-1] / unit.size * 1.12)
    style.log_memory_axis(ax)
    style.accuracy_axis(ax)
    shared = "" if batch == 1 else f", weights shared by {batch:g} generations"
    ax.set(xlabel=f"Memory per generation: weights and KV cache ({unit.name}{shared})", ylabel="Accuracy")
    _legends(body, colours, bits)
    only = ", full KV caches" if view.posterior.cache_kinds else ""
    body.suptitle(f"{view.posterior.family}, {view.posterior.task}: accuracy against memory{only}")
    return fig


def _frontier_line(ax: Axes, frontier: Frontier, memory: np.ndarray) -> None:
    """The frontier of the posterior mean: along an arm as it thinks longer, then level until another arm is better."""
    mean = frontier.accuracy.mean(axis=0)
    best = np.maximum.accumulate(mean)
    path: list[tuple[float, float]] = []
    arm: tuple[str, float] | None = None
    for k in np.flatnonzero(mean > np.concatenate([[-np.inf], best[:-1]])):
        here = frontier.configurations[k][:2]
        if path and here != arm:
            path.append((memory[k], path[-1][1]))
        path.append((memory[k], mean[k]))
        arm = here
    path.append((memory[-1], path[-1][1]))
    ax.plot(*zip(*path, strict=True), color="#9a9a9a", lw=4.5, alpha=0.55, solid_joinstyle="round", zorder=1.5)


def _measured(
    ax: Axes, view: TaskView, frontier: Frontier, arm: int, unit: style.Unit, colour: Any, marker: str
) -> None:
    """Measured accuracies of an arm; the fuller a marker, the more probably it is on the frontier."""
    key = (view.posterior.models[arm], view.posterior.weight_bits[arm])
    at = {
        c.token_budget: (c.memory, p)
        for c, p in zip(frontier.configurations, frontier.membership, strict=True)
        if c[:2] == key
    }
    seen = np.flatnonzero(view.probes[arm] > 0)
    place = np.array([at[int(view.posterior.budgets[k])] for k in seen])
    accuracy = view.observed[arm, seen]
    low, high = style.binomial_interval(accuracy, view.probes[arm, seen])
    x = place[:, 0] / unit.size
    ax.vlines(x, low, high, color=colour, lw=0.7, zorder=3)
    ax.scatter(x, accuracy, s=20, marker=marker, color="white", zorder=4)
    fill = [(*colour[:3], p) for p in place[:, 1]]
    ax.scatter(x, accuracy, s=20, marker=marker, facecolors=fill, edgecolors=[colour], linewidths=0.8, zorder=5)


def _legends(body: SubFigure, colours: dict[str, Any], bits: dict[float, style.BitStyle]) -> None:
    plain: dict[str, Any] = {"color": "#333333", "markersize": 4.5}
    entries: list[Any] = [_heading("Model")]
    entries += [Line2D([], [], color=c, lw=3, label=m) for m, c in reversed(colours.items())]
    entries += [_heading(""), _heading("Weight bits")]
    entries += [Line2D([], [], marker=s.marker, ls=s.line, lw=1.1, label=f"{b:g}", **plain) for b, s in bits.items()]
    entries += [_heading(""), _heading("P(on frontier)")]
    for share in (1.0, 0.5, 0.0):
        entries.append(
            Line2D([], [], ls="", marker="o", mec="#333333", mfc=(0.2, 0.2, 0.2, share), ms=5, label=f"{share:g}")
        )
    entries += [_heading("")]
    entries += [Line2D([], [], color="#9a9a9a", alpha=0.55, lw=4.5, label="frontier of the\nposterior mean")]
    entries += [Patch(color="#333333", alpha=0.16, lw=0, label="90% posterior"), _bar("90% binomial")]
    body.legend(handles=entries, loc="outside right upper", handlelength=2.4, labelspacing=0.35)


def _heading(text: str) -> Line2D:
    return Line2D([], [], ls="", label=text)


def _bar(label: str) -> Line2D:
    return Line2D([], [], ls="", marker="|", ms=9, color="#333333", label=label)
