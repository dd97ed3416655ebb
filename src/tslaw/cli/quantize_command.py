"""tslaw quantize: make a plan's quantized weights ahead of its sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    plan: Annotated[str, typer.Argument(help="A plan's YAML file, or a shipped plan.")],
    cache: Annotated[Path, typer.Option(help="Folder to keep the weights in: TSLAW_CACHE of the sweep to come.")],
    platform: Annotated[str, typer.Option(help="What they are to run on: cuda or cpu.")] = "cuda",
) -> None:
    """Make a plan's GPTQ weights ahead of its sweep, for another machine.

    `tslaw measure` quantizes what it needs by itself. Where the GPU machine has no gptqmodel (or its minutes are
    dear), make the weights here, take the folder there, and measure with TSLAW_CACHE set to it. The same plan has to
    be used: its tasks and seed decide the calibration. What is in the folder already is not made again. For example:

        tslaw quantize ladder-sweep --cache weights --platform cuda

        TSLAW_CACHE=weights tslaw measure ladder-sweep --out out
    """
    from tslaw.measure.plan import load_plan
    from tslaw.measure.prequantize import prequantize

    found = prequantize(load_plan(plan), cache, platform, lambda name: typer.echo(f"making {name}", err=True))
    for name, folder in found.items():
        typer.echo(f"{name}\t{folder}")
