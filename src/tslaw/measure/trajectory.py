"""Budget forcing, and one trajectory that serves every budget.

A trajectory is decoded up to the largest budget; at each budget its prefix is forked and an answer is decoded (a
*probe*). With prefix caching a fork costs little more than the answer. Budgets count thinking tokens only; probe
tokens are counted apart. The functions take an engine by its `run` method alone and are pure but for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tslaw.measure.thinking import BoundFormat


@dataclass(frozen=True)
class Request:
    """One decoding job. `key` is handed back with the result; `stop_ids` end it and are part of what is decoded."""

    key: int
    prompt_ids: list[int]
    max_tokens: int
    stop_ids: tuple[int, ...] = ()
    banned_ids: tuple[int, ...] = ()


FollowUp = Callable[[int, list[int]], Request | None]


class Decoder(Protocol):
    """Something that decodes requests: the vLLM engine, or a plain loop in a test."""

    def run(self, requests: Sequence[Request], on_finish: FollowUp) -> None:
        """Decode all; call `on_finish(key, decoded ids)` for each and go on with the request it returns, if any."""
        ...


@dataclass
class Trajectory:
    """One sampled line of thinking.

    `thinking` holds exactly the largest budget's tokens once done. `natural_length` is the number of thinking tokens
    before the model first tried to stop by itself, -1 if it never did.
    """

    prompt_ids: list[int]
    thinking: list[int] = field(default_factory=list)
    natural_length: int = -1

    def extend(self, decoded: list[int], fmt: BoundFormat, budget: int) -> None:
        """Append what was decoded; an end of thinking becomes the wait tokens, and everything is cut at the budget."""
        if decoded and decoded[-1] in fmt.end_ids:
            if self.natural_length < 0:
                self.natural_length = len(self.thinking) + len(decoded) - 1
            decoded = [*decoded[:-1], *fmt.wait_ids]
        self.thinking = (self.thinking + decoded)[:budget]


def think(
    decoder: Decoder, prompts: Sequence[list[int]], samples: int, budget: int, fmt: BoundFormat
) -> list[Trajectory]:
    """Decode `samples` trajectories of exactly `budget` thinking tokens for every prompt.

    Returns
    -------
    len(prompts) * samples trajectories, the samples of a prompt side by side.
    """
    trajectories = [Trajectory(list(prompt)) for prompt in prompts for _ in range(samples)]

    def request(key: int) -> Request:
        done = trajectories[key]
        left = budget - len(done.thinking)
        return Request(key, done.prompt_ids + done.thinking, left, fmt.end_ids, fmt.banned_ids)

    def on_finish(key: int, decoded: list[int]) -> Request | None:
        trajectories[key].extend(decoded, fmt, budget)
        return request(key) if len(trajectories[key].thinking) < budget else None

    decoder.run([request(key) for key in range(len(trajectories))], on_finish)
    return trajectories


def probe(
    decoder: Decoder, trajectories: Sequence[Trajectory], budgets: Sequence[int], fmt: BoundFormat
) -> list[list[list[int]]]:
    """Fork every trajectory at every budget and decode the answer there: result[trajectory][budget] = its tokens."""
    forks = [(t, b) for t in range(len(trajectories)) for b in range(len(budgets))]
    answers: dict[int, list[int]] = {}

    def request(key: int) -> Request:
        t, b = forks[key]
        prefix = trajectories[t].prompt_ids + trajectories[t].thinking[: budgets[b]]
        return Request(key, prefix + list(fmt.answer_text_ids), fmt.format.answer_max_tokens, fmt.answer_stop_ids)

    def on_finish(key: int, decoded: list[int]) -> None:
        answers[key] = decoded

    decoder.run([request(key) for key in range(len(forks))], on_finish)
    n = len(budgets)
    return [[answers[t * n + b] for b in range(n)] for t in range(len(trajectories))]


def run_to_budget(
    decoder: Decoder, prompts: Sequence[list[int]], samples: int, budget: int, fmt: BoundFormat
) -> list[list[int]]:
    """The slow, obvious way: think to this one budget and answer there. One answer's tokens a trajectory."""
    trajectories = think(decoder, prompts, samples, budget, fmt)
    return [answers[0] for answers in probe(decoder, trajectories, [budget], fmt)]


def longest_request(prompts: Sequence[list[int]], budget: int, fmt: BoundFormat) -> int:
    """Tokens in the longest sequence that measuring these prompts up to `budget` can make."""
    return max(map(len, prompts)) + budget + len(fmt.answer_text_ids) + fmt.format.answer_max_tokens
