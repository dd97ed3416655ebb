"""How a kernel lays keys and values out within a block: found by trying, as it differs with type, shape and CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tslaw.errors import TslawError

DIGIT = 128  # numbers below it are exact in every float type

Store = Callable[[Any, Any, Any, Any, Any], None]
"""store(keys, values, key_cache, value_cache, slots): keys and values (tokens, kv_heads, head_dim), slots int64."""


@dataclass(frozen=True)
class BlockLayout:
    """Where in a block of one head entry (token, channel) lies: two (block_size * head_dim,) int64 orders."""

    keys: Any
    values: Any


@dataclass(frozen=True)
class PackedCache:
    """A cache in a kernel's own layout: two (n_blocks, kv_heads, block_size, head_dim) tensors; see `PagedCache`."""

    keys: Any
    values: Any
    layout: BlockLayout
    store: Store

    @property
    def n_slots(self) -> int:
        return int(self.keys.shape[0] * self.keys.shape[2])

    @property
    def entries_per_token(self) -> int:
        return 2 * int(self.keys.shape[1] * self.keys.shape[3])

    def read(self, slots: Any) -> tuple[Any, Any]:
        return _entries(self.keys, self.layout.keys, slots), _entries(self.values, self.layout.values, slots)

    def write(self, slots: Any, keys: Any, values: Any) -> None:
        keys, values = (x.transpose(1, 2).flatten(0, 1).to(self.keys.dtype).contiguous() for x in (keys, values))
        self.store(keys, values, self.keys, self.values, slots.flatten())


def _entries(cache: Any, order: Any, slots: Any) -> Any:
    """(sequences, kv_heads, tokens, head_dim) from slots (sequences, tokens)."""
    heads, block_size, head_dim = cache.shape[1:]
    numbers = torch.arange(heads)[:, None, None]
    blocks, places = (x[:, None, :] for x in (slots // block_size, slots % block_size))
    return cache.flatten(2)[blocks[..., None], numbers, order.view(block_size, head_dim)[places]]


def learn_layout(store: Store, block_size: int, head_dim: int, dtype: Any) -> BlockLayout:
    """Find the layout by storing known numbers.

    Raises TslawError where the cache does not hold every stored number once, as for a kernel that rounds.
    """
    numbers = torch.arange(block_size * head_dim)
    found_keys, found_values = torch.zeros_like(numbers), torch.zeros_like(numbers)
    place = 1
    while place <= len(numbers):
        digits = (numbers // place % DIGIT).to(dtype).view(block_size, 1, head_dim)
        cache = torch.zeros(1, 1, 2 * block_size, head_dim, dtype=dtype)
        keys, values = cache.chunk(2, dim=2)
        store(digits, digits, keys, values, torch.arange(block_size))
        found_keys += keys.flatten().to(torch.int64) * place
        found_values += values.flatten().to(torch.int64) * place
        place *= DIGIT
    for found in (found_keys, found_values):
        if not torch.equal(found.sort().values, numbers):
            raise TslawError(
                f"This kernel's KV cache (blocks of {block_size}, head size {head_dim}, {dtype}) cannot be read back.",
                expected="a cache that holds keys and values as they are",
            )
    return BlockLayout(found_keys.argsort(), found_values.argsort())
