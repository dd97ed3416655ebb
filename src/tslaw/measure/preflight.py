"""Before anything runs: do the prompts fit the models, how much work is it, how long will it take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tslaw import memory
from tslaw.errors import TslawError
from tslaw.measure.kv.effect_check import check_it_will_bite
from tslaw.measure.plan import Plan
from tslaw.measure.store import SweepStore, read_json
from tslaw.measure.tasks import load_task
from tslaw.measure.thinking import bind, get_format, load_tokenizer
from tslaw.measure.trajectory import longest_request
from tslaw.measure.units import Unit

# Seconds to start an engine, seen on one CPU core; used only to predict.
ENGINE_START_SECONDS = 14.0


@dataclass(frozen=True)
class Forecast:
    """What a sweep will take. Tokens are those still to decode; seconds are None where no speed is known."""

    units: int
    units_done: int
    thinking_tokens: int
    probes: int
    replayed_tokens: int
    arms_to_run: int
    largest_arm_gib: float
    seconds: float | None
    tokens_per_second: float | None

    def text(self, workers: int) -> str:
        """Lines for a user."""
        time = "unknown: state --tokens-per-second, or measure a first arm"
        if self.seconds is not None:
            time = f"{self.seconds / 60:.1f} min at {self.tokens_per_second:,.0f} tokens/s a worker, {workers} at once"
        replays = f"replays    {self.replayed_tokens:,} tokens to read again: compressed caches share no prefixes"
        return "\n".join(
            [
                f"units      {self.units} ({self.units_done} done), {self.arms_to_run} arms to run",
                f"thinking   {self.thinking_tokens:,} tokens to decode",
                f"probes     {self.probes:,} answers to decode",
                *([replays] if self.replayed_tokens else []),
                f"memory     {self.largest_arm_gib:.2f} GiB (weights, KV cache) for the largest arm, {workers} at once",
                f"time       {time}",
            ]
        )


def check_lengths(plan: Plan, folders: dict[str, str]) -> None:
    """TslawError if a model cannot hold prompt, largest budget and answer, or a KV policy would have nothing to do.

    `folders`: model name -> its files.
    """
    for ref in plan.model_refs:
        config = read_json(Path(folders[ref.name]) / "config.json") or {}
        limit = config.get("max_position_embeddings")
        fmt = bind(get_format(ref.thinking_format), load_tokenizer(folders[ref.name]))
        for task in plan.tasks:
            prompts = [fmt.render(p.prompt) for p in load_task(task.name).problems(task.problems, task.seed)]
            for policy in plan.kv_policies:
                shortest = min(map(len, prompts)) + task.budgets[-1]
                check_it_will_bite(plan.kv_settings(policy), shortest, f"KV policy {policy} on task {task.name}")
            longest = longest_request(prompts, task.budgets[-1], fmt)
            if limit is not None and longest > limit:
                raise TslawError(
                    f"{ref.name} holds at most {limit} tokens, but {task.name} needs {longest}: a prompt of up to "
                    f"{max(map(len, prompts))}, {task.budgets[-1]} of thinking, and the answer.",
                    where=f"budgets of task {task.name}",
                    expected=f"budgets of at most {max(limit - (longest - task.budgets[-1]), 0)}",
                )


def forecast(plan: Plan, units: Sequence[Unit], store: SweepStore, tokens_per_second: float | None) -> Forecast:
    """Count the work that is left and predict its time, from a stated speed or from the batches measured so far."""
    share_left: dict[str, float] = {}
    for unit in units:
        share_left[unit.key] = len(store.unit(unit.key).missing(len(unit.batches))) / len(unit.batches)
    left = [unit for unit in units if share_left[unit.key]]
    tokens = int(sum(unit.thinking_tokens(plan.samples) * share_left[unit.key] for unit in left))
    probes = int(sum(len(u.task.budgets) * u.task.problems * plan.samples * share_left[u.key] for u in left))
    compressed = [unit for unit in left if unit.arm.kv_policy != "full"]
    replays = int(sum(sum(u.task.budgets) * u.task.problems * plan.samples * share_left[u.key] for u in compressed))
    arms_to_run = len({unit.arm.name for unit in left})
    speed = tokens_per_second or observed_speed(units, store)
    seconds = (
        (arms_to_run * ENGINE_START_SECONDS + tokens / speed) / min(plan.workers, max(arms_to_run, 1))
        if speed
        else None
    )
    return Forecast(
        units=len(units),
        units_done=len(units) - len(left),
        thinking_tokens=tokens,
        probes=probes,
        replayed_tokens=replays,
        arms_to_run=arms_to_run,
        largest_arm_gib=max(_arm_gib(unit, plan) for unit in units),
        seconds=seconds,
        tokens_per_second=speed,
    )


def _arm_gib(unit: Unit, plan: Plan) -> float:
    weights = memory.weight_bytes(unit.arm.ref.shape, unit.arm.weight_bits) / memory.GIB
    return weights + plan.engine.kv_cache_gib


def observed_speed(units: Sequence[Unit], store: SweepStore) -> float | None:
    """Thinking tokens a second of wall time over all batches on disk, probes included; None without any."""
    batches: list[Any] = [
        batch
        for unit in units
        for number in range(len(unit.batches))
        if (batch := store.unit(unit.key).read(number)) is not None
    ]
    seconds = sum(batch["seconds"] for batch in batches)
    return float(sum(batch["thinking_tokens"] for batch in batches) / seconds) if seconds else None
