"""On which machine numbers were taken: what tables of seconds have to say beside them."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Machine:
    """A CPU, how many of its cores this process may use, what ran there already (the load average of the last minute),
    the version of JAX and the date."""

    cpu: str
    cores: int
    load: float
    jax: str
    date: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def in_words(self) -> str:
        """For the line above a table."""
        cores = f"{self.cores} core{'s' if self.cores > 1 else ''}"
        return f"{self.cpu}, {cores}, load average {self.load:.2f} at the start, JAX {self.jax}, {self.date}"


def this_machine(cpu_info: Path = Path("/proc/cpuinfo")) -> Machine:
    """This machine as it is now."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    return Machine(cpu_name(cpu_info), len(os.sched_getaffinity(0)), os.getloadavg()[0], version("jax"), day)


def cpu_name(cpu_info: Path) -> str:
    """What the kernel calls the CPU; where it says nothing (not every architecture does), the architecture."""
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
