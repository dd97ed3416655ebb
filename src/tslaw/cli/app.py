"""The `tslaw` program: gathers the commands and turns every fault into one clear message and an exit status."""

from __future__ import annotations

import errno
import os
import sys

import typer

from tslaw.errors import TslawError

app = typer.Typer(
    name="tslaw",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""How should a reasoning model's memory be split between weights and thinking?

**memory** counts bytes; **measure** runs vLLM and writes a dataset (**quantize** makes its weights ahead);
**fit** turns datasets into a posterior (**show** says how it was made and whether to trust it);
**compare** holds other surfaces against it;
**crossover**, **frontier**, **recommend**, **predict** and **plot** question the posterior.

A full example: `tslaw measure plan.yaml --out out` → `tslaw fit out/*.nc --out fit.nc` → `tslaw crossover fit.nc`.
`--debug` (anywhere on the line) shows the traceback of an error.""",
)


@app.callback()
def _root() -> None:
    """Keeps `tslaw` a group of commands even while only one is registered."""


def _register() -> None:
    from tslaw.cli import commands

    commands.register(app)


def _explain_os_error(error: OSError) -> str:
    what = {
        errno.ENOSPC: "The disk is full; nothing that was already written has been changed.",
        errno.EDQUOT: "The disk quota is used up; nothing that was already written has been changed.",
        errno.EACCES: "Permission denied.",
        errno.EROFS: "The file system is read-only.",
        errno.ENOENT: "No such file or folder.",
        errno.EISDIR: "A file was expected here, not a folder.",
        errno.ENOTDIR: "A folder was expected here, not a file.",
    }.get(error.errno or 0, str(error))
    return str(TslawError(what, where=str(error.filename) if error.filename else None))


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def main(argv: list[str] | None = None) -> None:
    """Run the program and exit: 0 done, 1 ran but its answer is 'no' (a failed check), 2 bad input, 130 interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args or bool(os.environ.get("TSLAW_DEBUG"))
    args = [a for a in args if a != "--debug"]
    _register()
    try:
        status = app(args=args, prog_name="tslaw", standalone_mode=False)
    except KeyboardInterrupt:
        if debug:
            raise
        status = _fail("interrupted; what was finished is on disk.", 130)
    except TslawError as error:
        if debug:
            raise
        status = _fail(str(error), error.exit_status)
    except OSError as error:
        if debug:
            raise
        status = _fail(_explain_os_error(error), 2)
    except Exception as error:
        status = _handle_click(error, debug)
    sys.exit(status if isinstance(status, int) else 0)


def _handle_click(error: Exception, debug: bool) -> int:
    """Usage errors keep click's own text and status; anything else is a bug, said in one line without --debug."""
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        error.show()
        return int(error.exit_code)
    if type(error).__name__ == "Abort":
        return _fail("interrupted; what was finished is on disk.", 130)
    if debug:
        raise error
    return _fail(
        f"{type(error).__name__}: {error}\n  this is a fault in tslaw; --debug shows where. Please report it.", 2
    )
