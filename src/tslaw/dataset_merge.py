"""Put the arms of several measurement datasets of one family and task into one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from tslaw import __version__
from tslaw.dataset_schema import DATA, NOT_MEASURED, VARIABLES
from tslaw.errors import TslawError

if TYPE_CHECKING:
    import xarray as xr

SAME_ATTRS = ("family", "task", "task_version", "task_chance", "temperature", "top_p", "shared_trajectories")
_SAME_COORDS = ("budget", "problem", "level")
_JOINED_ATTRS = ("engine", "engine_version", "device")


def now() -> str:
    """The present time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def merge(datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    """One dataset with the arms of all, in order; samples that one has and another lacks are "not measured" there.

    Answers are renumbered; `seed` is the first dataset's, and everybody's seed and provenance are kept in `provenance`.
    Raises TslawError when they differ in family, task, sampling parameters, budgets or problems, when an arm occurs
    twice, or when they disagree about a model's shape.
    """
    import xarray as xr

    if not datasets:
        raise TslawError("There is nothing to merge.", expected="at least one dataset")
    for position, ds in enumerate(datasets[1:], start=2):
        _refuse_different(datasets[0], ds, position)
    _refuse_twice(datasets)
    answers = np.unique(np.concatenate([ds["answers"].values.astype(np.str_) for ds in datasets]))
    samples = np.unique(np.concatenate([ds["sample"].values for ds in datasets]))
    parts = [_aligned(ds, answers, samples) for ds in datasets]
    merged = xr.concat(
        parts,
        dim="arm",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="override",
    )
    merged["answers"] = ("answer_id", answers, datasets[0]["answers"].attrs)
    merged.attrs = _merged_attrs(datasets)
    return merged


def _refuse_different(first: xr.Dataset, other: xr.Dataset, position: int) -> None:
    for name in SAME_ATTRS:
        if first.attrs[name] != other.attrs[name]:
            raise TslawError(
                f"Datasets with different {name} cannot be merged.",
                where=f"dataset {position}: {other.attrs[name]!r}",
                expected=f"{first.attrs[name]!r}, as in the first",
            )
    for name in _SAME_COORDS:
        if not np.array_equal(first[name].values, other[name].values):
            raise TslawError(
                f"Datasets with different {name} cannot be merged.",
                where=f"dataset {position}: {_few(other[name].values)}",
                expected=f"{_few(first[name].values)}, as in the first",
            )


def _few(values: np.ndarray) -> str:
    shown = ", ".join(str(value) for value in values[:6])
    return f"{shown}, ... ({len(values)} in all)" if len(values) > 6 else shown


def _refuse_twice(datasets: Sequence[xr.Dataset]) -> None:
    seen: dict[str, int] = {}
    for position, ds in enumerate(datasets, start=1):
        for arm in ds["arm"].values.astype(str):
            if arm in seen:
                raise TslawError(
                    f"The arm '{arm}' occurs in datasets {seen[arm]} and {position}.",
                    expected="every arm in one dataset only",
                    fix="leave one of the two out",
                )
            seen[arm] = position


def _aligned(ds: xr.Dataset, answers: np.ndarray, samples: np.ndarray) -> xr.Dataset:
    """The dataset without `answers`, its answer codes and samples those of the merged one."""
    new_code = np.searchsorted(answers, ds["answers"].values.astype(np.str_))
    lookup = np.concatenate([new_code, [NOT_MEASURED, -1]])  # codes -2 and -1 index its two last places
    answer = ds["answer"].copy(data=lookup[ds["answer"].values])
    aligned = ds.drop_vars("answers").assign(answer=answer).reindex(sample=samples, fill_value=NOT_MEASURED)
    for name in DATA:
        if name in aligned:
            aligned[name] = aligned[name].astype(VARIABLES[name].dtype)
            aligned[name].attrs = dict(ds[name].attrs)
    aligned["sample"].attrs = dict(ds["sample"].attrs)
    return aligned


def _merged_attrs(datasets: Sequence[xr.Dataset]) -> dict[str, Any]:
    attrs = dict(datasets[0].attrs)
    for name in _JOINED_ATTRS:
        attrs[name] = "; ".join(dict.fromkeys(str(ds.attrs[name]) for ds in datasets))
    shapes: dict[str, Any] = {}
    for ds in datasets:
        for model, shape in json.loads(ds.attrs["model_shapes"]).items():
            if shapes.setdefault(model, shape) != shape:
                raise TslawError(f"The datasets disagree about the shape of the model '{model}'.")
    kept = ("seed", "created", "tslaw_version", *_JOINED_ATTRS)
    history = [
        {**{name: _plain(ds.attrs[name]) for name in kept}, "provenance": json.loads(ds.attrs["provenance"])}
        for ds in datasets
    ]
    return attrs | {
        "model_shapes": json.dumps(shapes),
        "provenance": json.dumps({"merged": history}),
        "tslaw_version": __version__,
        "created": now(),
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
