"""JAX as `tslaw fit` runs it (64 bits, chains side by side), and one small real fit that the slower tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulated import SHORT

from tslaw.cli.app import main
from tslaw.fit.infer import prepare_jax

if TYPE_CHECKING:
    from tslaw.fit.data import TaskData
    from tslaw.fit.fit_file import TaskFit

prepare_jax(2)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that asks the shared fit runs on one worker, so that it is fitted once."""
    for item in items:
        if "two_fits" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("shared fit"))


@pytest.fixture
def tslaw(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The program: exit status, standard output and standard error of one call."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def two_tasks() -> list[TaskData]:
    """Two tasks that share neither problems, budgets nor all their arms, simulated from known truths."""
    from simulated import draw_truth, template

    from tslaw.fit.simulate import simulate_task

    math = template(16, (16, 8, 4), (1000, 2000, 4000, 8000, 16000, 32000), ("Qwen3-1.7B", "Qwen3-4B", "Qwen3-14B"))
    facts = template(12, (16, 4), (500, 2000, 8000), ("Qwen3-14B", "Qwen3-0.6B", "Qwen3-4B"), task="facts")
    facts = facts.with_reference_size(math.reference_size)
    return [simulate_task(t, draw_truth(i, t), 8, i) for i, t in enumerate((math, facts))]


@pytest.fixture(scope="session")
def two_fits(two_tasks: list[TaskData]) -> list[TaskFit]:
    """The first task fitted for real, with chains too short to pass the diagnostics; the second, which is there for
    what joins and tells apart tasks, with draws scattered around its truth."""
    import numpy as np
    from simulated import draw_truth

    from tslaw.fit.diagnostics import diagnose
    from tslaw.fit.fit_file import TaskFit
    from tslaw.fit.fit_tasks import fit_task
    from tslaw.fit.infer import Draws
    from tslaw.fit.predictive import predictive_accuracy

    first, data = fit_task(two_tasks[0], SHORT), two_tasks[1]
    rng, shape = np.random.default_rng(0), (SHORT.chains, SHORT.samples)
    truth = draw_truth(1, data)
    scattered = {n: v * rng.lognormal(0.0, 0.05, (*shape, *v.shape)) for n, v in truth.items()}
    draws = Draws(scattered, first.draws.sample_stats, 0.0)
    return [first, TaskFit(data, draws, predictive_accuracy(draws, data, 0), *diagnose(draws, data))]


@pytest.fixture(scope="session")
def fit_path(two_fits: list[TaskFit], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two fits joined in one file."""
    from tslaw.fit.fit_file import join_tasks, save_fit
    from tslaw.fit.fit_tasks import provenance
    from tslaw.fit.model import Prior

    tree = join_tasks(two_fits, provenance({}, SHORT, Prior(), 1.0))
    return save_fit(tree, tmp_path_factory.mktemp("fits") / "two.nc")
