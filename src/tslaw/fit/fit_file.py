"""A fit on disk: an ArviZ DataTree in netCDF with posterior, sample_stats, posterior_predictive, observed_data, and
where it came from.

Tasks are joined along a `task` dimension. Problems, arms or budgets that one task has and another has not are NaN
there. Problem effects are stored in single precision, those of models and arms on problems to 0.01 logits and 0.001 log
tokens; everything else as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tslaw.atomic import writing
from tslaw.errors import TslawError
from tslaw.fit.cache_terms import kinds_in, site_names
from tslaw.policy import KVPolicy, parse_kv_policy

if TYPE_CHECKING:
    import xarray as xr

    from tslaw.fit.data import TaskData
    from tslaw.fit.diagnostics import Diagnosis
    from tslaw.fit.infer import Draws
    from tslaw.fit.means_file import MeansFit
    from tslaw.fit.posterior import Posterior

SCHEMA = "tslaw-fit"
SCHEMA_VERSION = 5
GROUPS = ("posterior", "sample_stats", "posterior_predictive", "observed_data", "constant_data", "loo")

EFFECT_DIMS = {
    "difficulty": ["problem"],
    "length": ["problem"],
    "misfit": ["arm"],
    "model_effect": ["model", "problem"],
    "quantization_effect": ["model", "problem"],
    "own_length": ["arm", "problem"],
    "model_mu": ["model"],
    "model_late": ["model"],
    "model_relapse": ["model"],
    "model_slip": ["model"],
    "kv_misfit": ["model", "kv_kind"],
    "kv_own": ["arm"],
    "kv_cut": ["arm", "budget"],
}
PACKED = {name: 0.01 for name in ("model_effect", "quantization_effect")} | {"own_length": 0.001, "kv_cut": 0.001}
"""Effects that are many, stored as whole numbers of these (logits, log tokens)."""


@dataclass(frozen=True)
class TaskFit:
    """One task's data with everything that came out of fitting it."""

    data: TaskData
    draws: Draws
    predictive: np.ndarray
    diagnosis: Diagnosis
    pareto_k: np.ndarray

    def tree(self) -> xr.DataTree:
        """The ArviZ tree, without the task dimension."""
        return task_tree(self)


def task_tree(fit: TaskFit) -> xr.DataTree:
    """The ArviZ tree of one task, without the task dimension."""
    import arviz_base
    import xarray as xr

    data, draws = fit.data, fit.draws
    observed, probes = data.accuracy()
    single = {k: v.astype(np.float32) if k in ("difficulty", "length") else v for k, v in draws.posterior.items()}
    arm_table = ["arm", "budget"]
    coords: dict[str, Any] = {
        "arm": list(data.arms),
        "model": list(data.shapes),
        "budget": data.budgets.astype(int),
        "problem": list(data.problems),
    }
    if data.cache_kinds:
        coords["kv_kind"] = list(data.cache_kinds)
    tree = arviz_base.from_dict(
        {
            "posterior": single,
            "sample_stats": draws.sample_stats,
            "posterior_predictive": {"accuracy": fit.predictive},
            "observed_data": {"accuracy": observed, "probes": probes},
            "constant_data": {
                "trajectories": data.trajectories(),
                "chance": np.asarray(data.chance),
                "wrong_spread": data.wrong_spread,
            },
        },
        coords=coords,
        dims=EFFECT_DIMS
        | {"accuracy": arm_table, "probes": arm_table, "trajectories": ["arm", "problem"]}
        | {"wrong_spread": ["problem"]},
        pred_dims={"accuracy": arm_table},
        sample_dims=["chain", "draw"],
        index_origin=0,
    )
    pairs = {"model": list(data.shapes), "problem": list(data.problems)}
    tree["loo"] = xr.DataTree(xr.Dataset({"pareto_k": (("model", "problem"), fit.pareto_k)}, coords=pairs))
    return tree


