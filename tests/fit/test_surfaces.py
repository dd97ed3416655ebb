"""Surfaces as objects: their likelihood against a slow one, LOO, replicas, a user's file, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit, logsumexp
from scipy.stats import norm
from simulated import correct_of, template, with_outcomes
from surface_truths import plain_truth

from tslaw.errors import TslawError
from tslaw.fit.compare import replicas_of
from tslaw.fit.data import TaskData
from tslaw.fit.infer import Draws
from tslaw.fit.subset import some_problems
from tslaw.fit.surfaces.plain import SURFACE as PLAIN
from tslaw.fit.surfaces.protocol import Surface
from tslaw.fit.surfaces.registry import BUILT_IN, check_model, load_surface, load_surfaces
from tslaw.fit.surfaces.sampling import unconstrained_start
from tslaw.fit.surfaces.trajectories import LOG_WEIGHTS, NODES, log_likelihood_of_pairs

DOCS = Path(__file__).parents[2] / "docs" / "surfaces.md"


@pytest.fixture(scope="module")
def small() -> TaskData:
    """Two models, three arms, four budgets; some probes and one pair were not measured."""
    empty = template(4, (16, 4), (1000, 2000, 8000, 32000), ("Qwen3-1.7B", "Qwen3-14B"))
    data = PLAIN.simulate(empty, plain_truth(empty, 1), 5, 1)
    correct = correct_of(data)
    correct[0, :, 2:, 1:3] = -2
    correct[2:, 3] = -2
    return with_outcomes(data, correct, shared=True)


def trajectory_probability(pattern: np.ndarray, logit: np.ndarray, guess: float, spread: float) -> float:
    """By adaptive quadrature over the trajectory's effect, probe by probe."""

    def integrand(z: float) -> float:
        p = guess + (1 - guess) * expit(logit + spread * z)
        return float(norm.pdf(z) * np.prod([q if y == 1 else 1 - q for y, q in zip(pattern, p, strict=True) if y >= 0]))

    return quad(integrand, -8, 8, points=np.linspace(-6, 6, 25), limit=200)[0]


def slow_pairs(data: TaskData, logit: np.ndarray, guess: float, spread: float) -> np.ndarray:
    """Log-likelihood of every model on every problem, trajectory by trajectory."""
    total = np.zeros((len(set(data.models)), len(data.problems)))
    rows = zip(data.row_arm, data.row_problem, data.row_pattern, data.row_count, strict=True)
    for arm, problem, pattern, count in rows:
        p = trajectory_probability(data.patterns[pattern], logit[arm, problem], guess, spread)
        total[data.model_index()[arm], problem] += count * np.log(p)
    return total


def logit_of(truth: dict, data: TaskData) -> np.ndarray:
    """The plain surface's logits with a loop and no shared code: (arm, problem, budget)."""
    tail = np.exp(-truth["kappa_w"] * 12)
    middle = np.log(data.budgets).mean()
    logit = np.zeros((len(data.arms), len(data.problems), len(data.budgets)))
    for i, j, k in np.ndindex(*logit.shape):
        share = (np.exp(-truth["kappa_w"] * (data.weight_bits[i] - 4)) - tail) / (1 - tail)
        level = truth["theta0"] + truth["alpha"] * data.log_size[i] - truth["delta_w"] * share + truth["misfit"][i]
        late = truth["rise"] * (data.budgets[k] / np.exp(middle)) ** -truth["power"]
        logit[i, j, k] = level - late - truth["difficulty"][j] + truth["model_effect"][data.model_index()[i], j]
    return logit


def test_the_plain_likelihood_is_that_of_trajectories_one_by_one(small) -> None:
    of_pairs = jax.jit(lambda *of: log_likelihood_of_pairs(*of, small))
    for spread in (0.5, 2.0, 4.0):
        truth = plain_truth(small, 2) | {"guess": 0.1, "sd_trajectory": spread}
        logit = logit_of(truth, small)
        params = {name: jnp.asarray(value, float) for name, value in truth.items()}
        whole = PLAIN.logit(params, small) + params["model_effect"][small.model_index()][..., None]
        assert np.asarray(whole) == pytest.approx(logit)
        found = of_pairs(whole, params["guess"], params["sd_trajectory"])
        expected = slow_pairs(small, logit, 0.1, spread)
        assert np.asarray(found) == pytest.approx(expected, abs=0.02)
        assert found[1, 3] == 0.0, "nothing was measured there"


def test_equal_steps_beat_as_many_gauss_hermite_nodes() -> None:
    """For trajectories as dependent as those of the ladder."""
    rng = np.random.default_rng(0)
    logit = np.linspace(-6, 4, 14) + 2 * rng.standard_normal((200, 1))
    right = rng.random(logit.shape) < expit(logit + 4 * rng.standard_normal((200, 1)))

    def log_likelihood(nodes: np.ndarray, log_weights: np.ndarray) -> np.ndarray:
        shifted = np.where(right, 1, -1)[..., None] * (logit[..., None] + 4 * nodes)
        return logsumexp(-np.logaddexp(0, -shifted).sum(axis=1) + log_weights, axis=1)

    fine = np.linspace(-8, 8, 4001)
    exact = log_likelihood(fine, norm.logpdf(fine) + np.log(fine[1] - fine[0]))
    places, weights = np.polynomial.hermite_e.hermegauss(len(NODES))
    ours = np.abs(log_likelihood(NODES, LOG_WEIGHTS) - exact).max()
    theirs = np.abs(log_likelihood(places, np.log(weights / weights.sum())) - exact).max()
    assert ours < 0.1
    assert theirs > 4 * ours


