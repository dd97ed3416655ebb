"""Every rule of the measurement contract: a good dataset is spoiled in one way, and exactly that is named."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from measurements import good_dataset, ladder_arms
from tslaw.dataset import save_dataset, validate
from tslaw.dataset_schema import ATTRS, VARIABLES
from tslaw.errors import TslawError

ARM_0, ARM_1, ARM_2 = "ladder-a:w16:full", "ladder-a:w8:full", "ladder-d:w4:rkv:128+quantized:4"
Change = Callable[[xr.Dataset], object]


def put(name: str, place: tuple, value: object) -> Change:
    """A change of one value of one variable; text may grow, indexes are rebuilt."""

    def change(ds: xr.Dataset) -> xr.Dataset:
        values = ds[name].values.astype(object if isinstance(value, str) else ds[name].dtype)
        values[place] = value
        if isinstance(value, str):
            values = values.astype(str)
        return ds.assign({name: (ds[name].dims, values, ds[name].attrs)})

    return change


def attr(name: str, value: object) -> Change:
    return lambda ds: ds.assign_attrs({name: value})


def shapes(edit: Callable[[dict], object]) -> Change:
    def change(ds: xr.Dataset) -> xr.Dataset:
        content = json.loads(ds.attrs["model_shapes"])
        edit(content)
        return ds.assign_attrs(model_shapes=json.dumps(content))

    return change


def spoiled(change: Change) -> list[str]:
    ds = good_dataset(shared_trajectories=1)
    changed = change(ds)
    return validate(changed if isinstance(changed, xr.Dataset) else ds)


CASES: dict[str, tuple[Change, list[str]]] = {
    # name: (change, the faults: a beginning of each, in order)
    "answer beyond the list": (
        put("answer", (0, 0, 0, 0), 4),
        [f"answer[arm={ARM_0}, budget=64, problem=p0, sample=0]"],
    ),
    "answer of unknown code": (
        put("answer", (1, 2, 3, 1), -3),
        [f"answer[arm={ARM_1}, budget=256, problem=p3, sample=1]"],
    ),
    "verdict of unknown code": (put("correct", (0, 0, 0, 0), 2), [f"correct[arm={ARM_0}, budget=64"]),
    "negative thinking": (put("thinking_tokens", (0, 0, 0, 0), -1), [f"thinking_tokens[arm={ARM_0}, budget=64"]),
    "negative probe": (put("probe_tokens", (0, 0, 0, 0), -5), [f"probe_tokens[arm={ARM_0}, budget=64"]),
    "natural length of unknown code": (
        put("natural_length", (0, 0, 1), -7),
        [f"natural_length[arm={ARM_0}, problem=p0, sample=1]: is -7; expected"],
    ),
    "thinking beyond the budget": (
        put("thinking_tokens", (2, 2, 0, 0), 257),
        [f"thinking_tokens[arm={ARM_2}, budget=256, problem=p0, sample=0]: is 257; expected at most the budget"],
    ),
    "natural length beyond every budget": (
        put("natural_length", (0, 0, 1), 300),
        ["natural_length[arm=ladder-a:w16:full, problem=p0, sample=1]: is 300; expected at most the largest"],
    ),
    "shared trajectory that shrinks": (
        put("thinking_tokens", (1, 1, 2, 3), 63),
        [f"thinking_tokens[arm={ARM_1}, budget=128, problem=p2, sample=3]: is 63; expected no less"],
    ),
    "verdict where nothing was measured": (
        put("correct", (0, 1, 1, 0), 0),
        [f"correct[arm={ARM_0}, budget=128, problem=p1, sample=0]: is 0; expected -2 exactly where answer is -2"],
    ),
    "no probe where something was measured": (put("probe_tokens", (0, 0, 0, 0), -2), ["probe_tokens["]),
    "natural length of nothing": (
        put("natural_length", (0, 1, 0), 5),
        [f"natural_length[arm={ARM_0}, problem=p1, sample=0]: is 5; expected -2 where no budget was measured"],
    ),
    "no budget": (lambda ds: ds.isel(budget=[]), ["budget: is empty; expected at least one"]),
    "no problem": (lambda ds: ds.isel(problem=[]), ["problem: is empty"]),
    "budgets that fall": (
        put("budget", (1,), 64),
        ["budget[budget=64]: is 64; expected budgets that rise", "thinking_tokens["],
    ),
    "arm named twice": (put("arm", (1,), ARM_0), ["arm: ladder-a:w16:full occurs", "arm[arm=ladder-a:w16:full]"]),
    "problem named twice": (put("problem", (1,), "p0"), ["problem: p0 occurs more than once"]),
    "sample numbered twice": (put("sample", (1,), 0), ["sample: 0 occurs more than once"]),
    "answer listed twice": (put("answers", (1,), "#1"), ["answers: #1 occurs more than once"]),
    "arm misnamed": (
        put("arm", (0,), "my-best-run"),
        ["arm[arm=my-best-run]: is 'my-best-run'; expected 'ladder-a:w16"],
    ),
    "unknown weight format": (
        put("weight_format", (2,), "awq"),
        [f"weight_format[arm={ARM_2}]: is 'awq'; expected one of native, gptq-g128"],
    ),
    "native at 4 bits": (
        put("weight_format", (2,), "native"),
        [f"weight_format[arm={ARM_2}]: is 'native'; expected native at 16"],
    ),
    "dequantized but not marked": (
        put("weights_simulated", (1,), 0),
        [f"weights_simulated[arm={ARM_1}]: is 0; expected 1 for weights that are gptq-g128-dequantized"],
    ),
    "flag of 2": (put("weights_simulated", (1,), 2), [f"weights_simulated[arm={ARM_1}]: is 2; expected 0 or 1"]),
    "KV flag of 2": (put("kv_simulated", (1,), 2), [f"kv_simulated[arm={ARM_1}]: is 2; expected 0 or 1"]),
    "unknown KV policy": (
        put("kv_policy", (0,), "magic"),
        ["arm[", f"kv_policy[arm={ARM_0}]: is 'magic'; expected full"],
    ),
    "KV kind against policy": (
        put("kv_kind", (2,), "full"),
        [f"kv_kind[arm={ARM_2}]: is 'full'; expected 'rkv+quantized'"],
    ),
    "KV bits against policy": (put("kv_bits", (2,), 16), [f"kv_bits[arm={ARM_2}]: is 16; expected 4"]),
    "KV retain against policy": (put("kv_retain", (0,), 128), [f"kv_retain[arm={ARM_0}]: is 128; expected 0"]),
    "weight memory against shape": (
        put("weight_gib_equation", (0,), 1.0),
        [f"weight_gib_equation[arm={ARM_0}]: is 1.0; expected"],
    ),
    "file memory against shape": (put("weight_gib_checkpoint", (2,), np.nan), [f"weight_gib_checkpoint[arm={ARM_2}]"]),
    "KV memory against shape": (
        put("kv_bytes_per_token", (0,), 3.0),
        [f"kv_bytes_per_token[arm={ARM_0}]: is 3.0; expected 1024"],
    ),
    "parameters against shape": (put("n_params", (1,), 5), [f"n_params[arm={ARM_1}]: is 5; expected 492416"]),
    "shape missing": (shapes(lambda s: s.pop("ladder-d")), ["attribute model_shapes: ladder-d is missing"]),
    "shape with strange fields": (
        shapes(lambda s: s["ladder-a"].update(colour="blue")),
        ["attribute model_shapes: ladder-a is not a shape"],
    ),
    "shape with nonsense": (
        shapes(lambda s: s["ladder-a"].update(n_layers=0)),
        ["attribute model_shapes: ladder-a is not a shape"],
    ),
    "negative speed": (
        put("tokens_per_second", (0,), -1.0),
        [f"tokens_per_second[arm={ARM_0}]: is -1.0; expected 0 or more"],
    ),
    "infinite time": (put("thinking_seconds", (0,), np.inf), [f"thinking_seconds[arm={ARM_0}]: is inf"]),
    "another schema": (attr("schema", "weather"), ["attribute schema: is 'weather'"]),
    "a later version": (attr("schema_version", 2), ["attribute schema_version: is 2; expected 1"]),
    "chance of 1": (attr("task_chance", 1.0), ["attribute task_chance: is 1.0"]),
    "negative temperature": (attr("temperature", -0.1), ["attribute temperature: is -0.1"]),
    "top_p of 0": (attr("top_p", 0.0), ["attribute top_p: is 0.0"]),
    "infinite temperature": (attr("temperature", np.inf), ["attribute temperature: is inf; expected a finite number"]),
    "seed that is no whole number": (attr("seed", 1.5), ["attribute seed: is 1.5; expected a whole number"]),
    "shared_trajectories of 2": (attr("shared_trajectories", 2), ["attribute shared_trajectories: is 2"]),
    "local time": (attr("created", "2025-01-31 12:00"), ["attribute created: is '2025-01-31 12:00'; expected a UTC"]),
    "no time": (attr("created", "yesterday"), ["attribute created: is 'yesterday'"]),
    "provenance that is not JSON": (attr("provenance", "{"), ["attribute provenance: is '{'; expected a JSON object"]),
    "family without a name": (attr("family", ""), ["attribute family: is ''; expected a name"]),
    "attribute None": (attr("note", None), ["attribute note: is None; expected text or a number"]),
    "attribute bool": (attr("note", True), ["attribute note: is True; expected text or a number"]),
    "attribute dict": (attr("note", {"a": 1}), ["attribute note: is {'a': 1}; expected text or a number"]),
    "known attribute None": (attr("seed", None), ["attribute seed: is None; expected a whole number"]),
    "known attribute bool": (attr("shared_trajectories", True), ["attribute shared_trajectories: is True"]),
    "variable attribute None": (
        lambda ds: ds["answer"].attrs.update(note=None),
        ["answer, attribute note: is None; expected text or a number"],
    ),
    "a stranger": (lambda ds: ds.assign(mood=("arm", [1, 2, 3])), ["mood: is not part of the layout"]),
    "data where a coordinate belongs": (
        lambda ds: ds.reset_coords("n_params"),
        ["n_params: is on the wrong side; expected a coordinate"],
    ),
    "coordinate where data belong": (
        lambda ds: ds.set_coords("correct"),
        ["correct: is on the wrong side; expected a data variable"],
    ),
}


def test_the_good_dataset_is_good() -> None:
    assert validate(good_dataset()) == []
    assert validate(good_dataset(ladder_arms()[:1], samples=1)) == []
    assert validate(good_dataset().assign_attrs(note="more is allowed", numbers=np.array([1, 2]))) == []


@pytest.mark.parametrize("case", CASES)
def test_one_fault_is_named_and_nothing_else(case: str) -> None:
    change, expected = CASES[case]
    faults = spoiled(change)
    assert len(faults) == len(expected), faults
    for fault, beginning in zip(faults, expected, strict=True):
        assert fault.startswith(beginning)
        assert "; expected " in fault


def test_judging_one_answer_both_ways_is_a_fault() -> None:
    ds = good_dataset()
    place = tuple(np.argwhere(ds["correct"].values == 1)[0])
    faults = spoiled(put("correct", place, 0))
    assert len(faults) == 1
    assert "the same verdict wherever a problem gets the same answer" in faults[0]


def test_no_answer_cannot_be_right() -> None:
    ds = good_dataset()
    place = tuple(np.argwhere(ds["answer"].values == -1)[0])
    faults = spoiled(put("correct", place, 1))
    assert len(faults) == 1
    assert "expected 0 where there is no answer" in faults[0]


def test_an_empty_measurement_is_a_fault() -> None:
    def change(ds: xr.Dataset) -> None:
        for name in ("answer", "correct", "thinking_tokens", "probe_tokens", "natural_length"):
            ds[name][:] = -2

    assert spoiled(change) == ["answer: is -2 everywhere; expected at least one measured cell"]


def test_many_cells_are_one_fault_with_their_number() -> None:
    faults = spoiled(lambda ds: ds["correct"].values.__setitem__((slice(1, 3), 0), 5))
    assert [f.split(":")[-1] for f in faults] == [" is 5 (and 31 more); expected 1, 0 or -2"]


@pytest.mark.parametrize("name", VARIABLES)
def test_a_missing_variable_is_named(name: str) -> None:
    faults = spoiled(lambda ds: ds.drop_vars(name))
    assert [f.split(";")[0] for f in faults] == [f"{name}: is missing"]


@pytest.mark.parametrize("name", VARIABLES)
def test_a_wrong_type_is_named(name: str) -> None:
    def change(ds: xr.Dataset) -> xr.Dataset:
        wrong = np.zeros(ds[name].shape, dtype="f4") + np.arange(ds[name].shape[-1], dtype="f4")
        return ds.assign({name: (ds[name].dims, wrong, ds[name].attrs)})

    faults = spoiled(change)
    assert len(faults) == 1
    assert faults[0].startswith(f"{name}: has type float32; expected ")


@pytest.mark.parametrize("name", [n for n, spec in VARIABLES.items() if len(spec.dims) > 1])
def test_wrong_dimensions_are_named(name: str) -> None:
    faults = spoiled(lambda ds: ds.assign({name: ds[name].transpose()}))
    assert len(faults) == 1
    assert faults[0].startswith(f"{name}: has dimensions {VARIABLES[name].dims[::-1]}; expected {VARIABLES[name].dims}")


@pytest.mark.parametrize("name", VARIABLES)
def test_missing_units_and_long_name_are_named(name: str) -> None:
    faults = spoiled(lambda ds: ds[name].attrs.clear())
    assert [f.split(";")[0] for f in faults] == [f"{name}: has units None", f"{name}: has no long_name"]


@pytest.mark.parametrize("name", sorted(set(ATTRS) - {"schema", "schema_version"}))
def test_a_missing_attribute_is_named(name: str) -> None:
    faults = spoiled(lambda ds: ds.attrs.pop(name) and None)
    assert f"attribute {name}: is missing; expected " in faults[0]
    assert all("model_shapes" in fault for fault in faults[1:])


def test_many_faults_are_all_named(tmp_path) -> None:
    """One of each kind at once: structure, labels, values, arms, attributes."""
    ds = good_dataset().drop_vars("level")
    ds["kv_bits"] = ds["kv_bits"].astype("i8")
    ds["budget"].attrs["units"] = "furlong"
    ds["correct"][0, 0, 0, 0] = 9
    ds["weights_simulated"][0] = 1
    ds.attrs["top_p"] = 2.0
    faults = validate(ds)
    names = ["attribute top_p", "correct[", "weights_simulated[", "kv_bits", "budget", "level"]
    assert sorted(n for n in names if any(f.startswith(n) for f in faults)) == sorted(names)
    assert len(faults) == len(names)
    with pytest.raises(TslawError) as caught:
        save_dataset(ds, tmp_path / "x.nc")
    assert all(fault in str(caught.value) for fault in faults)
    assert list(tmp_path.iterdir()) == []
