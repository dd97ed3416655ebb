"""Steps of random sequences through a packed cache by its kernels and by their slow stand-ins, compared.

`python packed_cases.py OUT.json` does so on the CPU, with Triton's interpreter; a GPU runs the same cases compiled.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / part) for part in ("src", "tests/reference")]

# name -> ((bits, group, residual), (heads, kv_heads, head_dim), the tokens that each sequence gets in each step)
CASES: dict[str, tuple[Any, Any, list[list[int]]]] = {
    "4 bits": ((4, 16, 24), (4, 2, 64), [[40, 39, 7], [1, 1, 1], [1, 1, 1], [50, 1, 33]]),
    "8 bits": ((8, 16, 16), (4, 2, 64), [[31, 32, 100], [1, 1, 1], [1, 16, 1]]),
    "2 bits": ((2, 16, 16), (4, 2, 64), [[31, 32, 60], [1, 1, 1], [1, 16, 1]]),
    "odd group": ((2, 24, 40), (3, 1, 64), [[63, 64, 0], [1, 1, 150], [1, 1, 1]]),
    "large group, no window": ((4, 80, 0), (2, 2, 32), [[80, 159, 3], [1, 1, 1]]),
    "wide heads": ((4, 32, 32), (4, 2, 128), [[130, 5], [1, 1]]),
    "odd heads": ((4, 32, 16), (5, 1, 40), [[97, 5], [1, 1]]),
    "split": ((4, 16, 16), (2, 1, 32), [[300, 90], [1, 1], [1, 1]]),
}


def compare(name: str, kind: str, device: str) -> dict[str, float]:
    """Over the steps of a case: largest error of an output, bytes of the cache and counts that differ."""
    import packed_reference
    import torch

    from tslaw.measure.kv.packed import attend as attention
    from tslaw.measure.kv.packed import write
    from tslaw.measure.kv.packed.layout import PageLayout

    (bits, group, residual), (heads, kv_heads, head_dim), steps = CASES[name]
    dtype = getattr(torch, kind)
    layout = PageLayout(bits, group, residual, kv_heads, head_dim, dtype.itemsize)
    g = torch.Generator().manual_seed(len(name))
    n, totals = len(steps[0]), [sum(x) for x in zip(*steps, strict=True)]
    width = max(layout.pages(total) for total in totals) + 1
    table = (torch.randperm(n * width, generator=g).view(n, width) + 1).int().to(device)
    caches = [torch.randint(0, 255, (n * width + 1, kv_heads, layout.head_bytes), dtype=torch.uint8, generator=g)]
    caches = [caches[0].to(device), caches[0].clone().to(device)]
    changed = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(2)]
    doers = (ModuleType("kernels"), packed_reference)
    doers[0].pack, doers[0].store, doers[0].attend = write.pack, write.store, attention.attend  # type: ignore[attr-defined]
    done, error = [0] * n, 0.0
    for counts in steps:
        done = [a + b for a, b in zip(done, counts, strict=True)]
        rows = sum(counts)
        # keys and values as a fused projection leaves them: neither is contiguous
        fused = torch.randn(rows, heads + 2 * kv_heads, head_dim, generator=g).to(dtype).to(device)
        step = fused.split([heads, kv_heads, kv_heads], dim=1)
        outputs = [
            advance(doer, layout, cache, table, done, counts, step, changes)
            for doer, cache, changes in zip(doers, caches, changed, strict=True)
        ]
        error = max(error, float((outputs[0].float() - outputs[1].float()).abs().nan_to_num(1e9).max()))
    bytes_apart = int((caches[0] != caches[1]).sum())
    return {"error": error, "bytes": bytes_apart, "changed": int(changed[1]), "apart": int(changed[0] - changed[1])}


def advance(doer: Any, layout: Any, cache: Any, table: Any, done: Any, counts: Any, step: Any, changed: Any) -> Any:
    """A step's output. done, counts : tokens of every sequence after the step, and in it."""
    import numpy as np
    import torch

    from tslaw.measure.kv.packed.attend import tile_queries
    from tslaw.measure.kv.packed.pages import Pages
    from tslaw.measure.kv.packed.plan import plan_of

    queries, keys, values = step
    pages = Pages.of(cache, queries.dtype)
    plan = plan_of(layout, done, np.cumsum([0, *counts]), tile_queries(layout, queries.shape[1]))
    tiles, groups, stores = (torch.from_numpy(x).to(cache.device) for x in (plan.tiles, plan.groups, plan.stores))
    output = torch.zeros(queries.shape, dtype=queries.dtype, device=cache.device)
    if len(groups):
        doer.pack(layout, pages, keys, values, table, groups, changed)
    most, scale = int(plan.tiles[:, 3].max()), layout.head_dim**-0.5
    doer.attend(layout, pages, queries, keys, values, table, tiles, most, plan.longest, scale, output)
    doer.store(layout, pages, keys, values, table, stores)
    return output


def main(out: Path) -> None:
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    found = {}
    for name in CASES:
        kind = "float32" if name == "split" else "float16"  # the interpreter multiplies no bfloat16
        start = time.monotonic()
        found[name] = {**compare(name, kind, "cpu"), "seconds": time.monotonic() - start}
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
