"""What a policy saves, seen in an engine: `python -m tslaw.measure.kv.memory_report [MODEL]` prints a table.

A few sequences of equal length are decoded under each policy, and the blocks that they take from the pool are counted
at every step. Beside them stands what the formula of `tslaw.memory` grants. Each policy runs in its own process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

POLICIES = ("full", "streaming:128", "rkv:128", "random:128", "quantized:4", "rkv:128+quantized:4")
OPTIONS = {"buffer": 32, "residual": 32, "group": 32}
DEFAULT_MODEL = "ladder-1.7M"
SEQUENCES = 4
PROMPT_TOKENS, TOKENS = 16, 480
CACHE_GIB = 0.02


@dataclass(frozen=True)
class Observed:
    """One policy in one engine. Bytes of one sequence of TOKENS tokens in bfloat16; `fits` sequences fit at once."""

    policy: str
    formula_bytes: float
    observed_bytes: float
    fits: int
    simulated: bool


def observe(model: str, policy: str) -> Observed:
    """Decode a few sequences under a policy and count the blocks that they take."""
    from tslaw.family import resolve_model
    from tslaw.measure.engine import EngineSettings, open_engine, platform_kind, prepare_environment
    from tslaw.measure.kv.settings import read_each
    from tslaw.memory import kv_bytes

    prepare_environment()
    ref, settings = resolve_model(model), read_each(policy, OPTIONS)
    engine_settings = EngineSettings(
        ref.source, "bfloat16", TOKENS, 64, CACHE_GIB, 0.0, 1.0, 0, kv_policy=policy, kv_options=settings.options
    )
    with open_engine(engine_settings) as engine:
        most, pool_blocks, block_bytes = _most_blocks(engine)
    return Observed(
        policy=policy,
        formula_bytes=kv_bytes(ref.shape, TOKENS, 1, settings.policy),
        observed_bytes=most * block_bytes,
        fits=int(pool_blocks // most),
        simulated=settings.simulated(platform_kind()),
    )


def _most_blocks(engine: Any) -> tuple[float, int, float]:
    """Most blocks that one sequence held, blocks of the pool, and bytes of a block."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    core = engine._core
    pool = core.engine_core.engine_core.scheduler.kv_cache_manager.block_pool
    block_size = core.vllm_config.cache_config.block_size
    free_at_first = pool.get_num_free_blocks()
    for number in range(SEQUENCES):
        params = SamplingParams(
            temperature=0,
            max_tokens=TOKENS - PROMPT_TOKENS,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        core.add_request(str(number), {"prompt_token_ids": [5 + number] * PROMPT_TOKENS}, params)
    taken = 0
    while core.has_unfinished_requests():
        core.step()
        taken = max(taken, free_at_first - pool.get_num_free_blocks())
    return taken / SEQUENCES, free_at_first, engine.kv_bytes_per_token() * block_size


def table(rows: list[Observed]) -> str:
    """Markdown, sizes in KiB."""
    lines = [
        f"| policy | formula, KiB | observed, KiB | at once in {CACHE_GIB * 1024:.0f} MiB | memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        kind = "simulated" if row.simulated else "real"
        lines.append(
            f"| {row.policy} | {row.formula_bytes / 1024:.0f} | {row.observed_bytes / 1024:.0f} | {row.fits} | {kind} |"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Without a policy: one process for each, and the table. With MODEL and POLICY: that one, as JSON."""
    model = arguments[0] if arguments else DEFAULT_MODEL
    if len(arguments) == 2:
        print(json.dumps(vars(observe(model, arguments[1]))))
        return
    rows = []
    for policy in POLICIES:
        command = [sys.executable, "-m", "tslaw.measure.kv.memory_report", model, policy]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(Observed(**json.loads(done.stdout.splitlines()[-1])))
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
