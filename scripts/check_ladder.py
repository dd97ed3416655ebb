"""The properties the ladder must have, each with its numbers and a verdict, from measurement datasets.

    python scripts/check_ladder.py measurements/ladder-math.nc measurements/ladder-knowledge.nc

Only arms with the full KV cache count. Uncertainty: Bayesian bootstrap over problems (Rubin 1981), the same weights for
all arms, so that differences between arms are paired. The exit status is 1 when a property does not hold.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tslaw.dataset import open_dataset
from tslaw.errors import TslawError
from tslaw.memory import kv_bytes, weight_bytes
from tslaw.shape import ModelShape
from tslaw.votes import maj_at_g, pass_at_1

DRAWS, SURE = 4000, 0.95
LOWEST_TOP, HIGHEST_BOTTOM = 0.85, 0.40
RISE_FACTOR, RISE_FROM, SATURATED = 8, 0.10, 0.95
VOTERS, VOTE_GAIN = 16, 0.05


@dataclass(frozen=True)
class Measured:
    """One task: sizes from small to large, and per-problem accuracies by weight bits."""

    task: str
    shapes: list[ModelShape]
    budgets: np.ndarray
    accuracy: dict[int, np.ndarray]  # bits -> [size, budget, problem]; NaN where not measured
    votes: np.ndarray  # majority of VOTERS at 16 bits, [size, budget, problem]
    weights: np.ndarray  # bootstrap weights [draw, problem]
    samples: int

    def posterior(self, per_problem: np.ndarray) -> np.ndarray:
        """Draws of the mean over problems of [..., problem] -> [draw, ...]."""
        return np.moveaxis(per_problem @ self.weights.T, -1, 0)

    @property
    def names(self) -> list[str]:
        return [s.name for s in self.shapes]


def load(path: Path) -> Measured:
    """Read one dataset; refuses one without native weights."""
    ds = open_dataset(path)
    ds = ds.isel(arm=np.flatnonzero(ds["kv_policy"].values == "full"))
    shapes = [ModelShape(**s) for s in json.loads(ds.attrs["model_shapes"]).values()]
    shapes.sort(key=lambda s: weight_bytes(s, 16))
    bits = sorted({int(b) for b in ds["weight_bits"].values}, reverse=True)
    accuracy = {b: np.stack([_arm(ds, s.name, b) for s in shapes]) for b in bits}
    if 16 not in accuracy:
        raise TslawError("There are no arms with native weights.", where=str(path), expected="weight_bits 16")
    n_problems, samples = ds.sizes["problem"], ds.sizes["sample"]
    votes = np.stack([_arm(ds, s.name, 16, min(VOTERS, samples)) for s in shapes])
    weights = np.random.default_rng(0).dirichlet(np.ones(n_problems), DRAWS)
    return Measured(ds.attrs["task"], shapes, ds["budget"].values, accuracy, votes, weights, samples)


def _arm(ds: Any, model: str, bits: int, voters: int = 1) -> np.ndarray:
    """Per-problem accuracy [budget, problem] of one arm, alone or voting."""
    here = np.flatnonzero((ds["model"].values == model) & (ds["weight_bits"].values == bits))
    if len(here) == 0:
        return np.full((ds.sizes["budget"], ds.sizes["problem"]), np.nan)
    correct, answer = ds["correct"].values[here[0]], ds["answer"].values[here[0]]
    return pass_at_1(correct) if voters == 1 else maj_at_g(answer, correct, voters)[0]


def interval(draws: np.ndarray) -> str:
    """Median and 90% interval."""
    low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95])
    return f"{middle:+.3f} [{low:+.3f}, {high:+.3f}]"


def check_order(m: Measured) -> tuple[bool, list[str]]:
    """Accuracy at 16 bits and the largest budget rises at every step, from below 0.4 to above 0.85."""
    top = m.posterior(m.accuracy[16][:, -1])
    means = m.accuracy[16][:, -1].mean(-1)
    lines = [f"{name:>12} {mean:.3f}" for name, mean in zip(m.names, means, strict=True)]
    sure = True
    for i in range(1, len(means)):
        chance = float((top[:, i] > top[:, i - 1]).mean())
        lines[i] += f"  step {interval(top[:, i] - top[:, i - 1])}  P(rises) {chance:.3f}"
        sure &= chance > SURE
    return bool(sure and means[0] < HIGHEST_BOTTOM and means[-1] > LOWEST_TOP), lines


def check_budget(m: Measured) -> tuple[bool, list[str]]:
    """Accuracy rises over a factor of 8 in T before it saturates, and does so within the largest budget."""
    lines, ok = [], True
    for name, curve in zip(m.names, m.accuracy[16].mean(-1), strict=True):
        best = curve.max()
        start = m.budgets[np.argmax(curve >= RISE_FROM * best)]
        saturated = m.budgets[np.argmax(curve >= SATURATED * best)]
        good = saturated / start >= RISE_FACTOR and saturated < m.budgets[-1]
        ok &= bool(good)
        lines.append(f"{name:>12} {RISE_FROM:.0%} of its best at T = {start}, {SATURATED:.0%} at T = {saturated}: "
                     f"factor {saturated / start:.1f}; at the end {curve[-1] - best:+.3f} from its best"
                     f"{'' if good else '   <- short of it'}")  # fmt: skip
    return ok, lines


def check_bits(m: Measured) -> tuple[bool, list[str]]:
    """4 bits cost accuracy at the small end and less at the large end; 8 bits cost next to nothing."""
    if not {4, 8} <= set(m.accuracy):
        return False, ["4 and 8 bits were not both measured"]
    native = m.posterior(m.accuracy[16][:, -1])
    cost = {b: native - m.posterior(m.accuracy[b][:, -1]) for b in (4, 8)}
    share = cost[4] / native
    lines = [f"{name:>12} 4 bits {interval(cost[4][:, i])}, {np.median(share[:, i]):.0%} of its accuracy; "
             f"8 bits {interval(cost[8][:, i])}" for i, name in enumerate(m.names)]  # fmt: skip
    half = len(m.names) // 2
    small, large = (cost[4][:, part].mean(1) for part in (slice(half), slice(half, None)))
    ends = float((cost[4][:, 0] > cost[4][:, -1]).mean())
    shares = float((share[:, 0] > share[:, -1]).mean())
    lines.append(f"P(4 bits cost something at the small end) {(cost[4][:, 0] > 0).mean():.3f}; P(more points at the "
                 f"small end than at the large) {ends:.3f}; P(a larger share of it) {shares:.3f}")  # fmt: skip
    lines.append(f"mean cost in points, smaller half {interval(small)}, larger half {interval(large)}")
    negligible = bool((np.abs(np.median(cost[8], 0)) < 0.02).all())
    return bool((cost[4][:, 0] > 0).mean() > SURE and ends > SURE and negligible), lines


def check_votes(m: Measured) -> tuple[bool, list[str]]:
    """Majority of 16 gains at least 5 points somewhere in the middle of the ladder."""
    if m.samples < VOTERS:
        return False, [f"only {m.samples} samples"]
    gain = m.votes - m.accuracy[16]
    lines, found = [], False
    for i, name in enumerate(m.names):
        means = gain[i].mean(-1)
        j = int(np.argmax(means))
        draws, last = m.posterior(gain[i, j]), m.posterior(gain[i, -1])
        lines.append(
            f"{name:>12} most at T = {m.budgets[j]}: {interval(draws)}; at the largest budget {interval(last)}"
        )
        found |= 0 < i < len(m.names) - 1 and float((draws > VOTE_GAIN).mean()) > SURE
    return bool(found), lines


def check_memory(m: Measured) -> tuple[bool, list[str]]:
    """KV bytes at the largest budget run from over twice the 16-bit weights to under a fifth of them."""
    largest = int(m.budgets[-1])
    ratios = [kv_bytes(s, largest) / weight_bytes(s, 16) for s in m.shapes]
    lines = [f"{s.name:>12} weights {weight_bytes(s, 16) / 1e6:6.2f} MB, KV at T = {largest} "
             f"{kv_bytes(s, largest) / 1e6:5.2f} MB: {ratio:.2f}"
             for s, ratio in zip(m.shapes, ratios, strict=True)]  # fmt: skip
    return bool(ratios[0] > 2 and ratios[-1] < 0.2), lines


CHECKS = (check_order, check_budget, check_bits, check_votes, check_memory)


def main(paths: list[str]) -> int:
    if not paths:
        print(__doc__)
        return 2
    failed = 0
    for path in paths:
        m = load(Path(path))
        n = m.accuracy[16].shape[-1]
        print(f"# {m.task}: {len(m.shapes)} sizes, {n} problems x {m.samples} samples, budgets to {m.budgets[-1]}")
        for check in CHECKS:
            ok, lines = check(m)
            failed += not ok
            print(f"\n[{'holds' if ok else 'DOES NOT HOLD'}] {check.__doc__}")
            print("\n".join(f"    {line}" for line in lines))
        print()
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except TslawError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
