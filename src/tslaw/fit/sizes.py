"""A family as a continuous curve of sizes: weight bytes and KV bytes a token between its models, and beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tslaw.errors import TslawError
from tslaw.memory import Accounting, kv_bytes_per_token, n_params, weight_bytes
from tslaw.shape import ModelShape


@dataclass(frozen=True)
class SizeCurve:
    """Log bytes of weights and of KV cache a token against log parameters, at one weight bit width.

    Interpolated linearly in logs along the family's real configs and extrapolated with the slope of the last two:
    clamping would make sizes beyond the largest look free and move the crossover.
    """

    log_params: np.ndarray
    log_weight: np.ndarray
    log_kv_per_token: np.ndarray

    def weight(self, log_params: np.ndarray) -> np.ndarray:
        """Bytes of weights at log parameter counts of any shape."""
        return np.exp(_extend(log_params, self.log_params, self.log_weight))

    def kv_per_token(self, log_params: np.ndarray) -> np.ndarray:
        """Bytes of 16-bit KV cache a token at log parameter counts of any shape."""
        return np.exp(_extend(log_params, self.log_params, self.log_kv_per_token))

    def log_params_at_weight(self, weight: np.ndarray) -> np.ndarray:
        """The inverse of `weight`: log parameters whose weights take so many bytes."""
        return _extend(np.log(weight), self.log_weight, self.log_params)


def _extend(x: np.ndarray, xp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    """Linear interpolation that goes on with the slope of the first and the last piece."""
    k = np.clip(np.searchsorted(xp, x) - 1, 0, len(xp) - 2)
    slope = (fp[k + 1] - fp[k]) / (xp[k + 1] - xp[k])
    return fp[k] + slope * (np.asarray(x) - xp[k])


def size_curve(shapes: Mapping[str, ModelShape], weight_bits: float, accounting: Accounting) -> SizeCurve:
    """The curve of a family at `weight_bits`.

    Raises
    ------
    TslawError : fewer than two sizes, or weight bytes that do not rise with size.
    """
    ordered = sorted(shapes.values(), key=n_params)
    if len(ordered) < 2:
        raise TslawError(
            "Sizes can only be interpolated in a family of at least two.", where=f"{len(ordered)} model(s) in the fit"
        )
    curve = SizeCurve(
        np.log([n_params(s) for s in ordered]),
        np.log([weight_bytes(s, weight_bits, accounting) for s in ordered]),
        np.log([kv_bytes_per_token(s) for s in ordered]),
    )
    if (np.diff(curve.log_params) <= 0).any() or (np.diff(curve.log_weight) <= 0).any():
        raise TslawError("The family's sizes do not rise strictly.", expected="models of different sizes")
    return curve
