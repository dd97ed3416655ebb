"""The plan of a sweep: what to measure, from a YAML file. Every fault names the key and what was expected.

name: my-sweep
family: ladder                     # a shipped family, or a YAML file that lists one
models: [ladder-0.4M]              # optional: members of the family; everything else is a hub id or a folder
tasks: [{name: ladder-math, problems: 40, seed: 99, budgets: [64, 128, 256]}]
weight_bits: [16, 8, 4]
kv_policies: [full, "rkv:128"]     # docs/kv.md
kv_options: {buffer: 32}           # optional: each policy takes those that it has
samples: 4
"""

from __future__ import annotations

import itertools
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tslaw.errors import TslawError
from tslaw.family import Family, ModelRef, load_family, resolve_model
from tslaw.measure.kv.settings import KVSettings, known_options, read_each
from tslaw.measure.tasks import load_task
from tslaw.measure.thinking import get_format
from tslaw.policy import parse_kv_policy

PLAN_FOLDER = Path(__file__).parent.parent / "data" / "plans"

Positive = Annotated[int, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskPlan(_Section):
    """How many problems of a task, from which seed, at which thinking-token budgets (ascending)."""

    name: str
    problems: Positive
    seed: int = 0
    budgets: Annotated[tuple[Positive, ...], Field(min_length=1)]

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        load_task(name)
        return name

    @field_validator("budgets")
    @classmethod
    def _ascending(cls, budgets: tuple[int, ...]) -> tuple[int, ...]:
        if any(a >= b for a, b in itertools.pairwise(budgets)):
            raise ValueError("budgets must ascend, each named once")
        return budgets


class EnginePlan(_Section):
    """How each engine is opened. `kv_cache_gib` is the cache's size; `cuda_graphs` is ignored on the CPU."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    max_num_seqs: Positive = 128
    kv_cache_gib: Annotated[float, Field(gt=0)] = 1.0
    cuda_graphs: bool = False


class Plan(_Section):
    """A sweep: every model x weight bits x KV policy is an arm, every arm is measured on every task."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    family: str
    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    tasks: Annotated[tuple[TaskPlan, ...], Field(min_length=1)]
    weight_bits: Annotated[tuple[Literal[16, 8, 4], ...], Field(min_length=1)] = (16,)
    kv_policies: Annotated[tuple[str, ...], Field(min_length=1)] = ("full",)
    kv_options: dict[str, int | float | None] = Field(default_factory=dict)
    samples: Positive = 1
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 0
    engine: EnginePlan = EnginePlan()
    workers: Positive = 1
    folder: Path = Field(default=Path("."), exclude=True)

    @field_validator("kv_policies")
    @classmethod
    def _canonical(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(parse_kv_policy(p)) for p in policies)

    @model_validator(mode="after")
    def _runnable(self) -> Plan:
        if unknown := sorted(set(self.kv_options) - known_options()):
            raise ValueError(f"kv_options: no KV policy has an option '{unknown[0]}'")
        for policy in self.kv_policies:
            self.kv_settings(policy)
        return self

    @model_validator(mode="after")
    def _no_repeats(self) -> Plan:
        named = {"models": self.models or (), "weight_bits": self.weight_bits, "kv_policies": self.kv_policies}
        named["tasks"] = tuple(task.name for task in self.tasks)
        for key, values in named.items():
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names something twice")
        return self

    def kv_settings(self, policy: str) -> KVSettings:
        """One of the plan's policies with those of the plan's options that it takes."""
        return read_each(policy, self.kv_options)

    @cached_property
    def loaded_family(self) -> Family:
        """The family; a YAML path is relative to the plan's own folder."""
        beside = self.folder / self.family
        return load_family(beside if beside.is_file() else self.family)

    @cached_property
    def model_refs(self) -> tuple[ModelRef, ...]:
        """The models to measure, in the plan's order."""
        if self.models is None:
            return self.loaded_family.models
        members = {ref.name: ref for ref in self.loaded_family.models}
        return tuple(members[name] if name in members else resolve_model(name) for name in self.models)


def shipped_plans() -> tuple[str, ...]:
    """Names of the plans that come with tslaw."""
    return tuple(sorted(path.stem for path in PLAN_FOLDER.glob("*.yaml")))


def load_plan(name_or_path: str) -> Plan:
    """Read and check a plan: a shipped name or a YAML file.

    Raises
    ------
    TslawError : the file is missing or not YAML, a key is unknown or has a bad value, or a model or task does not
        exist.
    """
    path = PLAN_FOLDER / f"{name_or_path}.yaml" if name_or_path in shipped_plans() else Path(name_or_path)
    if not path.is_file():
        raise TslawError(
            f"There is no plan '{name_or_path}'.", expected=f"a YAML file, or one of {', '.join(shipped_plans())}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TslawError("The plan is not valid YAML.", where=f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise TslawError("The plan is empty or not a mapping.", where=str(path), expected="keys name, family, tasks")
    return parse_plan(content, path)


def parse_plan(content: dict[str, Any], path: Path) -> Plan:
    """Check a plan's content; `path` is where it came from, for messages and relative paths."""
    try:
        plan = Plan.model_validate({**content, "folder": path.parent})
        refs = plan.model_refs
    except ValidationError as error:
        raise _explain(error, path) from error
    except TslawError as error:
        raise TslawError(error.what, where=error.where or str(path), expected=error.expected, fix=error.fix) from error
    for ref in refs:
        get_format(ref.thinking_format)
    return plan


def _explain(error: ValidationError, path: Path) -> TslawError:
    faults = error.errors(include_url=False)
    lines = [f"{_key(f['loc'])}: {_sentence(f)}" for f in faults]
    return TslawError(
        "The plan has a fault." if len(lines) == 1 else f"The plan has {len(lines)} faults.",
        where=str(path),
        expected="; ".join(lines),
        fix="tslaw measure --help shows a whole plan",
    )


def _key(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text or "the plan"


def _sentence(fault: Any) -> str:
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return "no such key"
    if fault["type"] in ("missing", "value_error"):
        return message
    return f"{message}, not {fault['input']!r}"
