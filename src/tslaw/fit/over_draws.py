"""A compiled function of many posterior draws, on every core: XLA gives a loop over draws one core of a CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

Draws = Mapping[str, Any]


def over_draws(function: Callable[[dict[str, np.ndarray]], Any], draws: Draws) -> Any:
    """What the compiled `function` says of `draws`, (draw, ...) arrays by name, in whose order its results' first axis
    is: on a CPU a part of the draws a core, for it lets go of Python while it computes."""
    arrays = {name: np.asarray(values) for name, values in draws.items()}
    n = len(next(iter(arrays.values())))
    parts = min(n, len(os.sched_getaffinity(0))) if jax.default_backend() == "cpu" else 1
    # Equally long, the last one filled up, so that there is one shape to compile for.
    places = np.minimum(np.arange(parts * -(-n // parts)), n - 1).reshape(parts, -1)

    def part(of: np.ndarray) -> Any:
        return jax.tree.map(np.asarray, function({name: values[of] for name, values in arrays.items()}))

    with ThreadPoolExecutor(parts) as pool:
        found = list(pool.map(part, places))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *found)