def join_tasks(fits: Sequence[TaskFit | MeansFit], provenance: Mapping[str, Any]) -> xr.DataTree:
    """Join tasks along a new `task` dimension and attach the family's shapes, the diagnoses and the provenance."""
    import xarray as xr

    trees = [f.tree() for f in fits]
    names = [f.data.task for f in fits]
    groups: dict[str, xr.Dataset] = {}
    for group in GROUPS:
        parts = [t[group].dataset.expand_dims(task=[n]) for t, n in zip(trees, names, strict=True)]
        joined = xr.concat(parts, dim="task", join="outer", data_vars="all") if len(parts) > 1 else parts[0]
        groups[group] = joined.transpose("chain", "draw", "task", ..., missing_dims="ignore")
    arms = {a: (m, b) for f in fits for a, m, b in zip(f.data.arms, f.data.models, f.data.weight_bits, strict=True)}
    order = groups["constant_data"]["arm"].values.astype(str)
    groups["constant_data"] = groups["constant_data"].assign_coords(
        arm_model=("arm", [arms[a][0] for a in order]), weight_bits=("arm", [arms[a][1] for a in order])
    )
    policies = {a: str(p) for f in fits if isinstance(f, TaskFit) and f.data.policies for a, p in f.data.arm_policies()}
    if policies:  # fits of full caches say nothing about caches
        written = [policies.get(a, "full") for a in order]
        groups["constant_data"] = groups["constant_data"].assign_coords(kv_policy=("arm", written))
    tree = xr.DataTree.from_dict({"/": xr.Dataset(), **groups})
    shapes = {m: asdict(s) for f in fits for m, s in f.data.shapes.items()}
    tree.attrs = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "family": fits[0].data.family,
        "passed": int(all(f.diagnosis.passed for f in fits)),
        "approximate": int(any(f.diagnosis.approximate for f in fits)),
        "reference_size": fits[0].data.reference_size,
        "model_shapes": json.dumps(shapes),
        "diagnostics": json.dumps({f.data.task: f.diagnosis.as_dict() for f in fits}),
        "provenance": json.dumps(provenance),
        "caveats": json.dumps({f.data.task: f.data.caveats() for f in fits}),
    }
    return tree


def thinned_fit(tree: xr.DataTree, every: int) -> xr.DataTree:
    """The same fit with only every so many draws of each chain; its diagnoses remain those of all draws."""
    if every == 1:
        return tree
    import xarray as xr

    groups = {group: tree[group].to_dataset() for group in GROUPS}
    for group in ("posterior", "sample_stats"):
        groups[group] = groups[group].isel(draw=slice(None, None, every))
    found = xr.DataTree.from_dict({"/": xr.Dataset(), **groups})
    origin = json.loads(tree.attrs["provenance"]) | {"stored": f"1 draw of {every}"}
    found.attrs = {**tree.attrs, "provenance": json.dumps(origin)}
    return found


def save_fit(tree: xr.DataTree, path: str | Path, overwrite: bool = False) -> Path:
    """Write a fit whole or not at all; refuses to replace a file unless `overwrite`.

    Raises
    ------
    TslawError : the file exists, or it cannot be written (what was there is then unchanged).
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    encoding = {
        f"/{group}": {str(n): _encoding(str(n), v) for n, v in tree[group].data_vars.items()} for group in GROUPS
    }
    with writing(path, "The fit") as temporary:
        tree.to_netcdf(temporary, engine="netcdf4", encoding=encoding)
    return path


def _encoding(name: str, values: xr.DataArray) -> dict[str, Any]:
    if values.dtype.kind not in "fib" or not values.ndim:
        return {}
    packed = {"dtype": "int16", "scale_factor": PACKED[name], "_FillValue": -32768} if name in PACKED else {}
    return {"zlib": True, "complevel": 4, **packed}


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Say so before any work is done when the result could not be stored."""
    if path.exists() and not overwrite:
        raise TslawError(
            "This file exists and is not overwritten.", where=str(path), fix="choose another name, or say --overwrite"
        )


def open_fit(path: str | Path) -> xr.DataTree:
    """Load a fit into memory.

    Raises
    ------
    TslawError : missing, unreadable, or not a tslaw fit.
    """
    import xarray as xr

    path = Path(path)
    if not path.is_file():
        raise TslawError("There is no such file.", where=str(path), expected="a fit written by tslaw fit")
    try:
        with xr.open_datatree(path, engine="netcdf4") as tree:
            loaded = tree.load()
    except Exception as error:  # the bytes may be anything, and so may the exception
        raise TslawError(
            f"This file cannot be read as netCDF4: it is damaged, cut short or something else ({error}).",
            where=str(path),
            expected="a fit written by tslaw fit",
        ) from error
    if loaded.attrs.get("schema") != SCHEMA:
        found = loaded.attrs.get("schema", "no schema at all")
        raise TslawError(
            f"This netCDF file is not a fit (its schema: {found}).",
            where=str(path),
            expected="a fit written by tslaw fit",
            fix="fit a measurement first: tslaw fit FILES --out fit.nc",
        )
    missing = [g for g in GROUPS if g not in loaded.children]
    if missing or int(loaded.attrs["schema_version"]) != SCHEMA_VERSION:
        raise TslawError(
            f"This fit is incomplete or of another version (missing groups: {', '.join(missing) or 'none'}).",
            where=str(path),
            expected=f"schema version {SCHEMA_VERSION}",
            fix="fit again with this version of tslaw",
        )
    return loaded


