"""The attention backend on vLLM's CPU platform: vLLM's own kernels, and a policy's events between them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm import _custom_ops as ops
from vllm import envs
from vllm.config import get_current_vllm_config
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
    CPUAttentionMetadataBuilder,
)

from tslaw.errors import TslawError
from tslaw.measure.kv.blocks import EvictingSpec
from tslaw.measure.kv.engine_check import check_engine, check_layer
from tslaw.measure.kv.events import PagedCache, QueryStash, compress
from tslaw.measure.kv.layout import BlockLayout, learn_layout
from tslaw.measure.kv.rounds import Part, Stash, rounds_of, stash_of
from tslaw.measure.kv.settings import KVSettings, read_environment


def settings_in_force() -> KVSettings:
    """The policy that the environment names; the backend is registered only where it names one."""
    settings = read_environment()
    if settings is None:
        raise TslawError("No KV policy is chosen.", fix="tslaw.measure.kv.compress, or the variable TSLAW_KV_POLICY")
    return settings


@dataclass
class Round:
    """One call of vLLM's kernel. `rows` are the step's query rows that take part, None for all as they stand."""

    metadata: CPUAttentionMetadata
    rows: Any
    stashes: list[Stash]
    parts_at_event: list[Part]


@dataclass
class RoundsMetadata(CPUAttentionMetadata):
    """vLLM's metadata of a step, and the step's rounds."""

    rounds: list[Round] = field(default_factory=list)


class KVMetadataBuilder(CPUAttentionMetadataBuilder):
    """Cuts every step into rounds, once for all layers."""

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: Any) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.settings = settings_in_force()
        check_engine(self.settings, vllm_config)

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> RoundsMetadata:
        """See `AttentionMetadataBuilder.build`."""
        base = super().build(common_prefix_len, common_attn_metadata, fast_build)
        lengths, starts = base.seq_lens.tolist(), base.query_start_loc.tolist()
        rounds = [self._round(base, parts) for parts in rounds_of(self.settings.schedule, lengths, starts)]
        return RoundsMetadata(**{f.name: getattr(base, f.name) for f in dataclasses.fields(base)}, rounds=rounds)

    def _round(self, base: CPUAttentionMetadata, parts: list[Part]) -> Round:
        schedule, evictor = self.settings.schedule, self.settings.evictor
        stashes = [stash_of(schedule, part, evictor.n_queries if evictor else 0) for part in parts]
        at_event = [p for p in parts if schedule.evicts_at(p.stop) or schedule.rounds_at(p.stop) != (0, 0)]
        n_rows = sum(part.stop - part.start for part in parts)
        whole = n_rows == base.num_actual_tokens and len(parts) == len(base.seq_lens)
        rows = None if whole else torch.cat([torch.arange(p.row, p.row + p.stop - p.start) for p in parts])
        untouched = whole and not any(part.evicted for part in parts)
        metadata = base if untouched else self._shortened(base, parts)
        return Round(metadata, rows, [stash for stash in stashes if stash], at_event)

    def _shortened(self, base: CPUAttentionMetadata, parts: list[Part]) -> CPUAttentionMetadata:
        """Metadata of a round: sequences as long as what is visible, block tables without what was evicted."""
        counts = torch.tensor([0] + [part.stop - part.start for part in parts], dtype=base.query_start_loc.dtype)
        visible = [part.visible(self.settings.schedule) for part in parts]
        query_start_loc, seq_lens = (
            counts.cumsum(0, dtype=counts.dtype),
            torch.tensor(visible, dtype=base.seq_lens.dtype),
        )
        return CPUAttentionMetadata(
            num_actual_tokens=int(query_start_loc[-1]),
            max_query_len=int(counts.max()),
            query_start_loc=query_start_loc,
            max_seq_len=max(visible),
            seq_lens=seq_lens,
            block_table=self._visible_blocks(base.block_table, parts, -(-max(visible) // self.block_size)),
            slot_mapping=base.slot_mapping,
            scheduler_metadata=ops.cpu_attn_get_scheduler_metadata(
                num_reqs=len(parts),
                num_heads=self.num_heads,
                num_kv_heads=self.num_kv_heads,
                head_dim=self.head_dim,
                seq_lens=seq_lens,
                dtype=self.dtype,
                query_start_loc=query_start_loc,
                causal=True,
                sliding_window_size=self.window_size,
                isa=self.isa,
                enable_kv_split=envs.VLLM_CPU_ATTN_SPLIT_KV,
                kv_cache_dtype=self.kv_cache_dtype,
            ),
        )

    def _visible_blocks(self, table: Any, parts: list[Part], width: int) -> Any:
        """(parts, width): the kept tokens' blocks, then those since the last eviction."""
        kept = (self.settings.schedule.retain or 0) // self.block_size
        skipped = torch.tensor([max(part.evicted // self.block_size - kept, 0) for part in parts])[:, None]
        columns = torch.arange(width)[None, :]
        columns = (columns + skipped * (columns >= kept)).clamp_max(table.shape[1] - 1)
        return table[torch.tensor([part.request for part in parts])].gather(1, columns).contiguous()


class KVAttentionImpl(CPUAttentionBackendImpl):
    """One layer's attention. It holds no state of a sequence but the stashed queries."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.settings = settings_in_force()
        check_layer(self.settings, self)
        KVAttentionBackend.tokens_a_step = get_current_vllm_config().scheduler_config.max_num_batched_tokens
        self.stash = QueryStash()
        self._layout: BlockLayout | None = None

    def forward(
        self,
        layer: Any,
        query: Any,
        key: Any,
        value: Any,
        kv_cache: Any,
        attn_metadata: RoundsMetadata | None,
        output: Any,
        output_scale: Any = None,
        output_block_scale: Any = None,
    ) -> Any:
        """See `CPUAttentionBackendImpl.forward`; keys and values of the whole step are in the cache already."""
        if attn_metadata is None:
            return output
        scales = (output_scale, output_block_scale)
        for each in attn_metadata.rounds:
            if each.rows is None:
                super().forward(layer, query, key, value, kv_cache, each.metadata, output, *scales)
            else:
                some = torch.empty_like(output[each.rows])
                super().forward(layer, query[each.rows], key, value, kv_cache, each.metadata, some, *scales)
                output[each.rows] = some
            for stash in each.stashes:
                first_block = int(attn_metadata.block_table[stash.request, 0])
                self.stash.put(first_block, query[stash.rows.start : stash.rows.stop], stash.fresh)
            if each.parts_at_event:
                cache = self._paged(layer, kv_cache)
                for part in each.parts_at_event:
                    compress(self.settings, cache, attn_metadata.block_table[part.request], part, self.stash)
        return output

    def _paged(self, layer: Any, kv_cache: Any) -> PagedCache:
        n_blocks, kv_heads, block_size, _ = kv_cache.shape
        key_cache, value_cache = kv_cache.view(n_blocks, kv_heads, block_size * 2, -1).chunk(2, dim=2)

        def store(keys: Any, values: Any, key_cache: Any, value_cache: Any, slots: Any) -> None:
            ops.cpu_attn_reshape_and_cache(keys, values, key_cache, value_cache, slots, layer.isa)

        if self._layout is None:
            self._layout = learn_layout(store, block_size, self.head_size, kv_cache.dtype)
        number = int(next(part for part in layer.layer_name.split(".") if part.isdigit()))
        return PagedCache(key_cache, value_cache, self._layout, store, number, self.scale)


class KVAttentionBackend(CPUAttentionBackend):
    """Takes the place of vLLM's CPU backend; that platform knows no other name.

    `tokens_a_step` is the engine's, noted when its layers are made: `customize_spec` is not told of an engine.
    """

    tokens_a_step = 0

    @staticmethod
    def get_impl_cls() -> type[KVAttentionImpl]:
        return KVAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[KVMetadataBuilder]:
        return KVMetadataBuilder

    @classmethod
    def customize_spec(cls, spec: Any) -> Any:
        """An evicting policy's cache is managed by `EvictingManager`."""
        spec, settings = super().customize_spec(spec), settings_in_force()
        return spec if settings.evictor is None else EvictingSpec.of(spec, settings.schedule, cls.tokens_a_step)
