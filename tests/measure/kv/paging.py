"""A small scheduler for random tensors: pages sequences through one real layer of an open engine.

Blocks that a sequence no longer needs are given back at once, poisoned, and used for others: whoever sees what is not
his is far off. The blocks that go back are counted by hand here, apart from the code that is tested.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import torch

from tslaw.measure.kv.events import LayerState
from tslaw.measure.kv.plain_cache import PlainCache
from tslaw.measure.kv.settings import BLOCK_SIZE
from tslaw.measure.kv.steps import StepCutter, new_stash, run
from tslaw.measure.kv.tokens import STEP

N_SEQUENCES = 8
LENGTHS = (135, 170, 97, 151)
"""Tokens of the sequences that `deviations` pages."""


@dataclass
class Sequence:
    """Random tokens, and queries, keys and values, of one sequence, and how far it has come."""

    queries: Any
    keys: Any
    values: Any
    tokens: Any
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
    tokens = torch.randint(500, (n,), generator=g)
    return Sequence(queries.to(dtype), keys.to(dtype), values.to(dtype), tokens)


@dataclass
class Common:
    """What steps need of vLLM's CommonAttentionMetadata."""

    query_start_loc: Any
    query_start_loc_cpu: Any
    seq_lens: Any
    num_reqs: int
    num_actual_tokens: int
    max_query_len: int
    max_seq_len: int
    block_table_tensor: Any
    slot_mapping: Any
    seq_lens_cpu_upper_bound: Any = None


