"""A base for surfaces that are curves in logits: everything but the curve itself.

A subclass says which parameters its curve has and what the curve is. The base adds what any such surface needs to be
compared fairly: problems' difficulties, arms' misfits, each model's own effect on each problem, guessing, and
trajectories whose probes are alike (`trajectories`):

    logit_ij(T) = curve_i(T) + misfit_i - difficulty_j + effect_m(i)j
    difficulty ~ zero-sum Normal(0, sd_difficulty)    misfit ~ Normal(0, sd_misfit)    effect ~ Normal(0, sd_effect)

Priors of these are those of the mechanistic surface (`fit.model.Prior`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from tslaw.errors import TslawError
from tslaw.fit.data import TaskData, distinct_rows
from tslaw.fit.infer import Draws
from tslaw.fit.model import Prior, groups, logit_unit, sample_centred
from tslaw.fit.predictive import PREDICTIVE_DRAWS, trajectories
from tslaw.fit.surfaces.sampling import NutsSurface
from tslaw.fit.surfaces.trajectories import log_likelihood_of_pairs, simulate_probes

SD_TRAJECTORY = 3.0
"""Prior scale of how much trajectories of one model on one problem differ, in logits."""
N_NODES, WIDER, NARROWEST = 9, 1.2, 0.2
"""Of the quadrature over a pair's own effect: nodes are spread as the posterior's standard deviation times WIDER, and
at least as so many logits."""

Params = dict[str, Array]


class LogitSurface(NutsSurface):
    """Subclasses set `name` and `title` and define `parameters` and `curve`."""

    name = "unnamed"
    title = ""
    effects: tuple[str, ...] = ("difficulty", "misfit", "model_effect")
    auxiliary: tuple[str, ...] = ("arm_level", "pair_level")
    scales: tuple[str, ...] = ("sd_difficulty", "sd_misfit", "sd_effect")
    prior = Prior()

    def parameters(self, data: TaskData) -> Params:
        """Sample the curve's own parameters by `numpyro.sample`, and return them by name."""
        raise NotImplementedError

    def curve(self, params: Params, data: TaskData) -> Array:
        """The logit of a right probe of an average problem's average trajectory: (arm, budget)."""
        raise NotImplementedError

    def logit(self, params: Params, data: TaskData) -> Array:
        """(arm, problem, budget) without the models' own effects on problems. Override it for a surface in which
        problems differ in more than their difficulty."""
        level = self.curve(params, data) + params["misfit"][:, None]
        return level[:, None, :] - params["difficulty"][None, :, None]

    def model(self, data: TaskData) -> None:
        """The NumPyro model of one task."""
        params = self.parameters(data) | self._spreads(data)
        native, _ = groups(data, self.prior)
        end = self._checked_curve(params, data)[:, -1]
        misfit = sample_centred("arm_level", end, params["sd_misfit"], native.misfit[native.model])
        params["misfit"] = numpyro.deterministic("misfit", misfit)
        n_problems = len(data.problems)
        params["difficulty"] = numpyro.sample("difficulty", dist.ZeroSumNormal(params["sd_difficulty"], (n_problems,)))
        logit = self.logit(params, data)
        expected = logit[_native_arms(data), :, -1]
        effect = sample_centred("pair_level", expected, params["sd_effect"], native.effect)
        params["model_effect"] = numpyro.deterministic("model_effect", effect)
        whole = logit + effect[native.model][..., None]
        pairs = log_likelihood_of_pairs(whole, params["guess"], params["sd_trajectory"], data)
        numpyro.factor("trajectories", jnp.sum(pairs))

    def start(self, data: TaskData) -> Mapping[str, Any]:
        """Problems as easy as the share of their trajectories that end right says; typical spreads."""
        share = np.clip(data.solved_share(), 0.02, 0.98)
        easiness = np.log(share / (1.0 - share))
        spreads = {"sd_difficulty": 3.0, "sd_misfit": 0.3, "sd_effect": 1.5, "sd_trajectory": 2.0}
        return spreads | {"difficulty": easiness.mean() - easiness, "guess": data.chance + 0.01}

    def left_out_log_likelihood(self, posterior: dict[str, np.ndarray], data: TaskData) -> np.ndarray:
        """(chain, draw, model, problem), the pair's own effect integrated out over Normal(0, sd_effect).

        Gauss and Hermite's quadrature, with nodes where the posterior has the effect and no wider than its prior.
        """
        middle = jnp.asarray(posterior["model_effect"].mean(axis=(0, 1)))
        width = jnp.asarray(np.maximum(WIDER * posterior["model_effect"].std(axis=(0, 1)), NARROWEST))
        places, weights = np.polynomial.hermite_e.hermegauss(N_NODES)
        log_weights = np.log(weights / np.sqrt(2.0 * np.pi))

        def one(params: Params) -> Array:
            spread = params["sd_effect"]
            scale = jnp.minimum(width, spread)
            centre = (scale / width) ** 2 * middle
            logit = self.logit(params, data)

            def at(node: Array) -> Array:
                effect = centre + scale * node[0]
                standard = effect / spread
                # prior density over that of the nodes, whose weights hold exp(-z^2 / 2)
                gain = 0.5 * (node[0] ** 2 - standard**2) + jnp.log(scale / spread)
                return self._pairs(params, logit, effect, data) + gain + node[1]

            return jax.nn.logsumexp(jax.lax.map(at, jnp.stack([places, log_weights], axis=1)), axis=0)

        chains, draws = posterior["sd_effect"].shape
        found = _map_draws(one, posterior)
        return found.reshape(chains, draws, *found.shape[1:])

    def replicate(self, draws: Draws, data: TaskData, seed: int) -> Iterator[np.ndarray]:
        """(trajectory, budget) for each of about 200 draws."""
        chains, n = draws.posterior["sd_effect"].shape
        step = max(1, n * chains // PREDICTIVE_DRAWS)
        kept = {name: values[:, ::step] for name, values in draws.posterior.items()}
        logits = _map_draws(lambda params: self._whole_logit(params, data), kept)
        guesses, spreads = (kept[name].ravel() for name in ("guess", "sd_trajectory"))
        arm, problem, _ = trajectories(data)
        for k, logit in enumerate(logits):
            yield simulate_probes(logit, float(guesses[k]), float(spreads[k]), arm, problem, [seed, k])

    def simulate(self, template: TaskData, truth: Mapping[str, Any], samples: int, seed: int) -> TaskData:
        """`samples` trajectories a cell with the arms, budgets and problems of `template`, drawn from `truth`: every
        parameter that a posterior draw has."""
        params = {name: jnp.asarray(value, float) for name, value in truth.items()}
        logit = np.asarray(self._whole_logit(params, template))
        n_arms, n_problems, n_budgets = logit.shape
        arm, problem = (np.repeat(i.ravel(), samples) for i in np.indices((n_arms, n_problems)))
        right = simulate_probes(logit, float(truth["guess"]), float(truth["sd_trajectory"]), arm, problem, seed)
        cells = right.reshape(n_arms, n_problems, samples, n_budgets)
        patterns, arm, problem, pattern, count = distinct_rows(cells, shared=True)
        return replace(
            template, patterns=patterns, row_arm=arm, row_problem=problem, row_pattern=pattern, row_count=count
        )

    def _spreads(self, data: TaskData) -> Params:
        """What every such surface has beside its curve."""
        prior, weight, unit = self.prior, self.prior.guess_weight, self.logit_unit
        draw = {
            "guess": dist.Beta(1.0 + weight * data.chance, 9.0 + weight * (1.0 - data.chance)),
            "sd_difficulty": dist.LogNormal(np.log(prior.sd_difficulty[0]), prior.sd_difficulty[1]),
            "sd_misfit": dist.LogNormal(np.log(unit * prior.sd_misfit[0]), prior.sd_misfit[1]),
            "sd_effect": dist.HalfNormal(unit * prior.sd_effect),
            "sd_trajectory": dist.HalfNormal(SD_TRAJECTORY),
        }
        return {name: numpyro.sample(name, distribution) for name, distribution in draw.items()}

    @property
    def logit_unit(self) -> float:
        """Logits in a unit of ability, were problems to differ as the prior's median says."""
        return float(logit_unit(self.prior.sd_difficulty[0]))

    def _checked_curve(self, params: Params, data: TaskData) -> Array:
        curve, expected = self.curve(params, data), (len(data.arms), len(data.budgets))
        if jnp.shape(curve) != expected:
            raise TslawError(
                f"The curve of the surface '{self.name}' has the shape {jnp.shape(curve)}.",
                where=f"{type(self).__name__}.curve",
                expected=f"(arm, budget), here {expected}",
            )
        return curve

    def _whole_logit(self, params: Params, data: TaskData) -> Array:
        return self.logit(params, data) + params["model_effect"][data.model_index()][..., None]

    def _pairs(self, params: Params, logit: Array, effect: Array, data: TaskData) -> Array:
        whole = logit + effect[data.model_index()][..., None]
        # In double precision: weights that are equal by rounding alone have no tail to smooth.
        return log_likelihood_of_pairs(whole, params["guess"], params["sd_trajectory"], data, logit.dtype)


def _native_arms(data: TaskData) -> np.ndarray:
    """The arm nearest to native precision of every model: (model,)."""
    model = data.model_index()
    members = [np.flatnonzero(model == m) for m in range(int(model.max()) + 1)]
    return np.array([arms[np.argmax(data.weight_bits[arms])] for arms in members])


def _map_draws(function: Any, posterior: Mapping[str, np.ndarray]) -> np.ndarray:
    """`function` of every draw's parameters, chains one after the other: (chain x draw, ...)."""
    flat = {name: jnp.asarray(v.reshape(-1, *v.shape[2:])) for name, v in posterior.items()}
    return np.asarray(jax.jit(lambda draws: jax.lax.map(function, draws))(flat))
