"""`tslaw fit --quick`: right where the posterior is normal, close on a real one, never mistaken for a sampled fit."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cache_truths import cache_template, cache_truth
from matplotlib.text import Text
from simulated import as_dataset, draw_truth, template

from tslaw.dataset import save_dataset
from tslaw.errors import TslawError
from tslaw.fit.arrow import Arrow, laplace_arrow
from tslaw.fit.fit_file import load_posterior, misfit, open_fit
from tslaw.fit.fit_tasks import fit_tasks
from tslaw.fit.model import Prior
from tslaw.fit.quick import Quick, fit_arrow, run_quick
from tslaw.fit.simulate import simulate_task
from tslaw.plots.style import new_figure
from tslaw.plots.view import task_view

N_SHARED, N_PROBLEMS, N_EACH = 3, 4, 2
N = N_SHARED + N_PROBLEMS * N_EACH


def covariance_of_an_arrow(seed: int) -> np.ndarray:
    """Of effects on problems that say nothing of each other given what they share."""
    rng = np.random.default_rng(seed)
    root = np.eye(N) * rng.uniform(0.3, 2.0, N)
    root[:N_SHARED, :N_SHARED] += np.tril(rng.normal(size=(N_SHARED, N_SHARED)), -1)
    root[N_SHARED:, :N_SHARED] = rng.normal(size=(N - N_SHARED, N_SHARED))
    for first in range(N_SHARED, N, N_EACH):
        root[first + 1, first] = rng.normal()
    return root @ root.T


def covariance_of(arrow: Arrow) -> np.ndarray:
    place = jax.vmap(arrow.place)(jnp.eye(N)) - arrow.middle
    return np.asarray(place.T @ place)


def arrow_of(middle: np.ndarray, covariance: np.ndarray) -> Arrow:
    """By the slopes of a normal's energy."""
    precision = np.linalg.inv(covariance)
    return laplace_arrow(middle, lambda place: precision @ (place - middle), N_SHARED, N_EACH)


def test_an_arrow_is_the_normal_whose_curvature_it_was_given() -> None:
    rng = np.random.default_rng(1)
    middle, covariance = rng.normal(size=N), covariance_of_an_arrow(0)
    scaled = covariance / np.linalg.eigvalsh(covariance).max()  # no curvature below 1
    arrow = arrow_of(middle, scaled)
    found = covariance_of(arrow)
    assert found == pytest.approx(scaled, abs=1e-6)
    normal = jnp.asarray(rng.normal(size=N))
    inner = covariance_of_an_arrow(1)
    inner = arrow_of(rng.normal(size=N), inner / np.linalg.eigvalsh(inner).max())
    both = arrow.of(inner)
    assert np.asarray(both.place(normal)) == pytest.approx(np.asarray(arrow.place(inner.place(normal))))
    assert np.asarray(arrow.normal(arrow.place(normal))) == pytest.approx(np.asarray(normal))
    off = np.asarray(arrow.place(normal)) - middle
    expected = -0.5 * off @ np.linalg.solve(found, off) - 0.5 * np.linalg.slogdet(found)[1]
    assert float(arrow.log_density(arrow.place(normal))) == pytest.approx(expected)


def test_directions_in_which_a_start_is_no_mode_are_as_wide_as_the_unit() -> None:
    slope = np.concatenate([[-1.0, 0.2, 4.0], np.full(N - N_SHARED, 0.1)])
    found = covariance_of(laplace_arrow(np.zeros(N), lambda place: slope * place, N_SHARED, N_EACH))
    assert found == pytest.approx(np.diag([1.0, 1.0, 0.25, *np.ones(N - N_SHARED)]), abs=1e-6)


def test_a_normal_posterior_is_found_from_a_bad_start() -> None:
    """In two rounds, as the start's coordinates are bad ones: the second begins in those that the first found."""
    covariance = covariance_of_an_arrow(0)
    middle = np.linspace(-2.0, 2.0, N)
    precision = jnp.asarray(np.linalg.inv(covariance))
    energy = jax.jit(jax.value_and_grad(lambda z: 0.5 * (z - middle) @ precision @ (z - middle)))
    start = arrow_of(np.zeros(N), np.eye(N))
    nearest = fit_arrow(energy, start, Quick(rounds=2, steps=750, step_size=0.02, progress=False))
    assert np.asarray(nearest.middle) == pytest.approx(middle, abs=0.05)
    assert covariance_of(nearest) == pytest.approx(covariance, abs=0.05 * np.diag(covariance).max())


def test_steps_that_lead_away_are_not_followed() -> None:
    """Too long ones are halved, and where none helps the start is kept, which is said."""
    energy = jax.jit(jax.value_and_grad(lambda z: 0.5 * z @ z))
    start = arrow_of(np.zeros(N), np.eye(N))
    said: list[str] = []
    long = Quick(rounds=2, steps=3, step_size=500.0, progress=False)
    kept = fit_arrow(energy, start, long, lambda _, text: said.append(text))
    assert "Laplace" in said[-1]
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(kept, start, strict=True))
    away = arrow_of(np.full(N, 0.1), np.eye(N))
    found = fit_arrow(energy, away, Quick(steps=200, step_size=0.02, progress=False))
    assert np.abs(found.middle).max() < 0.05


