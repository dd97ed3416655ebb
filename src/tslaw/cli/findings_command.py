"""`tslaw findings`: the paper's findings, asked of a fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tslaw.cli.crossover_command import end_in_words
from tslaw.cli.options import AccountingName, AsJson, Batch, FitFile, Task, posteriors

if TYPE_CHECKING:
    from tslaw.fit.findings import BestOption
    from tslaw.fit.posterior import Posterior

SHOWN_MEMORIES = 5


def command(
    fit: FitFile,
    batch: Batch = 1,
    task: Task = None,
    accounting: AccountingName = "checkpoint",
    as_json: AsJson = False,
) -> None:
    """Ask a fit which of the paper's findings hold for its family, as probabilities.

    **1** Is there an effective size above which thinking to saturation beats a bigger model? **2** Which weight bits
    are best at a memory budget? **3** From which memory on does a majority vote pay? **5** Does KV compression advance
    the frontier? **6** Above which effective size does eviction stop beating rounding? The last two need a fit that
    holds compressed caches (`tslaw fit --compressed-kv`); finding 4 (latency) is not part of the surface. Votes are
    derived from the fitted accuracies and from how wrong answers agree, not fitted. For example:

    `tslaw findings fits/ladder-math.nc`
    """
    answers = [answer(posterior, batch, accounting) for posterior in posteriors(fit, task)]
    if as_json:
        print(json.dumps(answers, indent=2))
    else:
        for each in answers:
            print(as_text(each))


def answer(posterior: Posterior, batch: float, accounting: Any) -> dict[str, Any]:
    """One task's findings; sizes and memories in bytes, null where an end is not within the measured range."""
    from tslaw.fit.crossover import crossover
    from tslaw.fit.findings import best_voters, best_weight_bits

    widths = sorted(set(posterior.weight_bits.tolist()))
    crossovers = [crossover(posterior, bits, batch, accounting) for bits in widths]
    bits = best_weight_bits(posterior, batch, accounting)
    # How wrong answers agree is not known from published means.
    voters = None if np.isnan(posterior.wrong_spread).any() else best_voters(posterior, batch, accounting)
    return {
        "task": posterior.task,
        "approximate": posterior.approximate,
        "batch": batch,
        "accounting": accounting,
        "crossover": [
            {"weight_bits": c.weight_bits, **_summary(c.summary), "p_within": 1 - c.summary.p_below - c.summary.p_above}
            for c in crossovers
        ],
        "weight_bits": _by_memory(bits)
        | {
            "share_of_memory_range": {f"{w:g}": _interval(bits.share(w)) for w in bits.options},
            "p_best_over_half_the_range": {f"{w:g}": float((bits.share(w) > 0.5).mean()) for w in bits.options},
        },
        "voters": None
        if voters is None
        else _by_memory(voters)
        | {
            "memory_from_which_more_than_one": _summary(voters.onset(2)),
            "effective_size_there": _summary(voters.onset_size(2)),
            "memory_from_which_8_or_more": _summary(voters.onset(8)),
        },
        "kv_compression": caches(posterior, batch, accounting) if posterior.cache_kinds else None,
    }


def caches(posterior: Posterior, batch: float, accounting: Any) -> dict[str, Any]:
    """Findings 5 and 6; gains are of accuracy, averaged over log memory."""
    from tslaw.fit.cache_findings import cache_frontier, evicted_against_rounded, eviction_threshold

    found, contrasts = cache_frontier(posterior, batch, accounting), evicted_against_rounded(posterior, accounting)
    allowed = {"any": tuple(k for k in found.best if k != "full")} | {k: (k,) for k in found.best if k != "full"}
    average = {name: found.gain(kinds).mean(axis=1) for name, kinds in allowed.items()}
    chances, threshold = found.p_best(), eviction_threshold(contrasts)
    return {
        "average_gain": {
            name: {"median_and_hdi": _interval(gain), "p_over_1_point": float((gain > 0.01).mean())}
            for name, gain in average.items()
        },
        "p_best": [
            {"memory": float(found.memory[k]), "p": {kind: float(p[k]) for kind, p in chances.items()}}
            for k in _shown(len(found.memory))
        ],
        "eviction_minus_rounding": [
            {
                "model": c.model,
                "weight_bits": c.weight_bits,
                "effective_size": c.weight,
                "kept": c.kept.astype(int).tolist(),
                "mean_difference": _interval(c.difference.mean(axis=1)),
                "p_ahead": float((c.difference.mean(axis=1) > 0).mean()),
            }
            for c in contrasts
        ],
        "size_above_which_eviction_is_no_better": None if threshold is None else _summary(threshold),
    }


