"""All figures of a fit, drawn in memory first and written only when every one of them came out."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tslaw.errors import TslawError
from tslaw.fit.crossover import crossover, lattice_crossover
from tslaw.fit.fit_file import refuse_existing, task_names
from tslaw.fit.frontier import frontier
from tslaw.memory import Accounting, weight_bytes
from tslaw.plots import style
from tslaw.plots.accuracy_budget import accuracy_budget
from tslaw.plots.crossover_figure import crossover_figure
from tslaw.plots.memory_accuracy import memory_accuracy
from tslaw.plots.predictive_check import predictive_check
from tslaw.plots.trace_rank import trace_rank
from tslaw.plots.view import TaskView, task_view

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

FIGURES = ("memory_accuracy", "accuracy_budget", "crossover", "posterior_predictive", "trace_rank")
FORMATS = ("png", "svg")


def write_plots(
    tree: xr.DataTree,
    out: str | Path,
    task: str | None = None,
    weight_bits: float = 8,
    batch: float = 1,
    accounting: Accounting = "checkpoint",
    overwrite: bool = False,
) -> list[Path]:
    """Write every figure of one task (of all tasks without `task`) as OUT/TASK-FIGURE.png (200 dpi) and .svg.

    Nothing is written unless all figures could be drawn. A family of one model has no crossover figure.

    Raises
    ------
    TslawError : a figure exists and not `overwrite`, the folder cannot be written, the fit does not hold the task, or a
        batch, bit width or accounting that makes no sense.
    """
    views = [task_view(tree, t) for t in ([task] if task else task_names(tree))]
    planned = {v.posterior.task: figure_names(v) for v in views}
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise TslawError("The figures go into a folder, and this is a file.", where=str(out))
    for name, figures in planned.items():
        for path in _paths(out, name, figures):
            refuse_existing(path, overwrite)
    drawn = {v.posterior.task: draw_figures(v, weight_bits, batch, accounting) for v in views}
    contents = {
        path: content
        for name, pictures in drawn.items()
        for path, content in zip(_paths(out, name, list(pictures)), _flat(pictures), strict=True)
    }
    write_all(contents)
    return list(contents)


def figure_names(view: TaskView) -> list[str]:
    """The figures this task allows."""
    return [f for f in FIGURES if f != "crossover" or len(view.posterior.shapes) > 1]


def draw_figures(
    view: TaskView, weight_bits: float, batch: float, accounting: Accounting
) -> dict[str, dict[str, bytes]]:
    """Every figure of a task: name to format to the file's bytes. Matplotlib's settings are left as they were."""
    from matplotlib import rc_context, rcParamsDefault

    front = frontier(view.posterior, batch, accounting, compressed=False)
    makers: dict[str, Any] = {
        "memory_accuracy": lambda: memory_accuracy(view, front, batch),
        "accuracy_budget": lambda: accuracy_budget(view),
        "crossover": lambda: _crossover(view, weight_bits, batch, accounting),
        "posterior_predictive": lambda: predictive_check(view),
        "trace_rank": lambda: trace_rank(view),
    }
    base = {k: v for k, v in rcParamsDefault.items() if not k.startswith("backend")}
    with rc_context(base | style.RC):
        return {name: _render(makers[name]()) for name in figure_names(view)}


def _crossover(view: TaskView, weight_bits: float, batch: float, accounting: Accounting) -> Figure:
    posterior = view.posterior
    found = crossover(posterior, weight_bits, batch, accounting)
    measured = sum(a.weight_bits == weight_bits for a in posterior.family_arms(accounting))
    lattice = lattice_crossover(posterior, weight_bits, batch, accounting) if measured > 1 else None
    weights = {m: weight_bytes(posterior.shapes[m], weight_bits, accounting) for m in style.by_size(view)}
    return crossover_figure(view, found, lattice, weights)


def _render(figure: Figure) -> dict[str, bytes]:
    pictures = {}
    for form in FORMATS:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, metadata={"Date": None} if form == "svg" else None)
        pictures[form] = buffer.getvalue()
    return pictures


def _paths(out: Path, task: str, figures: Sequence[str]) -> list[Path]:
    stem = re.sub(r"[^\w.+-]", "_", task)
    return [out / f"{stem}-{figure}.{form}" for figure in figures for form in FORMATS]


def _flat(pictures: dict[str, dict[str, bytes]]) -> list[bytes]:
    return [pictures[figure][form] for figure in pictures for form in FORMATS]


def write_all(contents: dict[Path, bytes]) -> None:
    """Write all files beside their final names, then rename: a full disk leaves what was there as it was."""
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path].write_bytes(content)
        for path, beside in temporary.items():
            os.replace(beside, path)
    except OSError as error:
        folder = next(iter(contents)).parent
        raise TslawError(
            f"The figures could not be written ({error.strerror or error}).",
            where=str(folder),
            fix=f"check the free space and the permissions of {folder}",
        ) from error
    finally:
        for beside in temporary.values():
            with suppress(OSError):
                beside.unlink()