def task_names(tree: xr.DataTree) -> list[str]:
    """The tasks of a fit."""
    return [str(t) for t in tree["posterior"].dataset["task"].values]


class Misfit(NamedTuple):
    """How replicated accuracies compare with the measured ones: the share of cells inside the 90% intervals, the root
    mean square of median minus measured, and the largest of those with its place."""

    inside: float
    rms: float
    largest: float
    arm: str
    budget: int


def misfit(tree: xr.DataTree, task: str) -> Misfit:
    """Compare what a task's posterior replicates with what was measured."""
    observed = tree["observed_data"].dataset["accuracy"].sel(task=task).transpose("arm", "budget")
    drawn = tree["posterior_predictive"].dataset["accuracy"].sel(task=task)
    drawn = drawn.transpose("chain", "draw", "arm", "budget").values.reshape(-1, *observed.shape)
    measured = ~np.isnan(observed.values)
    low, middle, high = np.quantile(drawn[:, measured], [0.05, 0.5, 0.95], axis=0)
    seen = observed.values[measured]
    error, (arms, budgets) = middle - seen, np.nonzero(measured)
    k = int(np.abs(error).argmax())
    inside = float(((low <= seen) & (seen <= high)).mean())
    arm, budget = str(observed["arm"].values[arms[k]]), int(observed["budget"].values[budgets[k]])
    return Misfit(inside, float(np.sqrt((error**2).mean())), float(error[k]), arm, budget)


def is_approximate(tree: xr.DataTree) -> bool:
    """Whether a fit was made by `tslaw fit --quick`."""
    return bool(int(tree.attrs.get("approximate", 0)))


def rests_on_means(tree: xr.DataTree, task: str) -> bool:
    """Whether a task was fitted to published means, of no single problem."""
    constant = tree["constant_data"].dataset
    return "pseudo_problem" in constant and not bool(constant["pseudo_problem"].sel(task=task).isnull().any())


def distrust(tree: xr.DataTree) -> str | None:
    """Why a fit's numbers are not to be trusted, to be read after its name; None when it passed."""
    if is_approximate(tree):
        return "is approximate (tslaw fit --quick), and nothing checked it; for numbers fit without --quick"
    if not int(tree.attrs["passed"]):
        return "failed its diagnostics; do not trust these numbers (tslaw show says why)"
    return None


def caveats(tree: xr.DataTree, task: str) -> list[str]:
    """What the data of a task could not tell, a sentence each."""
    return list(json.loads(tree.attrs.get("caveats", "{}")).get(task, []))


def load_posterior(tree: xr.DataTree, task: str | None = None) -> Posterior:
    """One task's draws as arrays.

    Raises
    ------
    TslawError : the fit does not hold the task, or holds several and none is named.
    """
    from tslaw.fit.posterior import Posterior
    from tslaw.shape import ModelShape

    task = _chosen(task_names(tree), task)
    arms = tree["constant_data"].dataset.sel(task=task)
    draws = tree["posterior"].dataset.sel(task=task).stack(sample=("chain", "draw")).transpose("sample", ...)
    fitted = np.flatnonzero(~np.isnan(draws["misfit"].values).all(axis=0))
    observed = tree["observed_data"].dataset.sel(task=task)
    asked = np.flatnonzero(~np.isnan(observed["accuracy"].transpose("arm", "budget").values).all(axis=0))
    policies = _policies(arms, fitted)
    models = tuple(arms["arm_model"].values.astype(str)[fitted])
    if rests_on_means(tree, task):
        params, present = _params_of_means(draws, arms, fitted, models)
    else:
        params, present = _params_of_problems(draws, fitted, models, kinds_in(policies), asked)
    shapes = json.loads(tree.attrs["model_shapes"])
    return Posterior(
        family=str(tree.attrs["family"]),
        task=task,
        params=params,
        arms=tuple(arms["arm"].values.astype(str)[fitted]),
        models=models,
        weight_bits=arms["weight_bits"].values.astype(float)[fitted],
        budgets=observed["budget"].values[asked].astype(float),
        shapes={m: ModelShape(**shapes[m]) for m in dict.fromkeys(models)},
        reference_size=float(tree.attrs["reference_size"]),
        wrong_spread=arms["wrong_spread"].values[present],
        passed=bool(int(tree.attrs["passed"])),
        policies=policies,
        approximate=is_approximate(tree),
    )


