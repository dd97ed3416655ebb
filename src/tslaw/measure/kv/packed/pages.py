"""One layer's packed cache, seen as what lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pages:
    """The same memory three times, flat: codes (uint8), scales (float16) and exact tokens (the model's type)."""

    codes: Any
    scales: Any
    exact: Any

    @classmethod
    def of(cls, cache: Any, dtype: Any) -> Pages:
        """cache : (pages, kv_heads, head_bytes) uint8, contiguous."""
        import torch

        flat = cache.view(-1)
        return cls(flat, flat.view(torch.float16), flat.view(dtype))
