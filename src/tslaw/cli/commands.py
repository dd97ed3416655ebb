"""The list of commands, in the order `tslaw --help` shows them. A new command is a new file and one line here."""

from __future__ import annotations

import importlib

import typer

COMMANDS: tuple[str, ...] = (
    "memory",
    "measure",
    "quantize",
    "validate",
    "fit",
    "show",
    "compare",
    "crossover",
    "findings",
    "frontier",
    "recommend",
    "predict",
    "plot",
)


def register(app: typer.Typer) -> None:
    """Add every command module's `command` function to the program; its docstring is the help text."""
    if app.registered_commands:
        return
    for name in COMMANDS:
        module = importlib.import_module(f"tslaw.cli.{name}_command")
        app.command(name)(module.command)
