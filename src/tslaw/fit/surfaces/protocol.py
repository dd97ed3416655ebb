"""What a surface has to be able to do, to be fitted to a task's data and compared with others.

All surfaces are held to the same unit, the one that `tslaw.fit.loo` leaves out: everything that one model did on one
problem, in all its arms, trajectories and budgets. Points that are units of different kinds cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np

from tslaw.fit.data import TaskData
from tslaw.fit.infer import Draws, Sampling
from tslaw.fit.nuts import Checkpoint


@runtime_checkable
class Surface(Protocol):
    """One hypothesis of how accuracy depends on size, weight bits and budget.

    Attributes
    ----------
    name : one word for tables and files. title : what it says, in a line.
    effects : the posterior's arrays (of problems, arms, models) whose R-hat is looked at; that of scalars always is.
    """

    name: str
    title: str
    effects: tuple[str, ...]

    def model(self, data: TaskData) -> None:
        """The NumPyro model of one task: priors and likelihood of everything in `data`."""

    def sample(self, data: TaskData, sampling: Sampling, checkpoint: Checkpoint | None = None) -> Draws:
        """Posterior draws; `tslaw.fit.surfaces.sampling.NutsSurface` does it for any NumPyro model.

        `checkpoint` is where an unfinished run may be kept, and resumed from. It is not given to a `sample` without
        such an argument.
        """

    def left_out_log_likelihood(self, posterior: dict[str, np.ndarray], data: TaskData) -> np.ndarray:
        """Log-likelihood of all that each model did on each problem, given everything else: (chain, draw, model,
        problem).

        What only those data inform, such as the model's own effect on the problem, has to be integrated out over what
        the draw says of it without them. `posterior` maps names to (chain, draw, ...) arrays. Models are in the order
        of `TaskData.model_index`; pairs without data give 0.
        """

    def replicate(self, draws: Draws, data: TaskData, seed: int) -> Iterable[np.ndarray]:
        """What repeats of the measurement would show: for each of about 200 draws the right (1) and wrong (0) probes of
        as many trajectories, (trajectory, budget), in the order of `predictive.trajectories`. Probes that were not
        measured are ignored."""
