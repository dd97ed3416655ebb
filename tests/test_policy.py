"""KV policies: what can be written, what it means, and that it is written back the same."""

from __future__ import annotations

import pytest

from tslaw.errors import TslawError
from tslaw.policy import ANY_BITS, FULL, KVPolicy, parse_kv_policy


@pytest.mark.parametrize(
    ("text", "kind", "bits", "retain", "evictor"),
    [
        ("full", "full", 16, None, None),
        ("quantized:8", "quantized", 8, None, None),
        ("quantized:4", "quantized", 4, None, None),
        ("quantized:2", "quantized", 2, None, None),
        ("streaming:4096", "streaming", 16, 4096, "streaming"),
        ("rkv:2048", "rkv", 16, 2048, "rkv"),
        ("random:1", "random", 16, 1, "random"),
        ("rkv:2048+quantized:4", "rkv+quantized", 4, 2048, "rkv"),
        ("streaming:128+quantized:2", "streaming+quantized", 2, 128, "streaming"),
    ],
)
def test_round_trip(text: str, kind: str, bits: int, retain: int | None, evictor: str | None) -> None:
    policy = parse_kv_policy(text)
    assert (policy.kind, policy.bits, policy.retain, policy.evictor) == (kind, bits, retain, evictor)
    assert str(policy) == text
    assert parse_kv_policy(f" {text} ") == policy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ful",
        "full:3",
        "quantized",
        "quantized:",
        "quantized:3",
        "quantized:16",
        "quantized:four",
        "rkv",
        "rkv:0",
        "rkv:-5",
        "rkv:2048.0",
        "rkv:²",
        "snapkv:2048",
        "full+quantized:4",
        "quantized:4+rkv:2048",
        "rkv:2048+rkv:1024",
        "rkv:2048+quantized:4+quantized:2",
        "rkv:2048+",
    ],
)
def test_anything_else_is_refused_with_the_accepted_forms(text: str) -> None:
    with pytest.raises(TslawError) as caught:
        parse_kv_policy(text)
    message = str(caught.value)
    assert "rkv:2048+quantized:4" in message
    assert "streaming:RETAIN" in message
    assert f"'{text}'" in message


def test_a_policy_cannot_be_half_made() -> None:
    assert KVPolicy() == FULL
    with pytest.raises(TslawError):
        KVPolicy(retain=100)
    with pytest.raises(TslawError):
        KVPolicy(evictor="rkv")
    with pytest.raises(TslawError):
        KVPolicy(bits=1)


def test_bits_that_nobody_measured_can_be_asked_about() -> None:
    assert parse_kv_policy("rkv:64+quantized:6", ANY_BITS) == KVPolicy(6, 64, "rkv")
    assert str(parse_kv_policy("quantized:3", ANY_BITS)) == "quantized:3"
    for bits in (1, 16, 17):
        with pytest.raises(TslawError):
            parse_kv_policy(f"quantized:{bits}", ANY_BITS)
