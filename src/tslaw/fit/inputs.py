"""What a result rests on: its input files by name and hash."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def input_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of every file, by name; files of one name are told apart by the folders above them (`kv/ladder-math.nc`
    beside `measurements/ladder-math.nc`), so that none takes another's place."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in zip(distinct_names(paths), paths, strict=True)
    }


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A file's name, with as many of the folders above it as those of the same name need to differ. A path given twice
    has one name."""
    parts = [path.absolute().parts for path in paths]
    lengths = [1] * len(parts)
    while True:
        names = [Path(*each[-n:]).as_posix() for each, n in zip(parts, lengths, strict=True)]
        shared = Counter(name for name, _ in set(zip(names, parts, strict=True)))
        longer = [n + (shared[name] > 1) for name, n in zip(names, lengths, strict=True)]
        if longer == lengths:
            return names
        lengths = longer
