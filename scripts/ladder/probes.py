"""What kind of token a prediction is for: labels for the validation rows, and the share of right ones by label."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tslaw.measure.tasks import ladder_world as w

KINDS = ("index", "name", "value", "sum", "result", "plurality", "answer", "fact", "other")


class Labels(NamedTuple):
    """Per token: the kind of its successor; the octave of the rank of the item or entity it recalls (-1: none)."""

    kind: Tensor
    item_octave: Tensor
    entity_octave: Tensor


def _between(x: Tensor, low: int, high: int) -> Tensor:
    return (x >= low) & (x < high)


def _octave(rank: Tensor, lowest: int, where: Tensor) -> Tensor:
    return torch.where(where, (torch.log2(rank.float() + 1) - np.log2(lowest)).floor().clamp_min(0).long(), -1)


def _rank_of(order: np.ndarray, first: Tensor, second: Tensor, n_second: int) -> Tensor:
    ranks = torch.from_numpy(np.argsort(order)).to(first.device)
    thing = (first - w.SYLLABLE_0).clamp(0, len(order) // n_second - 1) * n_second
    return ranks[thing + (second - w.SYLLABLE_0).clamp(0, n_second - 1)]


def _label_rows(rows: Tensor) -> Labels:
    token = (rows.to(torch.int32) & 0x7FFF).long()
    zero = torch.zeros_like(token[:, :1])
    following, previous = torch.cat([token[:, 1:], zero], 1), torch.cat([zero, token[:, :-1]], 1)
    before = torch.cat([zero, previous[:, :-1]], 1)

    def syllable(x: Tensor) -> Tensor:
        return _between(x, w.SYLLABLE_0, w.RELATION_0)

    value, next_value = _between(token, w.VALUE_0, w.INDEX_0), _between(following, w.VALUE_0, w.INDEX_0)
    index, next_index = _between(token, w.INDEX_0, w.SYLLABLE_0), _between(following, w.INDEX_0, w.SYLLABLE_0)
    recalls = next_value & syllable(token) & syllable(previous)
    fact = syllable(following) & _between(token, w.RELATION_0, w.VOCAB_SIZE)
    fact_second = syllable(following) & syllable(token) & _between(previous, w.RELATION_0, w.VOCAB_SIZE)
    kind = torch.full_like(token, 8)
    kind[next_index] = 0
    kind[syllable(following) & (index | (syllable(token) & _between(previous, w.INDEX_0, w.SYLLABLE_0)))] = 1
    kind[recalls] = 2
    kind[next_value & value & syllable(previous)] = 3
    for i, marker in ((4, w.RESULT), (5, w.MODE), (6, w.ANS)):
        kind[token == marker] = i
    kind[fact | fact_second] = 7
    items = _rank_of(w.item_order(), previous, token, w.N_SYLLABLES)
    entities = _rank_of(w.entity_order(), before, previous, w.N_ENTITY_SYLLABLES)
    return Labels(*(x.flatten() for x in (kind, _octave(items, 512, recalls), _octave(entities, 128, fact))))


def label(pieces: list[Tensor]) -> Labels:
    """Labels of flat batches of rows."""
    return Labels(*(torch.cat(parts) for parts in zip(*(_label_rows(p) for p in pieces), strict=True)))


def shares(right: Tensor, weight: Tensor, labels: Labels) -> dict[str, object]:
    """Share of right predictions by kind; of values by the item's octave; of facts by the entity's octave."""

    def mean(chosen: Tensor) -> float | None:
        chosen = chosen & (weight > 0)
        return round(float(right[chosen].mean()), 3) if bool(chosen.any()) else None

    return {**{kind: mean(labels.kind == i) for i, kind in enumerate(KINDS[:8])},
            "value_by_octave": [mean(labels.item_octave == i) for i in range(w.MATH_OCTAVES)],
            "fact_by_octave": [mean(labels.entity_octave == i) for i in range(w.KNOW_OCTAVES)]}  # fmt: skip
