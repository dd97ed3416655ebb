"""Finding 6: where does eviction stop beating a rounded cache?

Within one model at one weight precision the weights cost the same, so memory is that of the cache. At the memory of an
evicted cache of R kept tokens, the best evicting configuration (any policy that fits, any budget, also one at which
nothing has been evicted yet) is set against the best rounded one, chosen on some problems and judged on others
(`bootstrap`). The threshold is the effective size above which eviction is nowhere better; where it lies outside the
measured sizes only the side is said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tslaw.fit.crossover import last_crossing
from tslaw.fit.intervals import CensoredSummary, summarise_censored
from tslaw.kvstudy.advance import judged_best
from tslaw.kvstudy.configurations import Configurations

EVICTION = ("streaming", "rkv")
"""Random eviction is the control, not a contender."""


@dataclass(frozen=True)
class KindContrast:
    """Eviction minus rounding for one model at one weight precision.

    `weights` bytes, the effective size. `kept` (kept,) tokens whose memory both had; `difference` (draw, kept) of
    accuracy.
    """

    model: str
    weight_bits: float
    weights: float
    kept: np.ndarray
    difference: np.ndarray


def kind_contrasts(
    configurations: Configurations,
    weights: np.ndarray,
    partition: np.ndarray | None,
    evicting: tuple[str, ...] = EVICTION,
) -> list[KindContrast]:
    """Every model and weight precision that has both kinds, by effective size.

    `weights` and `partition` are (draw, problem), as in `bootstrap.split`.
    """
    evicted = np.isin(configurations.kind, evicting)
    rounded = configurations.kind == "quantized"
    found = []
    for size in np.unique(configurations.weights):
        here = configurations.weights == size
        kinds = [configurations.where(here & mask) for mask in (evicted, rounded)]
        if not all(len(kind) for kind in kinds):
            continue
        kept = np.unique(kinds[0].retain)
        memory = np.array([kinds[0].cache[kinds[0].retain == r].max() for r in kept])
        fits = memory >= max(kind.cache.min() for kind in kinds)
        values = [judged_best(k.rows, k.cache, memory[fits], weights, partition) for k in kinds]
        first = kinds[0]
        found.append(
            KindContrast(
                str(first.model[0]), float(first.weight_bits[0]), float(size), kept[fits], values[0] - values[1]
            )
        )
    return found


def threshold(contrasts: list[KindContrast], kept: int | None = None) -> CensoredSummary:
    """The effective size in bytes above which rounding is no worse, interpolated in log size between models.

    Draws in which rounding is no worse at any measured size lie below them all, draws in which eviction still wins at
    the largest lie above. `kept` takes one number of kept tokens, otherwise their mean.
    """
    sizes, gain = _by_size(contrasts, kept)
    return summarise_censored(last_crossing(gain, np.log(sizes)), float(sizes[0]), float(sizes[-1]))


def slope(contrasts: list[KindContrast], kept: int | None = None) -> np.ndarray:
    """How much eviction minus rounding changes with every doubling of the effective size, by least squares: (draw,).

    A threshold above which rounding is no worse, and below which it is, needs this to be negative.
    """
    sizes, gain = _by_size(contrasts, kept)
    doublings = np.log2(sizes) - np.log2(sizes).mean()
    return np.asarray(gain @ doublings / (doublings @ doublings))


def _by_size(contrasts: list[KindContrast], kept: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Effective sizes, rising (size,), and the differences there (draw, size)."""
    ordered = sorted(contrasts, key=lambda c: c.weights)
    return np.array([c.weights for c in ordered]), np.stack([_at(c, kept) for c in ordered], axis=1)


def _at(contrast: KindContrast, kept: int | None) -> np.ndarray:
    """(draw,) difference at one number of kept tokens, or the mean over all."""
    if kept is None:
        return np.asarray(contrast.difference.mean(axis=1))
    return np.asarray(contrast.difference[:, list(contrast.kept).index(kept)])
