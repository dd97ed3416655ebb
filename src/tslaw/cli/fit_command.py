"""`tslaw fit`: datasets in, posterior out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tslaw.cli.options import console

if TYPE_CHECKING:
    import xarray as xr


def command(
    files: Annotated[
        list[Path], typer.Argument(help="Measured datasets of one family, one file a task.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Where the fit goes (.nc).", show_default=False)],
    chains: Annotated[int, typer.Option(min=1, max=64, help="Markov chains, run side by side.")] = 4,
    warmup: Annotated[int, typer.Option(min=50, help="Iterations a chain spends adapting.")] = 500,
    samples: Annotated[int, typer.Option(min=50, help="Draws kept from every chain.")] = 800,
    target_accept: Annotated[
        float,
        typer.Option(min=0.5, max=0.999, help="Acceptance NUTS aims at: higher means smaller, safer, slower steps."),
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing fit.")] = False,
) -> None:
    """Fit the accuracy-versus-memory surface to measured data by NUTS, and check that the sampler worked.

    The fit is written also when its diagnostics fail, but then it is marked, and the exit status is 1. A run that was
    interrupted goes on where it was (to a minute) when the same command is given again. Chains run side by side, on the
    GPU if JAX finds one. For example:

    `tslaw fit measurements/ladder-math.nc measurements/ladder-knowledge.nc --out fits/ladder.nc`
    """
    from tslaw.dataset import open_dataset
    from tslaw.fit.fit_file import refuse_existing, save_fit

    refuse_existing(out, overwrite)
    datasets = [open_dataset(f) for f in files]
    from tslaw.fit import infer

    infer.prepare_jax(chains)
    from tslaw.fit.data import tasks_data
    from tslaw.fit.fit_tasks import checkpoints_beside, fit_tasks

    tasks = tasks_data(datasets)
    for data in tasks:
        if data.left_out:
            typer.echo(
                f"{data.task}: arms with a compressed KV cache are left out: {', '.join(data.left_out)}", err=True
            )
    sampling = infer.Sampling(chains=chains, warmup=warmup, samples=samples, seed=seed, target_accept=target_accept)
    typer.echo(f"NUTS: {chains} chains of {warmup} + {samples} iterations a task, from a MAP start", err=True)
    checkpoints = checkpoints_beside(out, tasks, sampling)
    for found in (c.path for c in checkpoints if c.load() is not None):
        typer.echo(f"going on from {found}", err=True)
    tree = fit_tasks(tasks, sampling, files, None, lambda text: typer.echo(text, err=True), checkpoints)
    save_fit(tree, out, overwrite)
    for checkpoint in checkpoints:
        checkpoint.remove()
    report(tree)
    print(f"fit written to {out}")
    if not int(tree.attrs["passed"]):
        print(
            "error: the fit failed its diagnostics and is marked so; try more --warmup and --samples.", file=sys.stderr
        )
        raise typer.Exit(1)


def report(tree: xr.DataTree) -> None:
    """Print the diagnostics of every task as a table."""
    from rich.table import Table

    table = Table(title="diagnostics", title_justify="left")
    columns = (
        "task",
        "R-hat",
        "bulk ESS",
        "tail ESS",
        "divergences",
        "elpd LOO",
        "Pareto k > 0.7",
        "seconds",
        "verdict",
    )
    for name in columns:
        table.add_column(name, justify="left" if name in ("task", "verdict") else "right")
    failures: list[str] = []
    for d in json.loads(tree.attrs["diagnostics"]).values():
        table.add_row(*_row(d))
        failures += [f"{d['task']}: {f}" for f in d["failures"]]
    console().print(table)
    for failure in failures:
        print(f"  failed: {failure}")


def _row(d: dict[str, Any]) -> tuple[str, ...]:
    return (
        d["task"],
        f"{d['rhat']:.3f}",
        f"{d['ess_bulk']:.0f}",
        f"{d['ess_tail']:.0f}",
        f"{d['divergences']} of {d['draws']}",
        f"{d['elpd_loo']:.0f} ± {d['elpd_loo_se']:.0f}",
        f"{d['bad_pareto_k']:.1%}",
        f"{d['seconds']:.0f}",
        "passed" if d["passed"] else "FAILED",
    )
