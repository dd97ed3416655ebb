"""The study's figures: the frontier with and without compressed caches, and eviction against rounding by size."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context, rcParamsDefault
from matplotlib.figure import Figure

from tslaw.kvstudy.advance import Advance
from tslaw.kvstudy.kinds import KindContrast
from tslaw.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WITHOUT, WITH = "#777777", "#0072b2"


def frontier_figure(found: Mapping[tuple[str, float], Advance]) -> Figure:
    """Frontiers by (task, batch): a row a task, a column a batch; medians and 90% bands."""
    tasks, batches = list(dict.fromkeys(key[0] for key in found)), sorted({key[1] for key in found})
    fig = Figure(figsize=(style.WIDTH, 2.5 * len(tasks) + 0.4), layout="constrained")
    axes = fig.subplots(len(tasks), len(batches), squeeze=False, sharey="row")
    for i, task in enumerate(tasks):
        for j, batch in enumerate(batches):
            _frontiers(axes[i, j], found[task, batch])
            shared = "weights of one generation" if batch == 1 else f"weights shared by {batch:g}"
            axes[i, j].set_title(f"{task}, {shared}", loc="left")
            if j == 0:
                axes[i, j].set_ylabel("Accuracy")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    fig.suptitle("Most accurate configuration within a memory budget, chosen on other problems than it is judged on")
    return fig


def _frontiers(ax: Axes, found: Advance) -> None:
    unit = style.memory_unit(found.memory)
    x = found.memory / unit.size
    ax.set_xscale("log")
    kinds = (("full caches only", found.without, WITHOUT), ("compressed caches too", found.with_, WITH))
    for label, accuracy, colour in kinds:
        low, median, high = np.quantile(accuracy, (style.BAND[0], 0.5, style.BAND[1]), axis=0)
        ax.fill_between(x, low, high, color=colour, alpha=0.2, lw=0, step="post", label=f"90%, {label}")
        ax.step(x, median, where="post", color=colour, label=label)
    ax.set_xlim(x[0], x[-1])
    style.log_memory_axis(ax)
    ax.set_xlabel(f"Memory per generation ({unit.name})")


def kinds_figure(found: Mapping[tuple[str, str], Sequence[KindContrast]]) -> Figure:
    """Eviction minus rounding against effective size by (task, how the cache is counted), a panel each.

    Means over the kept tokens, by weight bits, with 90% bands.
    """
    tasks, countings = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    fig = Figure(figsize=(style.WIDTH, 2.4 * len(tasks) + 0.4), layout="constrained")
    axes = fig.subplots(len(tasks), len(countings), squeeze=False, sharex=True, sharey="row")
    for i, task in enumerate(tasks):
        for j, counting in enumerate(countings):
            _by_size(axes[i, j], found[task, counting])
            axes[i, j].set_title(f"{task}, cache as {counting}", loc="left")
        axes[i, 0].set_ylabel("Eviction minus rounding\n(accuracy, equal memory)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    fig.suptitle("The best evicted cache against the best rounded one, by effective size")
    return fig


def _by_size(ax: Axes, contrasts: Sequence[KindContrast]) -> None:
    bits = style.bit_styles([c.weight_bits for c in contrasts])
    unit = style.memory_unit(np.array([c.weights for c in contrasts]))
    ax.set_xscale("log")
    for width, look in bits.items():
        own = sorted((c for c in contrasts if c.weight_bits == width), key=lambda c: c.weights)
        x = np.array([c.weights for c in own]) / unit.size
        draws = np.stack([c.difference.mean(axis=1) for c in own], axis=1)
        low, high = np.quantile(draws, style.BAND, axis=0)
        ax.fill_between(x, low, high, color=look.colour, alpha=0.16, lw=0)
        ax.plot(x, draws.mean(axis=0), color=look.colour, ls=look.line, marker=look.marker, ms=4)
        ax.plot([], [], color=look.colour, ls=look.line, marker=look.marker, ms=4, label=f"{width:g}-bit weights")
    ax.axhline(0.0, color="#333333", lw=0.8)
    style.log_memory_axis(ax)
    ax.set_xlabel(f"Effective size: bytes of the weights ({unit.name})")


def png(figure: Figure) -> bytes:
    """The figure's file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def settings() -> AbstractContextManager[None]:
    """The house style, as a context to draw and to write figures in."""
    return rc_context({k: v for k, v in rcParamsDefault.items() if not k.startswith("backend")} | style.RC)
