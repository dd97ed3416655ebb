"""What the default prior says before any data, in terms that a user can judge."""

from __future__ import annotations

import numpy as np

from tslaw.calibrate.sbc import as_posterior, draw_truth
from tslaw.fit.data import TaskData
from tslaw.fit.model import Prior


def prior_statements(data: TaskData, prior: Prior, draws: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Statements about the middle size of a family, (draw,) each, in points of accuracy (0 to 100).

    `data` is a design: arms, problems and budgets; its trajectories are not looked at.
    """
    truths = [draw_truth(data, prior, seed * draws + i) for i in range(draws)]
    posterior = as_posterior({name: np.stack([t[name] for t in truths]) for name in truths[0]}, data)
    nobody = np.zeros(draws)
    budgets = np.geomspace(data.budgets[0], data.budgets[-1], 24)

    def curve(x: float, bits: float) -> np.ndarray:
        return 100.0 * posterior.accuracy(x, bits, budgets, nobody)

    native, low, half, double = curve(0.0, 16.0), curve(0.0, 4.0), curve(0.0, 8.0), curve(float(np.log(2.0)), 16.0)
    best = native.max(axis=1)
    reached = np.argmax(native >= 0.95 * best[:, None], axis=1)
    return {
        "accuracy at the largest budget": native[:, -1],
        "lost by 4-bit weights there": native[:, -1] - low[:, -1],
        "lost by 8-bit weights there": native[:, -1] - half[:, -1],
        "gained by twice the size there": double[:, -1] - native[:, -1],
        "gained by thinking: largest budget over the smallest": native[:, -1] - native[:, 0],
        "lost again by thinking too long: best budget over the largest": best - native[:, -1],
        "budget for 95% of the best, as a share of the largest (%)": 100.0 * budgets[reached] / budgets[-1],
    }
