"""A dataset as a table of configurations, and how its caches are counted."""

from __future__ import annotations

import numpy as np
import pytest

from measurements import BUDGETS, LARGE, PROBLEMS, good_dataset
from tslaw.errors import TslawError
from tslaw.kvstudy.configurations import Held, configurations, formula, joined
from tslaw.memory import kv_bytes, kv_bytes_per_token, weight_bytes
from tslaw.policy import FULL, parse_kv_policy
from tslaw.votes import pass_at_1


def test_a_dataset_as_a_table() -> None:
    ds = good_dataset()
    table = configurations(ds, formula)
    assert len(table) == 3 * len(BUDGETS)
    hybrid = table.where(table.kind == "rkv+quantized")
    policy = parse_kv_policy("rkv:128+quantized:4")
    assert list(hybrid.budget) == list(BUDGETS)
    assert hybrid.cache == pytest.approx([kv_bytes(LARGE, b, 1, policy) for b in BUDGETS])
    assert hybrid.memory(4) == pytest.approx(weight_bytes(LARGE, 4, "checkpoint") / 4 + hybrid.cache)
    assert (hybrid.kv_bits == 4).all()
    assert (hybrid.retain == 128).all()
    assert np.array_equal(table.rows.reshape(3, len(BUDGETS), -1), pass_at_1(ds["correct"].values))
    assert hybrid.saves.all()
    assert not table.saves[table.full].any()


def test_some_problems_and_budgets_in_the_order_given() -> None:
    ds = good_dataset()
    some = configurations(ds, formula, PROBLEMS[2:0:-1], BUDGETS[1:], pinned=True)
    whole = configurations(ds, formula)
    assert np.array_equal(some.rows, whole.rows[whole.budget > BUDGETS[0]][:, [2, 1]])
    assert some.policy[0] == "full pinned"
    assert len(joined([whole, configurations(ds, formula)])) == 2 * len(whole)
    with pytest.raises(TslawError, match="no problem 'p9'"):
        configurations(ds, formula, ["p9"])
    with pytest.raises(TslawError, match="no budget 5"):
        configurations(ds, formula, None, [5])


def test_bytes_that_are_really_held() -> None:
    native = kv_bytes_per_token(LARGE)
    held = Held(np.array([10, 30]), buffer=32, residual=32, group=32)
    assert held(LARGE, FULL, 100) == pytest.approx(120 * native)
    assert held(LARGE, parse_kv_policy("rkv:64"), 80) == pytest.approx((90 + 96) / 2 * native)
    # 63 tokens at 16 bits, the rest at 4 bits and a scale of 16 bits for 32 entries
    assert held(LARGE, parse_kv_policy("quantized:4"), 100) == pytest.approx((63 + 57 * 4.5 / 16) * native)
    assert held(LARGE, parse_kv_policy("quantized:4"), 20) == pytest.approx(40 * native)
    both = held(LARGE, parse_kv_policy("rkv:64+quantized:4"), 500)
    assert both == pytest.approx((63 + 33 * 4.5 / 16) * native)
