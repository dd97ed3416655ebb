"""Decoding speed with and without KV-cache compression, at long contexts: `python scripts/kv_benchmark.py [RUN ...]`.

A run is POLICY@CONTEXTxSEQUENCES, such as rkv:2048@16384x64; the policy `own` is vLLM's own attention, `full` the full
cache through this backend. The model has the shape of Qwen3-0.6B and random weights, made on the spot; prompts are
random tokens. Every sequence is prefilled with CONTEXT tokens first; what is timed are the steps in which all of them
decode, from the moment that each has said a token until the first has said all of its own. Every run is a process of
its own. Prints a table and writes FOLDER/kv_benchmark.json and .csv.

The default runs are made for 80 GB: there the full cache holds 32 sequences of 16384 tokens or 64 of 8192, and a
sequence that keeps 2048 tokens takes an eighth, one in 4 bits 28 %. R-KV's default context is short, since its prefill
is long (all keys are compared in pairs at every eviction) and its decoding does not depend on how much was evicted
before.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}
TINY_SHAPE = {**SHAPE, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY_SHAPE |= {"num_key_value_heads": 1, "head_dim": 32, "vocab_size": 512}
RUNS = (
    "own@16384x32",
    "full@16384x32",
    "own@8192x64",
    "streaming:2048@16384x64",
    "random:2048@16384x64",
    "rkv:2048@4096x64",
    "quantized:8@16384x32",
    "quantized:4@16384x64",
    "quantized:2@16384x64",
)
TINY_RUNS = ("own@160x3", "full@160x3", "streaming:64@160x3", "rkv:64@160x3", "quantized:8@160x3")
STEP_TOKENS = 8192  # tokens a step: what vLLM computes at once while it prefills
LIMIT = 200  # seconds a run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help=f"default: {' '.join(RUNS)}")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out/kv_benchmark")))
    parser.add_argument("--tokens", type=int, default=192, help="new tokens of each sequence that are timed")
    parser.add_argument("--buffer", type=int, default=128, help="of evicting policies")
    parser.add_argument(
        "--graphs", action="store_true", help="CUDA graphs, between the layers' attention for all but own"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model and short contexts, to try the script on a CPU"
    )
    parser.add_argument("--run", help=argparse.SUPPRESS)  # one run, in its own process
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.run:
        print(json.dumps(timed(options.run, options)))
        return
    rows = []
    for run in options.runs or (TINY_RUNS if options.tiny else RUNS):
        rows.append(in_own_process(run, options))
        print(json.dumps(rows[-1]), flush=True)
    write(rows, options.out)
    sys.exit(any("error" in row for row in rows))


def in_own_process(run: str, options: argparse.Namespace) -> dict[str, Any]:
    """A run's row, or {"run": ..., "error": ...}."""
    start = time.monotonic()
    command = [sys.executable, __file__, "--run", run, "--out", str(options.out), f"--tokens={options.tokens}"]
    command += [f"--buffer={options.buffer}", *(f"--{name}" for name in ("graphs", "tiny") if getattr(options, name))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"run": run, "error": f"over {LIMIT} s"}
    if done.returncode:
        return {"run": run, "error": (done.stdout + done.stderr)[-1500:]}
    return {**json.loads(done.stdout.splitlines()[-1]), "wall_seconds": round(time.monotonic() - start, 1)}


def parse(run: str) -> tuple[str, int, int]:
    """(policy, tokens of context, sequences)."""
    policy, _, size = run.partition("@")
    context, _, sequences = size.partition("x")
    return policy, int(context), int(sequences)


