"""When policies act: the schedule against counting token by token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tslaw.measure.kv.rounds import rounds_of, stash_of
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
def test_rounds_take_every_row_of_every_sequence_once(schedule, batch):
    starts = [0]
    for _, n in batch:
        starts.append(starts[-1] + n)
    rounds = rounds_of(schedule, [before + n for before, n in batch], starts)
    rows = sorted(row for parts in rounds for p in parts for row in range(p.row, p.row + p.stop - p.start))
    assert rows == list(range(starts[-1]))
    assert all(len({p.request for p in parts}) == len(parts) for parts in rounds)
    for parts in rounds:
        for p in parts:
            assert p.visible(schedule) == schedule.held(p.start) + p.stop - p.start


@given(st.integers(8, 20), st.integers(6, 12), st.integers(1, 6), st.lists(st.integers(1, 9), min_size=20, max_size=20))
def test_the_queries_stashed_before_an_eviction_are_the_last_ones(retain, buffer, window, steps):
    schedule, stash, done = Schedule(retain, buffer), [], 0
    for n in steps:
        for parts in rounds_of(schedule, [done + n], [0, n]):
            found = stash_of(schedule, parts[0], window)
            if found is not None:
                stash = ([] if found.fresh else stash) + [done + row for row in found.rows]
            if schedule.evicts_at(parts[0].stop):
                assert stash == list(range(parts[0].stop - window, parts[0].stop))
        done += n
