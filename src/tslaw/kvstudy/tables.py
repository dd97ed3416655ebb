"""The study's answers as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tslaw.fit.intervals import CensoredSummary
from tslaw.kvstudy.advance import Advance
from tslaw.kvstudy.bootstrap import interval
from tslaw.kvstudy.configurations import Configurations
from tslaw.kvstudy.control import Cell
from tslaw.kvstudy.kinds import KindContrast
from tslaw.units import format_bytes


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, one text a cell."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def difference(draws: np.ndarray) -> str:
    """Mean and 90% interval of differences (draw,)."""
    mean, low, high = interval(draws)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def probability(draws: np.ndarray) -> str:
    """P(draws > 0), from (draw,)."""
    return f"{(draws > 0).mean():.3f}"


AREA_HEADER = (
    "cache counted",
    "weight bits",
    "batch",
    "allowed",
    "average gain [90%]",
    "P(> 0)",
    "naive average gain",
    "largest gain, looked for [90%]",
    "at",
)


def area_row(labels: Sequence[str], found: Advance) -> list[str]:
    """The area between the frontiers, and where the expected gain is largest."""
    k = int(found.gain.mean(axis=0).argmax())
    return [
        *labels,
        difference(found.area),
        probability(found.area),
        f"{found.naive_area.mean():+.3f}",
        difference(found.gain[:, k]),
        format_bytes(float(found.memory[k])),
    ]


def frontier_table(found: Advance, configurations: Configurations, places: Sequence[int]) -> str:
    """Both frontiers at some places of the memory grid, and which policies all problems together would choose."""
    names, taken = found.policies(configurations.policy)
    rows = []
    for k in places:
        shares = taken[:, :, k].mean(axis=1)
        likely = [f"{names[i]} {shares[i]:.2f}" for i in np.argsort(-shares, kind="stable")[:3] if shares[i] >= 0.05]
        gain = found.gain[:, k]
        rows.append(
            [
                format_bytes(float(found.memory[k])),
                f"{found.without[:, k].mean():.3f}",
                f"{found.with_[:, k].mean():.3f}",
                difference(gain),
                probability(gain),
                probability(-gain),
                ", ".join(likely),
            ]
        )
    header = ("memory", "without", "with", "gain [90%]", "P(higher)", "P(lower)", "policies of the best, probability")
    return markdown(header, rows)


def policy_table(found: Sequence[tuple[str, Advance]], configurations: Configurations) -> str:
    """P(on the frontier) of every policy, and the part of the log memory range in which it is the best, by batch."""
    cells: dict[str, dict[str, str]] = {}
    for column, advanced in found:
        names, taken = advanced.policies(configurations.policy)
        for name, where in zip(names, taken, strict=True):
            share, low, high = interval(where.mean(axis=1))
            text = f"{where.any(axis=1).mean():.2f}; {share:.2f} [{low:.2f}, {high:.2f}]"
            cells.setdefault(str(name), {})[column] = text
    columns = [column for column, _ in found]
    order = [str(p) for p in dict.fromkeys(configurations.policy) if str(p) in cells]
    return markdown(["policy", *columns], [[name, *(cells[name].get(c, "0") for c in columns)] for name in order])


def kind_table(contrasts: Sequence[KindContrast]) -> str:
    """Eviction minus rounding at every size, by the kept tokens whose memory both had."""
    kept = sorted({int(k) for c in contrasts for k in c.kept})
    rows = []
    for c in contrasts:
        cells = {int(k): c.difference[:, i] for i, k in enumerate(c.kept)}
        texts = [f"{difference(cells[k])}, {probability(cells[k])}" if k in cells else "" for k in kept]
        rows.append([format_bytes(c.weights), c.model, f"{c.weight_bits:g}", *texts])
    columns = [f"{k} tokens: difference [90%], P(> 0)" for k in kept]
    return markdown(["effective size", "model", "weight bits", *columns], rows)


def threshold_row(label: Sequence[str], found: CensoredSummary, slope: np.ndarray) -> list[str]:
    """A threshold in words, ends outside the measured sizes said to be below or above them all; `slope` is (draw,)."""
    low, high = (_size(end, found) for end in found.hdi)
    ends = low if low == high else f"{low} to {high}"
    sides = f"{found.p_below:.3f}", f"{found.p_above:.3f}"
    return [*label, _size(found.median, found), ends, *sides, difference(slope), probability(-slope)]


THRESHOLD_HEADER = (
    "weight bits",
    "kept",
    "median",
    "90% interval",
    "P(below all sizes)",
    "P(above all sizes)",
    "change with each doubling of size [90%]",
    "P(falls)",
)


def _size(end: float, found: CensoredSummary) -> str:
    if np.isneginf(end):
        return f"below all (< {format_bytes(found.low)})"
    if np.isposinf(end):
        return f"above all (> {format_bytes(found.high)})"
    return format_bytes(end)


def cell_table(cells: Sequence[Cell], draws: np.ndarray) -> str:
    """Differences of every cell, draws (draw, cell): a row a model, kept tokens and region, a column a policy."""
    policies = list(dict.fromkeys(c.policy for c in cells))
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for i, c in enumerate(cells):
        key = (c.model, str(c.kept), c.region) if c.region else (c.model,)
        found.setdefault(key, {})[c.policy] = f"{difference(draws[:, i])}, {probability(draws[:, i])}"
    labels = ["model", "kept", "region"][: len(next(iter(found)))]
    header = [*labels, *(f"{p}: difference [90%], P(> 0)" for p in policies)]
    return markdown(header, [[*key, *(texts.get(p, "") for p in policies)] for key, texts in found.items()])


def problem_table(
    configurations: Configurations, kind: np.ndarray, models: Sequence[str], policies: Sequence[str]
) -> str:
    """Raw accuracies by kind of problem (problem,) and budget, of some models and policies at one weight precision."""
    budgets = np.unique(configurations.budget)
    rows = []
    for model in models:
        for policy in policies:
            own = configurations.where((configurations.model == model) & (configurations.policy == policy))
            by_budget = own.rows[np.argsort(own.budget)]
            for name in dict.fromkeys(sorted(kind.tolist(), key=lambda k: (len(k), k))):
                means = by_budget[:, kind == name].mean(axis=1)
                rows.append([model, policy, f"{name} ({(kind == name).sum()})", *(f"{m:.2f}" for m in means)])
    return markdown(["model", "policy", "kind (problems)", *(f"T = {b}" for b in budgets)], rows)


def overall_row(labels: Sequence[str], draws: np.ndarray) -> list[str]:
    """The mean of some cells (draw, cell), and in how many of them the sign is nearly sure."""
    mean, share = draws.mean(axis=1), (draws > 0).mean(axis=0)
    lower = (draws < 0).mean(axis=0)
    counts = [f"{(share > 0.95).sum()}", f"{(lower > 0.95).sum()}", f"{draws.shape[1]}"]
    return [*labels, difference(mean), probability(mean), *counts]


OVERALL_HEADER = ("mean difference [90%]", "P(> 0)", "cells with P(> 0) > 0.95", "with P(< 0) > 0.95", "of")
