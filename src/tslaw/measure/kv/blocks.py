"""The scheduler's side: blocks whose tokens were evicted go back to the pool, and admission counts on it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

from tslaw.measure.kv.effects import EFFECTS
from tslaw.measure.kv.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class EvictingSpec(FullAttentionSpec):
    """A cache of full attention of which a sequence keeps `retain` tokens and up to `buffer` more, and during a step
    the tokens of that step (`in_flight` at most)."""

    retain: int = 0
    buffer: int = 0
    in_flight: int = 0

    @classmethod
    def of(cls, spec: Any, schedule: Schedule, in_flight: int) -> EvictingSpec:
        """An ordinary spec with the schedule of an evicting policy."""
        base = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.init}
        return cls(**base, retain=schedule.retain or 0, buffer=schedule.buffer, in_flight=in_flight)

    @classmethod
    def merge(cls, specs: list[Any]) -> Any:
        """One spec for layers that are alike."""
        first = specs[0]
        return dataclasses.replace(
            super().merge(specs), retain=first.retain, buffer=first.buffer, in_flight=first.in_flight
        )

    @property
    def prefix_cacheable(self) -> bool:
        """Never: the first blocks hold tokens from anywhere."""
        return False

    @property
    def most_blocks(self) -> int:
        """Most blocks that a sequence holds at a time."""
        # One block more than the tokens fill: the step's first token may stand at the end of a block.
        return -(-(self.retain + self.buffer + self.in_flight) // self.block_size) + 1

    def max_memory_usage_bytes(self, vllm_config: Any) -> int:
        """Bytes that the longest sequence may need; vLLM refuses to start with less."""
        whole = -(-vllm_config.model_config.max_model_len // self.block_size)
        return int(min(self.most_blocks, whole) * self.page_size_bytes)


class EvictingManager(FullAttentionManager):
    """Gives back what lies between the kept tokens' blocks and the block of the last eviction."""

    def __init__(self, kv_cache_spec: Any, **arguments: Any) -> None:
        if arguments.get("max_admission_blocks_per_request") is None:
            arguments["max_admission_blocks_per_request"] = kv_cache_spec.most_blocks
        super().__init__(kv_cache_spec, **arguments)
        self.schedule = Schedule(kv_cache_spec.retain, kv_cache_spec.buffer)

    def remove_skipped_blocks(
        self, request_id: str, processed_computed_tokens: int, num_prompt_tokens: int | None = None
    ) -> None:
        """Called before a sequence gets blocks for its next tokens; the worker has compacted by then."""
        del num_prompt_tokens
        blocks = self.req_to_blocks.get(request_id, ())
        EFFECTS.most_blocks = max(EFFECTS.most_blocks, sum(not block.is_null for block in blocks))
        evicted = self.schedule.last_eviction(processed_computed_tokens)
        first, stop = (self.schedule.retain or 0) // self.block_size, evicted // self.block_size
        if first < stop:
            before = self.block_pool.get_num_free_blocks()
            self._remove_blocks_in_range(request_id, first, stop)
            EFFECTS.blocks_freed += self.block_pool.get_num_free_blocks() - before


def register_spec() -> None:
    """Tell vLLM which manager serves the spec; twice does no harm."""
    KVCacheSpecRegistry._ensure_registered()
    KVCacheSpecRegistry.register(EvictingSpec, manager_class=EvictingManager, uniform_type_base_spec=FullAttentionSpec)
