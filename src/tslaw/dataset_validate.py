"""The rules of a measurement dataset: `validate` names every fault, where it is and what was expected."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from tslaw.dataset_arms import ARM_RULES
from tslaw.dataset_schema import ATTRS, COORDS, DATA, NO_ANSWER, NOT_MEASURED, SCHEMA, SCHEMA_VERSION, VARIABLES

if TYPE_CHECKING:
    import xarray as xr

Faults = Iterator[str]
CODED = ("answer", "correct", "thinking_tokens", "probe_tokens")


def validate(ds: xr.Dataset) -> list[str]:
    """Every fault of a dataset as "where: what; expected ..."; an empty list means that it is valid.

    A rule about values is checked only where the variables it reads have the right dimensions and type.
    """
    if ds.attrs.get("schema") != SCHEMA:
        return [f"attribute schema: is {ds.attrs.get('schema')!r}; expected {SCHEMA!r}: not a tslaw measurement"]
    version = ds.attrs.get("schema_version")
    if not _is_number(version) or version != SCHEMA_VERSION:
        return [f"attribute schema_version: is {_shown(version)}; expected {SCHEMA_VERSION}, which this tslaw reads"]
    faults = list(_attribute_faults(ds))
    unusable: set[str] = set()
    for name in VARIABLES:
        if found := list(_structure_faults(ds, name)):
            unusable.add(name)
        else:
            found = list(_label_faults(ds, name))
        faults += found
    faults += [f"{name}: is not part of the layout; expected no such variable" for name in _strangers(ds)]
    for rule, needs in RULES + ARM_RULES:
        if not unusable.intersection(needs):
            faults += rule(ds)
    return faults


def _strangers(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in ds.variables if name not in VARIABLES]


def _structure_faults(ds: xr.Dataset, name: str) -> Faults:
    """A missing variable, the wrong side, dimensions or type: whatever makes its values unreadable."""
    spec = VARIABLES[name]
    if name not in ds.variables:
        yield f"{name}: is missing; expected {spec.long_name} over {spec.dims}"
        return
    variable = ds.variables[name]
    if (name in ds.coords) != (name in COORDS):
        yield f"{name}: is on the wrong side; expected a {'coordinate' if name in COORDS else 'data variable'}"
    if variable.dims != spec.dims:
        yield f"{name}: has dimensions {variable.dims}; expected {spec.dims}"
    if spec.dtype == "str":
        if not all(isinstance(value, str) for value in variable.values.flat):
            yield f"{name}: has type {variable.dtype}; expected text"
    elif variable.dtype != np.dtype(spec.dtype):
        yield f"{name}: has type {variable.dtype}; expected {np.dtype(spec.dtype)}"


def _label_faults(ds: xr.Dataset, name: str) -> Faults:
    attrs = ds.variables[name].attrs
    if attrs.get("units") != VARIABLES[name].units:
        yield f"{name}: has units {attrs.get('units')!r}; expected {VARIABLES[name].units!r}"
    if not isinstance(attrs.get("long_name"), str) or not attrs["long_name"].strip():
        yield f"{name}: has no long_name; expected a description such as {VARIABLES[name].long_name!r}"
    yield from _unwritable(f"{name}, attribute", attrs)


def _attribute_faults(ds: xr.Dataset) -> Faults:
    for name, kind in ATTRS.items():
        if name not in ds.attrs:
            yield f"attribute {name}: is missing; expected {_KINDS[kind]}"
        elif not _is_kind(ds.attrs[name], kind):
            yield f"attribute {name}: is {_shown(ds.attrs[name])}; expected {_KINDS[kind]}"
        else:
            yield from _value_fault(name, ds.attrs[name])
    yield from _unwritable("attribute", {k: v for k, v in ds.attrs.items() if k not in ATTRS})


def _unwritable(where: str, attrs: dict[Any, Any]) -> Faults:
    for name, value in attrs.items():
        numbers = isinstance(value, np.ndarray) and value.dtype.kind in "iuf"
        if not (isinstance(value, str) or _is_number(value) or numbers):
            yield f"{where} {name}: is {_shown(value)}; expected text or a number, which is all that netCDF stores"


_KINDS = {str: "text", float: "a finite number", int: "a whole number"}


def _shown(value: Any) -> str:
    return repr(value.item() if isinstance(value, np.generic) else value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _is_kind(value: Any, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str)
    if not _is_number(value) or not np.isfinite(value):
        return False
    return kind is float or isinstance(value, (int, np.integer))


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _is_utc_time(text: str) -> bool:
    try:
        offset = datetime.fromisoformat(text).utcoffset()
    except ValueError:
        return False
    return offset is not None and not offset


_ATTRIBUTE_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "task_chance": (lambda v: 0 <= v < 1, "a chance of at least 0 and below 1"),
    "temperature": (lambda v: v >= 0, "0 or more"),
    "top_p": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "shared_trajectories": (lambda v: v in (0, 1), "1 (one trajectory serves all budgets) or 0"),
    "created": (_is_utc_time, "a UTC time in ISO 8601 such as 2025-01-31T12:00:00+00:00"),
    "provenance": (_is_json_object, "a JSON object"),
    "model_shapes": (_is_json_object, "a JSON object {model: shape}"),
    "family": (bool, "a name"),
    "task": (bool, "a name"),
}


def _value_fault(name: str, value: Any) -> Faults:
    good, expected = _ATTRIBUTE_RULES.get(name, (lambda _: True, ""))
    if not good(value):
        yield f"attribute {name}: is {_shown(value)}; expected {expected}"


def _cells(ds: xr.Dataset, name: str, wrong: np.ndarray, expected: str) -> Faults:
    """One fault for all wrong cells of a variable: the first one's place and value, and how many there are."""
    places = np.argwhere(wrong)
    if len(places):
        first = tuple(places[0])
        labels = [
            f"{dim}={ds[dim].values[i]}" if dim in ds.coords else f"{dim}={i}"
            for dim, i in zip(VARIABLES[name].dims, first, strict=True)
        ]
        more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
        yield f"{name}[{', '.join(labels)}]: is {ds[name].values[first]!s}{more}; expected {expected}"


