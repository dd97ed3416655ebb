"""A step of the engine cut into rounds, so that events fall between rounds and never inside one.

Numbers here are NumPy arrays over the sequences of a batch: a step of many sequences costs about what one costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tslaw.measure.kv.schedule import Schedule

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Parts:
    """One round's parts: tokens [starts, stops) of some sequences, each at most once, in the batch's order.

    requests : the sequences' places in the batch.
    rows : the rows of the step's queries that hold tokens `starts`.
    evicted : positions of the last evictions before `starts`, 0 where there was none.
    """

    requests: Any
    rows: Any
    starts: Any
    stops: Any
    evicted: Any

    def __len__(self) -> int:
        return len(self.requests)

    def visible(self, schedule: Schedule) -> Any:
        """Tokens that each part's last token sees, itself included."""
        return np.where(self.evicted > 0, self.stops - self.evicted + (schedule.retain or 0), self.stops)

    def where(self, chosen: Any) -> Parts:
        """Some of the parts."""
        return Parts(*(x[chosen] for x in (self.requests, self.rows, self.starts, self.stops, self.evicted)))

    def all_rows(self) -> Any:
        """The step's rows of all parts, in order."""
        return ranges(self.rows, self.stops - self.starts)


@dataclass(frozen=True)
class StashRows:
    """Queries to remember for the next eviction.

    parts : places, among the round's parts, of those with such queries.
    continued : for each of these, whether earlier steps or rounds hold the first of its queries.
    rows, owner, places : for each query its row of the step, its part's place in `parts`, and its own among the last
        queries before the eviction.
    """

    parts: Any
    continued: Any
    rows: Any
    owner: Any
    places: Any


def last_evictions(schedule: Schedule, n: Any) -> Any:
    """`Schedule.last_eviction` of every number in an array."""
    if schedule.retain is None:
        return np.zeros_like(n)
    return np.where(n < schedule.retain + schedule.buffer, 0, n - (n - schedule.retain) % schedule.buffer)


def next_evictions(schedule: Schedule, n: Any) -> Any:
    """Position of the first eviction after each n; NEVER where nothing is ever evicted."""
    if schedule.retain is None:
        return np.full_like(n, NEVER)
    last = last_evictions(schedule, n)
    return np.where(last > 0, last, schedule.retain) + schedule.buffer


def next_events(schedule: Schedule, n: Any) -> Any:
    """Position of the first event after each n."""
    events = next_evictions(schedule, n)
    if schedule.residual is None:
        return events
    groups = np.maximum((n - schedule.residual) // schedule.group + 1, 1)
    return np.minimum(events, schedule.residual + schedule.group * groups)


def rounds_of(schedule: Schedule, lengths: Any, row_starts: Any) -> list[Parts]:
    """The rounds of a step.

    Parameters
    ----------
    lengths : tokens of every sequence after the step.
    row_starts : first row of each sequence's queries, and the total number of rows.
    """
    lengths, row_starts = np.asarray(lengths, dtype=np.int64), np.asarray(row_starts, dtype=np.int64)
    rows, starts, rounds = row_starts[:-1], lengths - np.diff(row_starts), []
    requests = np.arange(len(lengths))
    while (left := starts < lengths).any():
        requests, rows, starts, lengths = (x[left] for x in (requests, rows, starts, lengths))
        stops = np.minimum(lengths, next_events(schedule, starts))
        rounds.append(Parts(requests, rows, starts, stops, last_evictions(schedule, starts)))
        rows, starts = rows + stops - starts, stops
    return rounds


def stash_rows(schedule: Schedule, parts: Parts, window: int) -> StashRows | None:
    """Which of a round's queries the next evictions need; None for none."""
    if not window or schedule.retain is None:
        return None
    opening = next_evictions(schedule, parts.starts) - window
    (chosen,) = np.nonzero(parts.stops > opening)
    if not len(chosen):
        return None
    opening, some = opening[chosen], parts.where(chosen)
    first = np.maximum(some.starts, opening)
    counts = some.stops - first
    return StashRows(
        parts=chosen,
        continued=first > opening,
        rows=ranges(some.rows + first - some.starts, counts),
        owner=np.repeat(np.arange(len(chosen)), counts),
        places=ranges(first - opening, counts),
    )


def evicting(schedule: Schedule, parts: Parts) -> Any:
    """Places of the parts that end at an eviction."""
    return np.nonzero((last_evictions(schedule, parts.stops) == parts.stops) & (parts.stops > 0))[0]


def roundings(schedule: Schedule, parts: Parts) -> dict[int, list[tuple[int, int]]]:
    """What is rounded after the parts: by the number of tokens, pairs (the sequence's place, its first token)."""
    found: dict[int, list[tuple[int, int]]] = {}
    if schedule.residual is None:
        return found
    for part in np.nonzero((parts.stops - schedule.residual) % schedule.group == 0)[0]:
        first, stop = schedule.rounds_at(int(parts.stops[part]))
        if first < stop:
            found.setdefault(stop - first, []).append((int(parts.requests[part]), first))
    return found


def ranges(firsts: Any, counts: Any) -> Any:
    """first, first + 1, ... for every first, as many as its count, one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(counts) else 0
    return np.arange(total) + np.repeat(firsts - (ends - counts), counts)
