"""The Triton kernels that write a packed cache. `write.py` calls them."""

from __future__ import annotations

import triton
import triton.language as tl

from tslaw.measure.kv.packed.pieces import exact_places, exact_tile

ROUNDER = tl.constexpr(12582912.0)
"""1.5 * 2^23: a smaller float32 added to it and taken away again is a whole number, halves going to even ones."""


@triton.jit
def tile_of_group(
    exact,
    table,
    head,
    tokens,
    stop,
    start,
    step,
    step_stride,
    row,
    SIDE: tl.constexpr,
    WINDOW: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_ITEMS: tl.constexpr,
    EXACT_PER_PAGE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
):
    """(tokens, DIM) of the model's type: keys or values of tokens that are still exact; those from `stop` are 0."""
    old, new = (tokens < start) & (tokens < stop), (tokens >= start) & (tokens < stop)
    ring = exact_places(table, tokens % WINDOW, old, head, KV_HEADS, HEAD_ITEMS, EXACT_PER_PAGE, HEAD_DIM)
    return exact_tile(exact, ring, old, step, row + tokens - start, step_stride, new, SIDE, HEAD_DIM, DIM)


@triton.jit(do_not_specialize=["table_stride", "table_width"])
def pack_kernel(
    keys,
    values,
    codes,
    scales,
    exact,
    table,
    groups,
    changed,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    table_stride,
    table_width,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    RESIDUAL: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_BYTES: tl.constexpr,
    HEAD_ITEMS: tl.constexpr,
    EXACT_PER_PAGE: tl.constexpr,
    EXACT_PAGES: tl.constexpr,
    DIM: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Program (group, KV head). The arithmetic is that of `Quantized`, operation by operation."""
    CODE_BYTES: tl.constexpr = HEAD_DIM * BITS // 8
    PER_BYTE: tl.constexpr = 8 // BITS
    TOP: tl.constexpr = (1 << (BITS - 1)) - 1
    WINDOW: tl.constexpr = RESIDUAL + GROUP
    group, head = tl.program_id(0), tl.program_id(1)
    request, row = tl.load(groups + group * 4), tl.load(groups + group * 4 + 1)
    number, start = tl.load(groups + group * 4 + 2), tl.load(groups + group * 4 + 3)
    table += request.to(tl.int64) * table_stride
    column = tl.minimum(EXACT_PAGES + number, table_width - 1)
    base = (tl.load(table + column).to(tl.int64) * KV_HEADS + head) * HEAD_BYTES
    dims, columns, places = tl.arange(0, DIM), tl.arange(0, DIM * BITS // 8), tl.arange(0, TOKENS)
    first, stop = number * GROUP, (number + 1) * GROUP
    n_changed = tl.zeros([DIM], tl.int32)
    for SIDE in tl.static_range(2):
        if SIDE == 0:
            step, stride = keys + head * key_head_stride, key_stride
        else:
            step, stride = values + head * value_head_stride, value_stride
        most = tl.zeros([DIM], tl.float32)
        for done in range(0, GROUP, TOKENS):
            tokens = first + done + places
            x = tile_of_group(
                exact, table, head, tokens, stop, start, step, stride, row,
                SIDE, WINDOW, KV_HEADS, HEAD_ITEMS, EXACT_PER_PAGE, HEAD_DIM, DIM,
            )  # fmt: skip
            most = tl.maximum(most, tl.max(tl.abs(x.to(tl.float32)), axis=0))
        scale = tl.div_rn(most, tl.full([DIM], TOP, tl.float32)).to(tl.float16).to(tl.float32)
        scale = tl.maximum(scale, 1.0 / 16777216)
        scale_places = base // 2 + GROUP * CODE_BYTES + 2 * dims + SIDE
        tl.store(scales + scale_places, scale.to(tl.float16), mask=dims < HEAD_DIM)
        for done in range(0, GROUP, TOKENS):
            tokens = first + done + places
            x = tile_of_group(
                exact, table, head, tokens, stop, start, step, stride, row,
                SIDE, WINDOW, KV_HEADS, HEAD_ITEMS, EXACT_PER_PAGE, HEAD_DIM, DIM,
            )  # fmt: skip
            rounded = (tl.div_rn(x.to(tl.float32), tl.broadcast_to(scale[None, :], [TOKENS, DIM])) + ROUNDER) - ROUNDER
            rounded = tl.minimum(tl.maximum(rounded, -TOP), TOP)
            other = (rounded * scale[None, :]).to(x.dtype) != x  # padding is 0 and stays so
            n_changed += tl.sum(other.to(tl.int32), axis=0)
            code = (rounded + (1 << (BITS - 1))).to(tl.int32)
            if BITS == 8:
                packed = code
            else:
                shifts = tl.arange(0, PER_BYTE) * BITS
                apart = tl.reshape(code, [TOKENS, DIM // PER_BYTE, PER_BYTE]) << shifts[None, None, :]
                packed = tl.sum(apart, axis=2)
            into = base + SIDE * GROUP * CODE_BYTES + (done + places)[:, None] * CODE_BYTES + columns[None, :]
            mask = (tokens < stop)[:, None] & (columns < CODE_BYTES)[None, :]
            tl.store(codes + into, packed.to(tl.uint8), mask=mask)
    tl.atomic_add(changed, tl.sum(n_changed, axis=0).to(tl.int64))


@triton.jit(do_not_specialize=["table_stride"])
def store_kernel(
    keys,
    values,
    exact,
    table,
    stores,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    table_stride,
    WINDOW: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_ITEMS: tl.constexpr,
    EXACT_PER_PAGE: tl.constexpr,
    DIM: tl.constexpr,
):
    """Program (token, KV head)."""
    number, head = tl.program_id(0), tl.program_id(1)
    request, row = tl.load(stores + number * 3).to(tl.int64), tl.load(stores + number * 3 + 1).to(tl.int64)
    slot = tl.load(stores + number * 3 + 2) % WINDOW
    dims = tl.arange(0, DIM)
    page = tl.load(table + request * table_stride + slot // EXACT_PER_PAGE).to(tl.int64)
    into = exact + (page * KV_HEADS + head) * HEAD_ITEMS + (slot % EXACT_PER_PAGE) * 2 * HEAD_DIM + dims
    key = tl.load(keys + row * key_stride + head * key_head_stride + dims, mask=dims < HEAD_DIM)
    value = tl.load(values + row * value_stride + head * value_head_stride + dims, mask=dims < HEAD_DIM)
    tl.store(into, key, mask=dims < HEAD_DIM)
    tl.store(into + HEAD_DIM, value, mask=dims < HEAD_DIM)
