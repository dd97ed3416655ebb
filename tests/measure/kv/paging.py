"""A small scheduler for random tensors: pages sequences through one real layer of an open engine.

Blocks that a sequence no longer needs are given back at once, poisoned, and used for others: whoever sees what is not
his is far off. The blocks that go back are counted by hand here, apart from the code that is tested.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from tslaw.measure.kv.steps import StepCutter, new_stash

N_SEQUENCES = 8


@dataclass
class Sequence:
    """Random queries, keys and values of one sequence, and how far it has come."""

    queries: Any
    keys: Any
    values: Any
    done: int = 0
    blocks: list[int] = field(default_factory=list)  # by token position; -1 where given back
    outputs: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.queries)


def random_sequence(n: int, heads: int, kv_heads: int, head_dim: int, dtype: Any, seed: int) -> Sequence:
    """Keys come in families of near copies, so that redundancy has something to find."""
    g = torch.Generator().manual_seed(seed)
    families = torch.randn(7, kv_heads, head_dim, generator=g)
    keys = families[torch.randint(7, (n,), generator=g)] + 0.6 * torch.randn(n, kv_heads, head_dim, generator=g)
    queries = torch.randn(n, heads, head_dim, generator=g)
    values = torch.randn(n, kv_heads, head_dim, generator=g)
    return Sequence(queries.to(dtype), keys.to(dtype), values.to(dtype))


class Pager:
    """Steps sequences through a layer of an engine that was opened with this backend, under any policy."""

    def __init__(self, llm: Any, layer: int, settings: Any) -> None:
        runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
        self.builder = runner.attn_groups[0][0].get_metadata_builder()
        name = f"model.layers.{layer}.self_attn.attn"
        self.attention = runner.compilation_config.static_forward_context[name]
        self.cache = runner.kv_caches[layer]
        self.free = list(range(self.cache.shape[0] - 1, 0, -1))[-40:]
        self.size = self.cache.shape[2]
        self.builder.cutter = StepCutter(settings, self.size, N_SEQUENCES, self.cache.device)
        self.attention.impl.policy.settings = settings
        self.attention.impl.policy.stash = new_stash(settings, N_SEQUENCES)
        self.retain, self.buffer = settings.schedule.retain, settings.schedule.buffer
        self.poison(self.free)

    def poison(self, blocks: list[int]) -> None:
        self.cache[blocks] = 1e4

    def step(self, batch: list[tuple[Sequence, int]]) -> None:
        """Compute the next tokens of some sequences: pairs (sequence, how many)."""
        for sequence, n in batch:
            while len(sequence.blocks) * self.size < sequence.done + n:
                sequence.blocks.append(self.free.pop())
        rows = [range(s.done, s.done + n) for s, n in batch]
        places = [(s.blocks[t // self.size], t % self.size) for (s, _), r in zip(batch, rows, strict=True) for t in r]
        slots = [block * self.size + place for block, place in places]
        metadata = self._metadata(batch, slots)
        queries, keys, values = (
            torch.cat([getattr(s, name)[r.start : r.stop] for (s, _), r in zip(batch, rows, strict=True)])
            for name in ("queries", "keys", "values")
        )
        impl, output = self.attention.impl, torch.zeros_like(queries)
        impl.do_kv_cache_update(self.attention, keys, values, self.cache, torch.tensor(slots))
        impl.forward(self.attention, queries, keys, values, self.cache, metadata, output)
        for (s, n), part in zip(batch, output.split([n for _, n in batch]), strict=True):
            s.outputs.append(part)
            s.done += n
            self._give_back(s)

    def _metadata(self, batch: list[tuple[Sequence, int]], slots: list[int]) -> Any:
        from vllm.v1.attention.backend import CommonAttentionMetadata

        width = max(len(s.blocks) for s, _ in batch) + 2
        table = [[max(b, 0) for b in s.blocks] + [0] * (width - len(s.blocks)) for s, _ in batch]
        starts = torch.tensor([0] + [n for _, n in batch]).cumsum(0).int()
        lengths = torch.tensor([s.done + n for s, n in batch]).int()
        return self.builder.build(
            0,
            CommonAttentionMetadata(
                query_start_loc=starts,
                query_start_loc_cpu=starts,
                seq_lens=lengths,
                num_reqs=len(batch),
                num_actual_tokens=len(slots),
                max_query_len=max(n for _, n in batch),
                max_seq_len=int(lengths.max()),
                block_table_tensor=torch.tensor(table).int(),
                slot_mapping=torch.tensor(slots),
            ),
        )

    def _give_back(self, sequence: Sequence) -> None:
        if self.retain is None:
            return
        events = list(range(self.retain + self.buffer, sequence.done + 1, self.buffer))
        if events:
            for i in range(self.retain // self.size, events[-1] // self.size):
                if sequence.blocks[i] >= 0:
                    self.poison([sequence.blocks[i]])
                    self.free.insert(0, sequence.blocks[i])
                    sequence.blocks[i] = -1

    def stop(self, sequence: Sequence) -> None:
        """Finish or preempt: every block goes back and the sequence begins anew. The next to ask gets them first."""
        blocks = [b for b in sequence.blocks if b >= 0]
        self.poison(blocks)
        self.free.extend(blocks)
        sequence.blocks, sequence.outputs, sequence.done = [], [], 0
