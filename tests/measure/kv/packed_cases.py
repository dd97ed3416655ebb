"""Steps of random sequences through a packed cache by its kernels and by their slow stand-ins, compared.

`python packed_cases.py OUT.json CASE...` runs some on the CPU, with Triton's interpreter; a GPU runs them compiled.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from functools import partial
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
    "2 bits, wide": ((2, 32, 16), (4, 2, 64), [[63, 64, 120], [1, 1, 1], [1, 32, 1]]),
    "split, wide": ((4, 32, 32), (2, 1, 64), [[600, 90], [1, 1], [1, 1]]),
    "split": ((4, 16, 16), (2, 1, 32), [[300, 90], [1, 1], [1, 1]]),
}
ON_A_GPU = ("wide heads", "8 bits", "2 bits, wide", "odd group", "odd heads", "split, wide")
"""Every case is compiled anew; those with smaller groups are not for a GPU (`layout.check_group`)."""


KERNELS = ("entries", "parts")
CANDIDATES = (
    ("entries", (64, 4, 2)),
    ("entries", (64, 4, 2, 32)),
    ("entries", (64, 4, 3, 32)),
    ("parts", (64, 4, 2, 32)),
    ("parts", (64, 4, 3, 32)),
    ("parts", (64, 4, 4, 32)),
    ("parts", (64, 4, 2, 16)),
    ("parts", (64, 4, 3, 16)),
    ("parts", (32, 4, 3, 32)),
    ("parts", (64, 8, 2, 32)),
)
"""Kernels and `Shape`s that `timed` compares in decoding; `Shape`s of `parts` in a prefill."""
PREFILL_CANDIDATES = ((64, 8, 2, 32), (32, 8, 2, 32))


def compare(name: str, kind: str, device: str, kernel: str) -> dict[str, float]:
    """Over the steps of a case: largest error of an output, bytes of the cache and counts that differ.

    The kernels run on `device`, `kernel` among them, the stand-ins on the CPU.
    """
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
    table = (torch.randperm(n * width, generator=g).view(n, width) + 1).int()
    cache = torch.randint(0, 255, (n * width + 1, kv_heads, layout.head_bytes), dtype=torch.uint8, generator=g)
    places = (device, "cpu")
    caches, tables = [cache.clone().to(place) for place in places], [table.to(place) for place in places]
    changed = [torch.zeros((), dtype=torch.int64, device=place) for place in places]
    doers = (ModuleType("kernels"), packed_reference)
    doers[0].pack, doers[0].store = write.pack, write.store  # type: ignore[attr-defined]
    doers[0].attend = partial(attention.attend, kernel=kernel)  # type: ignore[attr-defined]
    done, error = [0] * n, 0.0
    for counts in steps:
        done = [a + b for a, b in zip(done, counts, strict=True)]
        rows = sum(counts)
        # keys and values as a fused projection leaves them: neither is contiguous
        fused = torch.randn(rows, heads + 2 * kv_heads, head_dim, generator=g).to(dtype)
        outputs = []
        for doer, cache, table, changes in zip(doers, caches, tables, changed, strict=True):
            step = fused.to(cache.device).split([heads, kv_heads, kv_heads], dim=1)
            outputs.append(advance(doer, layout, cache, table, done, counts, step, changes).float().cpu())
        error = max(error, float((outputs[0] - outputs[1]).abs().nan_to_num(1e9).max()))
    bytes_apart = int((caches[0].cpu() != caches[1]).sum())
    counts = [int(x) for x in changed]
    return {"error": error, "bytes": bytes_apart, "changed": counts[1], "apart": counts[0] - counts[1]}


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
    arrays = (plan.singles, plan.tiles, plan.groups, plan.stores)
    singles, tiles, groups, stores = (torch.from_numpy(x).to(cache.device) for x in arrays)
    output = torch.zeros(queries.shape, dtype=queries.dtype, device=cache.device)
    if len(groups):
        doer.pack(layout, pages, keys, values, table, groups, changed)
    for some, single in ((singles, True), (tiles, False)):
        if len(some):
            sizes = (single, plan.longest, layout.head_dim**-0.5)
            doer.attend(layout, pages, queries, keys, values, table, some, *sizes, output)
    if len(stores):
        doer.store(layout, pages, keys, values, table, stores)
    return output


def timed(bits: int, n: int, length: int) -> dict[str, float]:
    """Milliseconds that one layer in the shape of Qwen3-0.6B takes on a GPU: `decode` in a step of n sequences of
    `length` tokens by every kernel (and of that, `store` and, compiled in several ways, `attend`, whose output is as
    far as `off` says from that of `entries`), `pack` of n groups, `prefill` of a sequence's last 8192 tokens."""
    import numpy as np
    import torch

    from tslaw.measure.kv.packed import attend as attention
    from tslaw.measure.kv.packed import write
    from tslaw.measure.kv.packed.layout import PageLayout
    from tslaw.measure.kv.packed.pages import Pages
    from tslaw.measure.kv.packed.step import prepare, run

    layout = PageLayout(bits, 64, 128, 8, 128, 2)
    more: dict[str, Any] = {"dtype": torch.bfloat16, "device": "cuda"}
    columns = layout.pages(length)
    table = torch.randperm(n * columns, device="cuda").view(n, columns).int()
    cache = torch.randint(0, 255, (n * columns, 8, layout.head_bytes), dtype=torch.uint8, device="cuda")
    cache[:, :, -4 * 128 :].view(torch.float16).fill_(0.01)
    pages = Pages.of(cache, torch.bfloat16)
    found: dict[str, float] = {"cache_gib": cache.numel() / 2**30}

    def step_of(lengths: list[int], counts: list[int]) -> Any:
        rows = sum(counts)
        step = prepare(layout, np.array(lengths), np.cumsum([0, *counts]), table, 16, "cuda")
        queries, output = torch.randn(rows, 16, 128, **more), torch.empty(rows, 16, 128, **more)
        keys, values = torch.randn(rows, 8, 128, **more), torch.randn(rows, 8, 128, **more)
        return step, queries, keys, values, output

    decoding, queries, keys, values, output = step_of([length - 1] * n, [1] * n)
    assert len(decoding.groups) == 0
    # the ring holds random bytes, NaN among them: the values that it ought to hold
    filling = step_of([length - 2] * n, [layout.window] * n)
    write.store(layout, pages, filling[2], filling[3], table, filling[0].stores)
    for kernel in KERNELS:
        how = f"decode {kernel}"
        found[how] = milliseconds(lambda k=kernel: run(decoding, pages, queries, keys, values, 0.09, output, k), 20)
    given = (layout, pages, queries, keys, values, table, decoding.singles, True, decoding.longest, 0.09, output)
    attention.attend(*given, kernel="entries")
    found["finite"], wanted = float(output.isfinite().all()), output.clone()
    for kernel, sizes in CANDIDATES:
        name, shape = f"attend {kernel} {'-'.join(str(x) for x in sizes)}", attention.Shape(*sizes)
        output.zero_()
        found[name] = milliseconds(lambda k=kernel, x=shape: attention.attend(*given, x, k), 20)
        found[f"{name}: off"] = float((output.float() - wanted.float()).abs().nan_to_num(1e9).max())
    found["largest output"] = float(wanted.abs().max())
    found["store"] = milliseconds(lambda: write.store(layout, pages, keys, values, table, decoding.stores), 20)
    packing = step_of([length] * n, [1] * n)
    changed = torch.zeros((), dtype=torch.int64, device="cuda")
    groups = packing[0].groups
    found["pack"] = milliseconds(lambda: write.pack(layout, pages, keys, values, table, groups, changed), 20)
    chunk = min(8192, length)
    prefill = step_of([length], [chunk])
    for kernel in KERNELS:
        how = f"prefill {kernel}"
        found[how] = milliseconds(lambda k=kernel: run(*prefill[:1], pages, *prefill[1:4], 0.09, prefill[4], k), 3)
    for sizes in PREFILL_CANDIDATES:
        name, shape = f"prefill's attend parts {'-'.join(str(x) for x in sizes)}", attention.Shape(*sizes)
        given = (layout, pages, *prefill[1:4], table, prefill[0].tiles, False, length, 0.09, prefill[4])
        found[name] = milliseconds(lambda g=given, x=shape: attention.attend(*g, x, "parts"), 3)
    return {name: round(value, 5) for name, value in found.items()}


def milliseconds(work: Any, times: int) -> float:
    import torch

    for _ in range(2):
        work()
    torch.cuda.synchronize()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        work()
    stop.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(stop)) / times


def main(out: Path, names: list[str]) -> None:
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    found: dict[str, Any] = {}
    for name, kernel in itertools.product(names, KERNELS):
        kind = "float32" if name.startswith("split") else "float16"  # the interpreter multiplies no bfloat16
        start = time.monotonic()
        seen = compare(name, kind, "cpu", kernel)
        found[f"{name}, {kernel}"] = {**seen, "seconds": time.monotonic() - start}
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
