"""Random eviction: the control that a selector has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tslaw.measure.kv.evictors import Held, check_room, keep_best
from tslaw.measure.kv.hashing import GAMMA, mixed, uniform
from tslaw.measure.kv.transfer import send


@dataclass(frozen=True)
class Random:
    """Keeps a uniform choice of the held tokens, for every layer and KV head its own.

    It differs from R-KV in the scores alone: the last `window` tokens and the first `pin` are kept in any case. A
    token's chance to survive falls with every eviction, as the choice is among what is held, not among all that was
    ever seen. The choice is a function of `seed`, layer, KV head, position and the sequence's first `retain` tokens, so
    that a sequence that is computed again comes to the same state, and another one to another. Samples of one prompt
    that differ only after those tokens lose the same places.

    Parameters
    ----------
    pin : first tokens that are never evicted, such as the length of the longest prompt.
    window : last tokens kept in any case.
    """

    retain: int
    pin: int = 0
    window: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_room("random", self.retain, self.pin, self.window)

    @property
    def n_queries(self) -> int:
        return 0

    @property
    def reads_tokens(self) -> bool:
        return True

    def keep(self, held: Held) -> Any:
        import torch

        _, heads, n, _ = held.keys.shape
        device = held.keys.device
        state = mixed(mixed(held.seeds + self.seed) + held.layer)
        state = mixed(state + send(torch.tensor(held.positions), device))
        numbers = torch.arange(1, heads * n + 1, device=device).view(heads, n)
        scores = uniform(mixed(state[:, None, None] + numbers * GAMMA))
        return keep_best(scores, self.retain, self.pin, self.window)


POLICY = Random
