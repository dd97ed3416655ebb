"""What decides which tokens are kept: one file each, found by its name. docs/kv.md says how to add one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tslaw.errors import TslawError


@dataclass(frozen=True)
class Held:
    """What a layer holds of the sequences that are due for an eviction, oldest token first; all hold equally many.

    keys : (sequences, kv_heads, held, head_dim) float32, after the rotary embedding.
    queries : (sequences, window, heads, head_dim) float32, of the last `window` tokens; None where the policy's window
        is 0.
    scale : what query-key products are multiplied by.
    layer : number of the layer, from 0.
    positions : tokens that each sequence has had, evicted ones included.
    seeds : (sequences,) int64, a hash of each sequence's first `retain` tokens; None for a policy that reads none.
    """

    keys: Any
    queries: Any
    scale: float
    layer: int
    positions: list[int]
    seeds: Any = None


class Evictor(Protocol):
    """Chooses the kept tokens. A frozen dataclass: its fields with a default are the options that a user can set."""

    @property
    def retain(self) -> int:
        """Tokens kept, for every KV head the same number."""
        ...

    @property
    def n_queries(self) -> int:
        """How many of the last queries `keep` needs; 0 for none."""
        ...

    @property
    def reads_tokens(self) -> bool:
        """Whether `keep` needs `seeds`."""
        ...

    def keep(self, held: Held) -> Any:
        """(sequences, kv_heads, retain) int64: the kept tokens' places among the held, ascending.

        What is kept of one sequence must not depend on the others.
        """
        ...


def keep_best(scores: Any, retain: int, first: int, last: int) -> Any:
    """Places (..., retain) of the highest scores (..., held), the `first` and `last` ones in any case."""
    scores = scores.clone()
    scores[..., :first] = float("inf")
    scores[..., scores.shape[-1] - last :] = float("inf")
    return scores.topk(retain, dim=-1).indices.sort(dim=-1).values


def check_room(policy: str, retain: int, pin: int, window: int) -> None:
    """TslawError if the tokens that are kept in any case leave no room."""
    if pin < 0 or window < 0 or pin + window >= retain:
        raise TslawError(
            f"The KV policy '{policy}:{retain}' cannot pin {pin} tokens and keep the last {window} in any case.",
            where="KV options",
            expected=f"pin and window of 0 or more, together below {retain}",
        )
