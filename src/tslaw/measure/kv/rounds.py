"""A step of the engine cut into rounds, so that events fall between rounds and never inside one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tslaw.measure.kv.schedule import Schedule


@dataclass(frozen=True)
class Part:
    """Tokens [start, stop) of one sequence, computed in one round.

    request : the sequence's place in the batch.
    row : the row of the step's queries that holds token `start`.
    evicted : position of the last eviction before `start`, 0 if there was none.
    """

    request: int
    row: int
    start: int
    stop: int
    evicted: int

    def visible(self, schedule: Schedule) -> int:
        """Tokens that the part's last token sees, itself included."""
        return self.stop - self.evicted + (schedule.retain or 0) if self.evicted else self.stop


@dataclass(frozen=True)
class Stash:
    """Queries to remember for the next eviction: `rows` of the step, of a sequence; `fresh` forgets earlier ones."""

    request: int
    rows: range
    fresh: bool


def rounds_of(schedule: Schedule, lengths: Sequence[int], row_starts: Sequence[int]) -> list[list[Part]]:
    """The rounds of a step, each with at most one part of every sequence, in the batch's order.

    Parameters
    ----------
    lengths : tokens of every sequence after the step.
    row_starts : first row of each sequence's queries, and the total number of rows.
    """
    rounds: list[list[Part]] = []
    for request, length in enumerate(lengths):
        row = row_starts[request]
        begin = length - (row_starts[request + 1] - row)
        for number, (start, stop) in enumerate(schedule.segments(begin, length)):
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(Part(request, row + start - begin, start, stop, schedule.last_eviction(start)))
    return rounds


def stash_of(schedule: Schedule, part: Part, window: int) -> Stash | None:
    """Which of a part's queries the next eviction needs; None for none."""
    event = schedule.next_eviction(part.start)
    if not window or event is None or part.stop <= event - window:
        return None
    first = max(part.start, event - window)
    row = part.row + first - part.start
    return Stash(part.request, range(row, row + part.stop - first), fresh=first == event - window)
