"""`tslaw fit`: datasets in, posterior out."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tslaw.cli.options import console

if TYPE_CHECKING:
    import xarray as xr

    from tslaw.fit.borrow import Borrowing


def command(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Measured datasets (.nc) of one family, one file a task, or tables of published means (.csv).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where the fit goes (.nc).", show_default=False)],
    chains: Annotated[int, typer.Option(min=1, max=64, help="Markov chains, run side by side.")] = 4,
    warmup: Annotated[int, typer.Option(min=50, help="Iterations a chain spends adapting.")] = 500,
    samples: Annotated[int, typer.Option(min=50, help="Draws kept from every chain; with --quick, of all.")] = 800,
    thin: Annotated[
        int, typer.Option(min=1, help="Store one draw of so many, for a smaller file; all are diagnosed.")
    ] = 1,
    target_accept: Annotated[
        float,
        typer.Option(min=0.5, max=0.999, help="Acceptance NUTS aims at: higher means smaller, safer, slower steps."),
    ] = 0.9,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing fit.")] = False,
    prior: Annotated[
        str | None, typer.Option(metavar="FIT[:TASK]", help="An earlier fit to learn priors from, or one task of it.")
    ] = None,
    prior_width: Annotated[
        float, typer.Option(min=0, help="How much families may differ, in standard deviations of the default prior.")
    ] = 0.5,
    pool: Annotated[
        bool, typer.Option("--pool", help="Fit the tasks together: what they share is learned from all of them.")
    ] = False,
    pool_width: Annotated[
        float,
        typer.Option(
            min=0.05, max=1, help="How much tasks may differ, in standard deviations of the prior; 1: nothing shared."
        ),
    ] = 0.5,
    task: Annotated[
        list[str] | None, typer.Option(help="Fit only this task; may be repeated.", show_default="all")
    ] = None,
    compressed_kv: Annotated[
        bool,
        typer.Option("--compressed-kv", help="Fit arms with compressed KV caches too, and what compression costs."),
    ] = False,
    weight_bits: Annotated[
        list[float] | None,
        typer.Option(help="Fit only arms with these weight bits; may be repeated.", show_default="all"),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Fit only this model; may be repeated.", show_default="all")
    ] = None,
    problems: Annotated[
        int | None,
        typer.Option(min=2, help="Only so many problems, drawn at random: takes less time.", show_default="all"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A quick look instead of NUTS: approximate, and marked so for good.")
    ] = False,
) -> None:
    """Fit the accuracy-versus-memory surface to measured data by NUTS, and check that the sampler worked.

    **Published means**: of other people's results often only means over problems are known. A table of them (.csv; its
    columns: `python -c "import tslaw.means; help(tslaw.means)"`, examples in measurements/published) is fitted too, by
    sequential Monte Carlo (--chains islands of --samples particles; no --warmup); what cannot be known from it is said,
    and marked in the fit.

    **--prior**: a family with few sizes, bits or budgets can start from what another family's fit learned. Every
    parameter's prior becomes that posterior, made wider by how much families may differ; what belongs to a task or its
    problems is not taken over unless the task is the same.

    **--pool**: tasks are fitted one by one unless this is said. With it they are sampled together, and what size, bits
    and thinking do in one of them is partly known from the others: for tasks of which little was measured. The problems
    of a task (how hard, how long) are its own.

    **--compressed-kv**: arms whose KV cache is evicted or rounded are left out unless this is said. With it files of
    one task are joined (problems and budgets that one lacks count as not measured there), as compressed and full caches
    are usually measured in different runs. Every task needs some full caches: what compression costs is what it costs
    beside those. Use --problems, --weight-bits and --model first: compressed arms are many, and the time is in their
    trajectories.

    **--quick**: a normal distribution fitted to the posterior by variational inference, a small part of the work of
    NUTS. Nothing checks it: medians are rough, and intervals often too narrow. The fit is marked as approximate, every
    command that asks it says so, and `tslaw show` never says that it passed.

    The fit is written also when its diagnostics fail, but then it is marked, and the exit status is 1. A run that was
    interrupted goes on where it was (to a minute) when the same command is given again. Chains run side by side, on the
    GPU if JAX finds one. For example:

    `tslaw fit measurements/ladder-math.nc measurements/ladder-knowledge.nc --out fits/ladder.nc`

    `tslaw fit measurements/ladder-math.nc measurements/ladder-knowledge.nc --pool --problems 24 --out pooled.nc`

    `tslaw fit measurements/ladder-knowledge.nc measurements/kv/ladder-knowledge.nc --compressed-kv --weight-bits 16
    --problems 16 --out kv.nc`

    `tslaw fit measurements/published/qwen3.csv --prior fits/published/r1-distill-qwen.nc --out fits/qwen3.nc`
    """
    from tslaw.fit.fit_file import refuse_existing, save_fit, thinned_fit

    refuse_existing(out, overwrite)
    load = reader(files, compressed_kv)
    means = means_only(files)
    if quick:
        refuse_options(context, ("chains", "warmup", "target_accept", "pool"), "sampling, and --quick does not sample")
    elif means:
        refuse_options(context, ("warmup", "target_accept"), "NUTS, and published means are sampled by particles")
    from tslaw.fit import infer

    infer.prepare_jax(1 if quick else chains)
    from tslaw.fit.fit_tasks import POOLED, fit_tasks
    from tslaw.fit.quick import Quick
    from tslaw.fit.unfinished import remove_unfinished

    tasks = reduced(chosen(load(), task), weight_bits, model, problems, seed)
    borrowed = borrowing(prior, prior_width, files) if prior else None
    announce_left_out(tasks)
    sampling: infer.Sampling | Quick
    if quick:
        sampling, how = Quick(samples=samples, seed=seed), "a quick look by variational inference: approximate"
    else:
        sampling = infer.Sampling(chains=chains, warmup=warmup, samples=samples, seed=seed, target_accept=target_accept)
        how = f"NUTS, from a MAP start: {chains} chains of {warmup} + {samples} iterations "
        how += "for all tasks together" if pool else "a task"
        if means:
            how = f"sequential Monte Carlo: {chains} islands of {samples} particles a task"
    typer.echo(how, err=True)
    say, keep = functools.partial(typer.echo, err=True), None if quick else out
    tree = fit_tasks(tasks, sampling, files, None, say, borrowed, keep, pool_width if pool else None)
    save_fit(thinned_fit(tree, thin), out, overwrite)
    if not quick:
        remove_unfinished(out, [POOLED] if pool else [data.task for data in tasks])
    report(tree)
    print(f"{'approximate ' if quick else ''}fit written to {out}")
    if not quick and not int(tree.attrs["passed"]):
        more = "--samples (particles)" if means else "--warmup and --samples"
        print(f"error: the fit failed its diagnostics and is marked so; try more {more}.", file=sys.stderr)
        raise typer.Exit(1)


def announce_left_out(tasks: list[Any]) -> None:
    """Say which arms of the files are not fitted."""
    for data in tasks:
        if data.left_out:
            typer.echo(
                f"{data.task}: arms with a compressed KV cache are left out (--compressed-kv keeps them): "
                f"{', '.join(data.left_out)}",
                err=True,
            )


def refuse_options(context: typer.Context, names: Sequence[str], purpose: str) -> None:
    """Raise TslawError when any of these options was given, whose `purpose` is another one."""
    from tslaw.errors import TslawError

    given = [
        f"--{name.replace('_', '-')}"
        for name in names
        if getattr(context.get_parameter_source(name), "name", "DEFAULT") != "DEFAULT"
    ]
    if given:
        raise TslawError(f"{', '.join(given)} is for {purpose}.", where="tslaw fit", fix="leave it out")


def means_only(files: list[Path]) -> bool:
    """Whether the inputs are tables of means; TslawError when they are of both kinds."""
    from tslaw.errors import TslawError
    from tslaw.means import is_table

    tables = [is_table(f) for f in files]
    if any(tables) and not all(tables):
        raise TslawError(
            "Tables of published means and measured datasets cannot be fitted together.",
            where=", ".join(map(str, files)),
            expected="only .csv tables, or only .nc datasets",
            fix="fit the one, and the other with --prior",
        )
    return any(tables)


def reader(files: list[Path], compressed_kv: bool = False) -> Callable[[], list[Any]]:
    """Open and check the inputs; what is returned makes tasks of them (it may load JAX, which has to be set up first).

    Raises
    ------
    TslawError : faults in a file, or inputs of both kinds.
    """
    if means_only(files):
        from tslaw.errors import TslawError
        from tslaw.means import read_means

        if compressed_kv:
            raise TslawError(
                "Tables of published means hold full KV caches only.",
                where="--compressed-kv",
                expected="measured datasets (.nc)",
            )

        tables = [read_means(f) for f in files]

        def means() -> list[Any]:
            from tslaw.fit.means_data import means_data

            return list(means_data(tables))

        return means
    from tslaw.dataset import open_dataset

    datasets = [open_dataset(f) for f in files]

    def measured() -> list[Any]:
        from tslaw.fit.data import tasks_data

        return list(tasks_data(datasets, compressed_kv))

    return measured


def chosen(tasks: list[Any], names: list[str] | None) -> list[Any]:
    """The tasks of these names, all without any; TslawError when one is not there."""
    from tslaw.errors import TslawError

    known = [data.task for data in tasks]
    if absent := [name for name in names or () if name not in known]:
        raise TslawError(
            f"The files do not hold the task {', '.join(absent)}.",
            where="--task",
            expected=f"one of {', '.join(known)}",
        )
    return [data for data in tasks if not names or data.task in names]


def reduced(
    tasks: list[Any], weight_bits: list[float] | None, models: list[str] | None, problems: int | None, seed: int
) -> list[Any]:
    """The tasks with only these arms and as many problems; TslawError for tables of means, which are fitted whole."""
    if not (weight_bits or models or problems):
        return tasks
    from tslaw.errors import TslawError
    from tslaw.fit.data import TaskData
    from tslaw.fit.subset import some_arms, some_problems

    if not all(isinstance(data, TaskData) for data in tasks):
        raise TslawError(
            "Tables of published means are fitted whole.",
            where="--weight-bits, --model, --problems",
            fix="take rows out of the table instead",
        )
    return [some_problems(some_arms(data, weight_bits, models), problems, seed) for data in tasks]


def borrowing(prior: str, width: float, files: list[Path]) -> Borrowing:
    """The earlier fit that priors are learned from.

    Raises
    ------
    TslawError : it is none, or it rests on one of `files`: the same data would count twice.
    """
    import hashlib

    from tslaw.errors import TslawError
    from tslaw.fit.borrow import Borrowing
    from tslaw.fit.fit_file import open_fit

    found = Borrowing.parse(prior, width)
    used = json.loads(open_fit(found.path).attrs["provenance"]).get("inputs", {}).values()
    if twice := [str(f) for f in files if hashlib.sha256(f.read_bytes()).hexdigest() in used]:
        raise TslawError(
            f"The earlier fit rests on {', '.join(twice)}: the same data would count twice.",
            where="--prior",
            expected="a fit of other data",
        )
    if not found.passed:
        what = "is approximate (tslaw fit --quick)" if found.approximate else "failed its diagnostics"
        typer.echo(f"warning: {found.path} {what}; priors learned from it are no better.", err=True)
    return found


def report(tree: xr.DataTree) -> None:
    """Print the diagnostics of every task as a table, and what their data could not tell."""
    from rich.table import Table

    from tslaw.fit.fit_file import caveats, is_approximate, rests_on_means

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
    if is_approximate(tree):
        print("  approximate: made by tslaw fit --quick; nothing was sampled, so there is nothing to check")
    for task, d in json.loads(tree.attrs["diagnostics"]).items():
        if exact := d.get("refitted", 0):
            print(f"  note: {task}: LOO of {exact} reports is exact, by as many fits without them")
        if matched := d.get("matched", 0):
            print(f"  note: {task}: {matched} pairs of a model and a problem were left out by moving draws")
        if rests_on_means(tree, task):
            print(f"  note: {task}: {_moved(d)}")
        for caveat in caveats(tree, task):
            print(f"  note: {task}: {caveat}")


def _moved(d: dict[str, Any]) -> str:
    """How far the particles of a fit of published means forgot where they were; fits made before do not say."""
    if (left := d.get("correlation")) is None:
        return "whether particles forgot where they were before the last moves was not recorded: fit again to know"
    return f"after the last {d['moves']} moves particles correlate by at most {left:.2f} with where they were"


def _row(d: dict[str, Any]) -> tuple[str, ...]:
    approximate = d.get("approximate", False)
    return (
        d["task"],
        _number(d["rhat"], ".3f"),
        _number(d["ess_bulk"], ".0f"),
        _number(d["ess_tail"], ".0f"),
        "-" if approximate else f"{d['divergences']} of {d['draws']}",
        f"{_number(d['elpd_loo'], '.0f')} ± {_number(d['elpd_loo_se'], '.0f')}",
        _number(d["bad_pareto_k"], ".1%"),
        f"{d['seconds']:.0f}",
        "approximate" if approximate else "passed" if d["passed"] else "FAILED",
    )


def _number(value: float | None, form: str) -> str:
    """A number, or a dash for one that is not known (NaN in fits made before it was stored as null)."""
    return "-" if value is None or value != value else format(value, form)
