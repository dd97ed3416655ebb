"""A quick approximate fit beside the NUTS fit of the same data: how far apart is what they say?

Everything is compared as it is reported: crossovers as their logs, draws beyond the measured sizes counted as lying at
the end that they passed (so do their intervals) with P(below) and P(above) beside; accuracies of measured arms and, by
`predict`, of models nobody ran; the population's parameters; P(best weight bits) at several memories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tslaw.fit.crossover import crossover, lattice_crossover
from tslaw.fit.findings import best_weight_bits
from tslaw.fit.intervals import hdi
from tslaw.fit.model import POPULATION
from tslaw.fit.posterior import Posterior
from tslaw.fit.predict import predict_accuracy

WIDTHS = (4.0, 8.0, 16.0)
UNSEEN_WIDTHS = (3.0, 6.0)
N_MEMORIES = 5
CROSSOVER, MEASURED, UNSEEN, PARAMETER = "crossover", "accuracy, measured", "accuracy, unseen", "parameter"
KINDS = (CROSSOVER, MEASURED, UNSEEN, PARAMETER)


class Quantity(NamedTuple):
    """Something that a fit reports with an interval: its draws (draw,), and the `ends` between which they can lie at
    all where draws beyond them count as lying there."""

    kind: str
    name: str
    draws: np.ndarray
    ends: tuple[float, float] = (-np.inf, np.inf)


class Reported(NamedTuple):
    """All that is compared of one fit: quantities, and probabilities by name."""

    quantities: list[Quantity]
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Compared:
    """One quantity of both fits: medians, 90% highest-density intervals, the standard deviation of NUTS's draws, and
    the quantity's `ends`."""

    kind: str
    name: str
    nuts: float
    quick: float
    nuts_interval: tuple[float, float]
    quick_interval: tuple[float, float]
    sd: float
    ends: tuple[float, float] = (-np.inf, np.inf)

    @property
    def shift(self) -> float:
        """Quick's median minus NUTS's in standard deviations of NUTS's; NaN where NUTS's draws are all the same."""
        return (self.quick - self.nuts) / self.sd if self.sd > 0 else float("nan")

    @property
    def width(self) -> float:
        """Quick's interval over NUTS's; NaN where NUTS's has no width (all that counts is censored)."""
        mine, its = (end - start for start, end in (self.quick_interval, self.nuts_interval))
        return mine / its if its > 0 else float("nan")


def compared(nuts: Sequence[Quantity], quick: Sequence[Quantity]) -> list[Compared]:
    """Both fits' quantities, which have the same names in the same order."""
    found = []
    for its, mine in zip(nuts, quick, strict=True):
        if (its.kind, its.name) != (mine.kind, mine.name):
            raise ValueError(f"{its.kind} {its.name} beside {mine.kind} {mine.name}")
        medians = float(np.median(its.draws)), float(np.median(mine.draws))
        sd = float(its.draws.std())
        found.append(Compared(its.kind, its.name, *medians, hdi(its.draws), hdi(mine.draws), sd, its.ends))
    return found


@dataclass(frozen=True)
class Summary:
    """All quantities of a kind: how far medians are apart, without sign, and how wide quick's intervals are, those
    that are known; with the names of the worst, and of the narrowest and the widest."""

    kind: str
    n: int
    middle_shift: float
    worst_shift: float
    worst: str
    middle_width: float
    narrowest_width: float
    narrowest: str
    widest_width: float
    widest: str


def summaries(found: Sequence[Compared]) -> list[Summary]:
    """One entry a kind, in the order of `KINDS`, and one for all together."""
    kinds = [(kind, [each for each in found if each.kind == kind]) for kind in KINDS]
    return [_summary(kind, each) for kind, each in [*kinds, ("all", list(found))] if each]


def _summary(kind: str, found: Sequence[Compared]) -> Summary:
    shifts = {each.name: abs(each.shift) for each in found if np.isfinite(each.shift)}
    widths = {each.name: each.width for each in found if np.isfinite(each.width)}
    worst = _at(shifts, max(shifts, key=shifts.__getitem__, default=""))
    narrowest = _at(widths, min(widths, key=widths.__getitem__, default=""))
    widest = _at(widths, max(widths, key=widths.__getitem__, default=""))
    return Summary(kind, len(found), _middle(shifts), *worst, _middle(widths), *narrowest, *widest)


