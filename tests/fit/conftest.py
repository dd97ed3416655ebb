"""JAX as `tslaw fit` runs it (64 bits, chains side by side), compiling nothing twice, and one small real fit that the
slower tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulated import SHORT

from tslaw.cli.app import main
from tslaw.fit.infer import prepare_jax

if TYPE_CHECKING:
    from tslaw.fit.data import TaskData
    from tslaw.fit.fit_file import TaskFit

prepare_jax(2)
HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that asks the shared fits runs on one worker, so that they are made once, and is slow where the program makes
    them. So does every file's quick part, or both workers would make its fixtures and compile the same functions."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "program_run" in fixtures:
            item.add_marker(pytest.mark.slow)
        if fixtures & {"program_run", "scattered_fit"}:
            item.add_marker(pytest.mark.xdist_group("shared fit"))
        elif item.path.is_relative_to(HERE) and not any(item.iter_markers("slow")):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What any worker, or a program that it starts, compiled in this run of the tests none compiles again: most of
    their time is XLA's."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in settings.items():
            patched.setenv(name.upper(), str(value))
        for values in (settings, before):
            for name, value in values.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()  # what was compiled while tests were collected decided that there is none
            if values is settings:
                yield


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


class ProgramRun(NamedTuple):
    """One `tslaw fit`: its exit status, what it wrote to both streams and into `path`, and the fit it made of its
    task."""

    status: int
    out: str
    err: str
    path: Path
    fit: TaskFit


@pytest.fixture(scope="session")
def program_run(two_tasks: list[TaskData], tmp_path_factory: pytest.TempPathFactory) -> ProgramRun:
    """The first task fitted for real, by the program and from a file, with chains too short to pass the diagnostics."""
    from simulated import as_dataset

    from tslaw.dataset import save_dataset
    from tslaw.fit import fit_tasks

    folder, fits, fit_task = tmp_path_factory.mktemp("program"), [], fit_tasks.fit_task
    measured, path = save_dataset(as_dataset(two_tasks[0]), folder / "simulated.nc"), folder / "fits" / "short.nc"
    options = {"chains": SHORT.chains, "warmup": SHORT.warmup, "samples": SHORT.samples, "seed": SHORT.seed}
    arguments = ["fit", measured, "--out", path, *(part for name, n in options.items() for part in (f"--{name}", n))]

    def kept(*given: object) -> TaskFit:
        fits.append(fit_task(*given))
        return fits[-1]

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        patch.setattr(fit_tasks, "fit_task", kept)
        with pytest.raises(SystemExit) as exit_:
            main([str(a) for a in arguments])
    assert fits, err.getvalue()
    return ProgramRun(int(exit_.value.code or 0), out.getvalue(), err.getvalue(), path, fits[0])


@pytest.fixture(scope="session")
def scattered_fit(two_tasks: list[TaskData]) -> TaskFit:
    """The second task with draws scattered around its truth: a fit that takes seconds, for what does not depend on how
    its draws came about."""
    import numpy as np
    from simulated import draw_truth

    from tslaw.fit.diagnostics import diagnose
    from tslaw.fit.fit_file import TaskFit
    from tslaw.fit.infer import Draws
    from tslaw.fit.predictive import predictive_accuracy

    data = two_tasks[1].with_reference_size(two_tasks[0].reference_size)
    rng, shape = np.random.default_rng(0), (SHORT.chains, SHORT.samples)
    truth = draw_truth(1, data)
    scattered = {n: v * rng.lognormal(0.0, 0.05, (*shape, *v.shape)) for n, v in truth.items()}
    stats = {"diverging": np.zeros(shape, bool), "lp": rng.standard_normal(shape)}
    draws = Draws(scattered, stats, 0.0)
    return TaskFit(data, draws, predictive_accuracy(draws, data, 0), *diagnose(draws, data))


@pytest.fixture(scope="session")
def scattered_path(scattered_fit: TaskFit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It, in a file."""
    from tslaw.fit.fit_file import join_tasks, save_fit
    from tslaw.fit.fit_tasks import provenance
    from tslaw.fit.model import Prior

    tree = join_tasks([scattered_fit], provenance({}, SHORT, Prior(), 1.0))
    return save_fit(tree, tmp_path_factory.mktemp("fits") / "one.nc")


@pytest.fixture(scope="session")
def two_fits(program_run: ProgramRun, scattered_fit: TaskFit) -> list[TaskFit]:
    """The first task as the program fitted it; the second, which is there for what joins and tells apart tasks, with
    scattered draws."""
    first = program_run.fit
    data = scattered_fit.data.with_reference_size(first.data.reference_size)  # the same but for its last digits
    draws = replace(scattered_fit.draws, sample_stats=first.draws.sample_stats)
    return [first, replace(scattered_fit, data=data, draws=draws)]


@pytest.fixture(scope="session")
def fit_path(two_fits: list[TaskFit], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two fits joined in one file."""
    from tslaw.fit.fit_file import join_tasks, save_fit
    from tslaw.fit.fit_tasks import provenance
    from tslaw.fit.model import Prior

    tree = join_tasks(two_fits, provenance({}, SHORT, Prior(), 1.0))
    return save_fit(tree, tmp_path_factory.mktemp("fits") / "two.nc")
