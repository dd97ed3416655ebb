"""The first look's raw answers as measurement datasets, and as a short table (CSV).

    python scripts/ladder/first_look.py MODELS EVALUATION OUT

MODELS holds the checkpoint folders, EVALUATION the .npz files of `train_ladder.py`. Writes OUT/ladder-math.nc and
OUT/ladder-knowledge.nc (the engine is this package's own sampler; 4 and 8 bits are by rounding to nearest, not by GPTQ,
and dequantized) and OUT/first_look.csv (accuracy, its standard error over problems, majority of 16).
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tslaw.dataset import Arm, build_dataset, save_dataset
from tslaw.measure.tasks import ladder_world as w
from tslaw.shape import shape_from_config
from tslaw.votes import maj_at_g

BITS = (16, 8, 4)
TASKS = {"math": ("ladder-math", 1 / w.N_VALUES), "know": ("ladder-knowledge", 1 / w.N_ENTITIES)}


def _text(code: int) -> str:
    """An answer's token ids, packed by 1024, as text."""
    return w.render([code // 1024, code % 1024] if code >= 1024 else [code])


def _measured(raw: list[tuple[np.ndarray, np.ndarray]], truth: np.ndarray, n_answer: int) -> tuple[dict, list[str]]:
    """Arrays of the contract and the distinct answers, from (answers, natural lengths) of each arm."""
    codes = np.stack([answers for answers, _ in raw])
    distinct, index = np.unique(codes, return_inverse=True)
    shape = codes.shape
    measured = {
        "answer": index.reshape(shape),
        "correct": (codes == truth[:, None]).astype(np.int8),
        "probe_tokens": np.full(shape, n_answer),
        "natural_length": np.stack([natural for _, natural in raw]),
    }
    return measured, [_text(int(c)) for c in distinct]


def dataset(task: str, models: list[Path], evaluation: Path) -> Any:
    """All sizes and precisions of one task."""
    arms, raw, first = [], [], None
    for folder in models:
        found = np.load(evaluation / f"{folder.name}.npz")
        first = found if first is None else first
        shape = shape_from_config(json.loads((folder / "config.json").read_text()), folder.name)
        for bits in (b for b in BITS if f"{task}_w{b}" in found):
            simulated = bits != 16
            form = "gptq-g128-dequantized" if simulated else "native"
            arms.append(Arm(shape, bits, weight_format=form, weights_simulated=simulated))
            raw.append((found[f"{task}_w{bits}"], found[f"{task}_w{bits}_natural"]))
    assert first is not None
    budgets, truth, strata = (first[f"{task}_{name}"] for name in ("budgets", "truth", "strata"))
    measured, answers = _measured(raw, truth, 1 if task == "math" else 2)
    measured["thinking_tokens"] = np.broadcast_to(budgets[None, :, None, None], measured["answer"].shape)
    name, chance = TASKS[task]
    record = json.loads((models[0] / "training.json").read_text())
    attrs = {"family": "ladder", "task": name, "task_version": str(w.WORLD_VERSION), "task_chance": chance,
             "engine": "ladder-sampler", "engine_version": "1", "device": record["device"], "temperature": 0.6,
             "top_p": 1.0, "seed": 11, "shared_trajectories": 1,
             "provenance": {"quantization": "round to nearest, group 128, dequantized"}}  # fmt: skip
    levels = [f"octave{s // 1000}-length{s % 1000}" for s in strata]
    problems = [f"p{i:04d}" for i in range(len(truth))]
    return build_dataset(arms, budgets, problems, levels, answers, measured, attrs)


def rows(ds: Any) -> list[dict[str, object]]:
    """The table's rows of one dataset."""
    correct, answer = ds["correct"].values, ds["answer"].values
    per_problem = correct.mean(-1)
    votes = maj_at_g(answer, correct, min(16, answer.shape[-1]))[0].mean(-1)
    return [
        {"task": ds.attrs["task"], "model": str(ds["model"].values[i]), "bits": int(ds["weight_bits"].values[i]),
         "budget": int(t), "accuracy": round(float(per_problem[i, j].mean()), 4),
         "standard_error": round(float(per_problem[i, j].std(ddof=1) / per_problem.shape[-1] ** 0.5), 4),
         "majority_16": round(float(votes[i, j]), 4)}
        for i in range(ds.sizes["arm"]) for j, t in enumerate(ds["budget"].values)
    ]  # fmt: skip


def main(models: Path, evaluation: Path, out: Path) -> None:
    by_size = lambda folder: json.loads((folder / "training.json").read_text())["parameters"]  # noqa: E731
    folders = sorted((f for f in models.glob("ladder-*") if (f / "training.json").exists()), key=by_size)
    table: list[dict[str, object]] = []
    for task, (name, _) in TASKS.items():
        ds = dataset(task, folders, evaluation)
        save_dataset(ds, out / f"{name}.nc", overwrite=True)
        table += rows(ds)
    with (out / "first_look.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main(*(Path(a) for a in sys.argv[1:4]))
