"""A step of the engine on packed caches, ready for all layers, and one layer's part of it.

Nothing here reads anything back from the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tslaw.measure.kv.effects import EFFECTS
from tslaw.measure.kv.packed.attend import attend, tile_queries
from tslaw.measure.kv.packed.layout import PageLayout
from tslaw.measure.kv.packed.pages import Pages
from tslaw.measure.kv.packed.plan import Plan, plan_of
from tslaw.measure.kv.packed.write import pack, store
from tslaw.measure.kv.transfer import send

ALIGNED = 4
"""Arrays on the device begin at multiples of so many int32: Triton compiles a kernel anew for pointers that do not."""

_warm: set[Any] = set()


@dataclass(frozen=True)
class PackedStep:
    """What vLLM hands every layer as the step's attention metadata. See `Plan`, whose arrays are on the device here."""

    layout: PageLayout
    table: Any
    singles: Any
    tiles: Any
    groups: Any
    stores: Any
    longest: int


def prepare(layout: PageLayout, lengths: Any, row_starts: Any, table: Any, heads: int, device: Any) -> PackedStep:
    """A step's plan, with its arrays sent to the device in one transfer; arguments as of `plan_of`."""
    plan = plan_of(layout, lengths, row_starts, tile_queries(layout, heads))
    singles, tiles, groups, stores = _sent(plan, torch.device(device))
    return PackedStep(layout, table, singles, tiles, groups, stores, plan.longest)


def _sent(plan: Plan, device: Any) -> list[Any]:
    arrays = (plan.singles, plan.tiles, plan.groups, plan.stores)
    padded = [np.pad(x.ravel(), (0, -x.size % ALIGNED)) for x in arrays]
    parts = send(torch.from_numpy(np.concatenate(padded)), device).split([len(x) for x in padded])
    return [part[: x.size].view(x.shape) for part, x in zip(parts, arrays, strict=True)]


def run(
    step: PackedStep,
    pages: Pages,
    queries: Any,
    keys: Any,
    values: Any,
    scale: float,
    output: Any,
    kernel: str | None = None,
) -> None:
    """One layer's part of a step.

    queries and output : (rows, heads, head_dim). keys and values : (rows, kv_heads, head_dim), not in the cache yet.
    kernel : see `attend`.
    """
    layout, table = step.layout, step.table
    if len(step.groups):
        EFFECTS.roundings += 2 * len(step.groups)
        pack(layout, pages, keys, values, table, step.groups, EFFECTS.changed_on(queries.device))
    for tiles, single in ((step.singles, True), (step.tiles, False)):
        if len(tiles):
            attend(
                layout, pages, queries, keys, values, table, tiles, single, step.longest, scale, output, kernel=kernel
            )
    if len(step.stores):  # with no exact window, a step may end without an exact token
        store(layout, pages, keys, values, table, step.stores)


def warm_up(layout: PageLayout, heads: int, dtype: Any) -> None:
    """Have Triton compile for a model's shapes, once in a process: a prefill that packs a group, a decoding step."""
    if (layout, heads, dtype) in _warm or not torch.cuda.is_available():
        return
    _warm.add((layout, heads, dtype))
    device, n = torch.device("cuda", torch.cuda.current_device()), layout.window
    more = {"dtype": dtype, "device": device}
    columns = layout.pages(n + 1)
    table = torch.arange(columns, dtype=torch.int32, device=device)[None]
    cache = torch.zeros(columns, layout.kv_heads, layout.head_bytes, dtype=torch.uint8, device=device)
    pages, effects = Pages.of(cache, dtype), (EFFECTS.roundings, EFFECTS.changed)
    for length, rows in ((n, n), (n + 1, 1)):
        step = prepare(layout, np.array([length]), np.array([0, rows]), table, heads, device)
        queries = torch.zeros(rows, heads, layout.head_dim, **more)
        keys = torch.zeros(rows, layout.kv_heads, layout.head_dim, **more)
        run(step, pages, queries, keys, keys, 1.0, torch.empty_like(queries))
    EFFECTS.roundings, EFFECTS.changed = effects
