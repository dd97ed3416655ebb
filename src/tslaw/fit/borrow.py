"""Priors from an earlier fit: what one family taught, for another of which too little is known.

Every parameter by itself gets a distribution of the same support as its default prior's: normal in unconstrained
coordinates (logarithms of what is positive, logits of shares), with the mean of the earlier posterior there and the
standard deviation

    hypot(the earlier posterior's, width * the default prior's)

`width` says how much families may differ. Between two families nothing else does; the default of 0.5 says that knowing
one family perfectly leaves half of what one did not know of another. Where that is no narrower than the default prior,
the earlier fit had nothing to teach, and the default stays.

Not taken over: `guess`, and unless it is the same task what belongs to its problems (`theta0`, `mu0`, `sd_difficulty`,
`sd_length`, `rho`).

Parameters that hold at the reference size (x = 0) are first moved along the earlier fit's own trends, draw by draw, to
where the new family's reference lies. A trend is not followed beyond the sizes it was seen at: further away the nearest
of these sizes stands in, and `theta0` and `mu0`, which are all trend, are not taken over. Slopes in x are the same at
any reference. What compressed caches cost is taken over for the kinds of compression that both fits have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import biject_to, constraints

from tslaw.errors import TslawError
from tslaw.fit.cache_prior import CachePrior, cache_priors, general_name
from tslaw.fit.fit_file import load_posterior, open_fit, task_names
from tslaw.fit.lengths import length_resolution
from tslaw.fit.model import OF_UNIT, RELATIVE, Prior, logit_unit, sample_population
from tslaw.fit.surface import rise

if TYPE_CHECKING:
    from tslaw.fit.data import TaskData
    from tslaw.fit.means_data import MeansData
    from tslaw.fit.posterior import Posterior

WIDTH = 0.5
NEVER = ("guess",)
OF_THE_TASK = ("theta0", "mu0", "sd_difficulty", "sd_length", "rho")
ALL_TREND = ("theta0", "mu0")
TRENDS = {"mu0": "mu1", "slip0": "slip1", "late0": "late2", "relapse0": "relapse1"}
"""What changes with x, and its slope; `theta0` rises by alpha, bent, and `delta_w` falls as exp(-gamma_w x)."""
PRIOR_DRAWS = 8192

Support = Literal["real", "positive", "share"]
_CONSTRAINTS: dict[Support, Any] = {
    "real": constraints.real,
    "positive": constraints.positive,
    "share": constraints.unit_interval,
}


@dataclass(frozen=True)
class Borrowed:
    """A normal distribution in unconstrained coordinates."""

    support: Support
    location: float
    scale: float

    def distribution(self) -> dist.Distribution:
        """The distribution of the parameter itself."""
        normal = dist.Normal(self.location, self.scale)
        if self.support == "real":
            return normal
        return dist.TransformedDistribution(normal, biject_to(_CONSTRAINTS[self.support]))


@dataclass
class Borrowing:
    """An earlier fit and how it is used: `task` names the one to learn from, `width` is as above.

    Without `task` every task learns from its namesake; one that has none learns from all tasks of the fit together, so
    that how much they differ counts as not knowing.
    """

    path: Path
    task: str | None = None
    width: float = WIDTH
    _posteriors: dict[str, Posterior] = field(default_factory=dict, init=False, repr=False)
    _hash: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.width < np.inf:
            raise TslawError(f"A prior width of {self.width:g} makes no sense.", expected="0 or more, as 0.5")
        tree = open_fit(self.path)
        names = [self.task] if self.task else task_names(tree)
        self._posteriors = {name: load_posterior(tree, name) for name in names}
        self._hash = hashlib.sha256(self.path.read_bytes()).hexdigest()

    @classmethod
    def parse(cls, text: str, width: float = WIDTH) -> Borrowing:
        """From FIT or FIT:TASK."""
        whole = Path(text)
        if whole.exists() or ":" not in text:
            return cls(whole, None, width)
        path, task = text.rsplit(":", 1)
        return cls(Path(path), task, width)

    @property
    def passed(self) -> bool:
        """Whether the earlier fit passed its diagnostics."""
        return all(p.passed for p in self._posteriors.values())

    @property
    def approximate(self) -> bool:
        """Whether the earlier fit was a quick look."""
        return any(p.approximate for p in self._posteriors.values())

    def sources(self, task: str) -> list[str]:
        """The earlier fit's tasks that `task` learns from."""
        return [task] if task in self._posteriors else list(self._posteriors)

    def of(self, data: TaskData | MeansData) -> dict[str, Borrowed]:
        """What replaces the default prior of a task, by the names of its sites."""
        found = [self._posteriors[name] for name in self.sources(data.task)]
        moved = [at_reference(p, data.reference_size) for p in found]
        inside = all(within_sizes(p, data.reference_size) for p in found)
        same = all(p.task == data.task for p in found)
        answer = {}
        for name, fn in default_sites(data).items():
            of = name.removesuffix(OF_UNIT)
            if of in NEVER or (of in OF_THE_TASK and not same) or (of in ALL_TREND and not inside):
                continue
            knowing = [draws[name] for draws in moved if name in draws]
            if not knowing:  # a kind of compressed cache that the earlier fit has not seen
                continue
            transform = biject_to(fn.support)
            known = np.concatenate([np.asarray(transform.inv(draws)) for draws in knowing])
            before = np.asarray(transform.inv(fn.sample(jax.random.PRNGKey(0), (PRIOR_DRAWS,))))
            scale = float(np.hypot(known.std(), self.width * before.std()))
            if scale < before.std():
                answer[name] = Borrowed(_support(fn), float(known.mean()), scale)
        return answer

    def provenance(self, tasks: Sequence[TaskData | MeansData]) -> dict[str, Any]:
        """Which fit, by name and hash, and what every task took from it."""
        return {
            "fit": self.path.name,
            "sha256": self._hash,
            "passed": int(self.passed),
            "approximate": int(self.approximate),
            "width": self.width,
            "tasks": {
                data.task: {
                    "from": self.sources(data.task),
                    "priors": {name: asdict(of) for name, of in self.of(data).items()},
                }
                for data in tasks
            },
        }


