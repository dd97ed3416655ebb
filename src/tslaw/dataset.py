"""The measurement dataset, where the measuring half ends and the fitting half begins: build, open, save, merge.

One netCDF4 file per family and task; `dataset_schema` lists its variables and `dataset_validate` its rules. xarray is
imported when it is used, so that importing this module stays cheap.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tslaw import __version__
from tslaw.atomic import flush_to_disk, writing
from tslaw.dataset_arms import arm_name, derived_memory
from tslaw.dataset_merge import merge, now
from tslaw.dataset_schema import COORDS, DATA, RUN_ATTRS, SCHEMA, SCHEMA_VERSION, VARIABLES
from tslaw.dataset_validate import validate
from tslaw.errors import TslawError
from tslaw.policy import FULL, KVPolicy
from tslaw.shape import ModelShape

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Arm", "arm_name", "build_dataset", "merge", "open_dataset", "save_dataset", "validate"]

_OBSERVED = (
    "tokens_per_second",
    "thinking_seconds",
    "probe_seconds",
    "weight_bytes_observed",
    "kv_bytes_per_token_observed",
)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One measured configuration of a model, and what the engine was seen to need (NaN where it is unknown).

    `weights_simulated`: quantized weights were run dequantized. `kv_simulated`: the engine did not really save the KV
    memory that the policy is credited with.
    """

    shape: ModelShape
    weight_bits: float = 16
    policy: KVPolicy = FULL
    weight_format: str = "native"
    weights_simulated: bool = False
    kv_simulated: bool = False
    tokens_per_second: float = nan
    thinking_seconds: float = nan
    probe_seconds: float = nan
    weight_bytes_observed: float = nan
    kv_bytes_per_token_observed: float = nan

    @property
    def name(self) -> str:
        return arm_name(self.shape.name, self.weight_bits, self.policy)

    def coords(self) -> dict[str, Any]:
        """Values of the arm's coordinates, memory in both accountings included."""
        return {
            "arm": self.name,
            "model": self.shape.name,
            "weight_bits": self.weight_bits,
            "weight_format": self.weight_format,
            "weights_simulated": self.weights_simulated,
            "kv_policy": str(self.policy),
            "kv_kind": self.policy.kind,
            "kv_bits": self.policy.bits,
            "kv_retain": self.policy.retain or 0,
            "kv_simulated": self.kv_simulated,
            **derived_memory(self.shape, self.weight_bits),
        }


