"""`tslaw show`: what a fit rests on and whether its sampler worked."""

from __future__ import annotations

import json

import typer

from tslaw.cli.options import AsJson, FitFile


def command(fit: FitFile, as_json: AsJson = False) -> None:
    """Show where a fit came from (data, settings, versions, device, date) and its diagnostics.

    The exit status is 1 if the fit failed them, 0 if it passed. For example:

    `tslaw show fits/ladder-math.nc`
    """
    from tslaw.cli.fit_command import report
    from tslaw.fit.fit_file import open_fit

    tree = open_fit(fit)
    made, passed = json.loads(tree.attrs["provenance"]), bool(int(tree.attrs["passed"]))
    if as_json:
        diagnostics = json.loads(tree.attrs["diagnostics"])
        print(json.dumps({"passed": passed, "provenance": made, "diagnostics": diagnostics}, indent=2))
    else:
        report(tree)
        print("\n".join(f"{name}: {text}" for name, text in as_text(made).items()))
    if not passed:
        raise typer.Exit(1)


def as_text(made: dict) -> dict[str, str]:
    """Provenance in a few lines."""
    pairs = {
        "data": {name: f"sha256 {digest[:12]}" for name, digest in made["inputs"].items()},
        "sampling": made["sampling"],
        "versions": made["packages"],
    }
    lines = {title: ", ".join(f"{name} {value}" for name, value in each.items()) for title, each in pairs.items()}
    return lines | {"made": f"{made['created']} on {made.get('device', 'an unnamed device')}, {made['seconds']:.0f} s"}