@pytest.mark.slow
def test_compressed_caches_are_looked_at_quickly_too() -> None:
    """What one cache costs, and slips at one budget, belong to no problem."""
    empty = cache_template(5)
    data = simulate_task(empty, cache_truth(3, empty), 6, 1)
    draws = run_quick(data, Prior(), Quick(steps=40, samples=20, map_steps=150, progress=False)).posterior
    assert draws["kv_cut"].shape == (1, 20, len(data.arms), len(data.budgets))
    assert draws["model_effect"].shape == (1, 20, len(data.shapes), 5)
    assert all(np.isfinite(values).all() for values in draws.values())
    assert (draws["kv_own"].std(axis=1)[0] > 0).tolist() == (~data.full_cache()).tolist()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small measurement simulated from a known truth."""
    empty = template(8, (16, 8, 4), (1000, 4000, 16000), ("Qwen3-1.7B", "Qwen3-4B", "Qwen3-14B"))
    data = simulate_task(empty, draw_truth(2, empty), 8, 2)
    return save_dataset(as_dataset(data), tmp_path_factory.mktemp("quick") / "simulated.nc")


@pytest.fixture(scope="module")
def quick_fit(measured: Path) -> Path:
    """It, fitted quickly by the program, whose output lies beside."""
    import contextlib
    import io

    from tslaw.cli.app import main

    out, text, err = measured.with_name("quick.nc"), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit_:
        main(["fit", str(measured), "--out", str(out), "--quick", "--seed", "1", "--samples", "200"])
    assert not exit_.value.code, err.getvalue()
    out.with_suffix(".txt").write_text(text.getvalue())
    out.with_suffix(".err").write_text(err.getvalue())
    return out


@pytest.mark.slow
def test_a_quick_fit_is_close_to_the_truth_and_to_the_data(quick_fit) -> None:
    tree = open_fit(quick_fit)
    found = misfit(tree, "simulated")
    assert found.inside > 0.8
    assert found.rms < 0.04
    posterior, truth = load_posterior(tree), draw_truth(2, template(8, models=("Qwen3-1.7B", "Qwen3-4B", "Qwen3-14B")))
    assert posterior.n_draws == 200
    for name in ("alpha", "mu0", "sigma_len", "slip0", "kept"):
        low, high = np.quantile(posterior.params[name], [0.01, 0.99])
        assert low < truth[name] < high, name
    alpha = posterior.params["alpha"]
    assert abs(np.corrcoef(alpha[:-1], alpha[1:])[0, 1]) < 0.25, "its draws are independent"


@pytest.mark.slow
def test_a_quick_fit_says_so_wherever_it_is_asked(quick_fit, tslaw) -> None:
    tree = open_fit(quick_fit)
    assert (int(tree.attrs["passed"]), int(tree.attrs["approximate"])) == (0, 1)
    assert json.loads(tree.attrs["provenance"])["sampling"]["method"] == "variational (approximate)"
    said = quick_fit.with_suffix(".txt").read_text()
    assert "approximate fit written" in said
    assert "passed" not in said
    assert "approximate" in quick_fit.with_suffix(".err").read_text()

    status, out, _ = tslaw("show", quick_fit)
    assert status == 1
    assert "approximate" in out
    assert "passed" not in out
    assert "FAILED" not in out, "nothing was checked, so nothing failed"
    status, out, _ = tslaw("show", quick_fit, "--json")
    told = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (status, told["passed"], told["approximate"]) == (1, False, True)
    assert told["diagnostics"]["simulated"]["rhat"] is None

    questions = {
        "crossover": (),
        "findings": (),
        "frontier": (),
        "recommend": ("--memory", "9GiB"),
        "predict": ("--params", "6e9", "--token-budget", "4000"),
    }
    for command, arguments in questions.items():
        status, out, err = tslaw(command, quick_fit, *arguments)
        assert status == 0
        assert "simulated (approximate)" in out, command
        assert "is approximate (tslaw fit --quick)" in err
    status, out, _ = tslaw("recommend", quick_fit, "--memory", "9GiB", "--json")
    assert (status, json.loads(out)[0]["approximate"]) == (0, True)

    figure, _ = new_figure(task_view(tree, "simulated"), 1.0)
    (note,) = [text.get_text() for text in figure.findobj(Text) if text.get_text()]
    assert note.startswith("Approximate: a quick look")


def test_a_sampled_fit_is_not_called_approximate(fit_path, tslaw) -> None:
    status, out, err = tslaw("recommend", fit_path, "--memory", "9GiB")
    assert status == 0
    assert "approximate" not in out + err
    assert "failed its diagnostics" in err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--chains", 2), "--chains is for sampling"),
        (("--warmup", 100, "--target-accept", 0.9), "--warmup, --target-accept is for sampling"),
    ],
)
def test_options_of_nuts_are_refused(measured, tslaw, tmp_path, arguments, what) -> None:
    status, out, err = tslaw("fit", measured, "--out", tmp_path / "new.nc", "--quick", *arguments)
    assert (status, out) == (2, "")
    assert what in err
    assert not list(tmp_path.iterdir())


def test_published_means_are_not_fitted_quickly() -> None:
    from tslaw.fit.means_data import means_data
    from tslaw.means import read_means

    table = read_means(Path(__file__).parents[2] / "measurements" / "published" / "qwen3.csv")
    with pytest.raises(TslawError, match="cannot be fitted quickly"):
        fit_tasks(means_data([table])[:1], Quick(progress=False))
