"""Where codes, scales and exact tokens lie in the pages of a packed cache: plain numbers, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from tslaw.errors import TslawError
from tslaw.measure.kv.settings import BLOCK_SIZE

SCALE_BYTES = 2
LEAST_GROUP_BYTES = 512
"""Bytes of codes in one head's group of keys below which the compiled kernels are not used: groups of 256 bytes gave
wrong sums on an H100 (Triton 3.6), though not in Triton's interpreter; groups of 512 and more gave the right ones."""


@dataclass(frozen=True)
class PageLayout:
    """The pages of one layer's cache, (pages, kv_heads, head_bytes) uint8.

    A packed page holds `group` tokens. Of each KV head: the codes of the keys (group, head_dim * bits / 8), those of
    the values, then for every channel two float16 scales, of its keys and of its values. A code is an entry divided by
    its scale, plus 2^(bits-1); the first channel of a byte is in its lowest bits.

    An exact page holds `exact_per_page` tokens, of each KV head: key and value of one token, then of the next.
    A sequence's block table names its `exact_pages` exact pages first, then the packed ones.

    Parameters
    ----------
    itemsize : bytes of a number of the model's type, in which exact tokens are kept.
    """

    bits: int
    group: int
    residual: int
    kv_heads: int
    head_dim: int
    itemsize: int

    def __post_init__(self) -> None:
        if self.exact_per_page < 1 or self.head_dim % 8:
            raise TslawError(
                f"Groups of {self.group} tokens of {self.bits} bits and {self.head_dim} channels make no page.",
                where="KV options",
                expected="a group of 16 tokens or more, and a head dimension that 8 divides",
            )

    @property
    def code_bytes(self) -> int:
        """Of one token's key, or value, in one head."""
        return self.head_dim * self.bits // 8

    @property
    def head_bytes(self) -> int:
        return 2 * (self.group * self.code_bytes + SCALE_BYTES * self.head_dim)

    @property
    def page_bytes(self) -> int:
        return self.kv_heads * self.head_bytes

    @property
    def window(self) -> int:
        """Places of the ring: one more than there are exact tokens between steps."""
        return self.residual + self.group

    @property
    def exact_per_page(self) -> int:
        return self.head_bytes // (2 * self.head_dim * self.itemsize)

    @property
    def exact_pages(self) -> int:
        return -(-self.window // self.exact_per_page)

    def pages(self, n: int) -> int:
        """Pages that a sequence of n tokens takes."""
        return min(-(-n // self.exact_per_page), self.exact_pages) + max((n - self.residual) // self.group, 0)


def check_group(layout: PageLayout) -> PageLayout:
    """The layout, if the compiled kernels can be trusted with it; TslawError otherwise."""
    if layout.group * layout.code_bytes < LEAST_GROUP_BYTES:
        raise TslawError(
            f"Groups of {layout.group} tokens of {layout.bits} bits and {layout.head_dim} channels are too small for "
            "the GPU's kernels.",
            where="KV option group",
            expected=f"a group of at least {-(-LEAST_GROUP_BYTES // layout.code_bytes)} tokens",
        )
    return layout


def block_size_of(group: int) -> int:
    """Tokens of a block of the engine, the unit in which it asks the pool: whole pages, no fewer tokens than usual."""
    return int(group * -(-BLOCK_SIZE // group))