def _middle(values: Mapping[str, float]) -> float:
    return float(np.median(list(values.values()))) if values else float("nan")


def _at(values: Mapping[str, float], name: str) -> tuple[float, str]:
    return values.get(name, float("nan")), name


def reported(posterior: Posterior) -> Reported:
    """What a fit says."""
    quantities, probabilities = _crossovers(posterior)
    quantities += [*_measured(posterior), *_unseen(posterior)]
    quantities += [Quantity(PARAMETER, name, posterior.params[name]) for name in POPULATION]
    return Reported(quantities, probabilities | _best_bits(posterior))


def _crossovers(posterior: Posterior) -> tuple[list[Quantity], dict[str, float]]:
    quantities: list[Quantity] = []
    probabilities: dict[str, float] = {}
    for bits in WIDTHS:
        found = crossover(posterior, bits)
        s, name = found.summary, f"crossover W+, {bits:g} bits"
        ends = float(np.log(s.low)), float(np.log(s.high))
        quantities.append(Quantity(CROSSOVER, name, np.clip(np.log(np.clip(found.draws, s.low, s.high)), *ends), ends))
        probabilities |= {
            f"the {name} lies below the measured sizes": s.p_below,
            f"the {name} lies above them": s.p_above,
        }
        lattice = lattice_crossover(posterior, bits)
        probabilities |= {
            f"a bigger model than {model} wins, {bits:g} bits": float(p)
            for model, p in zip(lattice.models[:-1], lattice.p_bigger[:-1], strict=True)  # none is bigger than the last
        }
    return quantities, probabilities


def _budgets(posterior: Posterior) -> np.ndarray:
    """A short, a middle and the longest of the measured budgets: (3,)."""
    return posterior.budgets[np.linspace(0, len(posterior.budgets) - 1, 5).round().astype(int)[[1, 2, 4]]]


def _measured(posterior: Posterior) -> list[Quantity]:
    """The smallest, a middle and the largest model at every width."""
    arms, models, budgets = posterior.family_arms("checkpoint"), _by_size(posterior), _budgets(posterior)
    found = []
    for model in (models[0], models[len(models) // 2], models[-1]):
        for arm in (arm for arm in arms if arm.model == model and arm.weight_bits in WIDTHS):
            for budget, draws in zip(budgets, posterior.arm_accuracy(arm, budgets).T, strict=True):
                name = f"{model}, {arm.weight_bits:g} bits, {budget:g} tokens"
                found.append(Quantity(MEASURED, name, draws.astype(float)))
    return found


def _unseen(posterior: Posterior) -> list[Quantity]:
    """A size between the two in the middle at widths nobody ran and at 8 bits, and twice the largest at 8 bits."""
    models, budgets = _by_size(posterior), _budgets(posterior)
    x = [posterior.log_size(model) for model in models]
    middle = len(models) // 2
    between = posterior.reference_size * np.exp(0.5 * (x[middle - 1] + x[middle]))
    asked = [(between, bits) for bits in (*UNSEEN_WIDTHS, 8.0)]
    asked.append((2.0 * posterior.reference_size * np.exp(x[-1]), 8.0))
    found = []
    for size, bits in asked:
        for budget, draws in zip(budgets, predict_accuracy(posterior, size, bits, budgets).T, strict=True):
            name = f"{size:.2g} parameters, {bits:g} bits, {budget:g} tokens"
            found.append(Quantity(UNSEEN, name, draws.astype(float)))
    return found


def _by_size(posterior: Posterior) -> list[str]:
    return sorted(posterior.shapes, key=posterior.log_size)


def _best_bits(posterior: Posterior) -> dict[str, float]:
    """P(weight bits are best) at memories that are evenly spaced within the range, in logs."""
    found = best_weight_bits(posterior)
    places = np.linspace(0, len(found.memory) - 1, N_MEMORIES + 2).round().astype(int)[1:-1]
    chances = found.p_best()
    return {
        f"{bits:g} weight bits are best at {found.memory[k] / 2**20:.3g} MiB": float(chances[k, i])
        for k in places
        for i, bits in enumerate(found.options)
    }