def timed(run: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run; `tokens_per_second` over all sequences, `step_ms` of one step in which each gets a token."""
    from tslaw.measure.engine import device_name, engine_package, prepare_environment

    prepare_environment()
    policy, context, sequences = parse(run)
    shape = TINY_SHAPE if options.tiny else SHAPE
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(model_config(shape)))
        llm, extra, cache_bytes = open_llm(folder, policy, context, sequences, options)
        from tslaw.measure.kv.effects import EFFECTS

        prefill, seconds, tokens, steps = decode(llm, context, sequences, options.tokens + extra, shape["vocab_size"])
    return {
        "run": run,
        "policy": policy,
        "context": context,
        "sequences": sequences,
        "tokens_per_second": round(tokens / seconds, 1),
        "step_ms": round(1000 * seconds / steps, 3),
        "steps": steps,
        "prefill_seconds": round(prefill, 2),
        "cache_gib": round(cache_bytes / 2**30, 2),
        "graphs": options.graphs,
        "evictions": EFFECTS.as_dict()["evictions"],
        "roundings": EFFECTS.as_dict()["roundings"],
        "lost_queries": EFFECTS.as_dict()["lost_queries"],
        "device": device_name(),
        "engine": " ".join(engine_package()),
    }


def model_config(shape: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "torch_dtype": "bfloat16",
        **shape,
    }


def open_llm(
    folder: str, policy: str, context: int, sequences: int, options: argparse.Namespace
) -> tuple[Any, int, int]:
    """The engine, the tokens that early sequences may say while others are prefilled, and the cache's bytes."""
    from vllm import LLM

    from tslaw.measure.engine import platform_kind
    from tslaw.measure.kv import KVSettings, compress
    from tslaw.measure.kv.settings import BLOCK_SIZE, read_each

    shape = TINY_SHAPE if options.tiny else SHAPE
    settings = None if policy == "own" else read_each(policy, {"buffer": options.buffer})
    chunk = min(chunk_of(settings, sequences), context)
    extra = 8 + -(-context * sequences // STEP_TOKENS) if chunk == 0 else 8 + -(-context // chunk)
    longest = context + options.tokens + extra
    held = longest
    if isinstance(settings, KVSettings) and settings.evictor:
        # Steps that are not settled keep their blocks: two of them where vLLM plans ahead.
        held = min(longest, (settings.schedule.retain or 0) + settings.schedule.buffer + 2 * chunk)
    token_bytes = 2 * 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * shape["head_dim"]
    cache_bytes = sequences * (-(-held // BLOCK_SIZE) + 3) * BLOCK_SIZE * token_bytes
    if isinstance(settings, KVSettings) and settings.packed(platform_kind()):
        cache_bytes = packed_bytes(settings, longest, sequences, shape)
    arguments: dict[str, Any] = {"block_size": BLOCK_SIZE, "enable_prefix_caching": False}
    if settings is not None:
        arguments = compress(policy, **{k: v for k, v in settings.options.items() if k in ("buffer",)})
    llm = LLM(
        folder,
        load_format="dummy",
        dtype="bfloat16",
        enforce_eager=not options.graphs,
        max_model_len=longest,
        max_num_seqs=sequences,
        max_num_batched_tokens=STEP_TOKENS,
        long_prefill_token_threshold=chunk,
        kv_cache_memory_bytes=cache_bytes,
        gpu_memory_utilization=0.05,
        skip_tokenizer_init=True,
        **arguments,
    )
    return llm, extra, cache_bytes


def packed_bytes(settings: Any, longest: int, sequences: int, shape: dict[str, int]) -> int:
    """Of a cache that is stored in its bits: whole blocks for each sequence, and a few more."""
    from tslaw.measure.kv.packed.layout import PageLayout, block_size_of

    heads, dim, quantizer = shape["num_key_value_heads"], shape["head_dim"], settings.quantizer
    layout = PageLayout(quantizer.bits, quantizer.group, quantizer.residual, heads, dim, 2)
    pages = block_size_of(layout.group) // layout.group
    blocks = sequences * (-(-layout.pages(longest) // pages) + 3)
    return int(shape["num_hidden_layers"] * blocks * pages * layout.page_bytes)


def chunk_of(settings: Any, sequences: int) -> int:
    """Tokens of one sequence in a step of prefill; 0 for as many as there is room for.

    Where a prefill is cut at events anyway, it goes faster through many sequences side by side.
    """
    from tslaw.measure.engine import platform_kind

    if settings is None or settings.schedule.bites_at is None or settings.packed(platform_kind()):
        return 0
    each = settings.schedule.buffer if settings.evictor else settings.schedule.group
    return int(each * max(STEP_TOKENS // sequences // each, 1))


def decode(llm: Any, context: int, sequences: int, new_tokens: int, vocabulary: int) -> tuple[float, float, int, int]:
    """Seconds of the prefill; seconds, tokens and steps of the time in which all sequences decode."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    core, r = llm.llm_engine, random.Random(0)
    params = SamplingParams(
        temperature=0,
        max_tokens=new_tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    for number in range(sequences):
        core.add_request(
            str(number), {"prompt_token_ids": [r.randrange(5, vocabulary) for _ in range(context)]}, params
        )
    said = dict.fromkeys(map(str, range(sequences)), 0)
    begun = time.monotonic()
    start, counted, steps, finished = begun, 0, 0, False
    while not finished:
        outputs = core.step()
        for output in outputs:
            said[output.request_id] += len(output.outputs[0].token_ids)
            finished |= output.finished
        if counted == 0 and all(said.values()):
            start, counted = time.monotonic(), sum(said.values())
        elif counted and outputs:
            steps += 1
    seconds = time.monotonic() - start
    if not steps:
        raise RuntimeError("the first sequence ended before the last one began")
    return start - begun, seconds, sum(said.values()) - counted, steps


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """The table on the screen, and both files."""
    (out / "kv_benchmark.json").write_text(json.dumps(rows, indent=1))
    good = [row for row in rows if "error" not in row]
    names = list(good[0]) if good else ["run"]
    with (out / "kv_benchmark.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(good)
    print("\n| policy | context | sequences | tokens/s | step, ms | cache, GiB | prefill, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        if "error" in row:
            print(f"| {row['run']} | failed |  |  |  |  |  |")
            continue
        print(
            f"| {row['policy']} | {row['context']} | {row['sequences']} | {row['tokens_per_second']:,.0f} | "
            f"{row['step_ms']:.2f} | {row['cache_gib']:.1f} | {row['prefill_seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
