"""One layer's packed cache, seen as what lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pages:
    """The same memory, flat: codes (uint8), scales (float16), exact tokens (the model's type); and for the kernel that
    reads more at once, words of codes (int16) and a channel's pair of scales (int32)."""

    codes: Any
    scales: Any
    exact: Any
    words: Any
    pairs: Any

    @classmethod
    def of(cls, cache: Any, dtype: Any) -> Pages:
        """cache : (pages, kv_heads, head_bytes) uint8, contiguous."""
        import torch

        flat = cache.view(-1)
        return cls(flat, flat.view(torch.float16), flat.view(dtype), flat.view(torch.int16), flat.view(torch.int32))
