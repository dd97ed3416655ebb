"""What happens to a layer's cache at an event, for all sequences that come to it in a step. For any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tslaw.measure.kv.effects import EFFECTS
from tslaw.measure.kv.evictors import Evictor, Held
from tslaw.measure.kv.quantized import Quantized
from tslaw.measure.kv.settings import KVSettings

ENTRIES_AT_ONCE = 2**28
"""Keys and values, counted in numbers, of the sequences that are compacted together: it bounds the working memory."""


class PagedCache(Protocol):
    """One layer's cache. A slot is block * block_size + place in the block, as in vLLM's slot mappings."""

    @property
    def n_slots(self) -> int:
        """Slots that there are."""
        ...

    @property
    def entries_per_token(self) -> int:
        """Numbers that a token's keys and values are made of, over all heads."""
        ...

    def read(self, slots: Any) -> tuple[Any, Any]:
        """Keys and values (sequences, kv_heads, tokens, head_dim) from slots (sequences, tokens)."""
        ...

    def write(self, slots: Any, keys: Any, values: Any) -> None:
        """The reverse; the sequences' slots are distinct."""
        ...


@dataclass(frozen=True)
class Eviction:
    """Sequences that hold `retain` + `buffer` tokens, of which they lose all but `retain`.

    slots : (sequences, held) int64, in the order of the tokens; the kept ones go to the first of them.
    stash : (sequences,) int64, where their last queries are; None for a policy that needs none.
    positions : tokens that each sequence has had.
    seeds : what tells the sequences apart; None for a policy that reads no tokens.
    """

    slots: Any
    stash: Any
    positions: list[int]
    seeds: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Rounding:
    """Tokens of sequences that are rounded where they are: slots (sequences, tokens) int64."""

    slots: Any


Event = Eviction | Rounding


@dataclass(frozen=True)
class LayerState:
    """What an event needs to know of a layer: its cache, its stashed queries, its number and its attention's scale."""

    cache: PagedCache
    stash: Any
    layer: int
    scale: float


def compress(settings: KVSettings, state: LayerState, event: Event) -> None:
    """Do what is due in one layer."""
    if isinstance(event, Rounding):
        assert settings.quantizer is not None
        keys, values = state.cache.read(event.slots)
        state.cache.write(event.slots, _rounded(settings.quantizer, keys), _rounded(settings.quantizer, values))
        return
    assert settings.evictor is not None
    seeds = None if event.seeds is None else event.seeds()
    for some in _pieces(event.slots, state.cache.entries_per_token):
        stash = None if event.stash is None else event.stash[some]
        its = None if seeds is None else seeds[some]
        piece = Eviction(event.slots[some], stash, event.positions[some])
        _evict(settings.evictor, settings.quantizer, state, piece, its)


def _evict(evictor: Evictor, quantizer: Quantized | None, state: LayerState, event: Eviction, seeds: Any) -> None:
    keys, values = state.cache.read(event.slots)
    queries = None if event.stash is None else state.stash.take(event.stash).float()
    places = evictor.keep(Held(keys.float(), queries, state.scale, state.layer, event.positions, seeds))
    EFFECTS.evictions += len(event.positions)
    EFFECTS.evicted += (keys.shape[2] - evictor.retain) * keys.shape[0] * keys.shape[1]
    places = places.unsqueeze(-1)
    keys, values = (x.gather(2, places.expand(-1, -1, -1, x.shape[-1])) for x in (keys, values))
    if quantizer is not None:
        keys, values = _rounded(quantizer, keys), _rounded(quantizer, values)
    state.cache.write(event.slots[:, : evictor.retain], keys, values)


def _pieces(slots: Any, entries_per_token: int) -> list[slice]:
    """The sequences in groups that are not too much at once."""
    size = max(ENTRIES_AT_ONCE // (slots.shape[1] * entries_per_token), 1)
    return [slice(first, first + size) for first in range(0, len(slots), size)]


def _rounded(quantizer: Quantized, x: Any) -> Any:
    rounded = quantizer.rounded(x).to(x.dtype)
    EFFECTS.roundings += len(x)
    EFFECTS.changed = EFFECTS.changed + (rounded != x).sum()  # not in place: vLLM runs in inference mode
    return rounded
