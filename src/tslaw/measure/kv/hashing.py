"""Numbers that look random and are a function of others, the same on every device: SplitMix64 on int64 tensors.

Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators". Products and sums wrap around.
"""

from __future__ import annotations

from typing import Any

GAMMA = 0x9E3779B97F4A7C15 - 2**64
"""What the generator's state grows by from one number to the next."""
_ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
_LAST_SHIFT = 31


def mixed(x: Any) -> Any:
    """The generator's number for each state: int64 of the same shape."""
    for shift, factor in _ROUNDS:
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, _LAST_SHIFT)


def uniform(x: Any) -> Any:
    """float64 in [0, 1) from numbers that `mixed` gave: their upper 53 bits."""
    return _shifted(x, 11).double() * 2.0**-53


def _shifted(x: Any, n: int) -> Any:
    """Right, zeros coming in: torch's own shift repeats the sign."""
    return (x >> n) & ((1 << (64 - n)) - 1)
