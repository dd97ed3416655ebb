"""A quick fit beside a sampled one: what is compared, how far apart, and how that is said."""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from simulated import draw_truth, posterior_of, template

from tslaw.calibrate.beside import (
    CROSSOVER,
    KINDS,
    MEASURED,
    PARAMETER,
    UNSEEN,
    Compared,
    Quantity,
    compared,
    reported,
    summaries,
)
from tslaw.errors import TslawError

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts/quick_beside_nuts.py"))
RNG = np.random.default_rng(0)


def test_medians_are_apart_in_standard_deviations_of_the_first_and_widths_are_its_shares() -> None:
    normal = RNG.standard_normal(20_000)
    its = [Quantity(PARAMETER, "mu0", 3.0 + 2.0 * normal), Quantity(CROSSOVER, "W+", np.full(10, 1.0))]
    mine = [Quantity(PARAMETER, "mu0", 4.0 + 1.0 * normal), Quantity(CROSSOVER, "W+", np.linspace(0, 1, 10))]
    found, censored = compared(its, mine)
    assert found.shift == pytest.approx(0.5, abs=0.02)
    assert found.width == pytest.approx(0.5, abs=0.01)
    assert found.sd == pytest.approx(2.0, abs=0.05)
    assert np.isnan([censored.shift, censored.width]).all(), "one value has neither spread nor width"
    with pytest.raises(ValueError, match="beside"):
        compared(its, mine[::-1])


def test_the_worst_of_a_kind_is_named() -> None:
    def one(kind: str, name: str, shift: float, width: float) -> Compared:
        return Compared(kind, name, 0.0, shift, (-1.0, 1.0), (-width, width), 1.0)

    found = [
        one(PARAMETER, "a", 0.1, 1.5),
        one(PARAMETER, "b", -2.0, 0.5),
        one(PARAMETER, "c", 0.3, 1.0),
        one(MEASURED, "d", 0.2, 0.9),
        Compared(CROSSOVER, "e", 1.0, 1.0, (1.0, 1.0), (1.0, 1.0), 0.0),
    ]
    crossovers, accuracies, parameters, together = summaries(found)
    assert (crossovers.kind, crossovers.n, crossovers.worst) == (CROSSOVER, 1, "")
    assert (accuracies.kind, accuracies.narrowest_width) == (MEASURED, pytest.approx(0.9))
    assert (parameters.middle_shift, parameters.worst_shift, parameters.worst) == pytest.approx((0.3, 2.0, "b"))
    assert (parameters.narrowest, parameters.widest, parameters.middle_width) == ("b", "a", pytest.approx(1.0))
    assert (together.kind, together.n, together.worst) == ("all", 5, "b")
    row = SCRIPT["summary_row"]
    assert row(parameters) == [PARAMETER, "3", "0.30", "2.00", "b", "1.00", "0.50", "b", "1.50", "a"]
    assert row(crossovers)[2] == "not known"


@pytest.mark.slow
def test_all_that_a_fit_reports_is_compared() -> None:
    data = template(4, (16, 8, 4), (1000, 4000, 16000), ("Qwen3-1.7B", "Qwen3-4B", "Qwen3-14B"))
    found = reported(posterior_of([draw_truth(seed, data) for seed in range(3)], data))
    counts = [sum(q.kind == kind for q in found.quantities) for kind in KINDS]
    assert counts[:3] == [3, 3 * 3 * 3, 4 * 3]
    assert all(q.draws.shape == (3,) and np.isfinite(q.draws).all() for q in found.quantities)
    unseen = [q.name for q in found.quantities if q.kind == UNSEEN]
    assert sum("3 bits" in name for name in unseen) == sum("6 bits" in name for name in unseen) == 3
    assert all(0 <= p <= 1 for p in found.probabilities.values())
    assert sum("weight bits are best" in name for name in found.probabilities) == 5 * 3
    assert sum("measured sizes" in name for name in found.probabilities) == 3


def test_sizes_probabilities_and_unknowns_are_said_plainly() -> None:
    one, two = np.log(2.0**20), np.log(2.0**21)
    found = Compared(CROSSOVER, "W+", one, two, (one, one), (one, two), 0.5, (one, np.log(2.0**22)))
    row = SCRIPT["quantity_row"](found)
    assert row[2:4] == ["< 1 MiB [< 1 MiB, < 1 MiB]", "2 MiB [< 1 MiB, 2 MiB]"]
    assert row[4:] == ["+1.39", "not known"]
    apart = SCRIPT["probabilities_apart"]
    assert apart({"a": 0.5, "b": 0.2}, {"a": 0.505, "b": 0.2}) == "Of 2 probabilities 0 are more than 0.01 apart.\n"
    said = apart({"a": 0.5, "b": 0.2, "c": 1.0}, {"a": 0.6, "b": 0.0, "c": 1.0})
    assert said.startswith("Of 3 probabilities 2 are more than 0.01 apart, at most 0.200:")
    assert said.index("| b | 0.200 | 0.000 | -0.200 |") < said.index("| a | 0.500 | 0.600 | +0.100 |")


def test_fits_of_other_data_are_not_compared(tmp_path: Path) -> None:
    data = tmp_path / "data.nc"
    data.write_bytes(b"measured")

    def fit(digest: str) -> SimpleNamespace:
        return SimpleNamespace(attrs={"provenance": json.dumps({"inputs": {"data.nc": digest}})})

    right, wrong = fit(hashlib.sha256(b"measured").hexdigest()), fit("another")
    SCRIPT["check_origin"]([right, right], data)
    with pytest.raises(TslawError, match="quick fit is of other data"):
        SCRIPT["check_origin"]([right, wrong], data)


def test_a_quick_fit_that_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, commands = tmp_path / "fits/math.nc", []

    def run(command: list[str], **_: object) -> None:
        commands.append(command)
        out.parent.mkdir(exist_ok=True)
        out.write_bytes(b"a fit")

    monkeypatch.setattr(SCRIPT["subprocess"], "run", run)
    first = SCRIPT["fitted"](tmp_path / "math.nc", out)
    assert SCRIPT["fitted"](tmp_path / "math.nc", out) == first
    assert len(commands) == 1
    assert commands[0][2:] == ["tslaw", "fit", str(tmp_path / "math.nc"), "--out", str(out), "--quick", "--overwrite"]
    assert first["seconds"] >= 0
    assert first["machine"]["cores"] >= 1
