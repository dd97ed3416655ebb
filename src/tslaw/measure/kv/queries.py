"""The last queries before the next eviction, kept without asking the device for anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tslaw.measure.kv.effects import EFFECTS


def slots_for(n_sequences: int) -> int:
    """How many slots there are where so many sequences run at once."""
    return 2 * n_sequences


class Slots:
    """Gives every sequence a place in the stashes of all layers, under the number of its first block.

    A sequence keeps its first block while it runs. What a finished or preempted sequence left is not read: whoever has
    the block, or the slot, after it writes all queries before an eviction anew. Twice as many slots as sequences run
    at a time, and the one that was used longest ago is taken: a sequence that is computed in every step never loses
    its slot. Would one that had to wait lose it, the loss is counted in EFFECTS, and the arm fails.
    """

    def __init__(self, n_sequences: int, device: Any) -> None:
        n_slots = slots_for(n_sequences)
        self.owner = torch.full((n_slots,), -1, dtype=torch.int64, device=device)
        self.used = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self.calls = 0

    def of(self, first_blocks: Any, continued: Any) -> Any:
        """(sequences,) int64 from first blocks (sequences,) and whether earlier queries must be there already."""
        self.calls += 1
        match = self.owner == first_blocks[:, None]
        found = match.any(dim=1)
        self.used.masked_fill_(match.any(dim=0), self.calls)
        oldest = self.used.topk(len(first_blocks), largest=False).indices
        slots = torch.where(found, match.int().argmax(dim=1), oldest)
        self.owner[slots] = first_blocks.long()
        self.used[slots] = self.calls
        EFFECTS.lost_queries = EFFECTS.lost_queries + (continued & ~found).sum()
        return slots


@dataclass(frozen=True)
class StashIndex:
    """Where a round's queries go: rows of the step, slots, and places among the last queries; (queries,) int64."""

    rows: Any
    slots: Any
    places: Any


class QueryStash:
    """One layer's last queries, (slots, window, heads, head_dim), made when they are first needed."""

    def __init__(self, n_slots: int, window: int) -> None:
        self._shape = (n_slots, window)
        self._queries: Any = None

    def put(self, index: StashIndex, queries: Any) -> None:
        """Remember some of a step's queries (rows, heads, head_dim)."""
        if self._queries is None:
            self._queries = queries.new_zeros((*self._shape, *queries.shape[1:]))
        self._queries[index.slots, index.places] = queries[index.rows]

    def take(self, slots: Any) -> Any:
        """The queries (sequences, window, heads, head_dim) before an eviction."""
        return self._queries[slots]
