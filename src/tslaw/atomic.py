"""Files that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tslaw.errors import TslawError


@contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """A place to write to, beside `path`, which is replaced when the block ends without an error.

    What was at `path` is then unchanged, and nothing stays beside it. Folders are made. The temporary name ends in
    `suffix`, for writers and readers that go by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def writing(path: Path, what: str) -> Iterator[Path]:
    """As `replacing`, for results that a user waits for.

    Raises
    ------
    TslawError : `what` ("The fit") could not be written.
    """
    try:
        with replacing(path) as temporary:
            yield temporary
    except (OSError, RuntimeError) as error:  # the netCDF library reports a full disk as either
        raise TslawError(
            f"{what} could not be written ({getattr(error, 'strerror', None) or error}); nothing was changed.",
            where=str(path),
            fix=f"check the free space and the permissions of {path.parent}",
        ) from error


def flush_to_disk(path: Path) -> None:
    """Return when a file would survive the loss of power."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
