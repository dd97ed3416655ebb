"""Bytes as people write and read them."""

from __future__ import annotations

import re
from math import inf

from tslaw.errors import TslawError

_UNITS = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}


def parse_bytes(text: str) -> float:
    """Bytes from text such as `24GiB`, `1.5 MiB` or `300kB`.

    Raises
    ------
    TslawError : not a positive number with one of the known units.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]+)\s*", text)
    if not match or match[2].lower() not in _UNITS or not 0 < float(match[1]) < inf:
        raise TslawError(
            f"'{text}' is not an amount of memory.", expected="a positive number and a unit: 24GiB, 1.5MiB, 300kB"
        )
    return float(match[1]) * _UNITS[match[2].lower()]


def format_bytes(amount: float) -> str:
    """Three significant digits in the largest binary unit that keeps the number at or above 1."""
    for unit in ("GiB", "MiB", "KiB"):
        if amount >= _UNITS[unit.lower()]:
            return f"{amount / _UNITS[unit.lower()]:.3g} {unit}"
    return f"{amount:.0f} B"
