"""The rows of scripts/kv_benchmark.py: a file of JSON lines that is added to as runs end, and its table."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SETTINGS = ("run", "tokens", "buffer", "graphs", "tiny", "device")
"""What makes two rows the same measurement."""
COLUMNS = ("policy", "context", "sequences", "tokens/s", "times `full`", "step, ms", "cache, GiB", "prefill, s")

Row = dict[str, Any]


def read(file: Path) -> list[Row]:
    """The rows of a file, none if there is no file; SystemExit for a line that is no JSON."""
    rows = []
    for number, line in enumerate(file.read_text().splitlines() if file.exists() else [], 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise SystemExit(f"{file}, line {number}: no JSON ({error.msg}); delete the line") from error
    return rows


def add(row: Row, file: Path) -> None:
    """One line more, in one write: several processes may share a file."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, (json.dumps(row) + "\n").encode())
    finally:
        os.close(handle)


def same(one: Row, other: Row) -> bool:
    """Whether two rows are of the same run, settings and device."""
    return all(name in one and one.get(name) == other.get(name) for name in SETTINGS)


def table(rows: list[Row]) -> str:
    """Markdown. `times full`: tokens a second over those of the full cache through the same backend, at equal context
    and sequences, on the same device, with the same settings. Of several rows of a run the last counts."""
    last = {json.dumps([row.get(name) for name in SETTINGS]): row for row in rows}
    order = sorted(last.values(), key=lambda row: (row["context"], row["sequences"]))
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(_cells(row, order))} |" for row in order]
    made = sorted({f"{row['device']}, {row['engine']}{_on(row)}" for row in order})
    return "\n".join([*lines, "", *made])


def _cells(row: Row, rows: list[Row]) -> list[str]:
    name = "vLLM's own" if row["policy"] == "own" else f"`{row['policy']}`"
    size = [f"{row['context']:,}", f"{row['sequences']}"]
    full = [other for other in rows if other["policy"] == "full" and _comparable(row, other)]
    ratio = f"{row['tokens_per_second'] / full[-1]['tokens_per_second']:.2f}" if full else ""
    took = [f"{row['step_ms']:.1f}", f"{row['cache_gib']:.1f}", f"{row['prefill_seconds']:.0f}"]
    return [name, *size, f"{row['tokens_per_second']:,.0f}", ratio, *took]


def _comparable(one: Row, other: Row) -> bool:
    names = ("context", "sequences", "tokens", "graphs", "tiny", "device", "engine")
    return all(one.get(name) == other.get(name) for name in names)


def _on(row: Row) -> str:
    return f", {row['date'][:10]}" if "date" in row else ""
