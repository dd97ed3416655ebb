"""Weight checkpoints below 16 bits: GPTQ (Frantar et al. 2022) by gptqmodel, symmetric, groups of 128.

Embeddings, norms and lm_head stay native. vLLM loads the checkpoint as it is where it has a kernel for the width (4
bits everywhere, 8 bits on CUDA); otherwise the weights are dequantized to 16 bits and the arm is marked simulated.
Checkpoints are cached by a hash of model and recipe, made in a process of their own, and appear whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tslaw.errors import MissingExtraError, TslawError
from tslaw.measure.engine import platform_kind
from tslaw.measure.store import exclusive, read_json, write_json
from tslaw.measure.tasks import load_task
from tslaw.measure.thinking import BoundFormat, bind, get_format, load_tokenizer
from tslaw.measure.units import digest_of

RECORD = "tslaw_quantization.json"
NATIVE_KERNEL_BITS = {"cpu": (4,), "cuda": (4, 8)}


def cache_folder(work: Path) -> Path:
    """Where quantized weights are kept: $TSLAW_CACHE/weights, shared by sweeps, or the sweep's own folder."""
    shared = os.environ.get("TSLAW_CACHE")
    return Path(shared) / "weights" if shared else work / "weights"


def ensure_quantized(
    model: str,
    thinking_format: str,
    bits: int,
    recipes: list[dict[str, Any]],
    digest: str,
    cache: str,
    on_start: Callable[[], None],
    platform: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """The folder of the model's weights at `bits`, made if the cache has none, and the record of how they were made.

    `recipes` are those of all widths the sweep wants of this model: whoever comes first makes them all in one process,
    since starting gptqmodel takes longer than quantizing a small model. `platform` is what the weights are to run on,
    `cpu` or `cuda`, by default what the installed engine runs on.

    Raises
    ------
    TslawError : quantization failed or changed nothing.
    MissingExtraError : gptqmodel is not installed.
    """
    platform = platform or platform_kind()
    jobs = {recipe["bits"]: _job(model, thinking_format, recipe, digest, cache, platform) for recipe in recipes}
    folder = Path(jobs[bits]["folder"])
    with exclusive(Path(cache) / f"{digest_of(digest)[:20]}.lock", wait=True, what="These weights are being quantized"):
        if read_json(folder / RECORD) is None:
            on_start()
            missing = [job for job in jobs.values() if read_json(Path(job["folder"]) / RECORD) is None]
            said = _quantize_in_subprocess(missing, folder.with_suffix(".jobs.json"))
            if read_json(folder / RECORD) is None:
                raise TslawError(f"Quantizing {model} to {bits} bits failed:\n{said}")
    return str(folder), read_json(folder / RECORD)


def _job(
    model: str, thinking_format: str, recipe: dict[str, Any], digest: str, cache: str, platform: str
) -> dict[str, Any]:
    """What one checkpoint is made from; the folder's name is the hash of all that decides its content."""
    simulated = recipe["bits"] not in NATIVE_KERNEL_BITS[platform]
    content = {"recipe": recipe, "digest": digest, "thinking_format": thinking_format, "dequantized": simulated}
    folder = Path(cache).resolve() / digest_of(content)[:20]
    return {**content, "model": str(Path(model).resolve()), "folder": str(folder)}


def _quantize_in_subprocess(jobs: list[dict[str, Any]], job_path: Path) -> str:
    """gptqmodel wants a process of its own: it starts thread pools and patches libraries. Returns its last words."""
    import importlib.util

    if importlib.util.find_spec("gptqmodel") is None:
        raise MissingExtraError("gptqmodel", "quantize")
    write_json(job_path, jobs)
    env = {
        **os.environ,
        "GPTQMODEL_CPU_WORKERS": "2",  # it finds no room for its pool on two cores unless told
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }
    command = [sys.executable, "-m", "tslaw.measure.quantize", str(job_path.resolve())]
    with tempfile.TemporaryDirectory() as scratch:  # gptqmodel leaves its logs in the folder it runs in
        done = subprocess.run(
            command, env=env, cwd=scratch, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
    job_path.unlink()
    tail = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-6:]
    return "\n".join(f"      {line[:300]}" for line in tail)


def quantize(job: dict[str, Any]) -> None:
    """Make the checkpoint that `job` describes, in this process."""
    folder, recipe = Path(job["folder"]), job["recipe"]
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    start = time.monotonic()
    try:
        _run_gptq(job, partial / "gptq")
        changed = check_changed(Path(job["model"]), partial / "gptq", recipe["bits"])
        result = partial / "gptq"
        if job["dequantized"]:
            from tslaw.measure.gptq_unpack import dequantize_checkpoint

            result = partial / "plain"
            dequantize_checkpoint(partial / "gptq", result)
        record = {
            "recipe": recipe,
            "model_digest": job["digest"],
            "weight_format": "gptq-g128-dequantized" if job["dequantized"] else "gptq-g128",
            "weights_simulated": int(job["dequantized"]),
            "relative_weight_change": changed,
            "seconds": round(time.monotonic() - start, 1),
            **_versions(),
        }
        write_json(result / RECORD, record)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(result, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"gptqmodel": version("gptqmodel"), "torch": version("torch")}


def _run_gptq(job: dict[str, Any], destination: Path) -> None:
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig

    recipe = job["recipe"]
    torch.manual_seed(recipe["calibration_seed"])
    config = QuantizeConfig(
        bits=recipe["bits"], group_size=recipe["group_size"], sym=recipe["symmetric"], desc_act=False
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    examples = calibration(job["model"], job["thinking_format"], recipe)
    model = GPTQModel.load(job["model"], config, device=device)
    model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in examples], batch_size=4)
    model.save(str(destination))
    for path in Path(job["model"]).iterdir():  # chat template and whatever else gptqmodel leaves out
        companion = path.suffix in (".json", ".jinja", ".txt", ".model")
        # The index of a sharded original names files that the quantized copy does not have.
        if companion and not path.name.endswith(".index.json") and not (destination / path.name).exists():
            shutil.copy(path, destination / path.name)


