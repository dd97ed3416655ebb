"""Where unfinished runs of NUTS are kept: beside the file that their result is going to, until that is saved."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tslaw
from tslaw.fit.infer import Sampling
from tslaw.fit.nuts import Checkpoint, fingerprint


def checkpoint_beside(out: Path, name: str, sampling: Sampling, *of: Any) -> Checkpoint:
    """Where the run called `name` is kept. It is resumed with the same settings and versions, and if it is a run of the
    same `of`: data, priors, and whatever else the draws depend on."""
    versions = [tslaw.__version__, version("jax"), version("numpyro")]
    return Checkpoint(_place(out, name), fingerprint(*of, replace(sampling, progress=False), versions))


def remove_unfinished(out: Path, names: Iterable[str]) -> None:
    """Remove what was kept of the runs whose result has been saved."""
    for name in names:
        _place(out, name).unlink(missing_ok=True)


def _place(out: Path, name: str) -> Path:
    safe = re.sub(r"[^\w.+-]", "_", name)
    return out.with_name(f"{out.name}.{safe}.unfinished.npz")
