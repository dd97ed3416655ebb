"""Numbers that a random policy draws by: the published generator's, and seeds that tell sequences apart."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tslaw.measure.kv.hashing import GAMMA, mixed, uniform  # noqa: E402
from tslaw.measure.kv.tokens import TokenTable  # noqa: E402

PUBLISHED = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
"""What SplitMix64 gives from the state 0, as its reference implementation does."""


def test_the_numbers_are_those_of_splitmix64() -> None:
    found = mixed(torch.arange(1, 4) * GAMMA)
    assert [int(x) % 2**64 for x in found] == list(PUBLISHED)
    assert uniform(found).tolist() == [(x >> 11) / 2**53 for x in PUBLISHED]


def test_uniform_numbers_stay_below_one() -> None:
    ends = uniform(torch.tensor([0, -1, 2**63 - 1, -(2**63)]))
    assert ends.tolist() == [0.0, 1 - 2**-53, 0.5 - 2**-53, 0.5]


def test_seeds_tell_tokens_and_their_order_apart() -> None:
    table, slots = TokenTable(), torch.tensor([[4, 5, 6], [0, 1, 2], [7, 8, 9], [10, 11, 3]])
    ids = torch.tensor([3, 1, 2, 3, 1, 2, 1, 3, 2, 3, 1, 0])
    table.put(slots.flatten(), ids, 12)
    first, again, turned, other = table.seeds(slots).tolist()
    assert first == again, "the same tokens, wherever they lie"
    assert len({first, turned, other}) == 3


def test_a_row_that_is_not_stored_changes_no_sequence() -> None:
    """vLLM gives such rows the slot -1, which counted from the end would be the last one."""
    table, slots = TokenTable(), torch.tensor([[6, 7]])
    table.put(slots.flatten(), torch.tensor([3, 1]), 8)
    before = table.seeds(slots)
    table.put(torch.tensor([0, -1]), torch.tensor([5, 9]), 8)
    assert torch.equal(table.seeds(slots), before)
