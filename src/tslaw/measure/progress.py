"""What a user sees while a sweep runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LINE_SECONDS = 10.0


class SweepProgress:
    """Counts units, tokens and time; `bar` is a started rich Progress, or None for plain lines."""

    def __init__(self, units: dict[str, int], done: set[str], tokens_left: int, bar: Any) -> None:
        self._batches_left = dict(units)
        self._n_units, self._n_done = len(units), len(done)
        self._tokens_total, self._tokens, self._start, self._last = tokens_left, 0, time.monotonic(), 0.0
        self._bar = bar
        self._task = bar.add_task("measuring", total=max(tokens_left, 1), note=self._note("")) if bar else None

    def on_event(self, arm: str, event: dict[str, Any]) -> None:
        """Take a worker's report."""
        kind = event["event"]
        if kind == "batch":
            self._tokens += event["tokens"]
            self._batches_left[event["unit"]] -= 1
            if self._batches_left[event["unit"]] == 0:
                self._n_done += 1
        note = {"quantizing": "quantizing", "opening": "starting vLLM", "open": "thinking"}.get(kind, "")
        self._show(self._note(f"{arm} {note}" if note else ""), force=kind in ("batch", "quantizing"))

    def _note(self, doing: str) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        parts = [f"{self._n_done}/{self._n_units} units"]
        if self._tokens:
            left = (self._tokens_total - self._tokens) * elapsed / self._tokens
            parts += [f"{self._tokens / elapsed:,.0f} tokens/s", f"{left / 60:.1f} min left"]
        return ", ".join([*parts, doing] if doing else parts)

    def _show(self, note: str, force: bool) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._tokens, note=note)
        elif force or time.monotonic() - self._last > LINE_SECONDS:
            self._last = time.monotonic()
            print(f"measuring: {note}", file=sys.stderr, flush=True)


@contextmanager
def show_progress(units: dict[str, int], done: set[str], tokens_left: int) -> Iterator[SweepProgress]:
    """Show a sweep's progress on standard error. `units`: key -> batches still missing."""
    if not sys.stderr.isatty():
        yield SweepProgress(units, done, tokens_left, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        yield SweepProgress(units, done, tokens_left, bar)
