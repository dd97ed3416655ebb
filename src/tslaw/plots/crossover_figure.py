"""The crossover: its posterior, also outside the measured range, P(either choice), and what an error costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import NullLocator

from tslaw.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tslaw.fit.crossover import Crossover, LatticeChoice
    from tslaw.plots.view import TaskView

MIN_BINS, MAX_BINS = 24, 96
MARGIN = 0.17
"""Room left and right of the measured range for the censored mass, as a share of its length in logs."""


def crossover_figure(
    view: TaskView, found: Crossover, lattice: LatticeChoice | None, weights: dict[str, float]
) -> Figure:
    """Three panels over effective size.

    Parameters
    ----------
    lattice : the same question among the family's models, where at least two were measured at these bits.
    weights : bytes of every model of the family at these bits.
    """
    fig, body = style.new_figure(view, 6.2)
    top, middle, bottom = body.subplots(3, 1, sharex=True, height_ratios=(1.25, 1.0, 1.0))
    unit = style.memory_unit(found.weight)
    size = found.weight / unit.size
    _posterior(top, found, unit)
    _choice(middle, found, lattice, unit)
    _regret(bottom, size, found.regret)
    bottom.set_xlabel(
        f"Effective size: bytes of {found.weight_bits:g}-bit weights ({unit.name}, {found.accounting} accounting)"
    )
    reach = (size[-1] / size[0]) ** MARGIN
    bottom.set_xscale("log")
    bottom.set_xlim(size[0] / reach**1.1, size[-1] * reach**1.1)
    style.log_memory_axis(bottom)
    _model_marks((top, middle, bottom), weights, unit)
    for ax in (top, middle, bottom):
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    shared = "" if found.batch == 1 else f", batch {found.batch:g}"
    where = f"{view.posterior.family}, {view.posterior.task}, {found.weight_bits:g}-bit weights{shared}"
    body.suptitle(f"{where}: more weights or more thinking?")
    return fig


def _regret(ax: Axes, size: np.ndarray, regret: np.ndarray) -> None:
    low, median, high = np.quantile(regret, (0.05, 0.5, 0.95), axis=0)
    ax.plot(size, median, color="#0072b2", label="median")
    ax.fill_between(size, low, high, color="#0072b2", alpha=0.2, lw=0, label="90% band")
    ax.set(ylabel="Regret (accuracy)", ylim=(0, None))
    ax.set_title("Accuracy lost by thinking to saturation instead of moving to the best size", loc="left")


def _posterior(ax: Axes, found: Crossover, unit: style.Unit) -> None:
    """Histogram of W+ inside the range, and bars of their own for what lies outside: all bars together sum to one."""
    size = found.weight / unit.size
    inside = found.draws[np.isfinite(found.draws)] / unit.size
    edges = np.geomspace(size[0], size[-1], _n_bins(inside, np.log(size[-1] / size[0])) + 1)
    share = np.histogram(np.clip(inside, size[0], size[-1]), edges)[0] / len(found.draws)
    ax.bar(
        edges[:-1],
        share,
        np.diff(edges),
        align="edge",
        color="#8c8c8c",
        ec="white",
        lw=0.4,
        label="inside the family's\nsizes",
    )
    reach = (size[-1] / size[0]) ** MARGIN
    summary = found.summary
    ends = (
        (size[0] / reach, size[0], summary.p_below, "below"),
        (size[-1], size[-1] * reach, summary.p_above, "above"),
    )
    peak = max(float(share.max()), summary.p_below, summary.p_above)
    for left, right, mass, side in ends:
        label = "outside them" if side == "above" else None
        bar: dict[str, Any] = {"facecolor": "white", "edgecolor": style.RED, "hatch": "////", "lw": 0.8, "label": label}
        ax.bar(left, mass, right - left, align="edge", **bar)
        ax.annotate(
            f"{side}:\nP = {mass:.2f}",
            (np.sqrt(left * right), mass),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=style.RED,
        )
    for end in (size[0], size[-1]):
        ax.axvline(end, color="#555555", lw=0.8, ls=(0, (4, 2)))
    ax.set(ylim=(0, 1.6 * peak), ylabel="Probability")
    ax.set_yticks([t for t in ax.get_yticks() if t <= 1.2 * peak])
    ax.set_ylim(0, 1.6 * peak)
    ax.set_title(headline(found, unit), loc="left")
    _interval(ax, found, unit, 1.48 * peak)


def _n_bins(inside: np.ndarray, log_range: float) -> int:
    """Bins as wide as Freedman and Diaconis advise, within limits that keep them visible."""
    if len(inside) < 2:
        return MIN_BINS
    quarter, three_quarters = np.quantile(np.log(inside), (0.25, 0.75))
    width = 2.0 * (three_quarters - quarter) / len(inside) ** (1.0 / 3.0)
    return int(np.clip(np.ceil(log_range / max(width, 1e-9)), MIN_BINS, MAX_BINS))


def headline(found: Crossover, unit: style.Unit) -> str:
    """The crossover in words, censored ends said as such."""
    low, high = found.summary.hdi
    median = _end(found.summary.median, found, unit)
    return f"Crossover W+: median {median} {unit.name}, 90% HDI [{_end(low, found, unit)}, {_end(high, found, unit)}]"


def _end(value: float, found: Crossover, unit: style.Unit) -> str:
    if np.isneginf(value):
        return f"< {found.summary.low / unit.size:.3g}"
    if np.isposinf(value):
        return f"> {found.summary.high / unit.size:.3g}"
    return f"{value / unit.size:.3g}"


def _interval(ax: Axes, found: Crossover, unit: style.Unit, height: float) -> None:
    """Median and HDI above the histogram; an end outside the range becomes an arrow."""
    low, high = (np.clip(e, found.summary.low, found.summary.high) / unit.size for e in found.summary.hdi)
    ax.plot([low, high], [height, height], color="black", lw=1.6, solid_capstyle="butt", label="90% HDI\n(dot: median)")
    for end, place, arrow in zip(found.summary.hdi, (low, high), ("<", ">"), strict=True):
        ax.plot(place, height, marker="|" if np.isfinite(end) else arrow, color="black", ms=7)
    if np.isfinite(found.summary.median):
        ax.plot(found.summary.median / unit.size, height, "o", color="black", ms=5)


def _choice(ax: Axes, found: Crossover, lattice: LatticeChoice | None, unit: style.Unit) -> None:
    size = found.weight / unit.size
    ax.plot(size, (found.log_gain > 0).mean(axis=0), color="black", label="more weights win\n(any size)")
    if lattice is not None:
        label = "a bigger model of\nthe family wins"
        # The largest model has no bigger one to lose to.
        ax.plot(
            lattice.weight[:-1] / unit.size, lattice.p_bigger[:-1], "D", ms=5, mfc="white", color="#0072b2", label=label
        )
    beyond = "saturation lies beyond\nthe measured budgets"
    ax.plot(size, found.p_beyond_budgets, color="#d55e00", ls=(0, (1.2, 1.2)), label=beyond)
    ax.axhline(0.5, color="#777777", lw=0.7)
    ax.set(ylim=(-0.04, 1.04), ylabel="Probability")
    ax.set_title("At the memory of thinking to saturation", loc="left")


def _model_marks(axes: tuple[Axes, Axes, Axes], weights: dict[str, float], unit: style.Unit) -> None:
    """The family's models: thin lines through all panels, their names above the top one."""
    names = axes[0].secondary_xaxis("top")
    turned: dict[str, Any] = {"rotation": 30, "ha": "left"} if len(weights) > 4 else {}
    names.set_xticks([w / unit.size for w in weights.values()], list(weights), **turned)
    names.xaxis.set_minor_locator(NullLocator())
    names.tick_params(length=0, pad=1)
    names.spines["top"].set_visible(False)
    for ax in axes:
        for weight in weights.values():
            ax.axvline(weight / unit.size, color="#bbbbbb", lw=0.7, zorder=0)
        ax.grid(axis="x", visible=False)
