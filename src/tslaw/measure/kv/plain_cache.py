"""A cache whose blocks hold keys and values as they are, such as FlashAttention's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PlainCache:
    """See `PagedCache`. entries : (n_blocks, block_size, kv_heads, 2 * head_dim), a head's key before its value."""

    entries: Any

    @property
    def n_slots(self) -> int:
        return int(self.entries.shape[0] * self.entries.shape[1])

    @property
    def entries_per_token(self) -> int:
        return int(self.entries.shape[2] * self.entries.shape[3])

    def read(self, slots: Any) -> tuple[Any, Any]:
        size = self.entries.shape[1]
        found = self.entries[slots // size, slots % size].transpose(1, 2)
        keys, values = found.chunk(2, dim=-1)
        return keys, values

    def write(self, slots: Any, keys: Any, values: Any) -> None:
        import torch

        size = self.entries.shape[1]
        both = torch.cat([keys, values], dim=-1).transpose(1, 2)
        self.entries[slots // size, slots % size] = both.to(self.entries.dtype)
