"""What the kernels of a packed cache do, slowly: sequence after sequence, group after group, in plain torch.

`pack`, `store` and `attend` take what the kernels' own functions take, and can stand in for them.
"""

from __future__ import annotations

from typing import Any

import torch


def pack(layout: Any, pages: Any, keys: Any, values: Any, table: Any, groups: Any, changed: Any) -> None:
    for request, row, number, start in groups.tolist():
        tokens = range(number * layout.group, (number + 1) * layout.group)
        page = table[request, layout.exact_pages + number]
        for head in range(layout.kv_heads):
            base = int(page * layout.kv_heads + head) * layout.head_bytes
            for side, new in enumerate((keys, values)):
                exact = [
                    new[row + t - start, head] if t >= start else ring(layout, pages, table[request], t, head)[side]
                    for t in tokens
                ]
                changed += pack_side(layout, pages, base, side, torch.stack(exact))


def pack_side(layout: Any, pages: Any, base: int, side: int, exact: Any) -> int:
    """One head's keys or values (group, head_dim) of one page; returns how many entries changed."""
    top = 2 ** (layout.bits - 1) - 1
    scale = (exact.float().abs().amax(dim=0) / top).half().float().clamp_min(2.0**-24)
    whole = (exact.float() / scale).round().clamp(-top, top)
    codes = (whole + 2 ** (layout.bits - 1)).to(torch.int64).unflatten(1, (layout.code_bytes, -1))
    codes = (codes << torch.arange(0, 8, layout.bits, device=codes.device)).sum(dim=-1).to(torch.uint8)
    first = base + side * codes.numel()
    pages.codes[first : first + codes.numel()] = codes.flatten()
    scales_of(layout, pages, base)[:, side] = scale.half()
    return int(((whole * scale).to(exact.dtype) != exact).sum())


def unpacked(layout: Any, pages: Any, page: int, head: int) -> list[Any]:
    """Keys and values (group, head_dim) of a page, float32."""
    base, found = (page * layout.kv_heads + head) * layout.head_bytes, []
    n = layout.group * layout.code_bytes
    for side in range(2):
        packed = pages.codes[base + side * n : base + (side + 1) * n].to(torch.int64).view(layout.group, -1, 1)
        shifts = torch.arange(0, 8, layout.bits, device=packed.device)
        codes = ((packed >> shifts) & (2**layout.bits - 1)).flatten(1) - 2 ** (layout.bits - 1)
        found.append(codes * scales_of(layout, pages, base)[:, side].float())
    return found


def scales_of(layout: Any, pages: Any, base: int) -> Any:
    """(head_dim, 2) of one head of a page, of keys and of values."""
    first = base // 2 + layout.group * layout.code_bytes
    return pages.scales[first : first + 2 * layout.head_dim].view(-1, 2)


def ring_place(layout: Any, table: Any, token: int, head: int) -> int:
    slot = token % layout.window
    page, place = int(table[slot // layout.exact_per_page]), slot % layout.exact_per_page
    return (page * layout.kv_heads + head) * layout.head_bytes // layout.itemsize + place * 2 * layout.head_dim


def ring(layout: Any, pages: Any, table: Any, token: int, head: int) -> list[Any]:
    first = ring_place(layout, table, token, head)
    return list(pages.exact[first : first + 2 * layout.head_dim].chunk(2))


def store(layout: Any, pages: Any, keys: Any, values: Any, table: Any, stores: Any) -> None:
    for request, row, token in stores.tolist():
        for head in range(layout.kv_heads):
            first = ring_place(layout, table[request], token, head)
            pages.exact[first : first + 2 * layout.head_dim] = torch.cat([keys[row, head], values[row, head]])


def attend(
    layout: Any,
    pages: Any,
    queries: Any,
    keys: Any,
    values: Any,
    table: Any,
    tiles: Any,
    single: bool,
    longest: int,
    scale: float,
    output: Any,
    kernel: str | None = None,
) -> None:
    sharing = queries.shape[1] // layout.kv_heads
    for request, row, position, count, start in tiles.tolist():
        assert (count == 1) == single
        assert position + count <= longest
        groups = max((position - layout.residual) // layout.group, 0)
        for head in range(layout.kv_heads):
            seen = [unpacked(layout, pages, int(table[request, layout.exact_pages + g]), head) for g in range(groups)]
            for t in range(groups * layout.group, position + count):
                at = row + t - position
                both = ring(layout, pages, table[request], t, head) if t < start else (keys[at, head], values[at, head])
                seen.append([x[None].float() for x in both])
            key, value = (torch.cat(side).to(queries.dtype).float() for side in zip(*seen, strict=True))
            heads = slice(head * sharing, (head + 1) * sharing)
            for i in range(count):
                n = position + i + 1
                weights = (queries[row + i, heads].float() @ key[:n].T * scale).softmax(dim=-1)
                output[row + i, heads] = (weights @ value[:n]).to(output.dtype)
