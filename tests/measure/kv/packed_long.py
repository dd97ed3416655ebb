"""Decoding of long sequences through a packed cache, compared with plain attention on rounded keys and values.

Where `packed_cases` compares kernels with slow stand-ins, which read the same pages, nothing here knows of pages: the
reference is `Quantized.rounded` and a softmax. `python packed_long.py OUT.json KERNEL` runs a small version on the CPU,
with Triton's interpreter.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "src")]


@dataclass(frozen=True)
class Long:
    """A case. layout : (bits, group, residual). heads : (heads, kv_heads, head_dim).

    lengths : tokens of each sequence before the first of `steps` decoding steps; chunk : tokens of a step of prefill.
    """

    layout: tuple[int, int, int]
    heads: tuple[int, int, int]
    lengths: tuple[int, ...]
    chunk: int
    steps: int


GPU_CASE = Long((4, 64, 128), (16, 8, 128), (16382, 16384, 16320, 11111), 8192, 4)
"""The shape of Qwen3-0.6B with the default options; one sequence packs a group as it comes to 16384 tokens."""
SMALL_CASE = Long((4, 32, 32), (2, 1, 64), (574, 600, 333), 300, 3)
NEARNESS = 4.0
"""Standard deviation of the products that the softmax sees: some tokens of thousands count, outputs are of order 1."""


def compare(case: Long, kind: str, device: str, kernel: str) -> dict[str, float]:
    """Over all decoding steps: `error`, the largest error of an output; `prefill_error`, that of the last tokens of
    the prefill. `splits`: programs that share a sequence's KV head. `least_share`: how far off, at its largest, an
    output would be if the share of one of them were left out, for the share that matters least.
    """
    import torch

    from tslaw.measure.kv.packed.attend import splits_of, usual_shape
    from tslaw.measure.kv.packed.layout import PageLayout
    from tslaw.measure.kv.packed.pages import Pages
    from tslaw.measure.kv.packed.step import prepare, run

    dtype, (heads, kv_heads, head_dim), n = getattr(torch, kind), case.heads, len(case.lengths)
    layout = PageLayout(*case.layout, kv_heads, head_dim, dtype.itemsize)
    g = torch.Generator().manual_seed(16)
    longest = max(case.lengths) + case.steps
    fused = torch.randn(n, longest, heads + 2 * kv_heads, head_dim, generator=g).to(dtype).to(device)
    queries, keys, values = fused.split([heads, kv_heads, kv_heads], dim=2)
    columns = layout.pages(longest) + 1
    table = torch.randperm(n * columns, generator=g).view(n, columns).int().to(device)
    shape = (n * columns, kv_heads, layout.head_bytes)
    pages = Pages.of(torch.randint(0, 255, shape, dtype=torch.uint8, generator=g).to(device), dtype)
    scale = NEARNESS * head_dim**-0.5

    def advance(starts: list[int], counts: list[int]) -> Any:
        """Outputs (rows, heads, head_dim) of the next tokens of every sequence."""
        new = [slice(a, a + c) for a, c in zip(starts, counts, strict=True)]
        rows = [torch.cat([x[i, some] for i, some in enumerate(new)]) for x in (queries, keys, values)]
        ends, output = [a + c for a, c in zip(starts, counts, strict=True)], torch.empty_like(rows[0])
        bounds = [sum(counts[:i]) for i in range(n + 1)]
        run(prepare(layout, ends, bounds, table, heads, device), pages, *rows, scale, output, kernel)
        return output

    done, last = [0] * n, [torch.empty(0)] * n
    while done != list(case.lengths):
        counts = [min(case.chunk, length - d) for length, d in zip(case.lengths, done, strict=True)]
        for i, part in enumerate(advance(done, counts).split(counts)):
            last[i] = part[-1] if counts[i] else last[i]
        done = [d + c for d, c in zip(done, counts, strict=True)]
    found = {"error": 0.0, "prefill_error": 0.0, "least_share": float("inf")}
    found["splits"] = splits_of(layout, n, longest, usual_shape(kernel, True))
    for i in range(n):
        wanted, _ = plain(case, queries[i], keys[i], values[i], done[i], scale, 1)
        found["prefill_error"] = max(found["prefill_error"], apart(last[i], wanted))
    for _ in range(case.steps):
        output, done = advance(done, [1] * n), [d + 1 for d in done]
        for i in range(n):
            wanted, least = plain(case, queries[i], keys[i], values[i], done[i], scale, int(found["splits"]))
            found["error"] = max(found["error"], apart(output[i], wanted))
            found["least_share"] = min(found["least_share"], least)
    return found


def apart(output: Any, wanted: Any) -> float:
    return float((output.float() - wanted).abs().nan_to_num(1e9).max())


def plain(
    case: Long, queries: Any, keys: Any, values: Any, length: int, scale: float, shares: int
) -> tuple[Any, float]:
    """What the last of a sequence's `length` tokens sees, (heads, head_dim) float32; and `least_share` of `shares`."""
    import torch

    from tslaw.measure.kv.quantized import Quantized

    bits, group, residual = case.layout
    quantizer = Quantized(bits, "channel", group, residual)
    old = max(length - 1 - residual, 0) // group * group  # what was rounded once the token before this one was in
    sharing = case.heads[0] // case.heads[1]
    key, value = (seen_of(x[:length].transpose(0, 1), old, quantizer, sharing) for x in (keys, values))
    weights = ((key @ queries[length - 1].float()[:, :, None])[:, :, 0] * scale).softmax(dim=-1)
    wanted, least = (weights[:, None] @ value)[:, 0], float("inf")
    for places in torch.arange(length, device=keys.device).chunk(shares) if shares > 1 else ():
        rest = weights.clone()
        rest[:, places] = 0
        without = ((rest / rest.sum(dim=-1, keepdim=True))[:, None] @ value)[:, 0]
        least = min(least, float((without - wanted).abs().max()))
    return wanted, least


def seen_of(x: Any, old: int, quantizer: Any, sharing: int) -> Any:
    """(heads, tokens, head_dim) float32 of keys or values (kv_heads, tokens, head_dim), the first `old` rounded."""
    import torch

    rounded = quantizer.rounded(x[:, :old]).to(x.dtype)
    return torch.cat([rounded, x[:, old:]], dim=1).float().repeat_interleave(sharing, dim=0)


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    Path(sys.argv[1]).write_text(json.dumps(compare(SMALL_CASE, "float32", "cpu", sys.argv[2])))
