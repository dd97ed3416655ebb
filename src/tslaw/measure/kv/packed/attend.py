"""Attention over a packed cache: tiles of queries, each over its sequence's packed pages and its exact tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton

from tslaw.measure.kv.packed.attend_kernels import attend_kernel, merge_kernel
from tslaw.measure.kv.packed.layout import PageLayout
from tslaw.measure.kv.packed.pieces import TILE

PROGRAMS = 1024
"""About so many programs keep a large GPU busy: sequences that decode are split until there are as many. Prefills have
enough."""
MOST_SPLITS = 16
LOG2_E = 1.4426950408889634


USUAL = {"decoding": "parts", "prefilling": "entries"}
"""The kernels of calls that name none. entries: keys and values of packed pages are unpacked and scaled one by one.
parts: see `parts.py`; where heads are too narrow for it, entries all the same."""


class Shape(NamedTuple):
    """How a kernel is compiled: most tokens of a tile of keys, warps of a program, tiles that are loaded ahead; most
    tokens of a tile of exact keys, and bits of the words that `parts` loads, 0 for the usual."""

    tokens: int
    warps: int
    stages: int
    exact_tokens: int = TILE
    word_bits: int = 0


SHAPES = {
    "entries": (Shape(64, 4, 2), Shape(TILE, 8, 2)),
    "parts": (Shape(64, 4, 2, 32), Shape(TILE, 8, 2)),
}
"""Of every kernel: for decoding, and for a prefill."""


def usual_kernel(single: bool) -> str:
    """The kernel for tiles of one query, or of more."""
    return USUAL["decoding" if single else "prefilling"]


def usual_shape(kernel: str, single: bool) -> Shape:
    """How a kernel is compiled for tiles of one query, or of more."""
    return SHAPES[kernel][0 if single else 1]


def word_bits(layout: PageLayout, dim: int, kernel: str, shape: Shape) -> int:
    """Bits of the words that a kernel loads codes in; 0: the kernel `entries`.

    dim : channels of a head, and padding. A word of each, the columns of a part, are at least the 16 that a product
    takes; words of 16 bits need 32, to be shared by 4 warps.
    """
    if kernel == "entries":
        return 0
    if shape.word_bits:
        return shape.word_bits
    if dim * layout.bits // 16 >= 32:
        return 16
    return 8 if dim * layout.bits // 8 >= 16 else 0


def tile_queries(layout: PageLayout, heads: int) -> int:
    """Most queries of a tile of a prefill."""
    return max(1, min(128 // (heads // layout.kv_heads), TILE))


def tile_tokens(layout: PageLayout, shape: Shape) -> int:
    """Tokens of a tile of keys."""
    return int(max(min(triton.next_power_of_2(layout.group), shape.tokens), 16))


def splits_of(layout: PageLayout, n_sequences: int, longest: int, shape: Shape) -> int:
    """Programs that share the keys of one sequence's KV head in a step that decodes n_sequences."""
    enough = -(-PROGRAMS * max(4 // shape.warps, 1) // (n_sequences * layout.kv_heads))
    return max(min(enough, MOST_SPLITS, longest // (8 * tile_tokens(layout, shape))), 1)


def attend(
    layout: PageLayout,
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
    shape: Shape | None = None,
    kernel: str | None = None,
) -> None:
    """Write the outputs of some tiles of a step.

    pages : a `Pages`. queries and output (rows, heads, head_dim), keys and values (rows, kv_heads, head_dim) of the
    step. table : (sequences, columns) int32. tiles : see `Plan`, on the device. single : whether they are its
    `singles`. longest : tokens of the longest sequence. scale : of the products of queries and keys. shape : None for
    the usual. kernel : entries or parts, None for the usual.
    """
    sharing, dim = queries.shape[1] // layout.kv_heads, max(triton.next_power_of_2(layout.head_dim), 16)
    rows = max(triton.next_power_of_2(sharing * (1 if single else tile_queries(layout, queries.shape[1]))), 16)
    kernel = kernel or usual_kernel(single)
    shape = shape or usual_shape(kernel, single)
    words = word_bits(layout, dim, kernel, shape)
    tokens = tile_tokens(layout, shape)
    programs, splits, partial, sums = len(tiles) * layout.kv_heads, 1, output, output
    if single:
        splits = splits_of(layout, len(tiles), longest, shape)
        partial = torch.empty(programs * splits * rows * dim, dtype=torch.float32, device=output.device)
        sums = torch.empty(programs * splits * rows * 2, dtype=torch.float32, device=output.device)
    attend_kernel[len(tiles), layout.kv_heads, splits](
        queries,
        keys,
        values,
        pages.codes,
        pages.scales,
        pages.words if words == 16 else pages.codes,
        pages.pairs,
        pages.exact,
        table,
        tiles,
        output,
        partial,
        sums,
        scale * LOG2_E,
        splits,
        *(stride for x in (queries, keys, values, output) for stride in x.stride()[:2]),
        table.stride(0),
        table.shape[1],
        BITS=layout.bits,
        GROUP=layout.group,
        RESIDUAL=layout.residual,
        KV_HEADS=layout.kv_heads,
        HEAD_DIM=layout.head_dim,
        HEAD_BYTES=layout.head_bytes,
        HEAD_ITEMS=layout.head_bytes // layout.itemsize,
        EXACT_PER_PAGE=layout.exact_per_page,
        EXACT_PAGES=layout.exact_pages,
        SHARING=sharing,
        DIM=dim,
        ROWS=rows,
        TOKENS=tokens,
        EXACT_TOKENS=max(min(tokens, shape.exact_tokens), 16),
        WHOLE=not single,
        WORD_BITS=words,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    if single:
        merge_kernel[len(tiles), layout.kv_heads](
            partial,
            sums,
            tiles,
            output,
            splits,
            *output.stride()[:2],
            KV_HEADS=layout.kv_heads,
            HEAD_DIM=layout.head_dim,
            SHARING=sharing,
            DIM=dim,
            ROWS=rows,
        )
