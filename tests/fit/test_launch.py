"""Where chains begin: at the Laplace approximation, or, resumed, anywhere of its shape."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from simulated import template

from tslaw.fit import infer
from tslaw.fit.model import Prior
from tslaw.fit.nuts import Checkpoint


def test_a_resumed_run_does_not_look_for_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, prior, kept = template(n_problems=3), Prior(), Checkpoint(tmp_path / "fit.nc.unfinished.npz", "this run")
    asked: list[object] = []
    monkeypatch.setattr(infer, "laplace", lambda *arguments: asked.append(arguments))
    infer.launch(data, prior, 5, kept)
    infer.launch(data, prior, 5, None)
    assert asked == [(data, prior, 5)] * 2
    kept.save([np.zeros(3)])
    resumed = infer.launch(data, prior, 5, kept)
    assert len(asked) == 2
    starts = infer.chain_starts(resumed.mode, resumed.covariance, 2, 0)
    assert jax.tree.map(np.shape, starts) == {name: (2, *np.shape(at)) for name, at in resumed.mode.items()}