def default_sites(data: TaskData | MeansData) -> dict[str, Any]:
    """The default prior's distributions, by the names of their sites."""
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        sample_population(Prior(), data.budgets, data.chance)
    sites = {name: site["fn"] for name, site in trace.items() if site["type"] == "sample"}
    return sites | cache_priors(CachePrior(), getattr(data, "cache_kinds", ()))


def _support(fn: Any) -> Support:
    for name, constraint in _CONSTRAINTS.items():
        if fn.support is constraint or fn.support == constraint:
            return name
    raise TypeError(f"no unconstrained coordinates for {fn}")


def within_sizes(posterior: Posterior, reference_size: float) -> bool:
    """Whether a size lies among those of a fit."""
    low, high = posterior.log_size_range
    return bool(low <= np.log(reference_size / posterior.reference_size) <= high)


def at_reference(posterior: Posterior, reference_size: float) -> dict[str, np.ndarray]:
    """A fit's population draws with sizes relative to another reference, or to the nearest size it has seen, as
    themselves and as what is sampled."""
    shift = float(np.clip(np.log(reference_size / posterior.reference_size), *posterior.log_size_range))
    draws = {name: np.asarray(values, float) for name, values in posterior.params.items() if values.ndim == 1}
    moved = draws | {name: draws[name] + shift * draws[slope] for name, slope in TRENDS.items()}
    moved["theta0"] = draws["theta0"] + np.asarray(
        rise({k: jnp.asarray(v) for k, v in draws.items()}, jnp.asarray(shift))
    )
    moved["alpha"] = draws["alpha"] * np.exp(shift * draws["bend"])
    moved["delta_w"] = draws["delta_w"] * np.exp(-shift * draws["gamma_w"])
    moved |= _cache_at(draws, shift)
    unit = logit_unit(draws["sd_difficulty"])
    moved |= {name + OF_UNIT: moved[name] / unit for name in RELATIVE}
    least = length_resolution(posterior.budgets)
    moved["sigma_len_excess"] = np.sqrt(np.maximum(draws["sigma_len"] ** 2 - least**2, 1e-6))
    return moved


def _cache_at(draws: dict[str, np.ndarray], shift: float) -> dict[str, np.ndarray]:
    """What compressed caches cost where x has moved by `shift`: all of it scales as exp(-gamma x), rates by their
    logarithms (`cache_terms`)."""
    moved = {}
    for name in draws:
        of = general_name(name)
        if of == "onset":
            # r at the new reference, where what is kept is relative to another typical length.
            worth = draws[name.replace("onset", "worth")]
            moved[name] = draws[name] + shift * (draws["reach"] - (1.0 - worth) * draws["mu1"])
            continue
        gamma = "gamma_kv" if of in ("delta_kv", "loss_kv") else "gamma_evict" if of in ("found", "loss") else None
        if gamma is None:
            continue
        fall = shift * draws[gamma]
        moved[name] = draws[name] - fall if of.startswith("loss") else draws[name] * np.exp(-fall)
    return moved
