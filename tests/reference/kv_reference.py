"""Slow, obvious KV-cache compression: token after token, head after head, lists of what is kept.

`attend` gives what attention under a policy must give for one sequence, however an engine chunks, batches or pages it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Entry:
    """One kept token of one KV head: where it was in the sequence, its key and value."""

    position: int
    key: Any
    value: Any


@dataclass
class Head:
    """One KV head of one layer."""

    kept: list[Entry] = field(default_factory=list)
    queries: list[Any] = field(default_factory=list)  # per token, (group, head_dim)


def attend(
    policy: str,
    options: dict[str, Any],
    queries: Any,
    keys: Any,
    values: Any,
    scale: float,
    layer: int,
    tokens: list[int] | None = None,
) -> tuple[Any, list[list[list[int]]]]:
    """One sequence from its first token on.

    queries (n, heads, head_dim), keys and values (n, kv_heads, head_dim), float32; tokens : their ids, for a policy
    that draws. Returns the outputs (n, heads, head_dim) and, for every event, every head's kept positions.
    """
    n, n_heads, dim = queries.shape
    n_kv = keys.shape[1]
    group = n_heads // n_kv
    evictor, retain, bits = parse(policy)
    heads = [Head() for _ in range(n_kv)]
    outputs = torch.zeros(n, n_heads, dim)
    history = []
    for t in range(n):
        for h, head in enumerate(heads):
            head.kept.append(Entry(t, keys[t, h].clone(), values[t, h].clone()))
            head.queries.append(queries[t, h * group : (h + 1) * group])
            for g in range(group):
                outputs[t, h * group + g] = attention(queries[t, h * group + g], head.kept, scale)
        if evictor and len(heads[0].kept) == retain + options["buffer"]:
            keep = {"streaming": streaming, "random": uniform, "rkv": rkv}[evictor]
            for h, head in enumerate(heads):
                places = keep(head, retain, options, scale, h=h, n_kv=n_kv, layer=layer, position=t + 1, tokens=tokens)
                head.kept = [head.kept[i] for i in places]
                if bits:
                    round_by_token(head.kept, bits, options["group"])
            history.append([[entry.position for entry in head.kept] for head in heads])
        if bits and not evictor:
            for head in heads:
                round_by_channel(head.kept, bits, options, done=t + 1)
        if bits and evictor:
            for head in heads:
                due = due_positions(options, t + 1)
                round_by_token([e for e in head.kept if e.position in due], bits, options["group"])
    return outputs, history


def parse(policy: str) -> tuple[str | None, int, int]:
    evictor, retain, bits = None, 0, 0
    for part in policy.split("+"):
        name, _, number = part.partition(":")
        if name == "quantized":
            bits = int(number)
        elif name != "full":
            evictor, retain = name, int(number)
    return evictor, retain, bits


def attention(query: Any, kept: list[Entry], scale: float) -> Any:
    keys, values = torch.stack([entry.key for entry in kept]), torch.stack([entry.value for entry in kept])
    return ((keys * query).sum(1) * scale).softmax(0) @ values


def streaming(head: Head, retain: int, options: dict[str, Any], scale: float, **_: Any) -> list[int]:
    sinks = options.get("sinks")
    first = retain // 2 if sinks is None else sinks
    n = len(head.kept)
    return [i for i in range(n) if i < first or i >= n - (retain - first)]


def uniform(
    head: Head,
    retain: int,
    options: dict[str, Any],
    scale: float,
    h: int,
    n_kv: int,
    layer: int,
    position: int,
    tokens: list[int],
) -> list[int]:
    n = len(head.kept)
    return best(drawn(tokens[:retain], options["seed"], layer, position, h * n, n), retain, options)


def drawn(tokens: list[int], seed: int, layer: int, position: int, first: int, n: int) -> list[float]:
    """The numbers `first` to `first + n - 1` of SplitMix64, begun at a hash of everything else."""
    state = mix(sum(mix(token + (i + 1) * GAMMA) for i, token in enumerate(tokens)))
    state = mix(mix(mix(state + seed) + layer) + position)
    return [(mix(state + (first + i + 1) * GAMMA) >> 11) / 2**53 for i in range(n)]


GAMMA = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """SplitMix64's output for a state."""
    x %= 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def best(scores: list[float], retain: int, options: dict[str, Any]) -> list[int]:
    """The pinned ones, the window, and the highest scores of the rest; ascending."""
    n = len(scores)
    sure = [i for i in range(n) if i < options["pin"] or i >= n - options["window"]]
    rest = sorted((i for i in range(n) if i not in sure), key=lambda i: -scores[i])
    return sorted(sure + rest[: retain - len(sure)])


def rkv(head: Head, retain: int, options: dict[str, Any], scale: float, **_: Any) -> list[int]:
    n, window = len(head.kept), options["window"]
    past = n - window
    # importance: max over the group, softmax over the past, mean over the window, max over neighbours
    attention_paid = [0.0] * past
    for queries in head.queries[-window:]:
        logits = [float((queries @ head.kept[i].key).max()) * scale for i in range(past)]
        highest = max(logits)
        exponentials = [math.exp(x - highest) for x in logits]
        for i in range(past):
            attention_paid[i] += exponentials[i] / sum(exponentials) / window
    reach = options["kernel"] // 2
    importance = [max(attention_paid[max(0, i - reach) : i + reach + 1]) for i in range(past)]
    # redundancy: mean cosine with every other key, the latest close one of each row spared
    unit = torch.stack([entry.key / (entry.key.norm() + 1e-8) for entry in head.kept])
    cosines = (unit @ unit.T).tolist()
    sums = [0.0] * n
    for i in range(n):
        close = [j for j in range(n) if j != i and cosines[i][j] > options["threshold"]]
        spared = close[-1] if close else 0
        for j in range(n):
            if j not in (i, spared):
                sums[j] += cosines[i][j]
    exponentials = [math.exp(total / n) for total in sums]
    redundancy = [x / sum(exponentials) for x in exponentials]
    mix = options["mix"]
    scores = [mix * importance[i] - (1 - mix) * redundancy[i] for i in range(past)]
    return best(scores + [0.0] * window, retain, options)


def on_grid(group: Any, bits: int) -> Any:
    """One group of entries to its nearest grid points."""
    top = 2 ** (bits - 1) - 1
    scale = float(torch.tensor(float(group.abs().max()) / top, dtype=torch.float16))
    scale = max(scale, 2.0**-24)
    return torch.tensor([max(-top, min(top, round(float(torch.tensor(float(x)) / scale)))) * scale for x in group])


def round_by_token(entries: list[Entry], bits: int, size: int) -> None:
    for entry in entries:
        for name in ("key", "value"):
            vector = getattr(entry, name)
            groups = [on_grid(vector[i : i + size], bits) for i in range(0, len(vector), size)]
            setattr(entry, name, torch.cat(groups))


def due_positions(options: dict[str, Any], done: int) -> range:
    """Positions of the tokens that become older than the exact window in one group; empty where none do."""
    stop = done - options["residual"]
    return range(stop - options["group"], stop) if stop > 0 and stop % options["group"] == 0 else range(0)


def round_by_channel(kept: list[Entry], bits: int, options: dict[str, Any], done: int) -> None:
    some = [kept[i] for i in due_positions(options, done)]
    if not some:
        return
    for name in ("key", "value"):
        block = torch.stack([getattr(entry, name) for entry in some])
        for channel in range(block.shape[1]):
            block[:, channel] = on_grid(block[:, channel], bits)
        for entry, row in zip(some, block, strict=True):
            setattr(entry, name, row)
