"""`tslaw show`: what a fit rests on, whether its sampler worked, and how well it fits."""

from __future__ import annotations

import json

import typer

from tslaw.cli.options import AsJson, FitFile


def command(fit: FitFile, as_json: AsJson = False) -> None:
    """Show a fit's diagnostics, how well it fits the measured accuracies, and where it came from.

    The exit status is 0 if the fit passed them, 1 if it failed or is approximate (`tslaw fit --quick`). For example:

    `tslaw show fits/ladder-math.nc`
    """
    from tslaw.cli.fit_command import report
    from tslaw.fit.fit_file import is_approximate, misfit, open_fit, task_names

    tree = open_fit(fit)
    made, passed = json.loads(tree.attrs["provenance"]), bool(int(tree.attrs["passed"]))
    if as_json:
        diagnostics = json.loads(tree.attrs["diagnostics"])
        misfits = {name: misfit(tree, name)._asdict() for name in task_names(tree)}
        verdict = {"passed": passed, "approximate": is_approximate(tree)}
        print(json.dumps(verdict | {"diagnostics": diagnostics, "misfit": misfits, "provenance": made}, indent=2))
    else:
        report(tree)
        for name in task_names(tree):
            m = misfit(tree, name)
            print(
                f"{name}: {m.inside:.0%} of the measured accuracies in their 90% predictive intervals; off by "
                f"{m.rms:.4f} rms, at most by {m.largest:+.3f} ({m.arm}, {m.budget} tokens)"
            )
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
    if pooled := made.get("pooled"):
        pairs["pooled"] = {"width": pooled["width"], "tasks": " and ".join(pooled["tasks"])}
    lines = {title: ", ".join(f"{name} {value}" for name, value in each.items()) for title, each in pairs.items()}
    return lines | {"made": f"{made['created']} on {made.get('device', 'an unnamed device')}, {made['seconds']:.0f} s"}
