"""KV-cache policies by name: what is kept of the cache, and at how many bits.

The four kinds and their parameters follow Kim et al. (2025), arXiv 2510.10964: the whole cache, a quantized cache,
StreamingLLM (first and last tokens) and R-KV (the most important, least redundant tokens); `random` is the control,
and an evicting policy may be followed by quantization of what it keeps.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tslaw.errors import TslawError

NATIVE_BITS = 16
"""Bits of an entry of a cache that is not quantized (bfloat16 or float16)."""
QUANTIZED_BITS = (8, 4, 2)
"""Those that can be measured."""
ANY_BITS = tuple(range(2, NATIVE_BITS))
"""Those that a fit can be asked about."""
EVICTORS = tuple(sorted(path.stem for path in (Path(__file__).parent / "measure" / "kv" / "evictors").glob("[!_]*.py")))
"""What chooses the kept tokens: one file each."""
ACCEPTED_FORMS = (
    f"full, quantized:8, quantized:4, quantized:2, {', '.join(f'{name}:RETAIN' for name in EVICTORS)} (RETAIN = tokens "
    "kept, such as 2048), or an evicting one followed by quantization, such as rkv:2048+quantized:4"
)


@dataclass(frozen=True)
class KVPolicy:
    """What happens to the KV cache while a model thinks.

    Parameters
    ----------
    bits : bits of a cache entry, 16 when it is not quantized.
    retain : tokens kept per sequence; None means that nothing is evicted.
    evictor : one of EVICTORS, such as "rkv"; None means that nothing is evicted.
    """

    bits: int = NATIVE_BITS
    retain: int | None = None
    evictor: str | None = None

    def __post_init__(self) -> None:
        if self.bits != NATIVE_BITS and self.bits not in ANY_BITS:
            raise _refusal(f"A KV cache of {self.bits} bits is not known.", str(self.bits))
        if (self.retain is None) != (self.evictor is None):
            raise _refusal("A KV policy that evicts needs both its name and the tokens it keeps.", repr(self))
        if self.evictor is not None and self.evictor not in EVICTORS:
            raise _refusal(f"The KV policy '{self.evictor}' is not known.", self.evictor)
        if self.retain is not None and self.retain < 1:
            raise _refusal(f"A KV policy cannot keep {self.retain} tokens.", str(self))

    @property
    def kind(self) -> str:
        """ "full", "quantized", an evictor's name, or a hybrid such as "rkv+quantized"."""
        parts = [self.evictor] if self.evictor else []
        if self.bits != NATIVE_BITS:
            parts.append("quantized")
        return "+".join(parts) or "full"

    def __str__(self) -> str:
        parts = [f"{self.evictor}:{self.retain}"] if self.evictor else []
        if self.bits != NATIVE_BITS:
            parts.append(f"quantized:{self.bits}")
        return "+".join(parts) or "full"


FULL = KVPolicy()
"""The whole cache at native precision."""


def parse_kv_policy(text: str, bits: Collection[int] = QUANTIZED_BITS) -> KVPolicy:
    """Read a policy as it is written on the command line, in plans and in datasets; `str(policy)` writes it back.

    `bits` are those that a quantized cache may have: what can be measured, or `ANY_BITS`.

    Raises TslawError, naming the accepted forms, for anything else.
    """
    parts = text.strip().split("+")
    if parts == ["full"]:
        return FULL
    if len(parts) > 2:
        raise _refusal("A KV policy has at most two parts: evict, then quantize.", text)
    fields: dict[str, str | int] = {}
    for position, part in enumerate(parts):
        name, number = _name_and_number(part, text)
        if name == "quantized" and position == len(parts) - 1:
            if number not in bits:
                raise _refusal(f"A KV cache cannot be quantized to {number} bits here.", text)
            fields["bits"] = number
        elif name in EVICTORS and position == 0:
            fields.update(evictor=name, retain=number)
        elif name == "quantized" or name in EVICTORS:
            raise _refusal("A hybrid KV policy evicts first and quantizes what is kept.", text)
        else:
            raise _refusal(f"The KV policy '{name}' is not known.", text)
    return KVPolicy(**fields)  # type: ignore[arg-type]


def _name_and_number(part: str, text: str) -> tuple[str, int]:
    name, colon, number = part.partition(":")
    known = name == "quantized" or name in EVICTORS
    if known and not colon:
        raise _refusal(f"The KV policy '{name}' needs a number.", text)
    if known and not (number.isascii() and number.isdigit()):
        raise _refusal(f"The KV policy '{name}' needs a whole number, not '{number}'.", text)
    return name, int(number) if known else 0


def _refusal(what: str, where: str) -> TslawError:
    return TslawError(what, where=f"KV policy '{where}'", expected=ACCEPTED_FORMS)
