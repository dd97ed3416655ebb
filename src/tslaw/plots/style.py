"""What the figures share: size and type, colours that print in grey, units, axes of sizes and budgets.

Models differ in size, so they take colours from a sequential map whose lightness falls with size (viridis: safe for
colour-blind readers and still ordered in grey). Weight bits are told apart by marker and line style as well as colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from tslaw.memory import GIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from tslaw.plots.view import TaskView

WIDTH = 7.0
"""Inches: the text width of a page, at which no letter is smaller than 8 pt."""

RC: dict[str, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8.5,
    "figure.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "svg.hashsalt": "tslaw",
    "savefig.dpi": 200,
    "axes.unicode_minus": True,
}

BAND = (0.05, 0.95)
"""Quantiles of the 90% bands."""

RED = "#b00020"


class BitStyle(NamedTuple):
    """How a weight bit width is drawn."""

    marker: str
    line: Any
    colour: str


_DASHES, _DOTS = (0, (5, 1.5)), (0, (1.2, 1.2))
_USUAL_BITS = {
    16.0: BitStyle("o", "-", "#000000"),
    8.0: BitStyle("s", _DASHES, "#0072b2"),
    4.0: BitStyle("^", _DOTS, "#d55e00"),
}
_OTHER_BITS = (
    BitStyle("D", (0, (5, 1.2, 1.2, 1.2)), "#009e73"),
    BitStyle("v", (0, (3, 1, 1, 1, 1, 1)), "#cc79a7"),
    BitStyle("P", (0, (8, 2)), "#56b4e9"),
)


def bit_styles(weight_bits: Sequence[float] | np.ndarray) -> dict[float, BitStyle]:
    """A style a bit width, high to low; 16, 8 and 4 look the same in every figure, others take what is left in turn."""
    ordered = sorted({float(b) for b in weight_bits}, reverse=True)
    unusual = [b for b in ordered if b not in _USUAL_BITS]
    others = {b: _OTHER_BITS[i % len(_OTHER_BITS)] for i, b in enumerate(unusual)}
    return {b: _USUAL_BITS.get(b) or others[b] for b in ordered}


def model_colours(models: Sequence[str]) -> dict[str, Any]:
    """A colour a model, dark for the largest; `models` from small to large."""
    shades = np.linspace(0.85, 0.0, len(models)) if len(models) > 1 else [0.35]
    return {m: colormaps["viridis"](s) for m, s in zip(models, shades, strict=True)}


def by_size(view: TaskView) -> list[str]:
    """The task's models from small to large."""
    return sorted(view.posterior.shapes, key=view.posterior.log_size)


class Unit(NamedTuple):
    """A unit of memory: its bytes and its name."""

    size: float
    name: str


def memory_unit(values: np.ndarray) -> Unit:
    """The unit in which positive byte counts of any shape read as ordinary numbers."""
    typical = 4.0 * float(np.exp(np.mean(np.log(values))))
    for unit in (Unit(GIB, "GiB"), Unit(2.0**20, "MiB"), Unit(2.0**10, "KiB")):
        if typical >= unit.size:
            return unit
    return Unit(1.0, "bytes")


def log_memory_axis(ax: Axes) -> None:
    """Label a log x-axis in plain numbers, at steps that suit how far it reaches."""
    low, high = ax.get_xlim()
    decades = np.log10(high / low)
    subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if decades < 1.2 else (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    ax.xaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    _plain_numbers(ax)


def log_budget_axis(ax: Axes, budgets: np.ndarray, most: int = 6) -> None:
    """Ticks of a log x-axis at measured budgets (budget,), thinned where they would collide."""
    gap = np.log(budgets[-1] / budgets[0]) / most if len(budgets) > 1 else 0.0
    ticks = [budgets[-1]]
    for budget in budgets[-2::-1]:
        if np.log(ticks[-1] / budget) >= gap:
            ticks.append(budget)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    _plain_numbers(ax)
    ax.xaxis.set_major_formatter(
        FuncFormatter(lambda t, _: f"{t / 1000:g}k" if t >= 1000 and t % 100 == 0 else f"{t:g}")
    )


def accuracy_axis(ax: Axes) -> None:
    """A y-axis from zero, with room below for markers that lie on it."""
    top = ax.get_ylim()[1]
    ax.set_ylim(-0.025 * top, top)


def _plain_numbers(ax: Axes) -> None:
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def binomial_interval(
    accuracy: np.ndarray, probes: np.ndarray, probability: float = 0.9
) -> tuple[np.ndarray, np.ndarray]:
    """Jeffreys intervals of measured accuracies: their lower and upper ends, each of the inputs' shape.

    Probes are taken as independent, though several are of one problem: if anything too wide for these very problems.
    """
    from scipy.special import betaincinv

    right, tail = accuracy * probes, (1.0 - probability) / 2.0
    low = betaincinv(right + 0.5, probes - right + 0.5, tail)
    high = betaincinv(right + 0.5, probes - right + 0.5, 1.0 - tail)
    return np.minimum(low, accuracy), np.maximum(high, accuracy)


def new_figure(view: TaskView, height: float) -> tuple[Figure, SubFigure]:
    """A figure of the page's width and the part of it to draw in, `height` inches tall.

    Below that part stands a red note if the fit is approximate or did not pass its diagnostics, in room of its own.
    """
    note = _failure_note(view)
    below = 0.08 + 0.15 * len(note) if note else 0.0
    fig = Figure(figsize=(WIDTH, height + below), layout="constrained")
    # Any: what matplotlib's stubs say subfigures returns has changed between its releases.
    parts: Any = fig.subfigures(2, 1, height_ratios=(height, below)) if note else fig.subfigures(1, 1)
    if not note:
        return fig, parts
    body, foot = parts
    foot.text(0.5, 0.5, "\n".join(note), ha="center", va="center", color=RED, fontsize=8)
    return fig, body


def _failure_note(view: TaskView) -> list[str]:
    if view.posterior.passed:
        return []
    if view.posterior.approximate:
        return ["Approximate: a quick look by variational inference (tslaw fit --quick), which nothing checked."]
    reasons = "; ".join(view.failures) or "in another task of the same fit"
    return textwrap.wrap(f"This fit did not pass its diagnostics: {reasons}.", 100)
