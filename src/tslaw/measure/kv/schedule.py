"""When a policy acts: a pure function of the number of tokens that a sequence has."""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The token positions of a policy's events; an event at n follows the n-th token. All numbers are tokens.

    Evictions: whenever `retain + buffer` tokens are held, `retain` of them are kept: at retain + buffer,
    retain + 2 buffer, and so on. Roundings: `group` tokens at a time, as soon as they are all older than the last
    `residual` tokens, which stay exact. `retain` or `residual` is None where there is nothing of the kind.
    """

    retain: int | None = None
    buffer: int = 128
    residual: int | None = None
    group: int = 64

    @property
    def bites_at(self) -> int | None:
        """Tokens of the shortest sequence that the policy changes; None for one that changes nothing."""
        evicts = None if self.retain is None else self.retain + self.buffer
        rounds = None if self.residual is None else self.residual + self.group
        return min((n for n in (evicts, rounds) if n is not None), default=None)

    def last_eviction(self, n: int) -> int:
        """Position of the last eviction in a sequence of n tokens (one at n included), 0 if there was none."""
        if self.retain is None or n < self.retain + self.buffer:
            return 0
        return n - (n - self.retain) % self.buffer

    def next_eviction(self, n: int) -> int | None:
        """Position of the first eviction after n; None where nothing is ever evicted."""
        if self.retain is None:
            return None
        return self.last_eviction(n) + self.buffer if self.last_eviction(n) else self.retain + self.buffer

    def held(self, n: int) -> int:
        """Tokens held by a sequence of n tokens, after the event at n if there is one."""
        evicted = self.last_eviction(n)
        return n - evicted + (self.retain or 0) if evicted else n

    def evicts_at(self, n: int) -> bool:
        """Whether there is an eviction at n."""
        return n > 0 and self.last_eviction(n) == n

    def rounds_at(self, n: int) -> tuple[int, int]:
        """The tokens [first, stop) rounded at n, those that an eviction took away left out; empty if first = stop."""
        if self.residual is None or n < self.residual + self.group or (n - self.residual) % self.group:
            return 0, 0
        stop = n - self.residual
        first = max(stop - self.group, self.last_eviction(n))
        return (first, stop) if first < stop else (0, 0)

    def segments(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Tokens [start, stop) cut so that every event lies at the end of a segment."""
        edges = {stop}
        if self.retain is not None:
            first = self.next_eviction(start) or stop
            edges.update(range(first, stop, self.buffer))
        if self.residual is not None:
            first = self.residual + self.group * max((start - self.residual) // self.group + 1, 1)
            edges.update(range(first, stop, self.group))
        bounds = [start, *sorted(edges)]
        return list(itertools.pairwise(bounds))
