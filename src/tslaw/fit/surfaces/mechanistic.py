"""The surface that `tslaw fit` fits, as an object: can the model solve it, has it finished, is it still right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tslaw.fit import infer, loo
from tslaw.fit.data import TaskData
from tslaw.fit.diagnostics import EFFECTS
from tslaw.fit.model import Prior, task_model
from tslaw.fit.nuts import Checkpoint
from tslaw.fit.predictive import replicated_probes


@dataclass(frozen=True)
class Mechanistic:
    """`tslaw.fit.surface` with the likelihood of whole patterns (`tslaw.fit.likelihood`)."""

    name: str = "mechanistic"
    title: str = "can solve x has finished x is still right"
    effects: tuple[str, ...] = EFFECTS
    prior: Prior = field(default_factory=Prior)

    def model(self, data: TaskData) -> None:
        """Priors, surface, likelihood; problems' lengths are summed out."""
        task_model(data, self.prior)

    def sample(self, data: TaskData, sampling: infer.Sampling, checkpoint: Checkpoint | None = None) -> infer.Draws:
        """NUTS from a MAP start with a metric from its Laplace approximation; see `infer.run_nuts`."""
        return infer.run_nuts(data, self.prior, sampling, checkpoint)

    def left_out_log_likelihood(self, posterior: dict[str, np.ndarray], data: TaskData) -> np.ndarray:
        """(chain, draw, model, problem): the pair's two effects and the lengths are integrated out."""
        return loo.left_out_log_likelihood(posterior, data)

    def replicate(self, draws: infer.Draws, data: TaskData, seed: int) -> Iterator[np.ndarray]:
        """(trajectory, budget) for each of about 200 draws."""
        return replicated_probes(draws, data, seed)


SURFACE = Mechanistic()
