"""What compressed caches cost, said slowly: integrals and loops instead of closed forms."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, expm1, log, log1p
from typing import Any

import numpy as np
from scipy.stats import norm

from tslaw.policy import KVPolicy

Truth = Mapping[str, Any]
STEPS = 40001


def damage(truth: Truth, bits: float) -> float:
    """What a cache of `bits` does of the damage of 2: 1 at 2 bits and 0 at 16."""
    at, at_16 = (exp(-float(truth["kappa_kv"]) * (b - 2.0)) for b in (bits, 16.0))
    return (at - at_16) / (1.0 - at_16)


def rounding(truth: Truth, policy: KVPolicy, x: float, misfit: float) -> tuple[float, float]:
    """Logits of ability, and losses a unit of the ordinary clock."""
    scale = damage(truth, policy.bits) * exp(-float(truth["gamma_kv"]) * x + misfit)
    return float(truth["delta_kv"]) * scale, exp(float(truth["loss_kv"])) * scale


def eviction_scale(truth: Truth, x: float, misfit: float) -> float:
    return exp(-float(truth["gamma_evict"]) * x + misfit)


def log_onset(truth: Truth, policy: KVPolicy, x: float, own: float) -> float:
    """ln r: onset and size move it, and it grows with what is kept, both in typical lengths, as a power."""
    assert policy.retain is not None
    typical, worth = exp(float(truth["mu0"])), float(truth[f"worth_{policy.evictor}"])
    shift = float(truth[f"onset_{policy.evictor}"]) + float(truth["reach"]) * x - own
    return log(typical * exp(shift) * (policy.retain / typical) ** worth)


def found_by(slack: float, kept_slack: float, spread: float, exponent: float) -> float:
    """The normal density times the chance that a solution of that length comes, summed in small steps."""
    lengths = np.linspace(-12.0 * spread, max(slack, -12.0 * spread), STEPS)
    chance = np.exp(-exponent * np.maximum(lengths - kept_slack, 0.0))
    return float(np.trapezoid(norm.pdf(lengths, scale=spread) * chance, lengths))


def finished(
    truth: Truth, policy: KVPolicy, x: float, misfit: float, own: float, mean: float, late: float, tokens: float
) -> float:
    """F of an arm whose problem has mean log length `mean`."""
    exponent = 0.0
    if policy.evictor:
        exponent = float(truth[f"found_{policy.evictor}"]) * eviction_scale(truth, x, misfit)
    onset = log_onset(truth, policy, x, own) if policy.evictor else 0.0
    sigma, delay = float(truth["sigma_len"]), float(truth["late_delay"])
    total = 0.0
    for share, center, spread in ((1.0 - late, mean, sigma), (late, mean + delay, np.hypot(sigma, 0.5 * delay))):
        total += share * found_by(log(tokens) - center, onset - center, float(spread), exponent)
    return total


def evicted_losses(truth: Truth, policy: KVPolicy, x: float, misfit: float, own: float, tokens: float) -> float:
    """Losses by eviction up to `tokens`: the clock's rate, exp(power z) where z is how far beyond r, integrated."""
    power, width = float(truth[f"power_{policy.evictor}"]), 0.2
    rate = exp(float(truth[f"loss_{policy.evictor}"])) * eviction_scale(truth, x, misfit)
    beyond = (log(tokens) - log_onset(truth, policy, x, own)) / width
    since = width * (beyond + log1p(exp(-beyond)) if beyond > 0 else log1p(exp(beyond)))
    return rate * expm1(power * since) / power


def decay_and_kept(rate: float, kept: float, advance: float, lost: float, steps: int = 20000) -> tuple[float, float]:
    """How a chain with relapses, recoveries and losses ends an interval: (how much of the start it remembers, where it
    goes in the long run), from small steps of both states."""
    right, lost_state = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    fall = rate * (1.0 - kept) * advance + lost
    rise = rate * kept * advance
    step = np.array([[1.0 - fall / steps, rise / steps], [fall / steps, 1.0 - rise / steps]])
    whole = np.linalg.matrix_power(step, steps)
    from_right, from_lost = (whole @ right)[0], (whole @ lost_state)[0]
    return float(from_right - from_lost), float(from_lost / (1.0 - from_right + from_lost))
