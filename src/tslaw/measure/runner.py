"""A sweep from plan to datasets: what is missing is measured, each arm in its own process, then the datasets are
written.

Invariants
1. A batch's file is whole or absent, so killing anything at any moment loses at most the batches in hand.
2. Only one runner works on a sweep at a time; its workers end when it ends.
3. An output that this sweep did not write itself is never replaced without `overwrite`.
4. The manifest is written last and describes outputs that are on disk; until then it says which are being written.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tslaw.dataset import save_dataset
from tslaw.errors import TslawError
from tslaw.measure.assemble import assemble
from tslaw.measure.engine import engine_package
from tslaw.measure.plan import Plan
from tslaw.measure.pool import WorkerTask, run_pool
from tslaw.measure.preflight import check_lengths
from tslaw.measure.progress import show_progress
from tslaw.measure.quantize import cache_folder
from tslaw.measure.store import SweepStore, read_json, write_json
from tslaw.measure.units import NATIVE_BITS, ArmSpec, Unit, batch_seed, fetch_model, quantization_recipes, units
from tslaw.measure.worker import Job, UnitJob


@dataclass(frozen=True)
class SweepResult:
    """The datasets written, and what went wrong: arm -> message."""

    outputs: list[Path]
    failures: dict[str, str]


def output_path(out: Path, plan: Plan, task: str) -> Path:
    """OUT/<family>-<task>.nc; a task that is named after its family does not say it twice."""
    family, name = plan.loaded_family.name, task.replace(":", "-").replace("/", "-")
    return out / (f"{name}.nc" if name.startswith(f"{family}-") else f"{family}-{name}.nc")


def measure(plan: Plan, out: Path, resume: bool = False, overwrite: bool = False) -> SweepResult:
    """Measure a plan into `out`.

    Parameters
    ----------
    resume : go on from the results that are there; without it they are refused or, with `overwrite`, thrown away.
    overwrite : replace outputs that exist.

    Raises
    ------
    TslawError : bad surroundings, before anything runs. Failures of arms are in the result: the others' data stay.
    """
    store = SweepStore(out, plan.name)
    with store.lock():
        _refuse_overwriting(plan, store, resume, overwrite)
        folders = {ref.name: fetch_model(ref.source) for ref in plan.model_refs}
        check_lengths(plan, folders)
        if not resume:
            shutil.rmtree(store.work / "units", ignore_errors=True)
        work = units(plan, engine_package())
        if resume and (done := _already_written(plan, work, store)):
            return SweepResult(done, {})
        failures = _run_missing(plan, work, store, folders)
        outputs = _write_outputs(plan, work, store, complete=not failures)
    return SweepResult(outputs, failures)


def _refuse_overwriting(plan: Plan, store: SweepStore, resume: bool, overwrite: bool) -> None:
    if overwrite:
        return
    manifest = (read_json(store.manifest_path) or {}) if resume else {}
    for task in plan.tasks:
        path = output_path(store.out, plan, task.name)
        ours = path.name in manifest.get("writing", ())
        if path.exists() and not ours and manifest.get("outputs", {}).get(path.name) != _file_hash(path):
            raise TslawError(
                "The output exists and is not overwritten.",
                where=str(path),
                fix="--overwrite replaces it, --resume goes on with the sweep that wrote it, another --out keeps both",
            )
    if not resume and any((store.work / "units").glob("*/batch-*.json")):
        raise TslawError(
            "There are results of an earlier run of this plan.",
            where=str(store.work),
            fix="--resume does only what is missing, --overwrite starts anew",
        )


def _already_written(plan: Plan, work: Sequence[Unit], store: SweepStore) -> list[Path]:
    """The outputs, if this very work was finished and they are still what was written; otherwise nothing."""
    manifest = read_json(store.manifest_path) or {}
    if not manifest.get("complete") or manifest.get("units") != [unit.key for unit in work]:
        return []
    paths = [output_path(store.out, plan, task.name) for task in plan.tasks]
    same = all(path.exists() and manifest["outputs"].get(path.name) == _file_hash(path) for path in paths)
    return paths if same else []


def _run_missing(plan: Plan, work: Sequence[Unit], store: SweepStore, folders: dict[str, str]) -> dict[str, str]:
    missing = {unit.key: len(store.unit(unit.key).missing(len(unit.batches))) for unit in work}
    by_arm: dict[str, list[Unit]] = {}
    for unit in work:
        if missing[unit.key]:
            by_arm.setdefault(unit.arm.name, []).append(unit)
            write_json(store.unit(unit.key).folder / "unit.json", unit.identity)
    if not by_arm:
        return {}
    tasks = [_worker_task(plan, arm_units, store, folders) for arm_units in _longest_first(by_arm)]
    per_batch = {unit.key: unit.thinking_tokens(plan.samples) / len(unit.batches) for unit in work}
    tokens = int(sum(per_batch[key] * n for key, n in missing.items()))
    with show_progress(missing, {key for key, n in missing.items() if n == 0}, tokens) as progress:
        return run_pool(tasks, plan.workers, progress.on_event)


def _longest_first(by_arm: dict[str, list[Unit]]) -> list[list[Unit]]:
    """Largest models first, so that no worker is left with a long arm at the end."""
    return sorted(
        by_arm.values(), key=lambda u: u[0].arm.ref.shape.n_layers * u[0].arm.ref.shape.hidden_size, reverse=True
    )


def _worker_task(plan: Plan, arm_units: Sequence[Unit], store: SweepStore, folders: dict[str, str]) -> WorkerTask:
    arm = arm_units[0].arm
    job = Job(
        arm=arm.name,
        model=folders[arm.ref.name],
        thinking_format=arm.ref.thinking_format,
        quantization=_quantization(arm_units[0], plan, store),
        samples=plan.samples,
        temperature=plan.temperature,
        top_p=plan.top_p,
        seed=plan.seed,
        kv_policy=arm.kv_policy,
        kv_options=plan.kv_settings(arm.kv_policy).options,
        engine=plan.engine.model_dump(),
        units=[_unit_job(unit, plan, store) for unit in arm_units],
    )
    path = store.work / "jobs" / f"{_file_stem(arm)}.json"
    write_json(path, job.as_dict())
    return WorkerTask(arm.name, path, store.log_path(arm.name))


def _file_stem(arm: ArmSpec) -> str:
    return arm.name.replace(":", "_").replace("/", "_")


def _quantization(unit: Unit, plan: Plan, store: SweepStore) -> dict[str, object] | None:
    if unit.arm.weight_bits == NATIVE_BITS:
        return None
    return {
        "bits": unit.arm.weight_bits,
        "recipes": quantization_recipes(plan),
        "digest": unit.identity["model_digest"],
        "cache": str(cache_folder(store.work)),
    }


def _unit_job(unit: Unit, plan: Plan, store: SweepStore) -> UnitJob:
    return UnitJob(
        folder=str(store.unit(unit.key).folder),
        task=unit.task.name,
        problems=unit.task.problems,
        seed=unit.task.seed,
        budgets=list(unit.task.budgets),
        batches=[[batch.start, batch.stop] for batch in unit.batches],
        batch_seeds=[batch_seed(unit, i, plan.seed) for i in range(len(unit.batches))],
    )


def _write_outputs(plan: Plan, work: Sequence[Unit], store: SweepStore, complete: bool) -> list[Path]:
    names = [output_path(store.out, plan, task.name).name for task in plan.tasks]
    write_json(store.manifest_path, {"plan": plan.name, "complete": False, "writing": names})
    written = []
    for task in plan.tasks:
        ds = assemble(plan, task, work, store)
        if ds is not None:
            written.append(save_dataset(ds, output_path(store.out, plan, task.name), overwrite=True))
    hashes = {path.name: _file_hash(path) for path in written}
    keys = [unit.key for unit in work]
    write_json(store.manifest_path, {"plan": plan.name, "complete": complete, "outputs": hashes, "units": keys})
    return written


def _file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
