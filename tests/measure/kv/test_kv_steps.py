"""Rounds, events and edited block tables without vLLM, on a cache as FlashAttention lays it out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch

from tslaw.errors import TslawError
from tslaw.measure.kv.effects import EFFECTS
from tslaw.measure.kv.events import _pieces
from tslaw.measure.kv.evictors import Held
from tslaw.measure.kv.evictors.random import POLICY
from tslaw.measure.kv.queries import Slots
from tslaw.measure.kv.settings import KVSettings

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[2] / "reference")]
from kv_reference import attend
from paging import LENGTHS, PlainPager, deviations, random_sequence
from session import POLICIES

HEADS, KV_HEADS, HEAD_DIM, SCALE, LAYER = 4, 2, 16, 0.25, 3


@pytest.fixture(autouse=True)
def one_thread():
    """These tensors are small: threads would only wait for each other, the more so where tests share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", POLICIES)
def test_outputs_are_the_references_however_sequences_are_paged(name):
    policy, options = POLICIES[name]
    settings = KVSettings.read(policy, options)
    sequences = [random_sequence(n, HEADS, KV_HEADS, HEAD_DIM, torch.float32, i) for i, n in enumerate(LENGTHS)]
    wanted = [
        attend(policy, settings.options, s.queries, s.keys, s.values, SCALE, LAYER, s.tokens.tolist())[0]
        for s in sequences
    ]
    pager = PlainPager(KV_HEADS, HEAD_DIM, SCALE, LAYER, settings, torch.float32)
    EFFECTS.reset()
    found = deviations(pager, sequences, wanted)
    assert max(found.values()) < 1e-4
    assert (EFFECTS.evictions > 0) == (settings.evictor is not None)
    assert (EFFECTS.as_dict()["changed"] > 0) == (settings.quantizer is not None)
    assert EFFECTS.as_dict()["lost_queries"] == 0


@pytest.mark.parametrize("policy", ["streaming:8", "rkv:16", "random:16"])
def test_what_is_kept_of_a_sequence_does_not_depend_on_the_others(policy, monkeypatch):
    monkeypatch.setattr("tslaw.measure.kv.evictors.rkv.PAIRS_AT_ONCE", 2 * KV_HEADS * 40 * 40)
    name, retain = policy.split(":")
    module = __import__(f"tslaw.measure.kv.evictors.{name}", fromlist=["POLICY"])
    evictor = module.POLICY(int(retain))
    each = [random_sequence(40, HEADS, KV_HEADS, HEAD_DIM, torch.float32, seed) for seed in range(5)]
    keys = torch.stack([s.keys.transpose(0, 1) for s in each])
    queries = torch.stack([s.queries[-evictor.n_queries or 40 :] for s in each])
    positions = [40, 56, 40, 72, 56]
    seeds = torch.tensor([3, 1, -4, 1, 5])
    together = evictor.keep(Held(keys, queries, SCALE, 0, positions, seeds))
    one = [slice(i, i + 1) for i in range(5)]
    alone = [evictor.keep(Held(keys[i], queries[i], SCALE, 0, positions[i], seeds[i])) for i in one]
    assert together.shape == (5, KV_HEADS, int(retain))
    assert torch.equal(together, torch.cat(alone))
    assert (together.diff(dim=-1) > 0).all()


def test_a_draw_is_the_sequences_own_and_uniform():
    """Of 40 held tokens 16 are kept, the last 8 always: a quarter of the rest, whatever the seed."""
    keys, seeds = torch.zeros(400, KV_HEADS, 40, 4), torch.arange(400) - 200
    kept = POLICY(16).keep(Held(keys, None, SCALE, 2, [40] * 400, seeds))
    assert torch.equal(kept, POLICY(16).keep(Held(keys, None, SCALE, 2, [40] * 400, seeds)))
    assert len({tuple(places.flatten().tolist()) for places in kept}) == 400
    shares = torch.zeros(40).index_add(0, kept.flatten(), torch.ones(kept.numel())) / (400 * KV_HEADS)
    assert (shares[32:] == 1).all()
    assert shares[:32].tolist() == pytest.approx([0.25] * 32, abs=5 * (0.25 * 0.75 / 800) ** 0.5)
    for other in (Held(keys, None, SCALE, 3, [40] * 400, seeds), Held(keys, None, SCALE, 2, [72] * 400, seeds)):
        assert (POLICY(16).keep(other) != kept).any(dim=-1).float().mean() > 0.99


def test_equally_long_sequences_side_by_side_lose_different_places_unless_their_tokens_are_the_same():
    settings = KVSettings.read("random:64", {"buffer": 32})
    pager = PlainPager(KV_HEADS, HEAD_DIM, SCALE, LAYER, settings, torch.float32)
    one, same, another, later = (random_sequence(100, HEADS, KV_HEADS, HEAD_DIM, torch.float32, 1) for _ in range(4))
    another.tokens[5] += 1
    later.tokens[70] += 1  # after the tokens that the draw is made of
    pager.step([(s, 50) for s in (one, another, later)])
    pager.step([(one, 50), (same, 100), (later, 50), (another, 50)])
    first, *others = (torch.cat(s.outputs) for s in (one, same, later, another))
    assert torch.equal(first[:96], others[2][:96])
    assert (first[96:] != others[2][96:]).any(dim=-1).all()
    for other in others[:2]:
        assert torch.allclose(first, other, atol=1e-6)


def test_a_draw_without_token_ids_is_refused(monkeypatch):
    settings = KVSettings.read("random:64", {"buffer": 32})
    pager = PlainPager(KV_HEADS, HEAD_DIM, SCALE, LAYER, settings, torch.float32)
    monkeypatch.setattr("tslaw.measure.kv.tokens.STEP.note", lambda ids: None)
    monkeypatch.setattr("tslaw.measure.kv.tokens.STEP.ids", None)
    with pytest.raises(TslawError, match="no token ids"):
        pager.step([(random_sequence(9, HEADS, KV_HEADS, HEAD_DIM, torch.float32, 1), 9)])


def test_sequences_that_are_too_many_at_once_are_compacted_in_pieces(monkeypatch):
    monkeypatch.setattr("tslaw.measure.kv.events.ENTRIES_AT_ONCE", 100)
    assert _pieces(torch.zeros(5, 6), 8) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert _pieces(torch.zeros(2, 60), 8) == [slice(0, 1), slice(1, 2)]


def no_block(*numbers: int) -> torch.Tensor:
    return torch.zeros(len(numbers), dtype=torch.bool)


def test_a_sequence_keeps_its_slot_while_others_come_and_go():
    slots, first = Slots(3, "cpu"), torch.tensor([7, 100, 101])
    mine = int(slots.of(first, no_block(7, 100, 101))[0])
    for step in range(2, 40):
        others = torch.tensor([100 + step, 7, 101 + step])
        found = slots.of(others, torch.tensor([False, True, False]))
        assert int(found[1]) == mine
        assert len(set(found.tolist())) == 3


def test_queries_that_were_given_away_are_counted():
    slots = Slots(1, "cpu")
    EFFECTS.reset()
    for block in (1, 2, 3):
        slots.of(torch.tensor([block]), no_block(block))
    assert EFFECTS.as_dict()["lost_queries"] == 0
    slots.of(torch.tensor([3]), torch.tensor([True]))
    slots.of(torch.tensor([1]), torch.tensor([True]))
    assert EFFECTS.as_dict()["lost_queries"] == 1
    EFFECTS.reset()
