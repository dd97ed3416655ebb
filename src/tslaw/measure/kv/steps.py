"""A step of the engine, ready for all layers: what is computed in which round, and what happens after each.

Nothing here reads anything back from the device. The arguments called `common` are vLLM's CommonAttentionMetadata.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tslaw.measure.kv.events import Event, Eviction, LayerState, Rounding, compress
from tslaw.measure.kv.queries import QueryStash, Slots, StashIndex, slots_for
from tslaw.measure.kv.rounds import Parts, evicting, roundings, rounds_of, stash_rows
from tslaw.measure.kv.settings import KVSettings
from tslaw.measure.kv.tokens import Seeds, TokensOfStep, TokenTable
from tslaw.measure.kv.transfer import send
from tslaw.measure.kv.vllm_versions import lengths_on_host

Build = Callable[[Any], Any]
"""vLLM's own metadata from common metadata."""
Attend = Callable[[Any, Any, Any], None]
"""attend(metadata, queries, output): vLLM's own kernel on rows of the step."""


@dataclass
class Round:
    """One call of vLLM's kernel. `rows` are the step's query rows that take part, None for all as they stand."""

    metadata: Any
    rows: Any = None
    stash: StashIndex | None = None
    events: list[Event] = dataclasses.field(default_factory=list)


@dataclass
class Step:
    """What vLLM hands every layer as the step's attention metadata."""

    rounds: list[Round]
    tokens: TokensOfStep | None = None


