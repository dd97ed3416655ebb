"""When policies act: the schedule against counting token by token."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tslaw.measure.kv.rounds import evicting, ranges, roundings, rounds_of, stash_rows
from tslaw.measure.kv.schedule import Schedule

SCHEDULES = st.builds(
    Schedule,
    retain=st.one_of(st.none(), st.integers(1, 12)),
    buffer=st.integers(1, 9),
    residual=st.one_of(st.none(), st.integers(0, 10)),
    group=st.integers(1, 8),
)


def counted(schedule: Schedule, n: int) -> tuple[list[int], int, list[tuple[int, set[int]]]]:
    """Token by token: positions of evictions, tokens held, and for each rounding its position and its tokens."""
    held, evictions, roundings = 0, [], []
    for t in range(1, n + 1):
        held += 1
        if schedule.retain is not None and held == schedule.retain + schedule.buffer:
            held = schedule.retain
            evictions.append(t)
        if schedule.residual is not None and t > schedule.residual and (t - schedule.residual) % schedule.group == 0:
            old = set(range(t - schedule.residual - schedule.group, t - schedule.residual))
            fresh = old - set(range(evictions[-1] if evictions else 0))
            if fresh:
                roundings.append((t, fresh))
    return evictions, held, roundings


@given(SCHEDULES, st.integers(0, 60))
def test_events_and_held_tokens_are_those_counted_one_by_one(schedule, n):
    evictions, held, roundings = counted(schedule, n)
    assert schedule.held(n) == held
    assert schedule.last_eviction(n) == (evictions[-1] if evictions else 0)
    assert [t for t in range(n + 1) if schedule.evicts_at(t)] == evictions
    assert [
        (t, set(range(*schedule.rounds_at(t)))) for t in range(n + 1) if schedule.rounds_at(t) != (0, 0)
    ] == roundings
    events = evictions + [t for t, _ in roundings]
    assert min(events, default=n + 1) >= min(schedule.bites_at or n + 1, n + 1)
    if schedule.bites_at is not None and n >= schedule.bites_at:
        assert events


@given(SCHEDULES, st.integers(0, 40), st.integers(1, 40))
def test_segments_cover_the_tokens_once_and_end_at_every_event(schedule, start, length):
    segments = schedule.segments(start, start + length)
    assert [t for a, b in segments for t in range(a, b)] == list(range(start, start + length))
    ends = {b for _, b in segments}
    evictions, _, roundings = counted(schedule, start + length)
    assert {t for t in [*evictions, *(t for t, _ in roundings)] if start < t} <= ends


@given(SCHEDULES, st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=4))
def test_rounds_are_every_sequences_segments_side_by_side(schedule, batch):
    starts = np.cumsum([0] + [n for _, n in batch])
    rounds = rounds_of(schedule, [before + n for before, n in batch], starts)
    assert sorted(row for parts in rounds for row in parts.all_rows()) == list(range(starts[-1]))
    for request, (before, n) in enumerate(batch):
        own = [parts.where(parts.requests == request) for parts in rounds]
        found = [(int(p.starts[0]), int(p.stops[0])) for p in own if len(p)]
        assert found == schedule.segments(before, before + n)
        assert [len(p) for p in own] == [1] * len(found) + [0] * (len(rounds) - len(found))
        assert all(p.rows[0] == starts[request] + p.starts[0] - before for p in own if len(p))


@given(SCHEDULES, st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=4))
def test_what_is_due_after_a_round_is_what_the_schedule_says_of_each_sequence(schedule, batch):
    starts = np.cumsum([0] + [n for _, n in batch])
    for parts in rounds_of(schedule, [before + n for before, n in batch], starts):
        each = list(zip(parts.requests, parts.starts, parts.stops, parts.evicted, parts.visible(schedule), strict=True))
        assert [e for *_, e, _ in each] == [schedule.last_eviction(int(a)) for _, a, *_ in each]
        assert [v for *_, v in each] == [schedule.held(int(a)) + b - a for _, a, b, *_ in each]
        assert evicting(schedule, parts).tolist() == [i for i, x in enumerate(each) if schedule.evicts_at(int(x[2]))]
        due = [(r, schedule.rounds_at(int(b))) for r, _, b, *_ in each]
        wanted = sorted((int(r), first, stop - first) for r, (first, stop) in due if first < stop)
        found = roundings(schedule, parts)
        assert sorted((r, first, n) for n, places in found.items() for r, first in places) == wanted


@given(st.integers(8, 20), st.integers(6, 12), st.integers(1, 6), st.lists(st.integers(1, 9), min_size=20, max_size=20))
def test_the_queries_stashed_before_an_eviction_are_the_last_ones(retain, buffer, window, steps):
    schedule, stash, done = Schedule(retain, buffer), {}, 0
    for n in steps:
        for parts in rounds_of(schedule, [done + n], [0, n]):
            found = stash_rows(schedule, parts, window)
            if found is not None:
                if not found.continued[0]:
                    stash = {}
                assert len(stash) == found.places[0]
                stash |= {int(p): done + int(row) for p, row in zip(found.places, found.rows, strict=True)}
            stop = int(parts.stops[0])
            if schedule.evicts_at(stop):
                assert [stash[place] for place in range(window)] == list(range(stop - window, stop))
        done += n


@given(st.lists(st.integers(0, 5), max_size=6))
def test_ranges_are_those_of_python(counts):
    firsts = [7 * i % 5 for i in range(len(counts))]
    wanted = [x for first, n in zip(firsts, counts, strict=True) for x in range(first, first + n)]
    assert ranges(np.array(firsts, dtype=int), np.array(counts, dtype=int)).tolist() == wanted
