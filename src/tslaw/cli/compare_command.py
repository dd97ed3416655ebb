"""`tslaw compare`: alternative surfaces fitted to the same data, in one table."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tslaw.cli.options import AsJson, console

if TYPE_CHECKING:
    from tslaw.fit.compare import Comparison, Row
    from tslaw.fit.data import TaskData
    from tslaw.fit.surfaces.protocol import Surface


def command(
    files: Annotated[
        list[Path], typer.Argument(help="Measured datasets of one family, one file a task.", show_default=False)
    ],
    surface: Annotated[
        list[str] | None,
        typer.Option(
            help="mechanistic, plain, or a Python file that defines SURFACE (it is run); give it once for each "
            "surface. Both built-in ones when not given.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="One task of the files; all of them when not given.")] = None,
    problems: Annotated[
        int | None, typer.Option(help="Only so many problems, drawn at random: for a quick look.", show_default=False)
    ] = None,
    chains: Annotated[int, typer.Option(min=1, max=64, help="Markov chains, run side by side on the CPU.")] = 4,
    warmup: Annotated[int, typer.Option(min=50, help="Iterations a chain spends adapting.")] = 500,
    samples: Annotated[int, typer.Option(min=50, help="Draws kept from every chain.")] = 800,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Also store it: .json (the table) or .nc (and every pair and cell).", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit several surfaces to the same measurements and say which predicts better, and where each one is wrong.

    LOO leaves out everything that one model did on one problem, for every surface alike; elpd is the log predictive
    density of what was left out, higher is better, and a difference of a few standard errors means something. A wrong
    surface shows also in accuracies outside their 90% predictive intervals ("in 90%"), in how far off the predicted
    ones are ("rms"), and in the shares of trajectories that are right at a budget and wrong at the next ("losses"
    inside 90% intervals). When diagnostics fail the table says so and the exit status is 1.
    With --out, a run that was interrupted goes on where it was (to a minute) when the same command is given again.
    For example:

    `tslaw compare measurements/cpu/ladder-math.nc --problems 16`

    `tslaw compare measurements/ladder-math.nc --surface mechanistic --surface mine.py --out compared.nc`

    docs/surfaces.md shows how to write mine.py.
    """
    from tslaw.dataset import open_dataset
    from tslaw.fit.fit_file import refuse_existing

    if out is not None:
        check_suffix(out)
        refuse_existing(out, overwrite)
    datasets = [open_dataset(f) for f in files]
    from tslaw.fit import infer

    infer.prepare_jax(chains)
    from tslaw.fit.compare import compare_surfaces, remove_runs
    from tslaw.fit.compare_file import save_comparisons
    from tslaw.fit.data import tasks_data
    from tslaw.fit.subset import some_problems
    from tslaw.fit.surfaces.registry import BUILT_IN, load_surfaces

    tasks = [some_problems(data, problems, seed) for data in _chosen(tasks_data(datasets), task)]
    surfaces = load_surfaces(surface or list(BUILT_IN))
    check_before_fitting(surfaces, tasks)
    sampling = infer.Sampling(chains=chains, warmup=warmup, samples=samples, seed=seed)
    say = functools.partial(typer.echo, err=True)
    found = [compare_surfaces(surfaces, data, sampling, say, keep=out) for data in tasks]
    if out is not None:
        save_comparisons(found, out, files, sampling, overwrite)
        remove_runs(out, surfaces, tasks)
    show(found, out, as_json)
    exit_if_failed(found)


def check_suffix(out: Path) -> None:
    """Raise TslawError unless `out` can be written, before any work is done."""
    from tslaw.errors import TslawError

    if out.suffix not in (".json", ".nc"):
        raise TslawError(f"'{out.name}' is no kind of file that this writes.", where="--out", expected=".json or .nc")


def _chosen(tasks: list[TaskData], task: str | None) -> list[TaskData]:
    from tslaw.errors import TslawError

    names = [data.task for data in tasks]
    if task is not None and task not in names:
        raise TslawError(f"There is no task '{task}' in these files.", where="--task", expected=", ".join(names))
    return [data for data in tasks if task in (None, data.task)]


def check_before_fitting(surfaces: list[Surface], tasks: list[TaskData]) -> None:
    """Say which arms are left out, and raise TslawError if a surface cannot be fitted to a task."""
    from tslaw.fit.surfaces.registry import check_model

    for data in tasks:
        if data.left_out:
            typer.echo(
                f"{data.task}: arms with a compressed KV cache are left out: {', '.join(data.left_out)}", err=True
            )
        for surface in surfaces:
            check_model(surface, data)


def show(found: list[Comparison], out: Path | None, as_json: bool) -> None:
    """Print every task's comparison; `out` is where they were stored, if anywhere."""
    if as_json:
        print(json.dumps([comparison.as_dict() for comparison in found], indent=2))
        return
    for comparison in found:
        report(comparison)
    if out is not None:
        print(f"comparison written to {out}")


def exit_if_failed(found: list[Comparison]) -> None:
    """Exit with status 1 if a surface's diagnostics failed on any task."""
    failed = sorted({row.surface for comparison in found for row in comparison.rows if not row.passed})
    if failed:
        print(f"error: diagnostics failed for {', '.join(failed)}; see --warmup and --samples.", file=sys.stderr)
        raise typer.Exit(1)


def report(comparison: Comparison) -> None:
    """Print one task's table, and what failed below it."""
    from rich.table import Table

    title = f"{comparison.task}: {comparison.n_problems} problems, {comparison.n_pairs} pairs of a model and a problem"
    table = Table(title=title, title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("surface", "verdict") else "right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(*as_cells(row))
    console().print(table)
    for row in comparison.rows:
        for failure in row.failures:
            print(f"  failed: {row.surface}: {failure}")


COLUMNS = (
    "surface",
    "elpd LOO",
    "difference",
    "p_loo",
    "k > 0.7",
    "weight",
    "in 90%",
    "rms",
    "losses",
    "s",
    "verdict",
)


def as_cells(row: Row) -> tuple[str, ...]:
    """One surface's values as text, in the order of `COLUMNS`."""
    return (
        row.surface,
        f"{row.elpd:.0f} ± {row.elpd_se:.0f}",
        f"{row.elpd_diff:.1f} ± {row.elpd_diff_se:.1f}" if row.elpd_diff_se else "best",
        f"{row.p_loo:.1f}",
        f"{row.bad_pareto_k:.1%}",
        f"{row.weight:.2f}",
        f"{row.coverage:.0%}",
        f"{row.rms_misfit:.4f}",
        f"{row.lost_coverage:.0%}",
        f"{row.seconds:.0f}",
        "passed" if row.passed else "FAILED",
    )
