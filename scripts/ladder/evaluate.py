"""A first look at a checkpoint: raw answers of the sampler at 16, 4 and 8 bits (round to nearest) on both tasks."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch

from ladder import sampler
from ladder.architecture import SIZES, from_hf, round_to_nearest
from ladder.export import read_weights
from ladder.train import matrices
from tslaw.measure.tasks import ladder_world as w

MATH_BUDGETS = [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1280, 1536]
KNOW_BUDGETS = [8, 11, 14, 20, 24, 32, 48, 64, 96, 128, 192, 256]
BITS, TEMPERATURE, SAMPLES, SEED = (16, 4, 8), 0.6, 16, 11


def _answer_ids(tokens: np.ndarray) -> np.ndarray:
    """One integer for the one or two tokens of an answer [..., n]."""
    return tokens.astype(np.int64) @ (1024 ** np.arange(tokens.shape[-1])[::-1])


def _report(name: str, budgets: list[int], right: np.ndarray, strata: np.ndarray, seconds: float) -> dict[str, object]:
    """Accuracies of one task and precision; ``right`` is [budget, problem, sample]."""
    largest = right[-1].mean(1)
    parts = (("octave", strata // 1000), ("length", strata % 1000))
    by = {f"{label}{v}": round(float(largest[part == v].mean()), 3) for label, part in parts for v in np.unique(part)}
    accuracy = {str(t): round(float(right[i].mean()), 4) for i, t in enumerate(budgets)}
    print(f"{name} {seconds:.0f} s {accuracy} at the end {by}", flush=True)
    return {"accuracy": accuracy, "at_largest": by, "seconds": round(seconds, 1)}


def evaluate(folder: Path, out: Path, device: torch.device, until: float = 0, samples: int = SAMPLES,
             largest: int = 1536) -> None:  # fmt: skip
    """Write ``out``.npz (raw answers) and ``out``.json (accuracies) for a checkpoint folder."""
    size, state = SIZES[folder.name], read_weights(folder)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model, native = (from_hf(size, state).to(dtype).to(device).eval() for _ in range(2))
    tasks = {"know": (w.know_problems(seed=SEED), KNOW_BUDGETS, 2),
             "math": (w.math_problems(seed=SEED), MATH_BUDGETS, 1)}  # fmt: skip
    raw: dict[str, np.ndarray] = {}
    part = out.with_name(out.name + ".part.npz")  # with_suffix would cut the name at its dot
    results: dict[str, object] = {"temperature": TEMPERATURE, "samples": samples, "seed": SEED}
    for task, ((prompts, answers, strata), budgets, n_answer) in tasks.items():
        budgets = [b for b in budgets if b <= largest]
        rows = [p for p in prompts for _ in range(samples)]
        decoder = sampler.Decoder(model, len(rows), max(map(len, prompts)) + max(budgets) + n_answer + 2)
        truth = _answer_ids(np.array(answers))
        raw |= {f"{task}_truth": truth, f"{task}_strata": np.array(strata), f"{task}_budgets": np.array(budgets)}
        for bits in BITS:
            if until and time.time() > until:
                print(f"{size.name} {task} w{bits} left out: no time", flush=True)
                continue
            began = time.time()
            torch.manual_seed(SEED)
            for target, source in zip(matrices(model), matrices(native), strict=True):
                target.data.copy_(source if bits == 16 else round_to_nearest(source.data, bits))
            tokens, natural, thoughts = sampler.think(decoder, rows, budgets, n_answer, TEMPERATURE)
            ids = _answer_ids(tokens).reshape(len(budgets), len(prompts), samples)
            raw |= {f"{task}_w{bits}": ids.astype(np.int32),
                    f"{task}_w{bits}_natural": natural.reshape(-1, samples).astype(np.int16)}  # fmt: skip
            results[f"{task}_w{bits}"] = _report(f"{size.name} {task} w{bits}", budgets, ids == truth[:, None],
                                                 np.array(strata), time.time() - began)  # fmt: skip
            if bits == 16:
                print(f"   {w.render(prompts[0])} || {w.render(thoughts[0][:64])}", flush=True)
            np.savez_compressed(part, **raw)
            out.with_name(out.name + ".json").write_text(json.dumps(results, indent=1) + "\n")
        del decoder
    part.rename(out.with_name(out.name + ".npz"))
