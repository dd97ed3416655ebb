"""All that the KV tests need from real engines, run once in its own process: `session.py OUT.json`.

float32 at temperature 0; engines are opened one after another on one shipped model with grouped-query heads.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "reference"))
sys.path.insert(0, str(Path(__file__).parent))

LAYER = 1
EVICT = {"buffer": 32}
ROUND = {"residual": 32, "group": 32}
# name -> (policy, options); options that are left out keep their defaults
POLICIES = {
    "full": ("full", {}),
    "streaming": ("streaming:64", EVICT),
    "streaming-4-sinks": ("streaming:64", {**EVICT, "sinks": 4}),
    "rkv": ("rkv:64", EVICT),
    "rkv-pinned": ("rkv:64", {**EVICT, "pin": 20, "mix": 0.5, "window": 5}),
    "rkv-long-buffer": ("rkv:32", {"buffer": 64}),
    "random": ("random:64", EVICT),
    "random-pinned": ("random:64", {**EVICT, "pin": 30, "seed": 3}),
    "quantized-8": ("quantized:8", ROUND),
    "quantized-4": ("quantized:4", ROUND),
    "quantized-2": ("quantized:2", {"residual": 40, "group": 24}),
    "rkv+quantized": ("rkv:64+quantized:4", {**EVICT, **ROUND}),
    "streaming+quantized": ("streaming:64+quantized:8", {"buffer": 64, "residual": 32, "group": 48}),
}

MEMORY_MODEL, MEMORY_POLICIES = "ladder-0.4M", ("full", "streaming:128", "rkv:128+quantized:4", "quantized:4")
CROWD_POLICIES = ("full", "rkv", "quantized-4")
RUN_POLICIES = ("full", "streaming", "rkv", "random", "quantized-4", "rkv+quantized")


def main(out: Path) -> None:
    from tslaw.measure.engine import prepare_environment

    prepare_environment()
    found = {"reference": {}, "tokens": {}, "effects": {}}
    llm = open_llm({"block_size": 32})  # what the compressing engines ask for too: vLLM must look its backend up again
    found["tokens"]["native"] = generate(llm, prompts())
    close(llm)
    with engine("full", {}) as llm:
        for name, (policy, options) in POLICIES.items():
            found["reference"][name] = against_reference(llm, policy, options)
    found["bfloat16"] = half_precision()
    found["memory"] = memory_reports()
    found["crowd"] = {name: preemptions_of_a_crowd(*POLICIES[name]) for name in CROWD_POLICIES}
    for name in RUN_POLICIES:
        found["tokens"][name], found["effects"][name] = ways_to_run(*POLICIES[name])
    found["draws"] = draws_side_by_side()
    found["tokens"]["after"] = full_engine_after_others()
    out.write_text(json.dumps(found))


def source() -> str:
    from tslaw.family import load_family

    return load_family("ladder").models[2].source


def open_llm(arguments: dict, cache_mib: float = 32, **more):
    from vllm import LLM

    given = {
        "dtype": "float32",
        "max_num_seqs": 8,
        "max_model_len": 512,
        "enable_prefix_caching": False,
        **arguments,
        **more,
    }
    return LLM(
        source(),
        enforce_eager=True,
        kv_cache_memory_bytes=int(cache_mib * 2**20),
        skip_tokenizer_init=True,
        **given,
    )


def close(llm) -> None:
    llm.llm_engine.engine_core.shutdown()
    gc.collect()


@contextmanager
def engine(policy: str, options: dict, cache_mib: float = 32, **more):
    from tslaw.measure.kv import compress
    from tslaw.measure.kv.effects import EFFECTS

    llm = open_llm(compress(policy, **options), cache_mib, **more)
    EFFECTS.reset()
    try:
        yield llm
    finally:
        close(llm)


def prompts() -> list[list[int]]:
    import random

    r = random.Random(0)
    return [[r.randrange(4, 500) for _ in range(n)] for n in (20, 45, 30, 24, 230, 100)]


def generate(llm, given, tokens: int = 90) -> list[list[int]]:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    done = llm.generate([{"prompt_token_ids": p} for p in given], params, use_tqdm=False)
    return [list(x.outputs[0].token_ids) for x in done]


def half_precision() -> dict:
    """In bfloat16: log-probabilities of the full cache by vLLM's own backend and by this one, and random tensors."""
    llm = open_llm({}, dtype="bfloat16")
    found = {"native": log_probabilities(llm)}
    close(llm)
    with engine("full", {}, dtype="bfloat16") as llm:
        found["full"] = log_probabilities(llm)
        found["reference"] = {n: against_reference(llm, *POLICIES[n]) for n in ("streaming", "rkv", "quantized-4")}
    return found


def log_probabilities(llm) -> list[list[float]]:
    """Of every token of the prompts, given those before it."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    done = llm.generate([{"prompt_token_ids": p} for p in prompts()], params, use_tqdm=False)
    return [
        [place[token].logprob for token, place in zip(p[1:], x.prompt_logprobs[1:], strict=True)]
        for p, x in zip(prompts(), done, strict=True)
    ]


def full_engine_after_others() -> list[list[int]]:
    """tslaw's own engine for the full cache, while the environment still names another policy."""
    from tslaw.measure.engine import EngineSettings, open_engine

    assert os.environ["TSLAW_KV_POLICY"] != "full"
    with open_engine(EngineSettings(source(), "float32", 512, 8, 0.03, 0.0, 1.0, 0)) as full:
        return generate(full._llm, prompts())


