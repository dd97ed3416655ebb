"""Random eviction: the control that a selector has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tslaw.measure.kv.evictors import Held, check_room, keep_best
from tslaw.measure.kv.transfer import send


@dataclass(frozen=True)
class Random:
    """Keeps a uniform choice of the held tokens, for every layer and KV head its own.

    It differs from R-KV in the scores alone: the last `window` tokens and the first `pin` are kept in any case. A
    token's chance to survive falls with every eviction, as the choice is among what is held, not among all that was
    ever seen. The choice depends on `seed`, layer and position, not on the sequence, so that a sequence that is
    computed again comes to the same state: sequences side by side lose the same places.

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

    def keep(self, held: Held) -> Any:
        import torch

        _, heads, n, _ = held.keys.shape
        drawn = {position: self._scores(held.layer, position, heads, n) for position in set(held.positions)}
        scores = torch.stack([drawn[position] for position in held.positions])
        return keep_best(send(scores, held.keys.device), self.retain, self.pin, self.window)

    def _scores(self, layer: int, position: int, heads: int, n: int) -> Any:
        import torch

        generator = torch.Generator().manual_seed((self.seed * 1009 + layer) * 2_097_143 + position)
        return torch.rand(heads, n, generator=generator, dtype=torch.float64)


POLICY = Random
