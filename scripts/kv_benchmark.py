"""Decoding speed with and without KV-cache compression, at long contexts: `python scripts/kv_benchmark.py [RUN ...]`.

A run is POLICY@CONTEXTxSEQUENCES, such as rkv:2048@16384x64; the policy `own` is vLLM's own attention, `full` the full
cache through this backend. The model has the shape of Qwen3-0.6B and random weights, made on the spot; prompts are
random tokens. Every sequence is prefilled with CONTEXT tokens first. What is timed are TOKENS steps in which all
sequences decode, from when each has said a token; as many of them evict in every run if TOKENS is a multiple of
BUFFER. Every run is a process of its own.

Rows go to FOLDER/kv_benchmark.jsonl as runs end, one JSON object a line, with the device, versions and date. A run
that is there already with the same settings and device is not made again, so that the same command goes on where it
was stopped, and several processes can share the file, one for each GPU:

    CUDA_VISIBLE_DEVICES=0 python scripts/kv_benchmark.py full@16384x64 --out FOLDER &
    CUDA_VISIBLE_DEVICES=1 python scripts/kv_benchmark.py rkv:2048@16384x64 --out FOLDER &

`--table FILE.jsonl` prints the table of such a file, with every row's ratio to `full` at the same context and batch.

The default runs are made for 80 GB: there the full cache holds 32 sequences of 16384 tokens or 64 of 8192, and a
sequence that keeps 2048 tokens takes an eighth, one in 4 bits 28 %. With 141 GB all policies can be compared at
16384x64. R-KV's default context is short, since its prefill is long (all keys are compared in pairs at every eviction:
about two minutes at 16384x64) and its decoding does not depend on how much was evicted before.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kv_benchmark_rows

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help=f"default: {' '.join(RUNS)}")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out/kv_benchmark")), help="FOLDER")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file of rows, and run nothing")
    parser.add_argument("--tokens", type=int, default=256, help="steps that are timed (default 256)")
    parser.add_argument("--buffer", type=int, default=128, help="of evicting policies (default 128)")
    parser.add_argument("--limit", type=int, default=400, help="seconds that a run may take (default 400)")
    parser.add_argument(
        "--graphs", action="store_true", help="CUDA graphs, between the layers' attention for all but own"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model and short contexts, to try the script on a CPU"
    )
    parser.add_argument("--child", metavar="RUN", help=argparse.SUPPRESS)  # one run, or "device", in its own process
    options = parser.parse_args()
    if options.table:
        print(kv_benchmark_rows.table(kv_benchmark_rows.read(options.table)))
    elif options.child:
        print(json.dumps(timed(options.child, options) if options.child != "device" else where()))
    else:
        sys.exit(run_all(options.runs or (TINY_RUNS if options.tiny else RUNS), options))


def run_all(runs: Any, options: argparse.Namespace) -> int:
    """Make the runs that the file lacks, and print its table; 1 if one failed."""
    options.out.mkdir(parents=True, exist_ok=True)
    file, failed = options.out / "kv_benchmark.jsonl", 0
    for number, run in enumerate(runs, 1):
        print(f"{number} of {len(runs)}: {run}", flush=True)
        if run_before(run, file, options):
            print(f"  in {file} already", flush=True)
            continue
        row = in_own_process(run, options)
        print(json.dumps(row), flush=True)
        if "error" in row:
            failed = 1
        else:
            kv_benchmark_rows.add(row, file)
    print("\n" + kv_benchmark_rows.table(kv_benchmark_rows.read(file)))
    return failed


def run_before(run: str, file: Path, options: argparse.Namespace) -> bool:
    """Whether the file has a run's row. The device is asked for only if that is all that could differ."""
    wanted = settings_of(run, options)
    rows = [row for row in kv_benchmark_rows.read(file) if all(row.get(k) == v for k, v in wanted.items())]
    if not rows:
        return False
    here = in_own_process("device", options)
    return any(kv_benchmark_rows.same(row, {**wanted, **here}) for row in rows)


