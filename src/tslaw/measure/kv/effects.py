"""What compression did in this process: counted where it happens, read by whoever must know that it took effect."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass
class Effects:
    """Sums since the last `reset`, over layers and sequences unless said otherwise.

    evictions : events at which tokens were evicted.
    evicted : (token, KV head) pairs evicted.
    roundings : events at which values were rounded.
    changed : entries that rounding changed. Counted on the device, and read from there by whoever asks.
    blocks_freed : blocks given back to the pool by running sequences (one block table serves all layers).
    most_blocks : most blocks that one sequence held at a time.
    lost_queries : sequences whose queries were given away before their eviction, counted like `changed`; never seen.
    """

    evictions: int = 0
    evicted: int = 0
    roundings: int = 0
    changed: Any = 0
    blocks_freed: int = 0
    most_blocks: int = 0
    lost_queries: Any = 0

    def reset(self) -> None:
        """Start counting anew."""
        for field in fields(self):
            setattr(self, field.name, 0)

    def changed_on(self, device: Any) -> Any:
        """`changed` as a number on a device (a tensor of one int64) that kernels may add to."""
        import torch

        if not isinstance(self.changed, torch.Tensor):
            self.changed = torch.full((), self.changed, dtype=torch.int64, device=device)
        return self.changed

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {field.name: int(getattr(self, field.name)) for field in fields(self)}


EFFECTS = Effects()
"""Counts of this process. The engine's worker and scheduler share it when they run in one process, as tslaw's do."""
