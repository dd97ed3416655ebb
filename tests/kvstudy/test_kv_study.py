"""The files that the repository holds, as a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tslaw.kvstudy.advance import advance
from tslaw.kvstudy.study import load_study

MEASUREMENTS = Path(__file__).parents[2] / "measurements"


def test_the_repositorys_measurements_are_one_study() -> None:
    pytest.importorskip("transformers")  # its tokenizer counts the prompts
    study = load_study(MEASUREMENTS, "ladder-knowledge", draws=20, seed=0)
    plain, pinned = study.plain["formula"], study.pinned["formula"]
    assert len(plain) == (18 + 234) * 6
    assert len(pinned) == (18 + 36) * 6
    assert plain.rows.shape[1] == len(study.kind) == study.weights.shape[1] == 64
    assert set(study.kind.tolist()) == {"hops1", "hops2", "hops4", "hops8"}
    assert set(pinned.policy[~pinned.full]) == {
        f"{e}:{r} pinned" for e in ("streaming", "rkv", "random") for r in (32, 64)
    }
    assert np.array_equal(plain.rows, study.plain["held"].rows)
    assert (study.plain["held"].cache > plain.cache).all()
    found = advance(plain, study.weights, study.partition, 16)
    assert (found.area > 0).all()