def calibration(model: str, thinking_format: str, recipe: dict[str, Any]) -> list[list[int]]:
    """Token ids of prompts followed by reasoning, in equal shares from the recipe's tasks.

    The reasoning is the task's worked solution where it has one, otherwise what the model itself thinks.
    """
    fmt = bind(get_format(thinking_format), load_tokenizer(model))
    names = sorted(recipe["calibration_tasks"])
    share = -(-recipe["calibration_sequences"] // len(names))
    longest = recipe["calibration_max_tokens"]
    rows: list[list[int]] = []
    for name in names:
        task = load_task(name)
        problems = task.problems(share, recipe["calibration_seed"])
        prompts = [fmt.render(problem.prompt) for problem in problems]
        reasoning = [task.reference_reasoning(problem) for problem in problems]
        own = [i for i, text in enumerate(reasoning) if text is None]
        thought = dict(zip(own, _own_thinking(model, [prompts[i] for i in own], longest, fmt), strict=True))
        for i, prompt in enumerate(prompts):
            text = reasoning[i]
            tokens = thought[i] if text is None else fmt.tokenizer.encode(text, add_special_tokens=False)
            rows.append((prompt + list(tokens))[:longest])
    return rows


def _own_thinking(model: str, prompts: list[list[int]], longest: int, fmt: BoundFormat) -> list[list[int]]:
    """What the model thinks about each prompt, sampled at temperature 0.6, up to `longest` tokens in all."""
    if not prompts:
        return []
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = AutoModelForCausalLM.from_pretrained(model, dtype="auto").to(device)
    thoughts = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=device)
        out = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=0.6,
            max_new_tokens=max(longest - len(prompt), 1),
            eos_token_id=list(fmt.end_ids),
            pad_token_id=fmt.end_ids[0],
        )
        thoughts.append(out[0, len(prompt) :].tolist())
    return thoughts


def check_changed(original: Path, quantized: Path, bits: int) -> float:
    """The relative change of the linear weights by quantization (Frobenius norm, over all layers).

    Raises TslawError when no layer was quantized or nothing changed: such an arm would pass 16-bit results off as
    others.
    """
    from tslaw.measure.gptq_unpack import dequantize_linear, read_state

    before, after = read_state(original), read_state(quantized)
    config = json.loads((quantized / "config.json").read_text())["quantization_config"]
    less_one = config.get("checkpoint_format", "gptq") == "gptq"
    difference = total = 0.0
    for name in after:
        if not name.endswith(".qweight"):
            continue
        stem = name.removesuffix(".qweight")
        weight = before[f"{stem}.weight"].float()
        difference += float((dequantize_linear(after, stem, bits, less_one) - weight).square().sum())
        total += float(weight.square().sum())
    if not difference or config["bits"] != bits:
        raise TslawError(
            f"Quantization to {bits} bits changed no weight of this model.",
            where=str(original),
            expected="a model whose linear layers gptqmodel knows",
        )
    return float((difference / total) ** 0.5)


def main() -> None:
    """Entry point of the quantizing process: `python -m tslaw.measure.quantize JOBS.json`."""
    from tslaw.measure.worker import die_with_parent

    die_with_parent()
    for job in read_json(Path(sys.argv[1])):
        quantize(job)


if __name__ == "__main__":
    main()
