"""`tslaw fit --quick`: right where the posterior is normal, close on a real one, never mistaken for a sampled fit."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.text import Text
from simulated import as_dataset, draw_truth, template

from tslaw.dataset import save_dataset
from tslaw.errors import TslawError
from tslaw.fit.fit_file import load_posterior, misfit, open_fit
from tslaw.fit.fit_tasks import fit_tasks
from tslaw.fit.quick import Arrow, Quick, fit_arrow, nearest_arrow
from tslaw.fit.simulate import simulate_task
from tslaw.plots.style import new_figure
from tslaw.plots.view import task_view

N_DENSE, N_EFFECTS = 3, 5


def covariance_of_an_arrow(seed: int) -> np.ndarray:
    """Of effects that are independent given the first parameters."""
    rng = np.random.default_rng(seed)
    root = np.eye(N_DENSE + N_EFFECTS) * rng.uniform(0.3, 2.0, N_DENSE + N_EFFECTS)
    root[:N_DENSE, :N_DENSE] += np.tril(rng.normal(size=(N_DENSE, N_DENSE)), -1)
    root[N_DENSE:, :N_DENSE] = rng.normal(size=(N_EFFECTS, N_DENSE))
    return root @ root.T


def covariance_of(arrow: Arrow) -> np.ndarray:
    place = jax.vmap(arrow.place)(jnp.eye(N_DENSE + N_EFFECTS)) - arrow.middle
    return np.asarray(place.T @ place)


def test_an_arrow_keeps_all_but_what_effects_say_of_each_other() -> None:
    rng = np.random.default_rng(1)
    any_root = rng.normal(size=(N_DENSE + N_EFFECTS, 20))
    middle = rng.normal(size=N_DENSE + N_EFFECTS)
    for covariance, whole in ((covariance_of_an_arrow(0), True), (any_root @ any_root.T, False)):
        arrow = nearest_arrow(middle, covariance, N_DENSE)
        found = covariance_of(arrow)
        assert found[:N_DENSE] == pytest.approx(covariance[:N_DENSE])
        assert np.diag(found) == pytest.approx(np.diag(covariance))
        assert np.allclose(found, covariance) == whole
        normal = jnp.asarray(rng.normal(size=len(middle)))
        again = arrow.of(nearest_arrow(middle, covariance_of_an_arrow(1), N_DENSE))
        inner = nearest_arrow(middle, covariance_of_an_arrow(1), N_DENSE).place(normal)
        assert np.asarray(again.place(normal)) == pytest.approx(np.asarray(arrow.place(inner)))
        assert np.asarray(arrow.normal(arrow.place(normal))) == pytest.approx(np.asarray(normal))
        off = np.asarray(arrow.place(normal)) - middle
        expected = -0.5 * off @ np.linalg.solve(found, off) - 0.5 * np.linalg.slogdet(found)[1]
        assert float(arrow.log_density(arrow.place(normal))) == pytest.approx(expected)


def test_a_normal_posterior_is_found_from_a_bad_start() -> None:
    covariance = covariance_of_an_arrow(0)
    middle = np.linspace(-2.0, 2.0, len(covariance))
    precision = jnp.asarray(np.linalg.inv(covariance))
    energy = jax.jit(jax.value_and_grad(lambda z: 0.5 * (z - middle) @ precision @ (z - middle)))
    start = nearest_arrow(np.zeros_like(middle), np.eye(len(middle)), N_DENSE)
    nearest = fit_arrow(energy, start, Quick(steps=1500, progress=False))
    assert np.asarray(nearest.middle) == pytest.approx(middle, abs=0.05)
    assert covariance_of(nearest) == pytest.approx(covariance, abs=0.05 * np.diag(covariance).max())


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
