"""Trace and rank plots of the population parameters: did the chains mix?

Drawn with matplotlib rather than arviz_plots: traces and ranks of sixteen parameters side by side on one page, chains
told apart in grey, one code base for every ArviZ. The ranks are those of Vehtari et al. (2021, Bayesian Analysis 16):
all chains ranked together, one histogram a chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tslaw.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tslaw.plots.view import TaskView

BINS = 10
CHAIN_STYLES = (
    ("#000000", "-"),
    ("#0072b2", (0, (4, 1))),
    ("#d55e00", (0, (1, 1))),
    ("#009e73", (0, (4, 1, 1, 1))),
    ("#cc79a7", (0, (2, 1))),
    ("#999999", "-"),
)


def rank_histograms(draws: np.ndarray, bins: int = BINS) -> np.ndarray:
    """How often each chain's draws fall into equal bins of rank among all draws, over what perfect mixing would give.

    Parameters
    ----------
    draws : (chain, draw). Ties keep their order.

    Returns
    -------
    (chain, bins)
    """
    ranks = np.argsort(np.argsort(draws, axis=None, kind="stable")).reshape(draws.shape)
    place = ranks * bins // draws.size
    return np.stack([np.bincount(row, minlength=bins) for row in place]) * (bins / draws.shape[1])


def trace_rank(view: TaskView) -> Figure:
    """Two parameters a row, each with its trace and its ranks."""
    rows = -(-len(view.chains) // 2)
    fig, body = style.new_figure(view, 0.8 + 1.05 * rows)
    axes = body.subplots(rows, 4, width_ratios=(1.6, 1.0, 1.6, 1.0), squeeze=False).reshape(-1, 2)
    fig.set_layout_engine("constrained", wspace=0.01, hspace=0.02, w_pad=0.02, h_pad=0.03)
    for (trace, rank), (name, draws) in zip(axes, view.chains.items(), strict=False):
        _trace(trace, name, draws)
        _rank(rank, draws)
    for ax in axes[len(view.chains) :].ravel():
        ax.set_visible(False)
    for ax in axes[:-2].ravel():
        ax.tick_params(labelbottom=False)
    for trace, rank in axes[-2:]:
        trace.set_xlabel("Draw")
        rank.set_xlabel("Rank (share)")
    n_chains = len(next(iter(view.chains.values())))
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=c, ls=ls, label=f"chain {k + 1}") for k, (c, ls) in enumerate(_chain_styles(n_chains))
    ]
    handles.append(Patch(color="#cccccc", alpha=0.6, lw=0, label="99% if ranks were uniform and draws independent"))
    body.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    body.suptitle(f"{view.posterior.family}, {view.posterior.task}: traces (left) and ranks (right) of the parameters")
    return fig


def _chain_styles(n_chains: int) -> list[tuple[str, object]]:
    return [CHAIN_STYLES[k % len(CHAIN_STYLES)] for k in range(n_chains)]


def _trace(ax: Axes, name: str, draws: np.ndarray) -> None:
    for (colour, _), chain in zip(_chain_styles(len(draws)), draws, strict=True):
        ax.plot(chain, color=colour, lw=0.4, alpha=0.85)
    ax.set_title(name, loc="left", pad=2, fontsize=8)
    ax.set_xlim(0, draws.shape[1])
    ax.grid(visible=False)
    ax.locator_params(axis="y", nbins=3)


def _rank(ax: Axes, draws: np.ndarray) -> None:
    expected = draws.shape[1] / BINS
    spread = 2.576 * np.sqrt(expected * (1 - 1 / BINS)) / expected
    ax.axhspan(max(0.0, 1 - spread), 1 + spread, color="#cccccc", alpha=0.6, lw=0)
    edges = np.linspace(0, 1, BINS + 1)
    heights = rank_histograms(draws)
    for (colour, line), share in zip(_chain_styles(len(draws)), heights, strict=True):
        ax.stairs(share, edges, color=colour, ls=line, lw=1.0, baseline=None)
    ax.set(xlim=(0, 1), ylim=(0, max(2.0, 1.1 * heights.max())), yticks=[0, 1, 2], xticks=[0, 0.5, 1])
    ax.grid(visible=False)