def build_dataset(
    arms: Sequence[Arm],
    budgets: Sequence[int],
    problems: Sequence[str],
    levels: Sequence[str],
    answers: Sequence[str],
    measured: Mapping[str, np.ndarray],
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Put measurements into the layout of the contract.

    Parameters
    ----------
    answers : the distinct canonical answers that `answer` points into.
    measured : `answer`, `correct`, `thinking_tokens`, `probe_tokens`, each (arm, budget, problem, sample), and
        `natural_length` (arm, problem, sample), coded as `dataset_schema.DATA` says.
    attrs : the run's attributes, one for each key of `dataset_schema.RUN_ATTRS`; `provenance` may be a mapping.

    The result is not validated: `save_dataset` does that. Raises TslawError for numbers that do not fit their type.
    """
    import xarray as xr

    columns = [arm.coords() for arm in arms]
    values: dict[str, Any] = {name: [column[name] for column in columns] for name in columns[0]} if columns else {}
    values |= {name: [getattr(arm, name) for arm in arms] for name in _OBSERVED}
    n_samples = np.asarray(measured["answer"]).shape[-1]
    values |= {"budget": budgets, "problem": problems, "level": levels, "sample": range(n_samples), "answers": answers}
    values |= measured
    shapes = {arm.shape.name: dataclasses.asdict(arm.shape) for arm in arms}
    return xr.Dataset(
        {name: _variable(name, values[name]) for name in DATA},
        {name: _variable(name, values[name]) for name in COORDS},
        {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            **{name: _plain(attrs[name]) for name in RUN_ATTRS if attrs.get(name) is not None},
            "model_shapes": json.dumps(shapes),
            "tslaw_version": __version__,
            "created": now(),
        },
    )


def save_dataset(ds: xr.Dataset, path: str | Path, overwrite: bool = False) -> Path:
    """Validate and write a dataset; the file appears whole or not at all.

    Raises TslawError when the dataset has faults, the file exists and `overwrite` is False, or writing fails (what was
    there before is then unchanged).
    """
    path = Path(path)
    if faults := validate(ds):
        raise _faulty(str(path), faults, "Not written: this dataset breaks the measurement contract.")
    if path.exists() and not overwrite:
        raise TslawError("This file exists and is not overwritten.", where=str(path), fix="choose another name")
    with writing(path, "The file") as temporary:
        ds.to_netcdf(temporary, engine="netcdf4", format="NETCDF4", encoding=_encoding(ds))
        flush_to_disk(temporary)
    return path


def open_dataset(path: str | Path) -> xr.Dataset:
    """Load a dataset into memory and validate it.

    Raises TslawError when the file is missing, is not netCDF4, is damaged, is not a tslaw measurement, or has faults
    (all of them are listed).
    """
    ds = read_dataset(path)
    if faults := validate(ds):
        raise _faulty(str(path), faults, "This dataset breaks the measurement contract.")
    return ds


def read_dataset(path: str | Path) -> xr.Dataset:
    """Load a netCDF4 file into memory without validating it; TslawError when it cannot be read."""
    import xarray as xr

    path = Path(path)
    if not path.is_file():
        what = "This is a folder, not a dataset." if path.is_dir() else "There is no such file."
        raise TslawError(what, where=str(path), expected="a netCDF4 file written by tslaw measure")
    with open(path, "rb"):  # a file that may not be read is reported as such, not as damaged
        pass
    try:
        ds = xr.load_dataset(path, engine="netcdf4", decode_times=False, decode_timedelta=False)
    except Exception as error:  # the bytes may be anything, and so may the exception
        raise TslawError(
            f"This file cannot be read as netCDF4: it is damaged, cut short or something else ({error}).",
            where=str(path),
            expected="a netCDF4 file written by tslaw measure",
        ) from error
    return _text_as_unicode(ds)


def _variable(name: str, values: Any) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
    spec = VARIABLES[name]
    if spec.dtype == "str":
        array = np.asarray(list(values), dtype=np.str_)
    else:
        given = np.asarray(values)
        array = given.astype(spec.dtype)
        if spec.dtype.startswith("i") and not np.array_equal(array, given):
            raise TslawError(f"'{name}' holds numbers that do not fit {np.dtype(spec.dtype)}.", expected=spec.long_name)
    return spec.dims, array, {"units": spec.units, "long_name": spec.long_name}


def _plain(value: Any) -> str | int | float:
    """A value as netCDF can store it: mappings and lists become JSON, booleans 0 or 1."""
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, default=str)
    return int(value) if isinstance(value, (bool, np.bool_)) else value


def _encoding(ds: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Compression, and checksums so that damaged data are noticed when they are read."""
    stored = {"zlib": True, "complevel": 4, "fletcher32": True, "_FillValue": None}
    return {str(name): dict(stored) for name in ds.variables if ds[name].dtype.kind in "if" and ds[name].size}


def _text_as_unicode(ds: xr.Dataset) -> xr.Dataset:
    """Text as fixed-width unicode, whatever xarray made of it, and no memory of how the file was encoded."""
    for name in list(ds.variables):
        variable = ds.variables[name]
        if variable.dtype.kind in "OT" and all(isinstance(value, str) for value in variable.values.flat):
            ds[name] = (variable.dims, variable.values.astype(np.str_), variable.attrs)
    return ds.drop_encoding()


def _faulty(where: str, faults: Sequence[str], what: str) -> TslawError:
    listed = "\n".join(f"    - {fault}" for fault in faults)
    return TslawError(f"{what} {len(faults)} fault(s):\n{listed}", where=where)
