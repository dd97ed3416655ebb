"""A quantized KV cache: recent tokens exact, older ones on a grid of a few bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tslaw.errors import TslawError


@dataclass(frozen=True)
class Quantized:
    """Rounds keys and values symmetrically, `group` entries to one float16 scale (Kim et al. 2025: group 64).

    An entry x becomes s * round(x / s), with s = max |x| of its group / (2^(bits-1) - 1): at 2 bits three levels.
    The last `residual` to `residual + group - 1` tokens are exact, as a group is rounded once, when all of it is older
    than `residual`. A group is `group` consecutive tokens of one channel (axis "channel") or `group` channels of one
    token (axis "token", used after eviction).

    Departures: HQQ (Badri and Shaji 2023), which the paper used, optimizes zero points and scales, and the HF cache
    around it rounds older tokens again whenever 128 new ones have come; KIVI (Liu et al. 2024) rounds keys by channel
    but values by token. Here nothing is rounded twice. This class says which numbers result. `tslaw.measure.kv.packed`
    stores them in their bits; everywhere else they are stored as wide as they were, a simulation of the accuracy, not
    of the memory.
    """

    bits: int
    axis: Literal["channel", "token"]
    group: int = 64
    residual: int = 128

    def __post_init__(self) -> None:
        if self.group < 1 or self.residual < 0:
            raise TslawError(
                f"A KV cache cannot be rounded in groups of {self.group} with {self.residual} exact tokens.",
                where="KV options",
                expected="a group of at least 1, a residual of 0 or more",
            )

    def rounded(self, x: Any) -> Any:
        """x : (..., tokens, head_dim), keys or values of consecutive tokens; float32 of the same shape."""
        x = x.float()
        return self._by_group(x) if self.axis == "token" else self._by_group(x.mT).mT

    def _by_group(self, x: Any) -> Any:
        """Groups run along the last axis; the last one may be short."""
        import torch
        from torch.nn.functional import pad

        n, top = x.shape[-1], 2 ** (self.bits - 1) - 1
        groups = pad(x, (0, -n % self.group)).unflatten(-1, (-1, self.group))
        scale = (groups.abs().amax(dim=-1, keepdim=True) / top).to(torch.float16).float().clamp_min(2.0**-24)
        return ((groups / scale).round().clamp(-top, top) * scale).flatten(-2)[..., :n]
