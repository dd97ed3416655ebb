"""All that the engine tests need from one vLLM engine, run once in its own process: `engine_session.py OUT.json`.

float32 at temperature 0 on a middling ladder model (a small one is seldom right), where every token has one right
value. Then the same by a plain transformers loop.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))

# task -> (first and last problem + 1, budgets). At four of these knowledge problems the model tries to stop.
CASES = {"ladder-math": ((0, 8), [8, 48, 84, 120]), "ladder-knowledge": ((28, 43), [6, 16, 28])}
SAMPLING_SEED = 7


def main(out: Path) -> None:
    from tslaw.family import load_family
    from tslaw.measure.engine import EngineSettings, open_engine, prepare_environment

    prepare_environment()
    from tslaw.measure.thinking import bind, get_format, load_tokenizer

    ref = load_family("ladder").models[2]
    fmt = bind(get_format(ref.thinking_format), load_tokenizer(ref.source))
    settings = EngineSettings(ref.source, "float32", 512, 16, 0.25, 0.0, 1.0, 0)
    with open_engine(settings) as engine:
        found = {name: nested_and_separate(engine, name, fmt) for name in CASES}
        found["kv_bytes_per_token"] = engine.kv_bytes_per_token()
    for name in CASES:
        found[name]["transformers"] = plain_loop(ref.source, name, fmt)
    out.write_text(json.dumps(found))


def prompts_of(name: str, fmt):
    from tslaw.measure.tasks import load_task

    first, stop = CASES[name][0]
    problems = load_task(name).problems(stop, seed=3)[first:]
    return problems, [fmt.render(problem.prompt) for problem in problems]


def nested_and_separate(engine, name: str, fmt) -> dict:
    """One long trajectory with probes, and one run for each budget."""
    from tslaw.measure.trajectory import probe, run_to_budget, think

    _, prompts = prompts_of(name, fmt)
    budgets = CASES[name][1]
    trajectories = think(engine, prompts, 1, budgets[-1], fmt)
    nested = probe(engine, trajectories, budgets, fmt)
    engine.reseed(SAMPLING_SEED)
    return {
        "thinking": [t.thinking for t in trajectories],
        "natural_length": [t.natural_length for t in trajectories],
        "nested": nested,
        "separate": [run_to_budget(engine, prompts, 1, budget, fmt) for budget in budgets],
    }


def plain_loop(source: str, name: str, fmt) -> dict:
    import torch
    from budget_forcing_reference import answer_after, force_to_budget
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    problems, prompts = prompts_of(name, fmt)
    budgets = CASES[name][1]
    with torch.inference_mode():
        forced = [force_to_budget(network, prompt, budgets[-1], fmt) for prompt in prompts]
        answers = [
            [answer_after(network, prompt, thinking[:budget], fmt) for budget in budgets]
            for prompt, (thinking, _) in zip(prompts, forced, strict=True)
        ]
    from tslaw.measure.tasks import load_task

    grade = load_task(name).grade
    return {
        "thinking": [thinking for thinking, _ in forced],
        "natural_length": [natural for _, natural in forced],
        "answers": answers,
        "correct": [
            [grade(fmt.read_answer(ids), problem)[1] for ids in row]
            for row, problem in zip(answers, problems, strict=True)
        ],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
