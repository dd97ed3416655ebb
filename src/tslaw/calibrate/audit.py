"""What scaling-audit says of predicting a size that was not measured: its leave-one-group-out score, a size a group.

The package (scaling-audit 0.1, the extra `audit`) fits regressions to all groups but one and
reports the root mean square error in that one, with how far it lies from the others. Here a row is a measured cell (an
arm at a budget), a group a model, and errors are in accuracy, as those of the surface are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tslaw.errors import TslawError
from tslaw.fit.data import TaskData

if TYPE_CHECKING:
    import pandas as pd

FEATURES = ("log_size", "bits_lost", "log_budget")
"""ln(parameters), 2^-bits of a weight (what rounding loses, nearly), ln(tokens)."""
LEAST, MOST = 0.01, 0.99
"""Accuracies that logits are taken of."""


def cells(data: TaskData) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Features, accuracies and models of all measured cells: (cell, feature), (cell,) and (cell,)."""
    import pandas as pd

    accuracy, _ = data.accuracy()
    arm, budget = (i.ravel() for i in np.indices(accuracy.shape))
    columns = (data.log_size[arm], np.exp2(-data.weight_bits[arm]), np.log(data.budgets[budget]))
    seen = np.isfinite(accuracy.ravel())
    frame = pd.DataFrame(dict(zip(FEATURES, columns, strict=True)))[seen]
    return frame.reset_index(drop=True), accuracy.ravel()[seen], np.array(data.models)[arm][seen]


def audit_sizes(data: TaskData, seed: int = 0) -> pd.DataFrame:
    """One row a model and regression, `group`, `estimator`, `score` and the package's diagnostics among its columns.

    The regressions: `logit, quadratic`, ridge regression of the logit of accuracy on the features, their squares and
    products; and `forest`, which cannot predict beyond what it has seen.

    Raises
    ------
    TslawError : scaling-audit is not installed; fewer than three models.
    """
    try:
        from scaling_audit import audit_groups
        from sklearn.compose import TransformedTargetRegressor
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import PolynomialFeatures, StandardScaler
    except ImportError as error:
        raise TslawError("scaling-audit is not installed.", fix="pip install 'tslaw[audit]'") from error
    if len(data.shapes) < 3:
        raise TslawError("Too few sizes to leave one out.", where=f"task {data.task}", expected="three models or more")
    frame, accuracy, models = cells(data)
    features = make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False), Ridge(1.0))
    estimators = {
        "logit, quadratic": TransformedTargetRegressor(
            features, func=_logit, inverse_func=_accuracy, check_inverse=False
        ),
        "forest": RandomForestRegressor(200, random_state=seed),
    }
    return audit_groups(frame, accuracy, models, estimators)


def _logit(accuracy: np.ndarray) -> np.ndarray:
    inside = np.clip(accuracy, LEAST, MOST)
    return np.log(inside) - np.log1p(-inside)


def _accuracy(logit: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logit))
