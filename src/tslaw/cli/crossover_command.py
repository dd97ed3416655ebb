"""`tslaw crossover`: below which size does memory belong in weights, above which in thinking?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from tslaw.cli.options import AccountingName, AsJson, Batch, FitFile, Task, posteriors

if TYPE_CHECKING:
    from tslaw.fit.crossover import Crossover, LatticeChoice


def command(
    fit: FitFile,
    weight_bits: Annotated[float, typer.Option(help="Bits per linear weight.")] = 8,
    batch: Batch = 1,
    task: Task = None,
    accounting: AccountingName = "checkpoint",
    as_json: AsJson = False,
) -> None:
    """Locate the capacity-versus-test-time crossover W+ with its uncertainty.

    At the memory at which a model of effective size W thinks to saturation (95% of its ceiling), would a bigger model
    that thinks less be more accurate? Below W+ yes, above it no. Draws whose crossover lies outside the measured sizes
    are reported as probabilities, never clipped. The regret is the accuracy lost by thinking to saturation all the
    same. For example:

    `tslaw crossover fits/ladder.nc --weight-bits 8 --task ladder-math`
    """
    from tslaw.fit.crossover import crossover, lattice_crossover

    found = []
    for posterior in posteriors(fit, task):
        result = crossover(posterior, weight_bits, batch, accounting)
        measured = sum(arm.weight_bits == weight_bits for arm in posterior.family_arms(accounting)) > 1
        lattice = lattice_crossover(posterior, weight_bits, batch, accounting) if measured else None
        found.append((result, lattice, posterior.approximate))
    if as_json:
        print(json.dumps([as_dict(*each) for each in found], indent=2))
    else:
        for each in found:
            print(as_text(*each))


def as_dict(result: Crossover, lattice: LatticeChoice | None, approximate: bool = False) -> dict[str, Any]:
    """The crossover as JSON; sizes in GiB, null where an end lies outside the measured range."""
    from tslaw.fit.crossover import in_gib

    s = result.summary
    regret = np.quantile(result.regret, [0.5, 0.05, 0.95], axis=0)
    answer: dict[str, Any] = {
        "task": result.task,
        "approximate": approximate,
        "weight_bits": result.weight_bits,
        "batch": result.batch,
        "accounting": result.accounting,
        "unit": "GiB",
        "median": in_gib(s.median),
        "hdi": [in_gib(end) for end in s.hdi],
        "hdi_probability": 0.9,
        "p_below": s.p_below,
        "p_above": s.p_above,
        "range": [in_gib(s.low), in_gib(s.high)],
        "p_several_crossings": result.p_many,
        "curve": {
            "effective_size": [in_gib(w) for w in result.weight],
            "p_more_weights": (result.log_gain > 0).mean(axis=0).round(4).tolist(),
            "regret_median": regret[0].round(5).tolist(),
            "regret_interval": regret[1:].T.round(5).tolist(),
            "saturation_tokens_median": np.median(result.saturation, axis=0).round(1).tolist(),
            "p_saturation_beyond_budgets": result.p_beyond_budgets.round(4).tolist(),
        },
    }
    if lattice:
        rows = zip(lattice.models, lattice.weight, lattice.p_bigger, lattice.regret.mean(axis=0), strict=True)
        answer["lattice"] = [
            {"model": m, "effective_size": in_gib(w), "p_bigger_model": float(p), "expected_regret": float(r)}
            for m, w, p, r in rows
        ]
    return answer


def as_text(result: Crossover, lattice: LatticeChoice | None, approximate: bool = False) -> str:
    """The crossover in words."""
    from tslaw.fit.posterior import marked
    from tslaw.units import format_bytes

    task = marked(result.task, approximate)
    s = result.summary
    middle = np.median(result.regret, axis=0)
    lines = [
        f"{task}, {result.weight_bits:g}-bit weights, batch {result.batch:g}, {result.accounting} accounting",
        f"  crossover W+   median {end_in_words(s.median, s.low, s.high)}, "
        f"90% HDI [{end_in_words(s.hdi[0], s.low, s.high)}, {end_in_words(s.hdi[1], s.low, s.high)}]",
        f"  P(below the measured range, < {format_bytes(s.low)}) = {s.p_below:.3f}   "
        f"P(above it, > {format_bytes(s.high)}) = {s.p_above:.3f}",
        f"  accuracy lost by thinking to saturation (median): {middle[0]:.3f} at the smallest size, "
        f"at most {middle.max():.3f}, {middle[-1]:.3f} at the largest",
    ]
    if result.p_beyond_budgets.max() > 0.1:
        lines.append(
            "  note: saturation lies beyond the largest measured budget with probability up to "
            f"{result.p_beyond_budgets.max():.2f}; there it is extrapolated"
        )
    if lattice:
        chances = ", ".join(f"{m} {p:.2f}" for m, p in zip(lattice.models, lattice.p_bigger, strict=True))
        lines.append(f"  choosing only among the family's models, P(a bigger one wins): {chances}")
    else:
        bits = f"{result.weight_bits:g} bits"
        lines.append(f"  note: fewer than two models were measured at {bits}; this rests on the fitted curve over bits")
    return "\n".join(lines)


def end_in_words(value: float, low: float, high: float) -> str:
    """A size in bytes, or that it lies outside the range."""
    from tslaw.units import format_bytes

    if np.isneginf(value):
        return f"< {format_bytes(low)}"
    return f"> {format_bytes(high)}" if np.isposinf(value) else format_bytes(value)