class Pager:
    """Steps sequences through one layer's cache of blocks of `size` tokens, under a policy."""

    def __init__(self, cache: Any, size: int, settings: Any) -> None:
        self.cache, self.size, self.settings = cache, size, settings
        self.free = list(range(len(cache) - 1, 0, -1))[-40:]
        self.retain, self.buffer = settings.schedule.retain, settings.schedule.buffer
        self.poison(self.free)

    def compute(self, common: Common, queries: Any, keys: Any, values: Any) -> Any:
        """Store the step's keys and values, and attend."""
        raise NotImplementedError

    def poison(self, blocks: list[int]) -> None:
        self.cache[blocks] = 1e4

    def n_blocks(self, tokens: int) -> int:
        """Entries in the block table of a sequence."""
        return -(-tokens // self.size)

    def slot(self, sequence: Sequence, token: int) -> int:
        """Where vLLM would put a token."""
        return sequence.blocks[token // self.size] * self.size + token % self.size

    def step(self, batch: list[tuple[Sequence, int]]) -> None:
        """Compute the next tokens of some sequences: pairs (sequence, how many)."""
        for sequence, n in batch:
            while len(sequence.blocks) < self.n_blocks(sequence.done + n):
                sequence.blocks.append(self.free.pop())
        rows = [range(s.done, s.done + n) for s, n in batch]
        slots = [self.slot(s, t) for (s, _), r in zip(batch, rows, strict=True) for t in r]
        device = self.cache.device
        queries, keys, values, tokens = (
            torch.cat([getattr(s, name)[r.start : r.stop] for (s, _), r in zip(batch, rows, strict=True)]).to(device)
            for name in ("queries", "keys", "values", "tokens")
        )
        STEP.note(tokens)
        output = self.compute(self._common(batch, slots), queries, keys, values).cpu()
        for (s, n), part in zip(batch, output.split([n for _, n in batch]), strict=True):
            s.outputs.append(part)
            s.done += n
            self._give_back(s)

    def _common(self, batch: list[tuple[Sequence, int]], slots: list[int]) -> Common:
        width = max(len(s.blocks) for s, _ in batch) + 2
        table = [[max(b, 0) for b in s.blocks] + [0] * (width - len(s.blocks)) for s, _ in batch]
        starts = torch.tensor([0] + [n for _, n in batch]).cumsum(0).int()
        lengths = torch.tensor([s.done + n for s, n in batch]).int()
        device = self.cache.device
        return Common(
            query_start_loc=starts.to(device),
            query_start_loc_cpu=starts,
            seq_lens=lengths.to(device),
            num_reqs=len(batch),
            num_actual_tokens=len(slots),
            max_query_len=max(n for _, n in batch),
            max_seq_len=int(lengths.max()),
            block_table_tensor=torch.tensor(table).int().to(device),
            slot_mapping=torch.tensor(slots).to(device),
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


class EnginePager(Pager):
    """Through a layer of an engine that was opened with this backend, under any policy."""

    def __init__(self, llm: Any, layer: int, settings: Any) -> None:
        runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
        self.builder = runner.attn_groups[0][0].get_metadata_builder()
        context = runner.vllm_config.compilation_config.static_forward_context
        self.attention = context[f"model.layers.{layer}.self_attn.attn"]
        cache = runner.kv_caches[layer]
        self.builder.cutter = StepCutter(settings, cache.shape[2], N_SEQUENCES, cache.device)
        self.attention.impl.policy.settings = settings
        self.attention.impl.policy.stash = new_stash(settings, N_SEQUENCES)
        super().__init__(cache, cache.shape[2], settings)

    def compute(self, common: Common, queries: Any, keys: Any, values: Any) -> Any:
        from vllm.v1.attention.backend import CommonAttentionMetadata

        impl, output = self.attention.impl, torch.zeros_like(queries)
        metadata = self.builder.build(0, CommonAttentionMetadata(**vars(common)))
        impl.do_kv_cache_update(self.attention, keys, values, self.cache, common.slot_mapping)
        impl.forward(self.attention, queries, keys, values, self.cache, metadata, output)
        return output


class PlainPager(Pager):
    """Without vLLM: a cache as FlashAttention's, (n_blocks, size, kv_heads, 2 * head_dim), and its attention slowly."""

    def __init__(self, kv_heads: int, head_dim: int, scale: float, layer: int, settings: Any, dtype: Any) -> None:
        super().__init__(torch.zeros(60, BLOCK_SIZE, kv_heads, 2 * head_dim, dtype=dtype), BLOCK_SIZE, settings)
        self.cutter = StepCutter(settings, BLOCK_SIZE, N_SEQUENCES, "cpu")
        self.state = LayerState(PlainCache(self.cache), new_stash(settings, N_SEQUENCES), layer, scale)

    def compute(self, common: Common, queries: Any, keys: Any, values: Any) -> Any:
        output = torch.zeros_like(queries)
        slots = common.slot_mapping
        self.cache[slots // self.size, slots % self.size] = torch.cat([keys, values], dim=-1)
        step = self.cutter.cut(common, lambda common: common)
        run(step, self.settings, lambda: self.state, queries, output, self.attend)
        return output

    def attend(self, common: Common, queries: Any, output: Any) -> None:
        keys, values = self.cache.chunk(2, dim=-1)
        tables = (common.block_table_tensor, common.query_start_loc, common.seq_lens)
        paged_attention(queries, keys, values, *tables, self.state.scale, output)


def paged_attention(
    q: Any, keys: Any, values: Any, tables: Any, starts: Any, lengths: Any, scale: float, out: Any
) -> None:
    """Causal attention of each sequence's last tokens over those that its block table and length say, slowly.

    keys and values : (n_blocks, block_size, kv_heads, head_dim).
    """
    for number, length in enumerate(lengths.tolist()):
        rows = slice(int(starts[number]), int(starts[number + 1]))
        group = q.shape[1] // keys.shape[2]
        k, v = (x[tables[number].long()].flatten(0, 1)[:length].float() for x in (keys, values))
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        products = torch.einsum("qhd,khd->hqk", q[rows].float(), k) * scale
        ahead = torch.ones(products.shape[1:], dtype=torch.bool).triu(length - products.shape[1] + 1)
        weights = products.masked_fill(ahead, float("-inf")).softmax(dim=-1)
        out[rows] = torch.einsum("hqk,khd->qhd", weights, v).to(out.dtype)


def deviations(pager: Pager, sequences: list[Sequence], wanted: list[Any]) -> dict[str, float]:
    """For every way to page sequences of LENGTHS tokens: the largest error of an output."""
    found: dict[str, float] = {}

    def compare(way: str, number: int) -> None:
        outputs = torch.cat(sequences[number].outputs).float()
        error = (outputs - wanted[number]).abs().nan_to_num(1e9).max()
        found[way] = max(found.get(way, 0.0), float(error))
        assert len(outputs) == len(sequences[number])
        pager.stop(sequences[number])

    one, two, three, four = sequences
    pager.step([(one, 135)])
    compare("whole prompt", 0)
    for n in (1, 63, 1, 31, 1, 33, 5):
        pager.step([(one, n)])
    compare("chunked prefill", 0)  # in the blocks, poisoned, that it had before
    for _ in range(97):
        pager.step([(three, 1)])
    compare("decoded", 2)
    pager.step([(one, 95), (two, 90), (four, 95)])
    for _ in range(6):
        pager.step([(four, 1), (one, 1), (two, 1)])
    pager.step([(one, 34), (four, 50), (two, 74)])
    for i in (0, 1, 3):
        compare("events side by side", i)
    unequal_batch(pager, sequences)
    for i in (0, 1, 2, 3):
        compare("unequal batch", i)
    pager.step([(four, 100), (two, 30)])
    pager.stop(four)  # preempted, its blocks go to others and it starts over
    pager.step([(two, 100), (one, 95)])
    pager.step([(four, 128), (two, 40), (one, 1)])
    pager.step([(four, 23), (one, 39)])
    for i in (0, 1, 3):
        compare("preempted and reused", i)
    return found


def unequal_batch(pager: Pager, sequences: list[Sequence]) -> None:
    """Prefill in chunks of changing sizes beside decoding, each sequence starting when it likes."""
    r = random.Random(5)
    while any(s.done < len(s) for s in sequences):
        batch = []
        for s in r.sample(sequences, k=len(sequences)):
            if s.done < len(s) and r.random() < 0.8:
                n = 1 if r.random() < 0.5 else r.randrange(1, 40)
                batch.append((s, min(n, len(s) - s.done)))
        if batch:
            pager.step(batch)
