"""Packed pages attended to part by part: codes go into the products as small whole numbers, scales stay outside.

A word of WORD_BITS has PARTS = WORD_BITS // BITS codes; part p is the channels p, p + PARTS, p + 2 PARTS and so on,
the p-th codes of all words. So a tile of words is loaded once, and a shift and a mask make a part's tile of it: nothing
moves between threads, as interleaving would have it. Scores are sums over the parts, outputs are made part by part.

The scales of a page's keys are multiplied into the query, those of its values into the products. Models of 16 bits are
multiplied in float16, in which codes are exact and queries and weights keep more digits than in bfloat16. Its range is
enough: only a channel that, by one code, moves a logit by 45,000 would overflow; what underflows moves none by 1e-4.
So outputs are nearer to exact arithmetic on codes and scales than those of `entries`, which rounds every unpacked value
to the model's type.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def codes_of_part(words, PART: tl.constexpr, BITS: tl.constexpr, dtype: tl.constexpr):
    """Codes less 2^(BITS-1), times a power of two: whole numbers, exact in `dtype`, of a part of unsigned words.

    In float16 nothing is converted: bits below the tenth, put into 1024, count in ones. Those of the upper byte are
    shifted into the lower one, all parts by as much, so that the shift is done once.
    """
    if dtype == tl.float16:
        SHIFT: tl.constexpr = 0 if (PART + 1) * BITS <= 10 else 8
        PLACE: tl.constexpr = PART * BITS - SHIFT
        bits = (words.to(tl.uint16) >> SHIFT) & (((1 << BITS) - 1) << PLACE)
        found = (bits | 0x6400).to(tl.float16, bitcast=True) - (1024 + (1 << (PLACE + BITS - 1)))
    else:
        found = ((words >> (PART * BITS)) & ((1 << BITS) - 1)).to(tl.float32) - (1 << (BITS - 1))
    return found


@triton.jit
def over_step_of_part(x, PART: tl.constexpr, BITS: tl.constexpr, dtype: tl.constexpr):
    """x, float32, divided by what one more in a code of the part adds to what `codes_of_part` returns."""
    if dtype == tl.float16:
        SHIFT: tl.constexpr = 0 if (PART + 1) * BITS <= 10 else 8
        x = x * (1.0 / (1 << (PART * BITS - SHIFT)))
    return x


@triton.jit
def joined(parts, PARTS: tl.constexpr):
    """(rows, DIM) from the parts of its columns, (rows, DIM / PARTS) each."""
    if PARTS == 1:
        found = parts[0]
    elif PARTS == 2:
        found = tl.interleave(parts[0], parts[1])
    elif PARTS == 4:
        found = tl.interleave(tl.interleave(parts[0], parts[2]), tl.interleave(parts[1], parts[3]))
    else:
        even = tl.interleave(tl.interleave(parts[0], parts[4]), tl.interleave(parts[2], parts[6]))
        odd = tl.interleave(tl.interleave(parts[1], parts[5]), tl.interleave(parts[3], parts[7]))
        found = tl.interleave(even, odd)
    return found


@triton.jit
def attend_parts(
    queries,
    query_places,
    known,
    words,
    pairs,
    table,
    table_width,
    head,
    begin,
    end,
    factor,
    BITS: tl.constexpr,
    WORD_BITS: tl.constexpr,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_BYTES: tl.constexpr,
    EXACT_PAGES: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Largest score, sum of weights, weighted values (ROWS, DIM): a running softmax over packed tiles begin to end.

    query_places, known : where each row's query begins, and which rows there are. words : the cache as numbers of
    WORD_BITS. pairs : the cache as int32; the scales of a channel, of its keys and of its values, are one.
    """
    dtype: tl.constexpr = tl.float32 if queries.dtype.element_ty == tl.float32 else tl.float16
    PARTS: tl.constexpr = WORD_BITS // BITS
    COLUMNS: tl.constexpr = DIM // PARTS
    HEAD_COLUMNS: tl.constexpr = HEAD_DIM // PARTS
    HEAD_WORDS: tl.constexpr = HEAD_BYTES * 8 // WORD_BITS
    PER_GROUP: tl.constexpr = (GROUP + TOKENS - 1) // TOKENS
    columns, places = tl.arange(0, COLUMNS), tl.arange(0, TOKENS)

    query, found = (), ()
    for part in tl.static_range(PARTS):
        channels = columns * PARTS + part
        mask = known[:, None] & (columns < HEAD_COLUMNS)[None, :]
        its = tl.load(queries + query_places[:, None] + channels[None, :], mask=mask, other=0.0)
        query += (over_step_of_part(its.to(tl.float32) * factor, part, BITS, dtype),)  # type: ignore[assignment]
        found += (tl.zeros([ROWS, COLUMNS], tl.float32),)  # type: ignore[assignment]
    most = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for number in range(begin, end):
        column = tl.minimum(EXACT_PAGES + number // PER_GROUP, table_width - 1)  # vLLM warms up with odd lengths
        page = tl.load(table + column).to(tl.int64) * KV_HEADS + head
        tokens = number % PER_GROUP * TOKENS + places
        its_words = words + page * HEAD_WORDS
        its_pairs = pairs + page * (HEAD_BYTES // 4) + 2 * GROUP * HEAD_DIM * BITS // 32
        key_places = tokens[None, :] * HEAD_COLUMNS + columns[:, None]  # transposed
        value_places = (GROUP + tokens[:, None]) * HEAD_COLUMNS + columns[None, :]
        if GROUP % TOKENS == 0 and HEAD_COLUMNS == COLUMNS:
            key = tl.load(its_words + key_places)
            value = tl.load(its_words + value_places)
        else:
            there, here = tokens < GROUP, columns < HEAD_COLUMNS
            key = tl.load(its_words + key_places, mask=there[None, :] & here[:, None], other=0)
            value = tl.load(its_words + value_places, mask=there[:, None] & here[None, :], other=0)
        if WORD_BITS == 16:
            key, value = key.to(tl.uint16, bitcast=True), value.to(tl.uint16, bitcast=True)

        scaled, value_scales = (), ()  # before any product: one barrier for all parts
        for part in tl.static_range(PARTS):
            if HEAD_COLUMNS == COLUMNS:
                pair = tl.load(its_pairs + columns * PARTS + part)
            else:
                pair = tl.load(its_pairs + columns * PARTS + part, mask=columns < HEAD_COLUMNS, other=0)
            key_scale = (pair & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
            scale = ((pair >> 16) & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
            value_scales += (over_step_of_part(scale, part, BITS, dtype),)  # type: ignore[assignment]
            scaled += ((query[part] * key_scale[None, :]).to(dtype),)  # type: ignore[assignment]
        scores = tl.zeros([ROWS, TOKENS], tl.float32)
        for part in tl.static_range(PARTS):
            scores = tl.dot(scaled[part], codes_of_part(key, part, BITS, dtype), scores, input_precision="ieee")
        if GROUP % TOKENS != 0:
            scores = tl.where((tokens < GROUP)[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, axis=1))  # finite: a tile has a token, and all rows see it
        weights = tl.exp2(scores - higher[:, None])
        fading = tl.exp2(most - higher)
        most, total = higher, total * fading + tl.sum(weights, axis=1)
        weights = weights.to(dtype)
        new = ()
        for part in tl.static_range(PARTS):
            one = tl.dot(weights, codes_of_part(value, part, BITS, dtype), input_precision="ieee")
            new += (found[part] * fading[:, None] + one * value_scales[part][None, :],)  # type: ignore[assignment]
        found = new
    return most, total, joined(found, PARTS)
