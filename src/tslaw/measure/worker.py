"""The process that measures one arm: opens an engine, works through the batches that are missing, writes each as it
is done.

Started by the runner as `python -m tslaw.measure.worker JOB.json`; it reports on standard output, one JSON line an
event after the mark `@tslaw `, and ends when the runner does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tslaw.errors import TslawError
from tslaw.measure.kv.effect_check import check_it_did_bite
from tslaw.measure.kv.effects import EFFECTS
from tslaw.measure.kv.settings import KVSettings
from tslaw.measure.store import UnitStore, read_json
from tslaw.measure.tasks import Problem, Task, load_task
from tslaw.measure.thinking import BoundFormat, bind, get_format, load_tokenizer
from tslaw.measure.trajectory import Trajectory, longest_request, probe, think

MARK = "@tslaw "


@dataclass(frozen=True)
class UnitJob:
    """One unit's share of a job: where its results go, the ranges of problems that make its batches, their seeds."""

    folder: str
    task: str
    problems: int
    seed: int
    budgets: list[int]
    batches: list[list[int]]
    batch_seeds: list[int]


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know. `quantization` is a recipe and a cache folder, None for native weights."""

    arm: str
    model: str
    thinking_format: str
    quantization: dict[str, Any] | None
    samples: int
    temperature: float
    top_p: float
    seed: int
    kv_policy: str
    kv_options: dict[str, Any]
    engine: dict[str, Any]
    units: list[UnitJob]

    @staticmethod
    def read(path: Path) -> Job:
        """From the file that the runner wrote."""
        content = read_json(path)
        return Job(**{**content, "units": [UnitJob(**unit) for unit in content["units"]]})

    def as_dict(self) -> dict[str, Any]:
        """As it is written to the file."""
        return asdict(self)


def report(event: str, **facts: Any) -> None:
    """Tell the runner."""
    print(MARK + json.dumps({"event": event, **facts}), flush=True)


def die_with_parent() -> None:
    """Have Linux end this process when its parent ends, so that a killed runner leaves none behind."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def run(job: Job) -> None:
    """Measure every missing batch of the job."""
    from tslaw.measure.engine import (
        EngineSettings,
        device_name,
        engine_package,
        open_engine,
        platform_kind,
        prepare_environment,
    )

    todo = [(unit, batch) for unit in job.units for batch in UnitStore(Path(unit.folder)).missing(len(unit.batches))]
    if not todo:
        return
    prepare_environment()
    model, quantized = _weights(job)
    fmt = bind(get_format(job.thinking_format), load_tokenizer(job.model))
    tasks = {unit.task: _prepare(unit, fmt) for unit in job.units}
    length = max(longest_request(tasks[unit.task].prompts, unit.budgets[-1], fmt) for unit in job.units)
    settings = EngineSettings(
        model=model,
        max_model_len=length,
        temperature=job.temperature,
        top_p=job.top_p,
        seed=job.seed,
        kv_policy=job.kv_policy,
        kv_options=job.kv_options,
        **job.engine,
    )
    kv = KVSettings.read(job.kv_policy, job.kv_options)
    report("opening")
    with open_engine(settings) as engine:
        package, version = engine_package()
        facts = {
            "package": package,
            "version": version,
            "device": device_name(),
            "weight_bytes": _number(engine.weight_bytes()),
            "kv_bytes_per_token": _number(engine.kv_bytes_per_token()),
            "quantization": quantized,
            "kv_simulated": kv.simulated(platform_kind()),
        }
        report("open")
        for unit, batch in todo:
            engine.reseed(unit.batch_seeds[batch])
            EFFECTS.reset()
            result = measure_batch(engine, tasks[unit.task], unit, unit.batches[batch], job.samples, fmt)
            check_it_did_bite(kv, EFFECTS)
            facts["kv_effects"] = EFFECTS.as_dict()
            facts["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            UnitStore(Path(unit.folder)).write(batch, {**result, "batch": batch, "arm": job.arm, "engine": facts})
            report("batch", unit=Path(unit.folder).name, tokens=result["thinking_tokens"], seconds=result["seconds"])


@dataclass(frozen=True)
class _PreparedTask:
    task: Task
    problems: list[Problem]
    prompts: list[list[int]]


def _prepare(unit: UnitJob, fmt: BoundFormat) -> _PreparedTask:
    task = load_task(unit.task)
    problems = task.problems(unit.problems, unit.seed)
    return _PreparedTask(task, problems, [fmt.render(problem.prompt) for problem in problems])


def _weights(job: Job) -> tuple[str, dict[str, Any] | None]:
    """The folder to load, and what is known about its quantization."""
    if job.quantization is None:
        return job.model, None
    from tslaw.measure.quantize import ensure_quantized

    return ensure_quantized(job.model, job.thinking_format, **job.quantization, on_start=lambda: report("quantizing"))


def _number(value: float) -> float | None:
    return None if value != value else value


def measure_batch(
    engine: Any, prepared: _PreparedTask, unit: UnitJob, numbers: list[int], samples: int, fmt: BoundFormat
) -> dict[str, Any]:
    """Think and probe for the problems numbered `numbers[0]` to `numbers[1] - 1`; returns plain values, graded."""
    problems = prepared.problems[numbers[0] : numbers[1]]
    start = time.monotonic()
    trajectories = think(engine, prepared.prompts[numbers[0] : numbers[1]], samples, unit.budgets[-1], fmt)
    thought = time.monotonic()
    answers = probe(engine, trajectories, unit.budgets, fmt)
    probed = time.monotonic()
    rows = [
        _graded(prepared.task, problem, trajectories[i * samples : (i + 1) * samples], answers[i * samples :], fmt)
        for i, problem in enumerate(problems)
    ]
    return {
        "problems": rows,
        "thinking_tokens": sum(len(t.thinking) for t in trajectories),
        "probe_tokens": sum(len(ids) for probes in answers for ids in probes),
        "thinking_seconds": thought - start,
        "probe_seconds": probed - thought,
        "seconds": probed - start,
    }


def _graded(
    task: Task, problem: Problem, trajectories: list[Trajectory], answers: list[list[list[int]]], fmt: BoundFormat
) -> dict[str, Any]:
    """One problem's samples: for each the natural length, and for each budget the answer as text, graded."""
    samples = []
    for trajectory, probes in zip(trajectories, answers, strict=False):
        texts = [fmt.read_answer(ids) for ids in probes]
        grades = [task.grade(text, problem) for text in texts]
        samples.append(
            {
                "natural_length": trajectory.natural_length,
                "thinking_tokens": len(trajectory.thinking),
                "texts": texts,
                "answers": [answer for answer, _ in grades],
                "correct": [int(correct) for _, correct in grades],
                "probe_tokens": [len(ids) for ids in probes],
            }
        )
    return {"id": problem.id, "level": problem.level, "samples": samples}


def main() -> None:
    """Entry point of the process; exit status 0 done, 2 a fault that was reported, anything else a crash."""
    die_with_parent()
    try:
        run(Job.read(Path(sys.argv[1])))
    except TslawError as error:
        report("error", message=str(error))
        sys.exit(2)
    except OSError as error:
        report("error", message=f"{error.strerror or error}: {error.filename or ''}")
        sys.exit(2)


if __name__ == "__main__":
    main()