class StepCutter:
    """Cuts every step into rounds, once for all layers.

    Parameters
    ----------
    block_size : tokens a block of the engine's cache.
    n_sequences : most sequences that run at once.
    """

    def __init__(self, settings: KVSettings, block_size: int, n_sequences: int, device: Any) -> None:
        self.settings, self.block_size, self.device = settings, block_size, torch.device(device)
        self.kept_blocks = (settings.schedule.retain or 0) // block_size
        self.slots, self.tokens = Slots(n_sequences, self.device), TokenTable()

    def cut(self, common: Any, build: Build) -> Step:
        """A step's rounds; `build` is asked for the metadata of each."""
        if self.settings.schedule.bites_at is None:
            return Step([Round(build(common))])
        starts = common.query_start_loc_cpu[: common.num_reqs + 1].numpy()
        rounds = rounds_of(self.settings.schedule, lengths_on_host(common), starts)
        n_rows, evictor = int(starts[-1]), self.settings.evictor
        reads = evictor is not None and evictor.reads_tokens
        tokens = TokensOfStep(self.tokens, common.slot_mapping[:n_rows]) if reads else None
        return Step([self._round(common, parts, n_rows, build) for parts in rounds], tokens)

    def _round(self, common: Any, parts: Parts, n_rows: int, build: Build) -> Round:
        whole = int((parts.stops - parts.starts).sum()) == n_rows
        untouched = whole and not parts.evicted.any()
        metadata = build(common if untouched else self._shortened(common, parts))
        rows = None if whole else self._send(parts.all_rows())[0]
        table = common.block_table_tensor
        events: list[Event] = []
        stash, slots_at_events = self._stash(table, parts)
        if self.settings.evictor is not None and len(leaving := evicting(self.settings.schedule, parts)):
            events.append(self._eviction(table, parts.where(leaving), slots_at_events))
        if self.settings.quantizer is not None:
            found = roundings(self.settings.schedule, parts)
            events += [self._rounding(table, places, n) for n, places in found.items()]
        return Round(metadata, rows, stash, events)

    def _shortened(self, common: Any, parts: Parts) -> Any:
        """Common metadata of a round: sequences as long as what is visible, tables without what was evicted."""
        visible, counts = parts.visible(self.settings.schedule), parts.stops - parts.starts
        bounds = np.concatenate([[0], counts.cumsum()])
        longest = int(visible.max())
        lengths, query_starts = (x.int() for x in self._send(visible, bounds))
        return dataclasses.replace(
            common,
            query_start_loc=query_starts,
            query_start_loc_cpu=torch.from_numpy(bounds.astype(np.int32)),
            seq_lens=lengths,
            seq_lens_cpu_upper_bound=torch.from_numpy(visible.astype(np.int32)),
            num_reqs=len(parts),
            num_actual_tokens=int(bounds[-1]),
            max_query_len=int(counts.max()),
            max_seq_len=longest,
            block_table_tensor=self._visible_blocks(common.block_table_tensor, parts, -(-longest // self.block_size)),
        )

    def _visible_blocks(self, table: Any, parts: Parts, width: int) -> Any:
        """(parts, width): the kept tokens' blocks, then those since the last eviction."""
        skipped = np.maximum(parts.evicted // self.block_size - self.kept_blocks, 0)
        requests, skipped = self._send(parts.requests, skipped)
        columns = torch.arange(width, device=self.device)
        columns = (columns + skipped[:, None] * (columns >= self.kept_blocks)).clamp_max(table.shape[1] - 1)
        return table.index_select(0, requests).gather(1, columns)

    def _stash(self, table: Any, parts: Parts) -> tuple[StashIndex | None, Any]:
        """Which queries go where; and where those of the sequences are that end this round at an eviction."""
        schedule, evictor = self.settings.schedule, self.settings.evictor
        found = stash_rows(schedule, parts, evictor.n_queries if evictor else 0)
        if found is None:
            return None, None
        at_event = evicting(schedule, parts.where(found.parts))
        requests, continued, rows, owner, places, leaving = self._send(
            parts.requests[found.parts], found.continued, found.rows, found.owner, found.places, at_event
        )
        slots = self.slots.of(table[:, 0].index_select(0, requests), continued.bool())
        return StashIndex(rows, slots[owner], places), slots[leaving]

    def _eviction(self, table: Any, parts: Parts, stash: Any) -> Eviction:
        held = int(parts.visible(self.settings.schedule)[0])
        blocks = self._visible_blocks(table, parts, held // self.block_size).long()
        slots = blocks[:, :, None] * self.block_size + torch.arange(self.block_size, device=self.device)
        slots = slots.flatten(1)
        evictor, seeds = self.settings.evictor, None
        if evictor is not None and evictor.reads_tokens:
            seeds = Seeds(self.tokens, slots[:, : evictor.retain])
        return Eviction(slots, stash, parts.stops.tolist(), seeds)

    def _rounding(self, table: Any, places: list[tuple[int, int]], n: int) -> Rounding:
        requests, first = self._send(*np.array(places).T)
        tokens = first[:, None] + torch.arange(n, device=self.device)
        columns = (tokens // self.block_size).clamp_max(table.shape[1] - 1)  # vLLM warms up with odd lengths
        blocks = table.index_select(0, requests).long().gather(1, columns)
        return Rounding(blocks * self.block_size + tokens % self.block_size)

    def _send(self, *arrays: Any) -> tuple[Any, ...]:
        """int64 arrays to the device, in one transfer."""
        together = torch.from_numpy(np.concatenate([np.asarray(x, dtype=np.int64) for x in arrays]))
        return tuple(send(together, self.device).split([len(x) for x in arrays]))


def run(
    step: Step, settings: KVSettings, layer: Callable[[], LayerState], queries: Any, output: Any, attend: Attend
) -> None:
    """One layer's part of a step; the keys and values of the whole step are in the cache already.

    queries and output : (rows, heads, head_dim). `layer` is asked only in steps with something to remember or to do.
    """
    if step.tokens is not None and not step.tokens.noted:  # the first layer
        step.tokens.note(layer().cache.n_slots)
    for each in step.rounds:
        if each.rows is None:
            attend(each.metadata, queries, output)
        else:
            some = queries[each.rows]
            part = torch.empty_like(some)
            attend(each.metadata, some, part)
            output[each.rows] = part
        if each.stash is not None:
            layer().stash.put(each.stash, queries)
        for event in each.events:
            compress(settings, layer(), event)


def new_stash(settings: KVSettings, n_sequences: int) -> QueryStash:
    """A layer's stash for a policy."""
    return QueryStash(slots_for(n_sequences), settings.evictor.n_queries if settings.evictor else 0)
