"""The rules of a dataset's arms: names, formats and policies agree, and memory follows from the model's shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tslaw import memory
from tslaw.dataset_schema import DATA, WEIGHT_FORMATS
from tslaw.errors import TslawError
from tslaw.policy import NATIVE_BITS, KVPolicy, parse_kv_policy
from tslaw.shape import ModelShape

if TYPE_CHECKING:
    import xarray as xr

Faults = Iterator[str]

_IDENTITY = ("arm", "model", "weight_bits", "kv_policy")
_WEIGHTS = ("arm", "weight_bits", "weight_format", "weights_simulated")
_KV = ("arm", "kv_policy", "kv_kind", "kv_bits", "kv_retain", "kv_simulated")
_DERIVED = ("n_params", "weight_gib_equation", "weight_gib_checkpoint", "kv_bytes_per_token")
_OBSERVED = tuple(name for name, spec in DATA.items() if spec.dims == ("arm",))


def arm_name(model: str, weight_bits: float, policy: KVPolicy | str) -> str:
    """The name of an arm, such as "ladder-0.4M:w4:full"."""
    return f"{model}:w{weight_bits:g}:{policy}"


def _arms(ds: xr.Dataset, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for i in range(ds.sizes["arm"]):
        yield {name: ds[name].values[i].item() for name in names}


def _fault(arm: dict[str, Any], name: str, expected: str) -> str:
    return f"{name}[arm={arm['arm']}]: is {arm[name]!r}; expected {expected}"


def _identity(ds: xr.Dataset) -> Faults:
    for arm in _arms(ds, _IDENTITY):
        name = arm_name(arm["model"], arm["weight_bits"], arm["kv_policy"])
        if arm["arm"] != name:
            yield _fault(arm, "arm", f"{name!r}: model, weight bits and KV policy")


def _weights(ds: xr.Dataset) -> Faults:
    for arm in _arms(ds, _WEIGHTS):
        bits, form = arm["weight_bits"], arm["weight_format"]
        if not memory.MIN_BITS <= bits <= NATIVE_BITS:
            yield _fault(arm, "weight_bits", f"{memory.MIN_BITS} to {NATIVE_BITS}")
        if form not in WEIGHT_FORMATS:
            yield _fault(arm, "weight_format", f"one of {', '.join(WEIGHT_FORMATS)}")
        elif (form == "native") != (bits == NATIVE_BITS):
            yield _fault(arm, "weight_format", f"native at {NATIVE_BITS} bits and only there, not at {bits:g}")
        if arm["weights_simulated"] not in (0, 1):
            yield _fault(arm, "weights_simulated", "0 or 1")
        elif form in WEIGHT_FORMATS and arm["weights_simulated"] != form.endswith("dequantized"):
            yield _fault(arm, "weights_simulated", f"{int(form.endswith('dequantized'))} for weights that are {form}")


def _kv(ds: xr.Dataset) -> Faults:
    for arm in _arms(ds, _KV):
        if arm["kv_simulated"] not in (0, 1):
            yield _fault(arm, "kv_simulated", "0 or 1")
        try:
            policy = parse_kv_policy(arm["kv_policy"])
        except TslawError as error:
            yield _fault(arm, "kv_policy", error.expected or "a KV policy")
            continue
        parts = {"kv_kind": policy.kind, "kv_bits": policy.bits, "kv_retain": policy.retain or 0}
        for name, value in parts.items():
            if arm[name] != value:
                yield _fault(arm, name, f"{value!r}, as its KV policy {policy} says")


def _shapes(ds: xr.Dataset) -> dict[str, Any]:
    try:
        shapes = json.loads(ds.attrs.get("model_shapes", ""))
    except (TypeError, ValueError):
        return {}
    return shapes if isinstance(shapes, dict) else {}


def _derived(ds: xr.Dataset) -> Faults:
    shapes = _shapes(ds)
    faulty: set[str] = set()
    for arm in _arms(ds, ("arm", "model", "weight_bits", *_DERIVED)):
        model = arm["model"]
        try:
            shape = ModelShape(**shapes[model])
        except (KeyError, TypeError, TslawError) as error:
            if model not in faulty:
                what = "is missing" if model not in shapes else f"is not a shape ({error})"
                yield f"attribute model_shapes: {model} {what}; expected the fields of tslaw.memory.ModelShape"
            faulty.add(model)
            continue
        for name, value in derived_memory(shape, arm["weight_bits"]).items():
            if not np.isclose(arm[name], value, rtol=1e-6, equal_nan=True):
                yield _fault(arm, name, f"{value:.8g}, as the model's shape says")


def derived_memory(shape: ModelShape, weight_bits: float) -> dict[str, float]:
    """Parameters and memory of an arm from its model's shape; NaN where an accounting has no such bits."""

    def gib(accounting: memory.Accounting) -> float:
        try:
            return memory.weight_bytes(shape, weight_bits, accounting) / memory.GIB
        except TslawError:
            return float("nan")

    return {
        "n_params": memory.n_params(shape),
        "weight_gib_equation": gib("equation"),
        "weight_gib_checkpoint": gib("checkpoint"),
        "kv_bytes_per_token": memory.kv_bytes_per_token(shape),
    }


def _observed(ds: xr.Dataset) -> Faults:
    for arm in _arms(ds, ("arm", *_OBSERVED)):
        for name in _OBSERVED:
            if arm[name] < 0 or np.isinf(arm[name]):
                yield _fault(arm, name, "0 or more, or NaN where unknown")


Rule = tuple[Callable[["xr.Dataset"], Faults], tuple[str, ...]]
ARM_RULES: tuple[Rule, ...] = (
    (_identity, _IDENTITY),
    (_weights, _WEIGHTS),
    (_kv, _KV),
    (_derived, ("arm", "model", "weight_bits", *_DERIVED)),
    (_observed, ("arm", *_OBSERVED)),
)
"""Each rule with the variables whose structure it relies on."""
