"""What a step does with a packed cache, for all layers: arrays of whole numbers, from lengths that the host knows.

A sequence has `start` tokens before a step and `stop` after it. Rows are those of the step's queries, keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tslaw.measure.kv.packed.layout import PageLayout
from tslaw.measure.kv.rounds import ranges

TILE_COLUMNS = ("request", "row", "position", "count", "start")
GROUP_COLUMNS = ("request", "row", "number", "start")
STORE_COLUMNS = ("request", "row", "position")


@dataclass(frozen=True)
class Plan:
    """Columns as above; every array is (things, columns) int32.

    tiles : some consecutive queries of a sequence to which the same pages are packed: its place in the batch, the row
        and the position of the first query, how many there are, and the sequence's tokens before the step.
    singles : the tiles of one query, as in decoding; `tiles` has the others.
    groups : groups to pack: `row` is that of token `start`, `number` counts a sequence's groups.
    stores : tokens that are exact after the step.
    longest : tokens of the longest sequence.
    """

    singles: Any
    tiles: Any
    groups: Any
    stores: Any
    longest: int


def plan_of(layout: PageLayout, lengths: Any, row_starts: Any, tile_queries: int) -> Plan:
    """A step's plan.

    Parameters
    ----------
    lengths : tokens of every sequence after the step.
    row_starts : first row of each sequence's queries, and the total number of rows.
    tile_queries : most queries of a tile.
    """
    stops, row_starts = np.asarray(lengths, dtype=np.int64), np.asarray(row_starts, dtype=np.int64)
    rows, starts = row_starts[:-1], stops - np.diff(row_starts)
    (requests,) = np.nonzero(starts < stops)  # vLLM pads batches with sequences without queries
    rows, starts, stops = rows[requests], starts[requests], stops[requests]
    some = (requests, rows, starts, stops)
    tiles = _tiles(layout, *some, tile_queries)
    single = tiles[:, TILE_COLUMNS.index("count")] == 1
    return Plan(
        singles=tiles[single],
        tiles=tiles[~single],
        groups=_groups(layout, *some),
        stores=_stores(layout, *some),
        longest=int(stops.max(initial=0)),
    )


def packed_groups(layout: PageLayout, n: Any) -> Any:
    """Groups that are packed once a sequence has n tokens; a query at position n sees so many."""
    return np.maximum((n - layout.residual) // layout.group, 0)


def _tiles(layout: PageLayout, requests: Any, rows: Any, starts: Any, stops: Any, most: int) -> Any:
    first, last = packed_groups(layout, starts), packed_groups(layout, stops - 1)
    owner = np.repeat(np.arange(len(starts)), last - first + 1)
    seen = ranges(first, last - first + 1)  # packed groups that a stretch of queries sees
    begins = np.maximum(np.where(seen > 0, layout.residual + seen * layout.group, 0), starts[owner])
    ends = np.minimum(layout.residual + (seen + 1) * layout.group, stops[owner])
    pieces = -(-(ends - begins) // most)
    stretch = np.repeat(np.arange(len(begins)), pieces)
    positions = begins[stretch] + most * ranges(np.zeros_like(pieces), pieces)
    owner = owner[stretch]
    counts = np.minimum(ends[stretch] - positions, most)
    return _table(requests[owner], rows[owner] + positions - starts[owner], positions, counts, starts[owner])


def _groups(layout: PageLayout, requests: Any, rows: Any, starts: Any, stops: Any) -> Any:
    first = packed_groups(layout, starts)
    counts = packed_groups(layout, stops) - first
    owner = np.repeat(np.arange(len(starts)), counts)
    return _table(requests[owner], rows[owner], ranges(first, counts), starts[owner])


def _stores(layout: PageLayout, requests: Any, rows: Any, starts: Any, stops: Any) -> Any:
    first = np.maximum(starts, packed_groups(layout, stops) * layout.group)
    owner = np.repeat(np.arange(len(starts)), stops - first)
    positions = ranges(first, stops - first)
    return _table(requests[owner], rows[owner] + positions - starts[owner], positions)


def _table(*columns: Any) -> Any:
    return np.stack(columns, axis=1).astype(np.int32)
