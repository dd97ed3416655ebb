"""`tslaw validate`: does a dataset keep the measurement contract?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import xarray as xr

    from tslaw.means import MeansTable

MOST_ARMS = 24
"""As many arms are listed one by one."""


def command(
    files: Annotated[list[Path], typer.Argument(help="Datasets (.nc) or tables of means (.csv).", show_default=False)],
) -> None:
    """Check datasets and name every fault: what, where, what was expected.

    Exits with 0 when all are valid, with 2 when any fault was found. For example: `tslaw validate out/*.nc`
    """
    from tslaw.dataset import read_dataset, validate
    from tslaw.errors import TslawError
    from tslaw.means import is_table, read_means

    bad = 0
    for path in files:
        try:
            if is_table(path):
                typer.echo(f"{path}: valid\n{_means(read_means(path))}")
                continue
            ds = read_dataset(path)
        except TslawError as error:
            bad += 1
            typer.echo(f"{path}: not valid\n{error}", err=True)
            continue
        if faults := validate(ds):
            bad += 1
            typer.echo(f"{path}: not valid, {len(faults)} fault(s)", err=True)
            for fault in faults:
                typer.echo(f"  - {fault}", err=True)
        else:
            typer.echo(f"{path}: valid\n{_summary(ds)}")
    if bad:
        raise typer.Exit(2)


def _means(table: MeansTable) -> str:
    """Every mean with the standard error that its number of answers allows for at most."""
    lines = [f"  family {table.family.name}, published means (standard errors: the most that sampling explains)"]
    for task in table.tasks:
        lines.append(f"  {task}")
        lines += [
            f"    {m.model} at {m.weight_bits:g} bits, {m.token_budget} tokens: {m.accuracy:.4f} "
            f"± {m.standard_error:.4f}, {m.n_problems} problems x {m.n_samples}"
            for m in table.means
            if m.task == task
        ]
    return "\n".join(lines)


def _summary(ds: xr.Dataset) -> str:
    measured = float((ds["answer"] != -2).mean())
    sizes = ", ".join(f"{ds.sizes[dim]} {dim}s" for dim in ("arm", "budget", "problem", "sample"))
    attrs = ds.attrs
    return "\n".join(
        (
            f"  family {attrs['family']}, task {attrs['task']} version {attrs['task_version']}",
            f"  {sizes}; {measured:.1%} of the cells measured",
            f"  budgets {', '.join(str(b) for b in ds['budget'].values)} tokens",
            *_arms(ds),
            f"  {attrs['engine']} {attrs['engine_version']} on {attrs['device']}",
        )
    )


def _arms(ds: xr.Dataset) -> list[str]:
    """The arms by name, or what they are made of where they are many."""
    if ds.sizes["arm"] <= MOST_ARMS:
        return [f"  arms {', '.join(ds['arm'].values.astype(str))}"]
    models, bits, policies = (
        list(dict.fromkeys(ds[name].values.tolist())) for name in ("model", "weight_bits", "kv_policy")
    )
    possible = len(models) * len(bits) * len(policies)
    which = "all" if possible == ds.sizes["arm"] else f"{ds.sizes['arm']} of the"
    return [
        f"  arms: {which} {possible} combinations of",
        f"    models {', '.join(models)}",
        f"    weight bits {', '.join(f'{b:g}' for b in bits)}",
        f"    KV policies {', '.join(policies)}",
    ]
