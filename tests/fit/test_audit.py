"""scaling-audit on cells of a measurement: its scores are those of the regressions fitted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated import draw_truth, template

from tslaw.calibrate.audit import FEATURES, audit_sizes, cells
from tslaw.errors import TslawError
from tslaw.fit.simulate import simulate_task

EMPTY = template(20, (16, 4), (1000, 4000, 16000), ("Qwen3-1.7B", "Qwen3-4B", "Qwen3-14B"))
DATA = simulate_task(EMPTY, draw_truth(5, EMPTY), 8, 5)


def test_cells_are_the_measured_ones() -> None:
    frame, accuracy, models = cells(DATA)
    assert tuple(frame.columns) == FEATURES
    assert len(frame) == len(accuracy) == len(models) == 6 * 3
    seen, _ = DATA.accuracy()
    row = next(
        i
        for i in range(len(frame))
        if models[i] == "Qwen3-4B" and frame["bits_lost"][i] == 2.0**-4 and frame["log_budget"][i] == np.log(4000)
    )
    assert accuracy[row] == seen[DATA.arms.index("Qwen3-4B:w4:full"), 1]


def test_scores_are_errors_in_the_size_left_out() -> None:
    found = audit_sizes(DATA).set_index(["group", "estimator"])
    frame, accuracy, models = cells(DATA)
    held = models == "Qwen3-14B"
    logit = np.log(np.clip(accuracy, 0.01, 0.99) / (1 - np.clip(accuracy, 0.01, 0.99)))
    x = frame.to_numpy()
    x = (x - x[~held].mean(axis=0)) / x[~held].std(axis=0)
    i, j = np.triu_indices(3)
    design = np.concatenate([x, x[:, i] * x[:, j]], axis=1)
    middle, level = design[~held].mean(axis=0), logit[~held].mean()
    centred = design[~held] - middle
    slope = np.linalg.solve(centred.T @ centred + np.eye(9), centred.T @ (logit[~held] - level))
    predicted = 1 / (1 + np.exp(-(level + (design[held] - middle) @ slope)))
    expected = np.sqrt(np.mean((predicted - accuracy[held]) ** 2))
    assert found.loc[("Qwen3-14B", "logit, quadratic"), "score"] == pytest.approx(expected, rel=1e-6)
    ends = found.xs("forest", level="estimator")["mahalanobis"]
    assert ends["Qwen3-4B"] == ends.min(), "the middle size is the nearest to the others"


def test_two_sizes_are_too_few() -> None:
    two = replace(DATA, shapes={m: s for m, s in DATA.shapes.items() if m != "Qwen3-14B"})
    with pytest.raises(TslawError, match="Too few sizes"):
        audit_sizes(two)