def as_text(found: dict[str, Any]) -> str:
    """One task's findings in words."""
    from tslaw.fit.posterior import marked

    task = marked(found["task"], found["approximate"])
    lines = [f"{task}, batch {found['batch']:g}, {found['accounting']} accounting"]
    lines.append("1. Is there an effective size above which thinking to saturation beats a bigger model?")
    lines += [
        f"   {c['weight_bits']:g}-bit weights: P(within the measured sizes) = {c['p_within']:.3f}; {_words(c)}; "
        f"P(below all) = {c['p_below']:.3f}, P(above all) = {c['p_above']:.3f}"
        for c in found["crossover"]
    ]
    bits = found["weight_bits"]
    lines.append("2. Which weight bits are best?")
    lines += _table(bits, "bits")
    for width, (middle, low, high) in bits["share_of_memory_range"].items():
        chance = bits["p_best_over_half_the_range"][width]
        lines.append(
            f"   {width} bits are best over {middle:.0%} [{low:.0%}, {high:.0%}] of the (log) memory range; "
            f"P(over more than half) = {chance:.3f}"
        )
    voters = found["voters"]
    lines.append("3. From which memory on does a majority vote pay?")
    lines += ["   not known: the fit rests on published means"] if voters is None else _vote_lines(voters)
    lines.append("4. not asked: latency is not part of the fitted surface")
    if found["kv_compression"] is None:
        lines.append("5.-6. not asked: the fit holds full KV caches only (tslaw fit --compressed-kv)")
    else:
        lines += _cache_lines(found["kv_compression"])
    return "\n".join(lines)


CURVES = (
    "   note on 5 and 6: intervals are those of the fitted curves; of what is smaller than the misfit that tslaw show "
    "tells, the measurements may say otherwise"
)


def _cache_lines(found: dict[str, Any]) -> list[str]:
    lines = ["5. Does KV compression advance the frontier?"]
    for name, gain in found["average_gain"].items():
        middle, low, high = gain["median_and_hdi"]
        lines.append(
            f"   {name} allowed: {middle:+.3f} [{low:+.3f}, {high:+.3f}] accuracy on average over log memory; "
            f"P(more than a point) = {gain['p_over_1_point']:.3f}"
        )
    lines += _table(found, "cache")
    lines.append("6. Above which effective size does eviction stop beating rounding at equal memory?")
    for c in found["eviction_minus_rounding"]:
        middle, low, high = c["mean_difference"]
        lines.append(
            f"   {c['model']} at {c['weight_bits']:g} bits: eviction minus rounding {middle:+.3f} "
            f"[{low:+.3f}, {high:+.3f}]; P(ahead) = {c['p_ahead']:.3f}"
        )
    threshold = found["size_above_which_eviction_is_no_better"]
    if threshold is None:
        return [*lines, "   not known: fewer than two sizes have both kinds"]
    chances = f"P(below all) = {threshold['p_below']:.3f}, P(above all) = {threshold['p_above']:.3f}"
    return [*lines, f"   {_words(threshold)}; {chances}", CURVES]


def _vote_lines(voters: dict[str, Any]) -> list[str]:
    return [
        *_table(voters, "votes"),
        f"   more than one sample from: {_words(voters['memory_from_which_more_than_one'])}",
        f"   effective size there:      {_words(voters['effective_size_there'])}",
        f"   8 samples or more from:    {_words(voters['memory_from_which_8_or_more'])}",
    ]


def _by_memory(found: BestOption) -> dict[str, Any]:
    """P(best) of every option at some memories within the range."""
    chances, names = found.p_best(), [f"{option:g}" for option in found.options]
    shown = _shown(len(found.memory))
    rows = [{"memory": float(found.memory[k]), "p": dict(zip(names, chances[k].tolist(), strict=True))} for k in shown]
    return {"p_best": rows}


def _shown(n: int) -> np.ndarray:
    """Places of the memories that are shown, of `n`."""
    return np.linspace(0, n - 1, SHOWN_MEMORIES + 2).round().astype(int)[1:-1]


def _table(found: dict[str, Any], what: str) -> list[str]:
    from tslaw.units import format_bytes

    lines = []
    for row in found["p_best"]:
        chances = ", ".join(f"{o} {what} {p:.2f}" for o, p in row["p"].items() if p >= 0.005)
        lines.append(f"   at {format_bytes(row['memory'])}: P(best) {chances}")
    return lines


def _interval(draws: np.ndarray) -> list[float]:
    from tslaw.fit.intervals import hdi

    return [float(np.median(draws)), *hdi(draws)]


def _summary(summary: Any) -> dict[str, Any]:
    """A censored summary with null for what lies outside, and the range itself."""

    def inside(value: float) -> float | None:
        return value if np.isfinite(value) else None

    return {
        "median": inside(summary.median),
        "hdi": [inside(end) for end in summary.hdi],
        "p_below": summary.p_below,
        "p_above": summary.p_above,
        "range": [summary.low, summary.high],
        "words": f"median {end_in_words(summary.median, summary.low, summary.high)}, 90% HDI "
        f"[{end_in_words(summary.hdi[0], summary.low, summary.high)}, "
        f"{end_in_words(summary.hdi[1], summary.low, summary.high)}]",
    }


def _words(summary: dict[str, Any]) -> str:
    return str(summary["words"])
