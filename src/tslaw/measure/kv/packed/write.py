"""Writing a packed cache: groups that grew old into their pages, the last tokens into the ring."""

from __future__ import annotations

from typing import Any

import triton

from tslaw.measure.kv.packed.layout import PageLayout
from tslaw.measure.kv.packed.pieces import TILE
from tslaw.measure.kv.packed.write_kernels import pack_kernel, store_kernel


def pack(layout: PageLayout, pages: Any, keys: Any, values: Any, table: Any, groups: Any, changed: Any) -> None:
    """Round groups of tokens into their pages.

    pages : a `Pages`. keys and values : (rows, kv_heads, head_dim) of the step. table : (sequences, columns) int32.
    groups : see `Plan`, on the device. changed : int64, to which the number of entries that rounding changed is added.
    """
    pack_kernel[len(groups), layout.kv_heads](
        keys,
        values,
        pages.codes,
        pages.scales,
        pages.exact,
        table,
        groups,
        changed,
        *(stride for x in (keys, values) for stride in x.stride()[:2]),
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
        DIM=triton.next_power_of_2(layout.head_dim),
        TOKENS=min(triton.next_power_of_2(layout.group), TILE),
    )


def store(layout: PageLayout, pages: Any, keys: Any, values: Any, table: Any, stores: Any) -> None:
    """Put the step's last tokens into the ring; arguments as of `pack`."""
    store_kernel[len(stores), layout.kv_heads](
        keys,
        values,
        pages.exact,
        table,
        stores,
        *(stride for x in (keys, values) for stride in x.stride()[:2]),
        table.stride(0),
        WINDOW=layout.window,
        KV_HEADS=layout.kv_heads,
        HEAD_DIM=layout.head_dim,
        HEAD_ITEMS=layout.head_bytes // layout.itemsize,
        EXACT_PER_PAGE=layout.exact_per_page,
        DIM=triton.next_power_of_2(layout.head_dim),
        num_warps=1,
    )
