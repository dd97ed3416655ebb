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

    def read(self, cache: Any, blocks: Any, values: bool) -> Any:
        """(kv_heads, len(blocks) * block_size, head_dim) from a cache (n_blocks, kv_heads, block_size, head_dim)."""
        block_size, head_dim = cache.shape[2:]
        entries = cache[blocks].flatten(2)[..., self.values if values else self.keys]
        return entries.unflatten(2, (block_size, head_dim)).transpose(0, 1).flatten(1, 2)


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
