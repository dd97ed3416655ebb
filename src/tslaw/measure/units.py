"""A plan as work: its arms, and for each arm and task a *unit* whose key hashes all that affects its result."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tslaw.dataset_arms import arm_name
from tslaw.errors import TslawError
from tslaw.family import ModelRef
from tslaw.measure.plan import Plan, TaskPlan
from tslaw.measure.tasks import load_task

# Changes whenever the same plan would give other results: how trajectories, probes or batches are made.
PROTOCOL = 1
NATIVE_BITS = 16


@dataclass(frozen=True)
class ArmSpec:
    """One configuration to measure: a model at some weight bits under a KV policy."""

    ref: ModelRef
    weight_bits: int
    kv_policy: str

    @property
    def name(self) -> str:
        """As in the dataset, such as "ladder-0.4M:w4:full"."""
        return arm_name(self.ref.name, self.weight_bits, self.kv_policy)


@dataclass(frozen=True)
class Unit:
    """One arm on one task. `identity` is what `key` hashes; `batches` are ranges of problem numbers."""

    arm: ArmSpec
    task: TaskPlan
    identity: dict[str, Any]
    batches: tuple[range, ...]

    @property
    def key(self) -> str:
        """20 hexadecimal digits: equal keys mean equal work."""
        return digest_of(self.identity)[:20]

    def thinking_tokens(self, samples: int) -> int:
        """Thinking tokens of the whole unit."""
        return self.task.problems * samples * self.task.budgets[-1]


def digest_of(content: Any) -> str:
    """SHA-256 of a JSON-like value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def arms(plan: Plan) -> list[ArmSpec]:
    """The plan's arms, models outermost."""
    return [ArmSpec(ref, b, p) for ref in plan.model_refs for b in plan.weight_bits for p in plan.kv_policies]


def units(plan: Plan, engine: Sequence[str]) -> list[Unit]:
    """Every unit of the plan; `engine` is the package and version that will run it."""
    return [_unit(plan, arm, task, engine) for arm in arms(plan) for task in plan.tasks]


def _unit(plan: Plan, arm: ArmSpec, task: TaskPlan, engine: Sequence[str]) -> Unit:
    identity = {
        "protocol": PROTOCOL,
        "model": arm.ref.name,
        "model_digest": model_digest(arm.ref.source),
        "thinking_format": arm.ref.thinking_format,
        "weight_bits": arm.weight_bits,
        "quantization": None if arm.weight_bits == NATIVE_BITS else quantization_recipe(plan, arm.weight_bits),
        "kv_policy": arm.kv_policy,
        **_kv_identity(plan, arm),
        "task": {**task.model_dump(mode="json"), "version": load_task(task.name).version},
        "samples": plan.samples,
        "sampling": [plan.temperature, plan.top_p, plan.seed],
        "engine": [*engine, plan.engine.dtype, plan.engine.max_num_seqs, plan.engine.cuda_graphs],
    }
    return Unit(arm, task, identity, problem_batches(task.problems, plan.samples, plan.engine.max_num_seqs))


def _kv_identity(plan: Plan, arm: ArmSpec) -> dict[str, Any]:
    """What else makes a compressed arm what it is; nothing for the full cache."""
    options = plan.kv_settings(arm.kv_policy).options
    return {"kv_options": options} if options else {}


def quantization_recipe(plan: Plan, bits: int) -> dict[str, Any]:
    """How the plan's weights are quantized, as a plain value: GPTQ calibrated on all tasks of the plan together.

    Calibration problems come from seeds of their own, so they are not the ones that are measured.
    """
    tasks = {task.name: load_task(task.name).version for task in plan.tasks}
    return {
        "recipe": 1,
        "method": "gptq",
        "bits": bits,
        "group_size": 128,
        "symmetric": True,
        "calibration_tasks": tasks,
        "calibration_seed": 1_000_003 + plan.seed,
        "calibration_sequences": 96,
        "calibration_max_tokens": 512,
    }


def quantization_recipes(plan: Plan) -> list[dict[str, Any]]:
    """The recipes of all widths below 16 bits that the plan asks for."""
    return [quantization_recipe(plan, bits) for bits in plan.weight_bits if bits != NATIVE_BITS]


def problem_batches(problems: int, samples: int, max_num_seqs: int) -> tuple[range, ...]:
    """Problems in as few batches of nearly equal size as fit `max_num_seqs` trajectories at a time."""
    per_batch = max(1, max_num_seqs // samples)
    n_batches = -(-problems // per_batch)
    edges = [round(i * problems / n_batches) for i in range(n_batches + 1)]
    return tuple(range(a, b) for a, b in itertools.pairwise(edges))


def batch_seed(unit: Unit, batch: int, seed: int) -> int:
    """The engine's seed for one batch: a resumed sweep draws what an uninterrupted one would have drawn."""
    return int(digest_of([unit.key, batch, seed])[:8], 16) & 0x7FFFFFFF


@lru_cache(maxsize=256)
def model_digest(source: str) -> str:
    """What identifies a model's files: SHA-256 of a folder's files, or the hub repository's commit if it is cached."""
    folder = Path(source)
    if not folder.is_dir():
        return f"{source}@{_cached_commit(source)}"
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jinja", ".safetensors", ".model", ".bin"):
            total.update(path.name.encode())
            with open(path, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _cached_commit(hub_id: str) -> str:
    try:
        return Path(_snapshot(hub_id, local_only=True)).name
    except (TslawError, ImportError):
        return "not-downloaded"


def fetch_model(source: str) -> str:
    """The folder of a model: itself, or the hub repository downloaded (or found) in the hub's cache."""
    return source if Path(source).is_dir() else _snapshot(source, local_only=False)


def _snapshot(hub_id: str, local_only: bool) -> str:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    try:
        return str(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=local_only))
    except Exception as error:  # the hub client raises many kinds; all mean "not to be had"
        raise TslawError(
            f"The model '{hub_id}' could not be had from the Hugging Face hub: {str(error).splitlines()[0]}",
            expected="a repository you may read, and a network or a cached copy",
        ) from error