def _chosen(names: Sequence[str], task: str | None) -> str:
    """The task that is asked for, or the only one."""
    if task is None and len(names) == 1:
        return names[0]
    if task in names:
        return str(task)
    what = "This fit holds several tasks; name one." if task is None else f"This fit does not hold the task '{task}'."
    raise TslawError(what, where="--task", expected=f"one of {', '.join(names)}")


Params = dict[str, np.ndarray]
"""Draws by name, (draw, ...) each."""


def _stored_params(draws: xr.Dataset, kinds: Sequence[str]) -> Params:
    """All that is stored of a task with compressed caches of these `kinds`; another task of the file may have had
    others."""
    of_others = _cache_names(_stored_kinds(draws)) - _cache_names(kinds)
    return {str(n): np.asarray(draws[n].values, float) for n in draws.data_vars if n not in of_others}


def _stored_kinds(draws: xr.Dataset) -> list[str]:
    return draws["kv_kind"].values.astype(str).tolist() if "kv_kind" in draws.coords else []


def _params_of_means(
    draws: xr.Dataset, arms: xr.Dataset, fitted: np.ndarray, models: Sequence[str]
) -> tuple[Params, np.ndarray]:
    """The draws of a task of published means, `fitted` (place,) its arms; and which problems it has: all (problem,)."""
    from tslaw.fit.pseudo_problems import stored_effects

    params, points = _stored_params(draws, ()), arms["pseudo_problem"].transpose("axis", "problem").values
    params["misfit"] = params["misfit"][:, fitted]
    params |= stored_effects(params, points, len(set(models)), len(fitted))
    return params, np.ones(points.shape[1], bool)


def _params_of_problems(
    draws: xr.Dataset, fitted: np.ndarray, models: Sequence[str], kinds: Sequence[str], asked: np.ndarray
) -> tuple[Params, np.ndarray]:
    """The draws of a measured task, of its own arms (`fitted`, places), models, problems, budgets (`asked`, places) and
    kinds of compressed caches only; and which of the file's problems are its own (problem,)."""
    params = _stored_params(draws, kinds)
    if missing := sorted(_cache_names(kinds) - params.keys()):
        raise TslawError(
            f"What compressed KV caches cost was fitted by another surface: it has no {', '.join(missing)}.",
            where=f"the fit of the arms {', '.join(dict.fromkeys(models))}",
            expected="a fit by this version of tslaw",
            fix="fit again: tslaw fit FULL.nc COMPRESSED.nc --compressed-kv --out FIT.nc",
        )
    present = ~np.isnan(params["difficulty"]).all(axis=0)
    order, stored = draws["model"].values.astype(str).tolist(), _stored_kinds(draws)
    kept: dict[str, Any] = {
        "arm": fitted,
        "budget": asked,
        "problem": np.flatnonzero(present),
        "model": [order.index(m) for m in dict.fromkeys(models)],
        "kv_kind": [stored.index(kind) for kind in kinds],
    }
    for name in EFFECT_DIMS.keys() & params.keys():
        for axis, dim in enumerate(EFFECT_DIMS[name], start=1):
            params[name] = params[name].take(kept[dim], axis)
    return params, present


def _cache_names(kinds: Sequence[str]) -> set[str]:
    """What a task with these kinds of compressed caches has besides other tasks."""
    return {*site_names(kinds), "kv_misfit", "kv_own", "kv_cut"} if kinds else set()


def _policies(arms: xr.Dataset, fitted: np.ndarray) -> tuple[KVPolicy, ...]:
    """The KV policies of the `fitted` arms (place,); empty where the fit holds full caches only."""
    if "kv_policy" not in arms.coords:
        return ()
    found = tuple(parse_kv_policy(text) for text in arms["kv_policy"].values.astype(str)[fitted])
    return found if kinds_in(found) else ()
