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
    are best at a memory budget? **3** From which memory on does a majority vote pay? Findings 4 to 6 (latency,
    compressed caches) cannot be asked of a surface of full caches. Votes are derived from the fitted accuracies and
    from how wrong answers agree, not fitted. For example:

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
    lines.append("4.-6. not asked: latency, KV eviction and KV quantization are not part of the fitted surface")
    return "\n".join(lines)


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
    shown = np.linspace(0, len(found.memory) - 1, SHOWN_MEMORIES + 2).round().astype(int)[1:-1]
    rows = [{"memory": float(found.memory[k]), "p": dict(zip(names, chances[k].tolist(), strict=True))} for k in shown]
    return {"p_best": rows}


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
