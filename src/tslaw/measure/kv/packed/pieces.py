"""Parts that the Triton kernels share: what a packed page, and what the ring, holds of one KV head."""

from __future__ import annotations

import triton
import triton.language as tl

TILE = 64
"""Most tokens of a tile of keys and values."""


@triton.jit
def unpacked(packed, BITS: tl.constexpr):
    """(tokens, channels) codes, uint8, from (tokens, bytes): a byte's first channel is in its lowest bits."""
    if BITS == 8:
        found = packed
    elif BITS == 4:
        found = tl.interleave(packed & 15, packed >> 4)
    else:
        even = tl.interleave(packed & 3, (packed >> 4) & 3)
        odd = tl.interleave((packed >> 2) & 3, packed >> 6)
        found = tl.interleave(even, odd)
    return found


@triton.jit
def page_scales(scales, base, BITS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr):
    """(DIM,) float32 for the keys, and for the values, of a packed page.

    scales : the cache as float16; base : the first byte of the page's KV head; DIM : HEAD_DIM and padding. Loaded at
    once: of a narrower load Triton would not make one that runs ahead of the loop.
    """
    dims, sides = tl.arange(0, DIM)[:, None], tl.arange(0, 2)[None, :]
    places = base // 2 + GROUP * (HEAD_DIM * BITS // 8) + dims * 2 + sides
    return tl.split(tl.load(scales + places, mask=(dims < HEAD_DIM) & (sides < 2), other=0.0).to(tl.float32))


@triton.jit
def packed_tile(
    codes,
    scale,
    base,
    tokens,
    SIDE: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
):
    """(tokens, DIM) float32: the keys (SIDE 0) or values (1) of some tokens of a packed page.

    codes : the cache as bytes; scale : see `page_scales`; tokens : places in the group, padding from GROUP on.
    """
    CODE_BYTES: tl.constexpr = HEAD_DIM * BITS // 8
    columns = tl.arange(0, DIM * BITS // 8)
    places = base + SIDE * GROUP * CODE_BYTES + tokens[:, None] * CODE_BYTES + columns[None, :]
    mask = (tokens < GROUP)[:, None] & (columns < CODE_BYTES)[None, :]
    found = unpacked(tl.load(codes + places, mask=mask, other=0), BITS).to(tl.float32) - (1 << (BITS - 1))
    return found * scale[None, :]  # exact: 8 bits times 11


@triton.jit
def exact_places(
    table,
    slots,
    mask,
    head,
    KV_HEADS: tl.constexpr,
    HEAD_ITEMS: tl.constexpr,
    EXACT_PER_PAGE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    """Where in the cache, as numbers of the model's type, the keys of a sequence's ring slots begin; int64."""
    pages = tl.load(table + slots // EXACT_PER_PAGE, mask=mask, other=0).to(tl.int64)
    return (pages * KV_HEADS + head) * HEAD_ITEMS + (slots % EXACT_PER_PAGE) * 2 * HEAD_DIM


@triton.jit
def exact_tile(
    exact,
    places,
    old,
    step,
    step_rows,
    step_stride,
    new,
    SIDE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
):
    """(tokens, DIM) of the model's type: keys (SIDE 0) or values (1) of some exact tokens.

    exact, places : the cache, and where the ring has tokens. step, step_rows : the step's own, of this KV head, and
    the tokens' rows there. old, new : which are in the ring, and which are the step's; padding is neither.
    """
    dims = tl.arange(0, DIM)
    known = (dims < HEAD_DIM)[None, :]
    stored = tl.load(exact + places[:, None] + SIDE * HEAD_DIM + dims[None, :], mask=old[:, None] & known, other=0.0)
    rows = step_rows[:, None].to(tl.int64) * step_stride
    fresh = tl.load(step + rows + dims[None, :], mask=new[:, None] & known, other=0.0)
    return tl.where(old[:, None], stored, fresh)
