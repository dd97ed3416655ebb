"""StreamingLLM: the first and the last tokens (Xiao et al. 2023, arXiv 2309.17453)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tslaw.errors import TslawError
from tslaw.measure.kv.evictors import Held


@dataclass(frozen=True)
class Streaming:
    """Keeps the first and the last of the held tokens, the same for every layer and head.

    Departures: the original slides token by token and renumbers positions within the cache; here the cache grows by up
    to `buffer` tokens between evictions, as in R-KV's own comparison, and keys keep the positions they had.

    Parameters
    ----------
    sinks : tokens kept at the beginning; None keeps half of `retain` there (the form of Kim et al. 2025), 4 is the
        original's form.
    """

    retain: int
    sinks: int | None = None

    def __post_init__(self) -> None:
        if self.sinks is not None and not 0 <= self.sinks < self.retain:
            raise TslawError(
                f"StreamingLLM cannot keep {self.sinks} of {self.retain} tokens at the beginning.",
                where="KV option sinks",
                expected=f"0 to {self.retain - 1}",
            )

    @property
    def n_queries(self) -> int:
        return 0

    @property
    def reads_tokens(self) -> bool:
        return False

    def keep(self, held: Held) -> Any:
        import torch

        sequences, heads, n, _ = held.keys.shape
        first = self.retain // 2 if self.sinks is None else self.sinks
        places = torch.arange(self.retain, device=held.keys.device)
        places = torch.where(places < first, places, places + n - self.retain)
        return places.expand(sequences, heads, -1)


POLICY = Streaming
