"""The Triton kernels of attention over a packed cache. `attend.py` calls them."""

from __future__ import annotations

import triton
import triton.language as tl

from tslaw.measure.kv.packed.parts import attend_parts
from tslaw.measure.kv.packed.pieces import exact_places, exact_tile, packed_tile, page_scales


@triton.jit
def folded(scores, values, most, total, found):
    """One tile more in a running softmax: its largest score, the sum of its weights and the weighted values."""
    higher = tl.maximum(most, tl.max(scores, axis=1))
    shift = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet
    weights = tl.exp2(scores - shift[:, None])
    fading = tl.exp2(most - shift)
    total = total * fading + tl.sum(weights, axis=1)
    found = found * fading[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    return higher, total, found


@triton.jit(do_not_specialize=["splits", "table_stride", "table_width"])
def attend_kernel(
    queries,
    keys,
    values,
    codes,
    scales,
    words,
    pairs,
    exact,
    table,
    tiles,
    output,
    partial,
    sums,
    factor,
    splits,
    query_stride,
    query_head_stride,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    output_stride,
    output_head_stride,
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
    SHARING: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    EXACT_TOKENS: tl.constexpr,
    WHOLE: tl.constexpr,
    WORD_BITS: tl.constexpr,
):
    """Program (tile, KV head, split): a share of the tile's keys. WHOLE: all of them; the output is written.

    WORD_BITS : of the words in which `attend_parts` reads packed pages; 0 for keys and values unpacked entry by entry.
    """
    tile, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    request, row, position = tl.load(tiles + tile * 5), tl.load(tiles + tile * 5 + 1), tl.load(tiles + tile * 5 + 2)
    count, start = tl.load(tiles + tile * 5 + 3), tl.load(tiles + tile * 5 + 4)
    table += request.to(tl.int64) * table_stride
    keys += head * key_head_stride
    values += head * value_head_stride

    lines, dims, exact_ones = tl.arange(0, ROWS), tl.arange(0, DIM), tl.arange(0, EXACT_TOKENS)
    later = lines // SHARING  # a line is a query of the tile and one of the heads that share the KV head
    mine = (later < count)[:, None] & (dims < HEAD_DIM)[None, :]
    heads = head * SHARING + lines % SHARING
    rows = (row + later).to(tl.int64)
    query_places = rows * query_stride + heads * query_head_stride

    per_group: tl.constexpr = (GROUP + TOKENS - 1) // TOKENS
    packed_groups = tl.maximum(position - RESIDUAL, 0) // GROUP
    first_exact, stop = packed_groups * GROUP, position + count
    n_packed = packed_groups * per_group
    n_tiles = n_packed + tl.cdiv(stop - first_exact, EXACT_TOKENS)
    share = tl.cdiv(n_tiles, splits)
    begin = split * share
    end = tl.minimum(begin + share, n_tiles)

    if WORD_BITS != 0:
        most, total, found = attend_parts(
            queries, query_places, later < count, words, pairs, table, table_width, head,
            begin, tl.minimum(end, n_packed), factor,
            BITS, WORD_BITS, GROUP, KV_HEADS, HEAD_DIM, HEAD_BYTES, EXACT_PAGES, DIM, ROWS, TOKENS,
        )  # fmt: skip
        query = tl.load(queries + query_places[:, None] + dims[None, :], mask=mine, other=0.0)
    else:
        query = tl.load(queries + query_places[:, None] + dims[None, :], mask=mine, other=0.0)
        places = tl.arange(0, TOKENS)
        most = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        found = tl.zeros([ROWS, DIM], tl.float32)
        for number in range(begin, tl.minimum(end, n_packed)):
            column = tl.minimum(EXACT_PAGES + number // per_group, table_width - 1)  # vLLM warms up with odd lengths
            base = (tl.load(table + column).to(tl.int64) * KV_HEADS + head) * HEAD_BYTES
            tokens = number % per_group * TOKENS + places
            key_scale, value_scale = page_scales(scales, base, BITS, GROUP, HEAD_DIM, DIM)
            key = packed_tile(codes, key_scale, base, tokens, 0, BITS, GROUP, HEAD_DIM, DIM).to(query.dtype)
            value = packed_tile(codes, value_scale, base, tokens, 1, BITS, GROUP, HEAD_DIM, DIM).to(query.dtype)
            scores = tl.dot(query, tl.trans(key), input_precision="ieee") * factor
            if GROUP % TOKENS != 0:
                scores = tl.where((tokens < GROUP)[None, :], scores, float("-inf"))
            most, total, found = folded(scores, value, most, total, found)
    for number in tl.range(tl.maximum(begin, n_packed), end, num_stages=1):  # few: not worth the memory to look ahead
        tokens = first_exact + (number - n_packed) * EXACT_TOKENS + exact_ones
        old, new = tokens < start, (tokens >= start) & (tokens < stop)
        slots = tokens % (RESIDUAL + GROUP)
        ring = exact_places(table, slots, old, head, KV_HEADS, HEAD_ITEMS, EXACT_PER_PAGE, HEAD_DIM)
        step_rows = row + tokens - position
        key = exact_tile(exact, ring, old, keys, step_rows, key_stride, new, 0, HEAD_DIM, DIM)
        value = exact_tile(exact, ring, old, values, step_rows, value_stride, new, 1, HEAD_DIM, DIM)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * factor
        scores = tl.where(tokens[None, :] <= position + later[:, None], scores, float("-inf"))
        most, total, found = folded(scores, value, most, total, found)

    if WHOLE:
        into = output + (rows * output_stride + heads * output_head_stride)[:, None] + dims[None, :]
        tl.store(into, (found / total[:, None]).to(output.dtype.element_ty), mask=mine)
    else:
        program = ((tile * KV_HEADS + head) * splits + split).to(tl.int64) * ROWS + lines
        tl.store(partial + program[:, None] * DIM + dims[None, :], found, mask=mine)
        tl.store(sums + program * 2, most, mask=later < count)
        tl.store(sums + program * 2 + 1, total, mask=later < count)


@triton.jit(do_not_specialize=["splits"])
def merge_kernel(
    partial,
    sums,
    tiles,
    output,
    splits,
    output_stride,
    output_head_stride,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SHARING: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Program (tile, KV head): the splits' shares of a tile make its output."""
    tile, head = tl.program_id(0), tl.program_id(1)
    row, count = tl.load(tiles + tile * 5 + 1), tl.load(tiles + tile * 5 + 3)
    lines, dims = tl.arange(0, ROWS), tl.arange(0, DIM)
    later = lines // SHARING
    known = later < count
    mine = known[:, None] & (dims < HEAD_DIM)[None, :]
    most = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, DIM], tl.float32)
    for split in range(splits):
        program = ((tile * KV_HEADS + head) * splits + split).to(tl.int64) * ROWS + lines
        its_most = tl.load(sums + program * 2, mask=known, other=float("-inf"))
        its_total = tl.load(sums + program * 2 + 1, mask=known, other=0.0)
        its_found = tl.load(partial + program[:, None] * DIM + dims[None, :], mask=mine, other=0.0)
        higher = tl.maximum(most, its_most)
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        before, now = tl.exp2(most - shift), tl.exp2(its_most - shift)
        total = total * before + its_total * now
        found = found * before[:, None] + its_found * now[:, None]
        most = higher
    rows, heads = (row + later).to(tl.int64), head * SHARING + lines % SHARING
    into = output + (rows * output_stride + heads * output_head_stride)[:, None] + dims[None, :]
    tl.store(into, (found / total[:, None]).to(output.dtype.element_ty), mask=mine)
