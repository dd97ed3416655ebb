"""The dequantizer against packing and unpacking one weight at a time: equal to the last bit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
from gptq_reference import pack_rows, weight

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("less_one", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
def test_dequantizing_is_exact(bits, less_one, act_order):
    from tslaw.measure.gptq_unpack import dequantize_linear, dequantize_state

    rng = np.random.default_rng(bits)
    n_in, n_out, group = 64, 24, 16
    levels = rng.integers(0, 2**bits, (n_in, n_out))
    zeros = rng.integers(1, 2**bits - 1, (n_in // group, n_out))
    scales = rng.normal(size=(n_in // group, n_out)).astype(np.float16)
    groups = np.arange(n_in) // group
    if act_order:
        groups = rng.permutation(groups)
    state = {
        "a.qweight": torch.from_numpy(pack_rows(levels, bits)),
        "a.qzeros": torch.from_numpy(pack_rows((zeros - less_one).T, bits).T.copy()),
        "a.scales": torch.from_numpy(scales),
        "a.g_idx": torch.from_numpy(groups.astype(np.int32)),
        "norm.weight": torch.ones(3),
    }
    expected = weight(levels, zeros, scales, groups)
    np.testing.assert_array_equal(dequantize_linear(state, "a", bits, less_one).numpy(), expected)
    plain = dequantize_state(state, bits, less_one, torch.bfloat16)
    assert set(plain) == {"a.weight", "norm.weight"}
    assert torch.equal(plain["a.weight"], torch.from_numpy(expected).to(torch.bfloat16))
