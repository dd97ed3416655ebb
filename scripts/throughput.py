"""tslaw's tokens per second while measuring, beside plain `vllm.LLM.generate` with the same model and settings.

    python scripts/throughput.py ladder-cpu --models ladder-0.4M,ladder-1.7M --task ladder-math --out out/throughput

tslaw's number is thinking tokens over thinking seconds of a measurement made for this, one arm at a time, native
weights. The plain run gives every prompt to one `generate` call that decodes the largest budget for each sample and
cannot stop early. Each runs in a process of its own. Prints one table row a model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from tslaw.dataset import open_dataset
from tslaw.measure.plan import Plan, load_plan


def plain_tokens_per_second(plan: Plan) -> float:
    """Decode the plan's only task with its only model by one call of `generate`, after a small one to warm up."""
    from tslaw.measure.engine import prepare_environment

    prepare_environment()
    from vllm import LLM, SamplingParams

    from tslaw.measure.tasks import load_task
    from tslaw.measure.thinking import bind, get_format, load_tokenizer
    from tslaw.measure.trajectory import longest_request
    from tslaw.measure.units import fetch_model

    (ref,), (task,) = plan.model_refs, plan.tasks
    folder, budget = fetch_model(ref.source), task.budgets[-1]
    fmt = bind(get_format(ref.thinking_format), load_tokenizer(folder))
    prompts = [fmt.render(p.prompt) for p in load_task(task.name).problems(task.problems, task.seed)]
    llm = LLM(
        folder,
        dtype=plan.engine.dtype,
        enforce_eager=not plan.engine.cuda_graphs,
        max_model_len=longest_request(prompts, budget, fmt),
        max_num_seqs=plan.engine.max_num_seqs,
        kv_cache_memory_bytes=int(plan.engine.kv_cache_gib * 2**30),
        gpu_memory_utilization=0.05,
        skip_tokenizer_init=True,
        seed=plan.seed,
    )
    sampling = SamplingParams(
        temperature=plan.temperature, top_p=plan.top_p, max_tokens=budget, ignore_eos=True, detokenize=False
    )
    requests = [{"prompt_token_ids": ids} for ids in prompts for _ in range(plan.samples)]
    llm.generate(requests[: plan.samples], sampling, use_tqdm=False)
    start = time.monotonic()
    outputs = llm.generate(requests, sampling, use_tqdm=False)
    seconds = time.monotonic() - start
    return sum(len(o.outputs[0].token_ids) for o in outputs) / seconds


def tslaw_tokens_per_second(plan: Plan, out: Path) -> float:
    """Measure the plan's only arm and task; its thinking tokens a second."""
    from tslaw.measure.runner import measure

    result = measure(plan, out, overwrite=True)
    if result.failures:
        sys.exit("\n".join(result.failures.values()))
    return float(open_dataset(result.outputs[0])["tokens_per_second"].values[0])


def narrowed(options: argparse.Namespace, model: str) -> Plan:
    """The plan with one model, its native weights and one task."""
    plan = load_plan(options.plan)
    tasks = tuple(t for t in plan.tasks if t.name == options.task)
    if not tasks:
        sys.exit(f"the plan has no task {options.task}, only {', '.join(t.name for t in plan.tasks)}")
    tasks = tuple(t.model_copy(update={"problems": options.problems or t.problems}) for t in tasks)
    changes = {"models": (model,), "weight_bits": (16,), "tasks": tasks, "workers": 1, "name": f"throughput-{model}"}
    # Checked again: a plain copy would keep what the old plan has looked up.
    return Plan.model_validate({**{name: getattr(plan, name) for name in Plan.model_fields}, **changes})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", help="a plan's YAML file or a shipped plan")
    parser.add_argument("--models", required=True, help="members of the family, with commas between")
    parser.add_argument("--task", required=True)
    parser.add_argument("--problems", type=int, help="instead of the plan's own number")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)  # the half that runs by itself
    options = parser.parse_args()
    if options.plain:
        print(json.dumps(plain_tokens_per_second(narrowed(options, options.models))))
        return
    print("| model | tslaw, tokens/s | plain generate, tokens/s | share |\n| --- | --- | --- | --- |")
    for model in options.models.split(","):
        ours = tslaw_tokens_per_second(narrowed(options, model), options.out)
        alone = [sys.executable, __file__, options.plan, "--models", model, "--task", options.task, "--plain"]
        problems = ["--problems", str(options.problems)] if options.problems else []
        command = [*alone, *problems, "--out", str(options.out)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        plain = float(said.stdout.splitlines()[-1])
        print(f"| {model} | {ours:,.0f} | {plain:,.0f} | {ours / plain:.0%} |", flush=True)


if __name__ == "__main__":
    main()