def settings_of(run: str, options: argparse.Namespace) -> dict[str, Any]:
    names = ("tokens", "buffer", "graphs", "tiny")
    return {"run": run, **{name: getattr(options, name) for name in names}}


def where() -> dict[str, Any]:
    """The device, and the versions that a time depends on."""
    from importlib.metadata import PackageNotFoundError, version

    from tslaw.measure.engine import device_name, engine_package

    found = {"device": device_name(), "engine": " ".join(engine_package())}
    for name in ("torch", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def in_own_process(run: str, options: argparse.Namespace) -> dict[str, Any]:
    """A run's row, or {"run": ..., "error": ...}."""
    start = time.monotonic()
    command = [sys.executable, __file__, "--child", run, f"--tokens={options.tokens}", f"--buffer={options.buffer}"]
    command += [f"--{name}" for name in ("graphs", "tiny") if getattr(options, name)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.limit, check=False)
    except subprocess.TimeoutExpired:
        return {"run": run, "error": f"over {options.limit} s"}
    if done.returncode:
        return {"run": run, "error": (done.stdout + done.stderr)[-1500:]}
    return {**json.loads(done.stdout.splitlines()[-1]), "wall_seconds": round(time.monotonic() - start, 1)}


def parse(run: str) -> tuple[str, int, int]:
    """(policy, tokens of context, sequences)."""
    policy, _, size = run.partition("@")
    context, _, sequences = size.partition("x")
    return policy, int(context), int(sequences)


def timed(run: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run; `tokens_per_second` over all sequences, `step_ms` of one step in which each gets a token: on
    average, and the median, which is that of steps that do not evict."""
    from tslaw.measure.engine import prepare_environment

    prepare_environment()
    policy, context, sequences = parse(run)
    shape = TINY_SHAPE if options.tiny else SHAPE
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(model_config(shape)))
        llm, extra, cache_bytes = open_llm(folder, policy, context, sequences, options)
        from tslaw.measure.kv.effects import EFFECTS

        prefill, times, tokens = decode(llm, context, sequences, options.tokens, extra, shape["vocab_size"])
    return {
        **settings_of(run, options),
        "policy": policy,
        "context": context,
        "sequences": sequences,
        "tokens_per_second": round(tokens / sum(times), 1),
        "step_ms": round(1000 * sum(times) / len(times), 3),
        "median_step_ms": round(1000 * statistics.median(times), 3),
        "steps": len(times),
        "prefill_seconds": round(prefill, 2),
        "cache_gib": round(cache_bytes / 2**30, 2),
        "evictions": EFFECTS.as_dict()["evictions"],
        "roundings": EFFECTS.as_dict()["roundings"],
        "lost_queries": EFFECTS.as_dict()["lost_queries"],
        **where(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
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
    extra = 16 + -(-context * sequences // STEP_TOKENS) if chunk == 0 else 16 + -(-context // chunk)
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


def decode(
    llm: Any, context: int, sequences: int, n_steps: int, extra: int, vocabulary: int
) -> tuple[float, list[float], int]:
    """Seconds of the prefill; seconds of each of n_steps steps in which all sequences decode, and their tokens."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    core, r = llm.llm_engine, random.Random(0)
    params = SamplingParams(
        temperature=0,
        max_tokens=n_steps + extra,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    for number in range(sequences):
        core.add_request(
            str(number), {"prompt_token_ids": [r.randrange(5, vocabulary) for _ in range(context)]}, params
        )
    said = dict.fromkeys(map(str, range(sequences)), 0)
    begun = before = time.monotonic()
    counted, times = 0, list[float]()
    while len(times) < n_steps:
        outputs = core.step()
        for output in outputs:
            said[output.request_id] += len(output.outputs[0].token_ids)
            if output.finished:
                raise RuntimeError(f"a sequence ended after {len(times)} of {n_steps} steps in which all decode")
        if not outputs and counted:
            continue  # its time counts with the next step's
        now = time.monotonic()
        if counted:
            times.append(now - before)
        elif all(said.values()):
            prefill, counted = now - begun, sum(said.values())
        before = now
    return prefill, times, sum(said.values()) - counted


if __name__ == "__main__":
    main()