def test_leaving_a_pair_out_integrates_its_effect_over_the_prior(small) -> None:
    known = plain_truth(small, 1)
    # the effects of draws say only where the quadrature has its nodes: about where the posterior is
    truths = [known | {"sd_effect": s, "model_effect": known["model_effect"] + d} for s, d in ((0.7, -0.8), (1.5, 0.8))]
    posterior = {name: np.stack([np.asarray(t[name]) for t in truths])[None] for name in truths[0]}
    found = PLAIN.left_out_log_likelihood(posterior, small)
    assert found.shape == (1, 2, 2, 4)
    z = np.linspace(-5, 5, 201)
    of_pairs = jax.jit(lambda *of: log_likelihood_of_pairs(*of, small, float))
    for truth, row in zip(truths, found[0], strict=True):
        params = {name: jnp.asarray(value, float) for name, value in truth.items()}
        base = np.asarray(PLAIN.logit(params, small))
        each = [
            of_pairs(jnp.asarray(base + truth["sd_effect"] * at), params["guess"], params["sd_trajectory"]) for at in z
        ]
        weight = norm.logpdf(z) + np.log(z[1] - z[0])
        assert row == pytest.approx(logsumexp(np.array(each) + weight[:, None, None], axis=0), abs=0.02)


def test_replicas_are_as_spread_as_repeated_simulations(small) -> None:
    truth = plain_truth(small, 4)
    empty = template(4, (16, 4), (1000, 2000, 8000, 32000), ("Qwen3-1.7B", "Qwen3-14B"))
    repeats = np.array([PLAIN.simulate(empty, truth, 5, seed).accuracy()[0] for seed in range(200)])
    posterior = {name: np.broadcast_to(value, (2, 100, *np.shape(value))) for name, value in truth.items()}
    found = replicas_of(PLAIN, Draws(posterior, {}, 0.0), PLAIN.simulate(empty, truth, 5, 0), 1)
    flat = found.accuracy
    assert flat.shape == (200, 4, 4)
    assert found.lost.shape == (200, 4, 3)
    assert flat.mean(axis=0) == pytest.approx(repeats.mean(axis=0), abs=5 * repeats.std(axis=0).max() / np.sqrt(200))
    assert flat.std(axis=0) == pytest.approx(repeats.std(axis=0), rel=0.3, abs=0.01)


def test_a_subset_keeps_its_problems_rows(small) -> None:
    some = some_problems(small, 2, seed=1)
    assert len(some.problems) == 2
    for j, name in enumerate(some.problems):
        whole, kept = small.row_problem == small.problems.index(name), some.row_problem == j
        assert np.array_equal(some.row_count[kept], small.row_count[whole])
        assert np.array_equal(some.row_arm[kept], small.row_arm[whole])
        assert np.array_equal(some.patterns[some.row_pattern[kept]], small.patterns[small.row_pattern[whole]])
    assert some_problems(small, None) is some_problems(small, 9) is small
    with pytest.raises(TslawError, match="too few"):
        some_problems(small, 1)


def example(folder: Path) -> Path:
    """The file that docs/surfaces.md shows."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    path = folder / "mine.py"
    path.write_text(code)
    return path


def test_built_in_surfaces_and_the_documented_file_keep_the_protocol(small, tmp_path) -> None:
    surfaces = load_surfaces([*BUILT_IN, str(example(tmp_path))])
    assert [s.name for s in surfaces] == ["mechanistic", "plain", "ramp"]
    for surface in surfaces:
        assert isinstance(surface, Surface)
        check_model(surface, small)


def test_what_is_no_surface_is_refused(small, tmp_path) -> None:
    files = {
        "empty.py": ("", "defines no SURFACE"),
        "broken.py": ("import numpyro.no_such_thing", "cannot be run: ModuleNotFoundError"),
        "syntax.py": ("SURFACE =", "cannot be run: SyntaxError"),
        "half.py": ("class S:\n    name = 'half'\nSURFACE = S()", "lacks title, effects, model"),
    }
    for name, (code, what) in files.items():
        (tmp_path / name).write_text(code)
        with pytest.raises(TslawError, match=what):
            load_surface(str(tmp_path / name))
    for name, what in (("cubic", "no surface 'cubic'"), (str(tmp_path / "absent.py"), "no such file")):
        with pytest.raises(TslawError, match=what):
            load_surface(name)
    with pytest.raises(TslawError, match="called plain"):
        load_surfaces(["plain", "plain"])
    base = "from tslaw.fit.surfaces.logit import LogitSurface\nclass S(LogitSurface):\n    name = 's'\n"
    base += "    def parameters(self, data):\n        return {}\n    def curve(self, params, data):\n        return "
    for code, what in (("params['a']", "KeyError: 'a'"), ("data.log_size", r"shape \(4,\)")):
        path = tmp_path / "curve.py"
        path.write_text(base + code + "\nSURFACE = S()\n")
        with pytest.raises(TslawError, match=what):
            check_model(load_surface(str(path)), small)


def test_a_start_without_density_is_refused(small) -> None:
    bad = PLAIN.start(small) | {"rise": np.inf}
    with pytest.raises(TslawError, match="not finite where"):
        unconstrained_start(PLAIN.model, small, bad, jax.random.PRNGKey(0))
