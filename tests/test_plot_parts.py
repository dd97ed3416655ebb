"""What the figures are made of: intervals, ranks, units, styles, and writing whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.stats import beta

from tslaw.plots.style import binomial_interval, bit_styles, memory_unit
from tslaw.plots.trace_rank import rank_histograms

WRITE_WITH_LITTLE_ROOM = """
import resource, sys
from pathlib import Path
from tslaw.plots.write import write_all
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
out = Path(sys.argv[1])
try:
    write_all({out / "a.png": b"new" * 100, out / "b.png": b"new" * 1000})
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_a_write_that_fails_midway_changes_nothing(tmp_path: Path) -> None:
    """The operating system refuses to let the second file grow, as a full disk would."""
    (tmp_path / "a.png").write_text("old")
    command = [sys.executable, "-c", WRITE_WITH_LITTLE_ROOM, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("TslawError: The figures could not be written")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_text() == "old"


def test_binomial_interval_is_that_of_jeffreys() -> None:
    accuracy, probes = np.array([0.0, 0.3, 1.0]), np.array([20.0, 20.0, 20.0])
    low, high = binomial_interval(accuracy, probes)
    np.testing.assert_allclose([low[1], high[1]], beta(6.5, 14.5).interval(0.9))
    assert low[0] == 0.0
    assert high[2] == 1.0


def test_rank_histograms_are_flat_for_mixed_chains_and_show_a_stuck_one() -> None:
    rng = np.random.default_rng(0)
    mixed = rank_histograms(rng.normal(size=(4, 5000)))
    np.testing.assert_allclose(mixed, 1.0, atol=0.15)
    np.testing.assert_allclose(mixed.mean(axis=1), 1.0)
    stuck = rank_histograms(rng.normal([[0.0], [10.0]], size=(2, 5000)))
    np.testing.assert_allclose(stuck[0], [2.0] * 5 + [0.0] * 5)


def test_units_and_styles() -> None:
    assert memory_unit(np.array([0.7, 60.0]) * 2**30).name == "GiB"
    assert memory_unit(np.array([0.4, 8.0]) * 2**20).name == "MiB"
    assert memory_unit(np.array([5.0, 90.0])).name == "bytes"
    styles = bit_styles([4, 3, 16, 2])
    assert list(styles) == [16.0, 4.0, 3.0, 2.0]
    assert len({s.marker for s in styles.values()}) == 4
    assert styles[4.0] == bit_styles([4])[4.0]
