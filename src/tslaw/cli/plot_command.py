"""`tslaw plot`: the figures of a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tslaw.cli.options import AccountingName, Batch, FitFile, Task


def command(
    fit: FitFile,
    out: Annotated[Path, typer.Option(help="Folder for the figures.", show_default=False)],
    task: Task = None,
    weight_bits: Annotated[float, typer.Option(help="Bits per linear weight, for the crossover.")] = 8,
    batch: Batch = 1,
    accounting: AccountingName = "checkpoint",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace figures that exist.")] = False,
) -> None:
    """Draw a fit: five figures a task, each as png and svg.

    **memory_accuracy**: accuracy against memory with the Pareto frontier. **accuracy_budget**: accuracy against
    thinking tokens, data beside fit. **crossover**: the size above which thinking beats weights, and how sure that is.
    **posterior_predictive**: would a repeat look like the measurement? **trace_rank**: did the chains mix? A fit that
    failed its diagnostics, or is approximate, says so in red below every figure. For example:

    `tslaw plot fits/ladder.nc --out plots --weight-bits 8`
    """
    from tslaw.fit.fit_file import open_fit
    from tslaw.plots.write import write_plots

    for path in write_plots(open_fit(fit), out, task, weight_bits, batch, accounting, overwrite):
        typer.echo(path)
