"""Fits of published means: fitting one task, and its ArviZ tree, which `fit_file` joins with others and stores.

Single problems are not stored: `pseudo_problem` in constant_data holds the points of `pseudo_problems`, from which
`fit_file.load_posterior` works out what each draw says of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tslaw.fit.infer import Draws, Sampling
from tslaw.fit.means_check import check_means, replicated_means
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_infer import MeansSampler
from tslaw.fit.model import Prior
from tslaw.fit.pseudo_problems import AXES, pseudo_problems

if TYPE_CHECKING:
    import xarray as xr

    from tslaw.fit.diagnostics import Diagnosis

REFIT_SAMPLES = 150
"""Particles of an island, at most, in a fit without one report."""


@dataclass(frozen=True)
class MeansFit:
    """One task's means with everything that came out of fitting them; `pareto_k` is (arm, budget)."""

    data: MeansData
    draws: Draws
    points: np.ndarray
    predictive: np.ndarray
    diagnosis: Diagnosis
    pareto_k: np.ndarray

    def tree(self) -> xr.DataTree:
        """The ArviZ tree, without the task dimension."""
        import arviz_base
        import xarray as xr

        data = self.data
        observed, answers = data.accuracy()
        cells = ["arm", "budget"]
        reported = np.zeros((len(data.arms), len(data.budgets)), int)
        np.add.at(reported, (data.report_arm, data.report_budget), 1)
        names = [f"pseudo-{j:03d}" for j in range(self.points.shape[1])]
        tree = arviz_base.from_dict(
            {
                # In single precision, as far as it was computed.
                "posterior": {name: values.astype(np.float32) for name, values in self.draws.posterior.items()},
                "sample_stats": self.draws.sample_stats,
                "posterior_predictive": {"accuracy": self.predictive.astype(np.float32)},
                "observed_data": {"accuracy": observed, "probes": answers},
                "constant_data": {
                    "chance": np.asarray(data.chance),
                    "reports": reported,
                    "pseudo_problem": self.points,
                    # How wrong answers agree cannot be known from means.
                    "wrong_spread": np.full(len(names), np.nan),
                },
            },
            coords={
                "arm": list(data.arms),
                "budget": data.budgets.astype(int),
                "axis": list(AXES),
                "problem": names,
            },
            dims={"misfit": ["arm"], "accuracy": cells, "probes": cells, "reports": cells}
            | {"pseudo_problem": ["axis", "problem"], "wrong_spread": ["problem"]},
            pred_dims={"accuracy": cells},
            sample_dims=["chain", "draw"],
            index_origin=0,
        )
        places = {"arm": list(data.arms), "budget": data.budgets.astype(int)}
        tree["loo"] = xr.DataTree(xr.Dataset({"pareto_k": (("arm", "budget"), self.pareto_k)}, coords=places))
        return tree


def fit_means(data: MeansData, sampling: Sampling, prior: Prior) -> MeansFit:
    """Sample one task's posterior, check it, and replicate the reports from it.

    Reports that LOO cannot be had of from the draws are left out by fitting without them.
    """
    sampler, points = MeansSampler(data, prior), pseudo_problems()
    draws, shorter = sampler.run(sampling), replace(sampling, samples=min(sampling.samples, REFIT_SAMPLES))
    diagnosis, pareto_k = check_means(draws, data, points, lambda report: sampler.run(shorter, without=report))
    return MeansFit(data, draws, points, replicated_means(draws, data, points, sampling.seed), diagnosis, pareto_k)
