"""A comparison on disk: JSON (the table), or netCDF with every pair's elpd and Pareto k and every cell's prediction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tslaw
from tslaw.atomic import writing
from tslaw.fit.compare import INTERVAL, Comparison
from tslaw.fit.fit_file import refuse_existing
from tslaw.fit.infer import Sampling
from tslaw.fit.inputs import input_hashes

if TYPE_CHECKING:
    import xarray as xr

SCHEMA, SCHEMA_VERSION = "tslaw-comparison", 1


def save_comparisons(
    comparisons: Sequence[Comparison], path: Path, inputs: Sequence[Path], sampling: Sampling, overwrite: bool = False
) -> Path:
    """Write comparisons whole or not at all, as JSON or netCDF by the path's ending.

    Raises
    ------
    TslawError : the file exists and is not to be replaced, or it cannot be written.
    """
    refuse_existing(path, overwrite)
    attrs = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "tslaw": tslaw.__version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "inputs": input_hashes(inputs),
        "sampling": {k: v for k, v in asdict(sampling).items() if k != "progress"},
        "comparisons": [comparison.as_dict() for comparison in comparisons],
    }
    with writing(path, "The comparison") as temporary:
        if path.suffix == ".json":
            temporary.write_text(json.dumps(attrs, indent=2) + "\n")
        else:
            as_tree(comparisons, attrs).to_netcdf(temporary, engine="netcdf4")
    return path


def as_tree(comparisons: Sequence[Comparison], attrs: dict[str, Any]) -> xr.DataTree:
    """One group a task."""
    import xarray as xr

    tree = xr.DataTree.from_dict({"/": xr.Dataset()} | {c.task: task_dataset(c) for c in comparisons})
    tree.attrs = {k: v if isinstance(v, int | str) else json.dumps(v) for k, v in attrs.items()}
    return tree


def task_dataset(comparison: Comparison) -> xr.Dataset:
    """`elpd` and `pareto_k` (surface, model, problem), NaN where nothing was measured; `predicted` (surface, quantile,
    arm, budget) at 5, 50 and 95%, and the `measured` accuracy (arm, budget)."""
    import xarray as xr

    data, fits = comparison.fits[0].data, comparison.fits
    quantiles = (INTERVAL[0], 0.5, INTERVAL[1])
    pair = ("surface", "model", "problem")
    return xr.Dataset(
        {
            "elpd": (pair, np.stack([f.left_out.table(f.left_out.loo.elpd_i.values) for f in fits])),
            "pareto_k": (pair, np.stack([f.left_out.table(f.left_out.loo.pareto_k.values) for f in fits])),
            "predicted": (
                ("surface", "quantile", "arm", "budget"),
                np.stack([np.quantile(f.replicas.accuracy, quantiles, axis=0) for f in fits]),
            ),
            "measured": (("arm", "budget"), fits[0].replicas.measured_accuracy),
        },
        coords={
            "surface": [f.surface.name for f in fits],
            "model": list(dict.fromkeys(data.models)),
            "problem": list(data.problems),
            "arm": list(data.arms),
            "budget": data.budgets.astype(int),
            "quantile": list(quantiles),
        },
    )