def _labels(ds: xr.Dataset) -> Faults:
    for name in ("arm", "problem", "sample", "answers"):
        values, counts = np.unique(ds[name].values, return_counts=True)
        if len(twice := values[counts > 1]):
            yield f"{name}: {twice[0]} occurs more than once; expected distinct labels"
        if name != "answers" and not len(values):
            yield f"{name}: is empty; expected at least one"


def _budgets(ds: xr.Dataset) -> Faults:
    budget = ds["budget"].values
    if not len(budget):
        yield "budget: is empty; expected at least one"
    yield from _cells(ds, "budget", budget < 0, "0 tokens or more")
    yield from _cells(ds, "budget", np.diff(budget, prepend=np.iinfo(int).min // 2) <= 0, "budgets that rise strictly")


def _codes(ds: xr.Dataset) -> Faults:
    n = ds.sizes["answer_id"]
    answer, correct = ds["answer"].values, ds["correct"].values
    yield from _cells(ds, "answer", (answer < NOT_MEASURED) | (answer >= n), f"an index below {n}, -1 or -2")
    yield from _cells(ds, "correct", ~np.isin(correct, (1, 0, NOT_MEASURED)), "1, 0 or -2")
    for name in ("thinking_tokens", "probe_tokens"):
        values = ds[name].values
        yield from _cells(ds, name, (values < 0) & (values != NOT_MEASURED), "0 tokens or more, or -2")
    natural = ds["natural_length"].values
    yield from _cells(ds, "natural_length", natural < NOT_MEASURED, "0 tokens or more, -1 or -2")


def _measured_together(ds: xr.Dataset) -> Faults:
    absent = ds["answer"].values == NOT_MEASURED
    if not absent.size:
        return
    for name in CODED[1:]:
        expected = "-2 exactly where answer is -2 (not measured)"
        yield from _cells(ds, name, (ds[name].values == NOT_MEASURED) != absent, expected)
    unseen = absent.all(axis=1)
    wrong = unseen & (ds["natural_length"].values != NOT_MEASURED)
    yield from _cells(ds, "natural_length", wrong, "-2 where no budget was measured")
    if absent.all():
        yield "answer: is -2 everywhere; expected at least one measured cell"


def _right_answers(ds: xr.Dataset) -> Faults:
    answer, correct = ds["answer"].values, ds["correct"].values
    yield from _cells(ds, "correct", (correct == 1) & (answer == NO_ANSWER), "0 where there is no answer")
    known = np.clip(answer.astype(np.int64), 0, None)
    problem = np.broadcast_to(np.arange(answer.shape[2])[:, None], answer.shape)
    n = max(int(known.max(initial=0)) + 1, ds.sizes.get("answer_id", 0))
    right, wrong = (np.zeros((answer.shape[2], n), dtype=bool) for _ in range(2))
    right[problem[(correct == 1) & (answer >= 0)], known[(correct == 1) & (answer >= 0)]] = True
    wrong[problem[(correct == 0) & (answer >= 0)], known[(correct == 0) & (answer >= 0)]] = True
    disputed = (right & wrong)[problem, known] & (answer >= 0)
    yield from _cells(ds, "correct", disputed, "the same verdict wherever a problem gets the same answer")


def _lengths(ds: xr.Dataset) -> Faults:
    thinking, budget = ds["thinking_tokens"].values, ds["budget"].values
    if not len(budget):
        return
    yield from _cells(ds, "thinking_tokens", thinking > budget[:, None, None], "at most the budget")
    natural = ds["natural_length"].values
    yield from _cells(ds, "natural_length", natural > budget.max(), "at most the largest budget")
    if ds.attrs.get("shared_trajectories") == 1:
        shrunk = np.zeros(thinking.shape, dtype=bool)
        longest = np.maximum.accumulate(thinking, axis=1)
        shrunk[:, 1:] = (thinking[:, 1:] != NOT_MEASURED) & (thinking[:, 1:] < longest[:, :-1])
        yield from _cells(ds, "thinking_tokens", shrunk, "no less than at smaller budgets of a shared trajectory")


Rule = tuple[Callable[["xr.Dataset"], Faults], tuple[str, ...]]
RULES: tuple[Rule, ...] = (
    (_labels, ("arm", "problem", "sample", "answers")),
    (_budgets, ("budget",)),
    (_codes, (*tuple(DATA)[:5], "answers")),
    (_measured_together, tuple(DATA)[:5]),
    (_right_answers, ("answer", "correct")),
    (_lengths, ("thinking_tokens", "natural_length", "budget")),
)
"""Each rule with the variables whose structure it relies on."""
