"""Figures of the calibration: rank histograms, and curves of sizes that the fit did not see."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy import stats

from tslaw.plots.style import BAND, RC, WIDTH

if TYPE_CHECKING:
    from tslaw.calibrate.sbc import Calibration

COLUMNS = 5


def rank_histograms(found: Sequence[Calibration]) -> Figure:
    """A panel a quantity: its ranks in ten bins, and the band that holds 98% of the bins of uniform ranks."""
    from tslaw.calibrate.sbc import BINS, RANKED_DRAWS

    n_rows = -(-len(found) // COLUMNS)
    with rc_context({**RC, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 0.2 + 1.05 * n_rows), layout="constrained")
        panels = np.ravel(figure.subplots(n_rows, COLUMNS, sharex=True, squeeze=False))
        for panel in panels[len(found) :]:
            panel.set_axis_off()
        for panel, quantity in zip(panels, found, strict=False):
            low, high = stats.binom.ppf([0.01, 0.99], quantity.replicates, 1.0 / BINS)
            panel.axhspan(low, high, color="#dddddd", lw=0)
            panel.hist(quantity.ranks, bins=np.linspace(-0.5, RANKED_DRAWS + 0.5, BINS + 1), color="#33638d")
            name = "\n".join(textwrap.wrap(quantity.name, 26))
            panel.set_title(f"{name}\np = {quantity.p_uniform:.2f}", fontsize=6)
            panel.set_ylim(0, 2.2 * quantity.replicates / BINS)
            panel.set_xticks([])
            panel.set_yticks([])
    return figure


def held_out_curves(rows: Sequence[dict[str, Any]]) -> Figure:
    """A row a fold, a column a weight bit width: what was measured of the sizes left out, the predicted median and 90%
    band, and the power law (dotted)."""
    widths = sorted({b for row in rows for b in row["weight_bits"]})
    with rc_context(RC):
        figure = Figure(figsize=(WIDTH, 1.6 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), len(widths), sharex="row", sharey=True, squeeze=False)
        for line, row in zip(panels, rows, strict=True):
            for panel, bits in zip(line, widths, strict=True):
                for i in (i for i, b in enumerate(row["weight_bits"]) if b == bits):
                    colour = f"C{row['models'].index(row['model'][i])}"
                    panel.fill_between(row["budgets"], row["low"][i], row["high"][i], color=colour, alpha=0.2, lw=0)
                    panel.plot(row["budgets"], row["median"][i], color=colour, label=row["model"][i])
                    panel.plot(row["budgets"], row["power_law"][i], color=colour, ls=":", lw=0.9)
                    panel.plot(row["budgets"], row["measured"][i], "o", ms=2.5, color=colour)
                panel.set_xscale("log")
                panel.set_ylim(0, 1)
                beside = f", with {row['beside']}" if row.get("beside") else ""
                panel.set_title(f"{row['task']}{beside}, without {row['left_out']}, {bits:g} bits", fontsize=7)
            line[0].set_ylabel("accuracy")
            line[0].legend(fontsize=6)
        for panel in panels[-1]:
            panel.set_xlabel("token budget")
        figure.suptitle(
            f"points: measured; lines and bands: median and {BAND[1] - BAND[0]:.0%} interval; dotted: power law"
        )
    return figure


def statement_histograms(found: Mapping[str, np.ndarray]) -> Figure:
    """A panel a statement: its draws, with the middle 90% shaded."""
    columns = 2
    n_rows = -(-len(found) // columns)
    with rc_context({**RC, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 1.3 * n_rows), layout="constrained")
        panels = np.ravel(figure.subplots(n_rows, columns, squeeze=False))
        for panel in panels[len(found) :]:
            panel.set_axis_off()
        for panel, (name, draws) in zip(panels, found.items(), strict=False):
            panel.axvspan(*np.quantile(draws, BAND), color="#dddddd", lw=0)
            panel.hist(draws, bins=40, color="#33638d")
            panel.set_title(name, fontsize=7)
            panel.set_yticks([])
    return figure
