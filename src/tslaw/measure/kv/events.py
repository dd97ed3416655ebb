"""What happens to one sequence's cache in one layer at an event. Plain torch, for any device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from tslaw.measure.kv.effects import EFFECTS
from tslaw.measure.kv.evictors import Evictor, Held
from tslaw.measure.kv.layout import BlockLayout, Store
from tslaw.measure.kv.quantized import Quantized
from tslaw.measure.kv.rounds import Part
from tslaw.measure.kv.settings import KVSettings


@dataclass
class PagedCache:
    """One layer's cache: two (n_blocks, kv_heads, block_size, head_dim) tensors, how to read and how to write them."""

    keys: Any
    values: Any
    layout: BlockLayout
    store: Store
    layer: int
    scale: float

    @property
    def block_size(self) -> int:
        return int(self.keys.shape[2])

    def read(self, blocks: Any) -> tuple[Any, Any]:
        """Keys and values of whole blocks, each (kv_heads, tokens, head_dim)."""
        blocks = blocks.long()
        return self.layout.read(self.keys, blocks, False), self.layout.read(self.values, blocks, True)

    def write(self, blocks: Any, first: int, keys: Any, values: Any) -> None:
        """Put keys and values (kv_heads, tokens, head_dim) into the slots of `blocks` from slot `first` on."""
        places = torch.arange(first, first + keys.shape[1], device=blocks.device)
        slots = blocks.long()[places // self.block_size] * self.block_size + places % self.block_size
        dtype = self.keys.dtype
        self.store(
            keys.transpose(0, 1).to(dtype).contiguous(),
            values.transpose(0, 1).to(dtype).contiguous(),
            self.keys,
            self.values,
            slots,
        )


@dataclass
class QueryStash:
    """The last queries before the next eviction, under the first block of the sequence that they belong to.

    A sequence keeps its first block while it runs, and begins its stash anew at the same distance before every
    eviction, so that what a finished sequence left under a block is never read.
    """

    _queries: dict[int, Any] = field(default_factory=dict)

    def put(self, first_block: int, queries: Any, fresh: bool) -> None:
        """Remember queries (tokens, heads, head_dim) after those that are there, or in their place."""
        earlier = [] if fresh else [self._queries[first_block]]
        self._queries[first_block] = torch.cat([*earlier, queries])

    def take(self, first_block: int, n: int) -> Any:
        """The n queries (n, heads, head_dim) before an eviction, forgotten with this."""
        queries = self._queries.pop(first_block)
        if len(queries) != n:
            raise RuntimeError(f"{len(queries)} queries were kept for an eviction that needs {n}")
        return queries


def compress(settings: KVSettings, cache: PagedCache, table: Any, part: Part, stash: QueryStash) -> None:
    """Do what is due after token `part.stop`. `table`: the sequence's block table, by token position."""
    schedule = settings.schedule
    if settings.evictor is not None and schedule.evicts_at(part.stop):
        _evict(settings.evictor, settings.quantizer, cache, table, part, stash)
    if settings.quantizer is not None:
        first, stop = schedule.rounds_at(part.stop)
        if first < stop:
            _round(settings.quantizer, cache, table, first, stop)


def _evict(
    evictor: Evictor, quantizer: Quantized | None, cache: PagedCache, table: Any, part: Part, stash: QueryStash
) -> None:
    size, kept = cache.block_size, evictor.retain // cache.block_size
    visible = table[: -(-part.stop // size)]
    if part.evicted:
        visible = torch.cat([visible[:kept], visible[part.evicted // size :]])
    keys, values = cache.read(visible)
    n = part.stop - part.evicted + evictor.retain if part.evicted else part.stop
    keys, values = keys[:, :n], values[:, :n]
    queries = stash.take(int(table[0]), evictor.n_queries).float() if evictor.n_queries else None
    places = evictor.keep(Held(keys.float(), queries, cache.scale, cache.layer, part.stop))
    places = places.unsqueeze(-1).expand(-1, -1, keys.shape[-1])
    keys, values = keys.gather(1, places), values.gather(1, places)
    EFFECTS.evictions += 1
    EFFECTS.evicted += (n - evictor.retain) * keys.shape[0]
    if quantizer is not None:
        keys, values = _rounded(quantizer, keys), _rounded(quantizer, values)
    cache.write(table, 0, keys, values)


def _round(quantizer: Quantized, cache: PagedCache, table: Any, first: int, stop: int) -> None:
    size = cache.block_size
    begin = first // size
    blocks = table[begin : -(-stop // size)]
    keys, values = cache.read(blocks)
    some = slice(first - begin * size, stop - begin * size)
    cache.write(blocks, some.start, _rounded(quantizer, keys[:, some]), _rounded(quantizer, values[:, some]))


def _rounded(quantizer: Quantized, x: Any) -> Any:
    rounded = quantizer.rounded(x).to(x.dtype)
    EFFECTS.roundings += 1
    EFFECTS.changed += int((rounded != x).sum())
    return rounded
