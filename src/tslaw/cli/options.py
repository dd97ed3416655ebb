"""Options that several commands share, declared once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from tslaw.fit.posterior import Posterior

FitFile = Annotated[Path, typer.Argument(help="A fit written by tslaw fit.", show_default=False)]
Task = Annotated[str | None, typer.Option(help="One task of the fit; all of them when not given.")]
Batch = Annotated[float, typer.Option(help="Concurrent generations that share the weights.")]
AccountingName = Annotated[
    Literal["checkpoint", "equation"],
    typer.Option("--accounting", help="checkpoint (bytes of GPTQ files) or equation (the formula)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def posteriors(fit: Path, task: str | None) -> Iterator[Posterior]:
    """The posterior of `task`, or of every task of the fit; a fit that failed its diagnostics or is
    approximate is announced on stderr."""
    from tslaw.fit.fit_file import caveats, distrust, load_posterior, open_fit, task_names

    tree = open_fit(fit)
    if reason := distrust(tree):
        typer.echo(f"warning: {fit} {reason}.", err=True)
    names = [task] if task else task_names(tree)
    for caveat in dict.fromkeys(c for name in names for c in caveats(tree, name)):
        typer.echo(f"note: {fit}: {caveat}.", err=True)
    for name in names:
        yield load_posterior(tree, name)


def console() -> Console:
    """Standard output; wide enough for tslaw's tables when it is not a terminal."""
    import sys

    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)
