"""Shared trajectories with a compressed cache, and a transformers model whose attention is the slow reference.

Run as `probe_session.py OUT.json`; float32 at temperature 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "reference"))

EVICT, ROUND = {"buffer": 32}, {"residual": 32, "group": 32}
POLICIES = {
    "rkv:64": EVICT,
    "streaming:64": EVICT,
    "random:64": EVICT,
    "quantized:2": ROUND,
    "rkv:64+quantized:4": {**EVICT, **ROUND},
}
BUDGETS = [60, 96, 131]  # beside events and right at one: prompts differ in length
N_PROBLEMS = 6


def main(out: Path) -> None:
    from tslaw.family import load_family
    from tslaw.measure.engine import EngineSettings, open_engine, prepare_environment

    prepare_environment()
    from tslaw.measure.tasks import load_task
    from tslaw.measure.thinking import bind, get_format, load_tokenizer

    ref = load_family("ladder").models[2]
    fmt = bind(get_format(ref.thinking_format), load_tokenizer(ref.source))
    prompts = [fmt.render(p.prompt) for p in load_task("ladder-math").problems(N_PROBLEMS, seed=3)]
    found = {}
    for policy, options in POLICIES.items():
        settings = EngineSettings(
            ref.source, "float32", 512, 16, 0.1, 0.0, 1.0, 0, kv_policy=policy, kv_options=options
        )
        with open_engine(settings) as engine:
            found[policy] = nested_and_separate(engine, prompts, fmt)
    for policy, options in POLICIES.items():
        found[policy]["reference"] = by_the_reference(ref.source, policy, options, prompts, found[policy], fmt)
    out.write_text(json.dumps(found))


def nested_and_separate(engine, prompts, fmt) -> dict:
    """One long trajectory with probes, and one run for each budget."""
    from tslaw.measure.trajectory import probe, run_to_budget, think

    trajectories = think(engine, prompts, 1, BUDGETS[-1], fmt)
    return {
        "thinking": [t.thinking for t in trajectories],
        "nested": probe(engine, trajectories, BUDGETS, fmt),
        "separate": [run_to_budget(engine, prompts, 1, budget, fmt) for budget in BUDGETS],
    }


def by_the_reference(source: str, policy: str, options: dict, prompts, found: dict, fmt) -> list[list[list[int]]]:
    """The answers of the first problems: at every place of an answer, the most likely token after what was said."""
    import torch

    network = reference_network(source, policy, options)
    answers = []
    with torch.inference_mode():
        for prompt, thinking, nested in list(zip(prompts, found["thinking"], found["nested"], strict=True))[:2]:
            row = []
            for budget, answer in zip(BUDGETS, nested, strict=True):
                ids = prompt + thinking[:budget] + list(fmt.answer_text_ids) + answer
                logits = network(torch.tensor([ids])).logits[0]
                row.append(logits[-len(answer) - 1 : -1].argmax(dim=1).tolist())
            answers.append(row)
    return answers


def reference_network(source: str, policy: str, options: dict):
    import torch
    from kv_reference import attend
    from transformers import AttentionInterface, AutoModelForCausalLM

    from tslaw.measure.kv.settings import KVSettings

    chosen, given = KVSettings.read(policy, options).options, []

    def compressed(module, query, key, value, attention_mask, scaling, **_):
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        output, _ = attend(policy, chosen, q, k, v, scaling, module.layer_idx, given[-1])
        return output.unsqueeze(0), None

    AttentionInterface.register("kv_reference", compressed)
    network = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="kv_reference")
    network.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0][0].tolist()))
    return network.eval()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