def against_reference(llm, policy: str, options: dict) -> dict:
    """Largest deviation from the reference for every way to page the same sequences, and the least that changed."""
    from kv_reference import attend
    from paging import LENGTHS, EnginePager, deviations, random_sequence

    from tslaw.measure.kv.settings import KVSettings

    settings = KVSettings.read(policy, options)
    pager = EnginePager(llm, LAYER, settings)
    impl = pager.attention.impl
    shape = (impl.num_heads, impl.num_kv_heads, impl.head_size)
    sequences = [random_sequence(n, *shape, pager.cache.dtype, seed=i) for i, n in enumerate(LENGTHS)]
    wanted = [
        attend(
            policy,
            settings.options,
            *(x.float() for x in (s.queries, s.keys, s.values)),
            impl.scale,
            LAYER,
            s.tokens.tolist(),
        )[0]
        for s in sequences
    ]
    exact = exact_outputs(str(pager.cache.dtype), sequences, impl.scale)
    changed = min(float((a - b).abs().max()) for a, b in zip(wanted, exact, strict=True))
    found = deviations(pager, sequences, wanted)
    return {"ways": found, "changed": changed, "heads_per_kv_head": shape[0] // shape[1]}


EXACT: dict[str, list] = {}


def exact_outputs(dtype: str, sequences, scale: float) -> list:
    """Of the full cache, by the reference; the sequences of a type are always the same."""
    from kv_reference import attend

    if dtype not in EXACT:
        tensors = [(s.queries.float(), s.keys.float(), s.values.float()) for s in sequences]
        EXACT[dtype] = [attend("full", {}, *three, scale, LAYER)[0] for three in tensors]
    return EXACT[dtype]


def ways_to_run(policy: str, options: dict) -> tuple[dict, dict]:
    """Tokens of the same prompts by different schedules of a real engine, and what compression did in the first."""
    from tslaw.measure.kv.effects import EFFECTS

    with engine(policy, options) as llm:
        together = generate(llm, prompts())
        effects = EFFECTS.as_dict()
        alone = [generate(llm, [p])[0] for p in prompts()[-3:]]
        replayed = generate(llm, [p + t[:70] for p, t in zip(prompts(), together, strict=True)], 20)
    # 11 blocks of what six sequences want, or for those that never give blocks back, 20
    tight = 1.1 if effects["evictions"] else 2
    with engine(policy, options, tight, max_num_batched_tokens=48, enable_chunked_prefill=True) as llm:
        preempted = count_preemptions(llm)
        squeezed = generate(llm, prompts())
        effects["most_blocks"] = EFFECTS.most_blocks
    ways = {"together": together, "alone": alone, "chunked and preempted": squeezed}
    ways["replayed"] = [t[:70] + r for t, r in zip(together, replayed, strict=True)]
    return ways, {**effects, "preemptions": len(preempted)}


def draws_side_by_side() -> dict:
    """What random eviction keeps in one layer of equally long prompts at 96 tokens, the first and the last the same:
    the places (sequences, kv_heads, retain), and those by the reference."""
    import random

    from kv_reference import Entry, Head, uniform

    from tslaw.measure.kv.evictors.random import Random
    from tslaw.measure.kv.settings import KVSettings

    r = random.Random(7)
    given = [[r.randrange(4, 500) for _ in range(100)] for _ in range(3)]
    given.append(list(given[0]))
    keep, seen = Random.keep, []

    def noted(self, held):
        places = keep(self, held)
        if held.layer == LAYER:
            seen.append(places.tolist())
        return places

    policy, options = POLICIES["random-pinned"]
    Random.keep = noted
    try:
        with engine(policy, options) as llm:
            generate(llm, given, 2)
    finally:
        Random.keep = keep
    (places,), n_heads = seen, len(seen[0][0])
    head, chosen = Head([Entry(i, None, None) for i in range(96)]), KVSettings.read(policy, options).options
    wanted = [
        [uniform(head, 64, chosen, 1.0, h=h, n_kv=n_heads, layer=LAYER, position=96, tokens=p) for h in range(n_heads)]
        for p in given
    ]
    return {"places": places, "reference": wanted}


def memory_reports() -> dict:
    """What `memory_report` sees of some policies in engines of its own."""
    from tslaw.measure.kv.memory_report import observe

    return {policy: vars(observe(MEMORY_MODEL, policy)) for policy in MEMORY_POLICIES}


def preemptions_of_a_crowd(policy: str, options: dict) -> int:
    """How often 8 sequences of 240 tokens had to wait for each other in some 30 blocks of 32 tokens."""
    with engine(policy, options, 3, max_num_batched_tokens=48, enable_chunked_prefill=True) as llm:
        preempted = count_preemptions(llm)
        generate(llm, [[5 + i] * 10 for i in range(8)], 230)
    return len(preempted)


def count_preemptions(llm) -> list[str]:
    """A list that grows by a request's name whenever the scheduler preempts it."""
    scheduler, names = llm.llm_engine.engine_core.engine_core.scheduler, []
    preempt = scheduler._preempt_request

    def counted(request, *arguments, **keywords):
        names.append(request.request_id)
        return preempt(request, *arguments, **keywords)

    scheduler._preempt_request = counted
    return names


if __name__ == "__main__":
    main(Path(sys.argv[1]))
