"""Budget forcing on a decoder whose tokens are known: it stops at fixed positions, however the text is split."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tslaw.measure.thinking import FORMATS, BoundFormat
from tslaw.measure.trajectory import longest_request, probe, run_to_budget, think

END, WAIT, ANSWER, EOS = 1, 2, 3, 4


def bound(wait: tuple[int, ...] = (WAIT,)) -> BoundFormat:
    tokenizer: Any = SimpleNamespace()
    return BoundFormat(FORMATS["ladder"], tokenizer, (END,), wait, (END, ANSWER), (EOS,), ())


@dataclass
class Countdown:
    """Decodes its position + 10 as the next token, and an end of thinking at every `stop_every`-th position."""

    stop_every: int
    decoded: int = 0

    def run(self, requests, on_finish):
        todo = list(requests)
        while todo:
            request = todo.pop()
            ids = []
            while len(ids) < request.max_tokens:
                position = len(request.prompt_ids) + len(ids)
                ids.append(END if END in request.stop_ids and position % self.stop_every == 0 else 10 + position)
                self.decoded += 1
                if ids[-1] in request.stop_ids:
                    break
            if (again := on_finish(request.key, ids)) is not None:
                todo.append(again)


@given(
    stop_every=st.integers(2, 9),
    budget=st.integers(1, 40),
    wait=st.sampled_from([(WAIT,), (WAIT, 99), (WAIT, 98, 97)]),
    samples=st.integers(1, 3),
)
def test_thinking_has_exactly_the_budget_and_no_end_of_thinking(stop_every, budget, wait, samples):
    trajectories = think(Countdown(stop_every), [[5], [5, 6, 7]], samples, budget, bound(wait))
    assert len(trajectories) == 2 * samples
    for trajectory in trajectories:
        assert len(trajectory.thinking) == budget
        assert END not in trajectory.thinking
        first_stop = -len(trajectory.prompt_ids) % stop_every
        assert trajectory.natural_length == (first_stop if first_stop < budget else -1)


@given(stop_every=st.integers(2, 9), wait=st.sampled_from([(WAIT,), (WAIT, 99), (WAIT, 98, 97)]))
def test_one_trajectory_serves_every_budget(stop_every, wait):
    prompts, budgets, fmt = [[5], [5, 6, 7, 8]], [1, 2, 3, 5, 8, 13, 21], bound(wait)
    nested = probe(Countdown(stop_every), think(Countdown(stop_every), prompts, 1, 21, fmt), budgets, fmt)
    separate = [run_to_budget(Countdown(stop_every), prompts, 1, budget, fmt) for budget in budgets]
    assert [list(row) for row in zip(*separate, strict=True)] == nested


def test_an_end_of_thinking_at_the_very_budget_becomes_a_wait_and_is_counted():
    (trajectory,) = think(Countdown(4), [[5]], 1, 4, bound())
    assert trajectory.thinking == [11, 12, 13, WAIT]
    assert trajectory.natural_length == 3


def test_wait_tokens_are_cut_at_the_budget():
    (trajectory,) = think(Countdown(4), [[5]], 1, 4, bound((WAIT, 99)))
    assert trajectory.thinking == [11, 12, 13, WAIT]


def test_a_trajectory_is_decoded_once():
    decoder = Countdown(10**6)
    think(decoder, [[5]], 2, 30, bound())
    assert decoder.decoded == 60


@pytest.mark.parametrize("budget", [8, 64])
def test_the_longest_request_counts_prompt_thinking_and_answer(budget):
    assert longest_request([[1] * 5, [1] * 9], budget, bound()) == 9 + budget + 2 + 3
