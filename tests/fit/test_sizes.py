"""A family as a curve of sizes: exact at its models, log-linear between and beyond them, invertible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import qwen3_shapes

from tslaw.errors import TslawError
from tslaw.fit.sizes import size_curve
from tslaw.memory import kv_bytes_per_token, n_params, weight_bytes
from tslaw.units import format_bytes, parse_bytes

CURVE = size_curve(qwen3_shapes(), 8, "checkpoint")


def test_exact_at_the_models() -> None:
    for shape in qwen3_shapes().values():
        at = np.log(n_params(shape))
        assert CURVE.weight(at) == pytest.approx(weight_bytes(shape, 8, "checkpoint"))
        assert CURVE.kv_per_token(at) == pytest.approx(kv_bytes_per_token(shape))


@given(st.floats(-3, 3))
def test_extrapolated_with_the_slope_of_the_last_piece(beyond) -> None:
    for end, neighbour in ((0, 1), (-1, -2)):
        outwards = abs(beyond) * (1 if end else -1)
        slope = (CURVE.log_weight[end] - CURVE.log_weight[neighbour]) / (
            CURVE.log_params[end] - CURVE.log_params[neighbour]
        )
        found = np.log(CURVE.weight(CURVE.log_params[end] + outwards))
        assert found == pytest.approx(CURVE.log_weight[end] + slope * outwards)


@given(st.floats(15, 30), st.floats(15, 30))
def test_weight_rises_and_its_inverse_undoes_it(a, b) -> None:
    assert CURVE.log_params_at_weight(CURVE.weight(np.array(a))) == pytest.approx(a, abs=1e-9)
    if a < b:
        assert CURVE.weight(np.array(a)) < CURVE.weight(np.array(b))


def test_a_curve_needs_two_different_sizes() -> None:
    shape = qwen3_shapes()["Qwen3-4B"]
    with pytest.raises(TslawError, match="at least two"):
        size_curve({"one": shape}, 8, "checkpoint")
    with pytest.raises(TslawError, match="do not rise"):
        size_curve({"one": shape, "same": shape}, 8, "checkpoint")


@given(st.floats(1e-3, 1e6), st.sampled_from(["B", "kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_amounts_are_read_with_any_unit(amount, unit) -> None:
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    for text in (f"{amount}{unit}", f" {amount} {unit.lower()} "):
        assert parse_bytes(text) == pytest.approx(amount * factor)


@given(st.floats(1, 2**45))
def test_amounts_are_written_as_they_are_read(amount) -> None:
    assert parse_bytes(format_bytes(amount)) == pytest.approx(amount, rel=0.5 if amount < 2**10 else 6e-3)


@pytest.mark.parametrize("text", ["", "24", "GiB", "-3GiB", "0MiB", "1e999GiB", "nanGiB", "3 GiB 2", "2 potatoes"])
def test_amounts_that_make_no_sense(text) -> None:
    with pytest.raises(TslawError, match="not an amount of memory"):
        parse_bytes(text)
