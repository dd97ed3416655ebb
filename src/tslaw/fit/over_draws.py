"""A compiled function of many posterior draws, on every core: XLA gives a loop over draws one core of a CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

ON_A_GPU = 64
"""Draws at once on a GPU. A CPU takes one after the other: what one needs stays in its caches, which makes votes
several times as fast."""


def each_draw(function: Callable[[Any], Any], draws: Any) -> Any:
    """`function` of one draw, for every one of `draws`, (draw, ...) arrays in mappings or tuples; to be compiled."""
    return jax.lax.map(function, draws, batch_size=None if jax.default_backend() == "cpu" else ON_A_GPU)


def cores() -> int:
    """How many threads a computation is worth: one on a GPU, and on a CPU one a core."""
    return len(os.sched_getaffinity(0)) if jax.default_backend() == "cpu" else 1


def over_draws(function: Callable[[Any], Any], draws: Any) -> Any:
    """What the compiled `function` says of `draws`, (draw, ...) arrays in mappings or tuples, in whose order its
    results' first axis is: on a CPU a part of the draws a core, for it lets go of Python while it computes."""
    arrays = jax.tree.map(np.asarray, draws)
    n = len(jax.tree.leaves(arrays)[0])
    parts = min(n, cores())
    # Equally long, the last one filled up, so that there is one shape to compile for.
    places = np.minimum(np.arange(parts * -(-n // parts)), n - 1).reshape(parts, -1)

    def part(of: np.ndarray) -> Any:
        return jax.tree.map(np.asarray, function(jax.tree.map(lambda values: values[of], arrays)))

    with ThreadPoolExecutor(parts) as pool:
        found = list(pool.map(part, places))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *found)
