"""`tslaw validate`: does a dataset keep the measurement contract?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import xarray as xr

MOST_ARMS = 24
"""As many arms are listed one by one."""


def command(
    files: Annotated[list[Path], typer.Argument(help="Datasets (.nc) written by tslaw measure.", show_default=False)],
) -> None:
    """Check datasets and name every fault: what, where, what was expected.

    Exits with 0 when all are valid, with 2 when any fault was found. For example: `tslaw validate out/*.nc`
    """
    from tslaw.dataset import read_dataset, validate
    from tslaw.errors import TslawError

    bad = 0
    for path in files:
        try:
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
