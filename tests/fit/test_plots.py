"""The figures of a small real fit, through the real program."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from simulated import SHORT

from tslaw.cli.app import main
from tslaw.fit.fit_file import TaskFit, join_tasks, open_fit, save_fit
from tslaw.fit.fit_tasks import provenance
from tslaw.fit.model import Prior
from tslaw.plots.accuracy_budget import accuracy_budget
from tslaw.plots.crossover_figure import headline
from tslaw.plots.style import memory_unit
from tslaw.plots.view import task_view
from tslaw.plots.write import FIGURES, figure_names, write_plots

pytestmark = pytest.mark.slow
EXPECTED = {f"simulated_maths-{figure}.{form}" for figure in FIGURES for form in ("png", "svg")}


@pytest.fixture(scope="module")
def fit_file(two_fits: list[TaskFit], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small real fit, which is too short to pass its diagnostics, under a name that is no file's."""
    fit, name = two_fits[0], "simulated/maths"
    named = replace(fit, data=replace(fit.data, task=name), diagnosis=replace(fit.diagnosis, task=name))
    tree = join_tasks([named], provenance({}, SHORT, Prior(), 1.0))
    return save_fit(tree, tmp_path_factory.mktemp("fit") / "small.nc")


@pytest.fixture(scope="module")
def figures(fit_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all figures of the small fit."""
    out = tmp_path_factory.mktemp("figures") / "new"
    assert status_of("plot", str(fit_file), "--out", str(out)) == 0
    return out


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    return int(exit_.value.code or 0)


def comments(svg: Path) -> str:
    """The words of an svg: matplotlib writes every string it draws as a comment before its outlines."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", svg.read_text()))


def test_every_figure_is_there_in_both_formats_and_nothing_else(figures: Path) -> None:
    assert {p.name for p in figures.iterdir()} == EXPECTED


@pytest.mark.parametrize("figure", FIGURES)
def test_png_is_a_page_wide_at_200_dpi_and_not_blank(figures: Path, figure: str) -> None:
    path = figures / f"simulated_maths-{figure}.png"
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    assert width == 1400
    assert height > 600
    image = matplotlib.image.imread(path)[..., :3]
    ink = (image.min(axis=2) < 0.9).mean()
    assert 0.01 < ink < 0.5
    assert (image[:3] == 1).all()  # nothing runs over the edges
    assert (image[:, :3] == 1).all()


@pytest.mark.parametrize("figure", FIGURES)
def test_a_failed_fit_is_marked_with_its_reasons(figures: Path, figure: str) -> None:
    words = comments(figures / f"simulated_maths-{figure}.svg")
    assert "This fit did not pass its diagnostics:" in words
    assert "ESS" in words


def test_a_fit_that_passed_is_not_marked(fit_file: Path, tmp_path: Path) -> None:
    tree = open_fit(fit_file)
    for passed in (0, 1):
        tree.attrs["passed"] = passed
        svg = tmp_path / f"{passed}.svg"
        accuracy_budget(task_view(tree, "simulated/maths")).savefig(svg)
        assert ("did not pass" in comments(svg)) == (not passed)


def test_figures_say_what_they_show(figures: Path) -> None:
    memory, crossover, check = (
        comments(figures / f"simulated_maths-{f}.svg") for f in ("memory_accuracy", "crossover", "posterior_predictive")
    )
    assert "Memory per generation: weights and KV cache (GiB)" in memory
    assert all(m in memory for m in ("Qwen3-1.7B", "Qwen3-4B", "Qwen3-14B"))
    assert "below:" in crossover
    assert "above:" in crossover
    assert "90% HDI [" in crossover
    hits, cells = map(int, re.search(r"(\d+) of (\d+) cells", check).groups())
    assert cells == 54
    assert 27 <= hits <= cells


def test_matplotlib_settings_of_the_caller_neither_matter_nor_change(
    fit_file: Path, figures: Path, tmp_path: Path
) -> None:
    with matplotlib.rc_context({"font.size": 31.0, "axes.grid": False}):
        settings = dict(matplotlib.rcParams)
        write_plots(open_fit(fit_file), tmp_path)
        assert dict(matplotlib.rcParams) == settings
    for path in figures.glob("*.png"):
        before, after = (matplotlib.image.imread(folder / path.name) for folder in (figures, tmp_path))
        assert np.abs(after - before).mean() < 1e-3, path.name


def test_existing_figures_are_replaced_only_when_told(fit_file: Path, tmp_path: Path, capsys) -> None:
    precious = tmp_path / "simulated_maths-trace_rank.svg"
    precious.write_text("precious")
    assert status_of("plot", str(fit_file), "--out", str(tmp_path)) == 2
    message = capsys.readouterr().err
    assert str(precious) in message
    assert "--overwrite" in message
    assert [p.name for p in tmp_path.iterdir()] == [precious.name]
    assert precious.read_text() == "precious"
    assert status_of("plot", str(fit_file), "--out", str(tmp_path), "--overwrite", "--weight-bits", "4") == 0
    assert {p.name for p in tmp_path.iterdir()} == EXPECTED
    assert "4-bit weights" in comments(tmp_path / "simulated_maths-crossover.svg")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--task", "poetry"), "poetry"),
        (("--batch", "0"), "batch"),
        (("--weight-bits", "40"), "40"),
        (("--accounting", "guess"), "guess"),
    ],
)
def test_options_that_make_no_sense(fit_file: Path, tmp_path: Path, capsys, options, named) -> None:
    assert status_of("plot", str(fit_file), "--out", str(tmp_path / "out"), *options) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_fits(fit_file: Path, tmp_path: Path, capsys) -> None:
    cut = tmp_path / "cut.nc"
    cut.write_bytes(fit_file.read_bytes()[:5000])
    text = tmp_path / "notes.txt"
    text.write_text("not a fit")
    for path in (cut, text, tmp_path / "missing.nc", tmp_path):
        assert status_of("plot", str(path), "--out", str(tmp_path / "out")) == 2
        message = capsys.readouterr().err
        assert str(path) in message
        assert "Traceback" not in message
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file(fit_file: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "out").write_text("in the way")
    assert status_of("plot", str(fit_file), "--out", str(tmp_path / "out")) == 2
    assert "this is a file" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "in the way"


def test_one_model_has_no_crossover_figure(fit_file: Path) -> None:
    view = task_view(open_fit(fit_file), "simulated/maths")
    assert figure_names(view) == list(FIGURES)
    shapes = view.posterior.shapes
    object.__setattr__(view.posterior, "shapes", dict(list(shapes.items())[:1]))
    assert "crossover" not in figure_names(view)


def test_headline_of_a_censored_crossover(fit_file: Path) -> None:
    from tslaw.fit.crossover import crossover
    from tslaw.fit.intervals import summarise_censored

    view = task_view(open_fit(fit_file), "simulated/maths")
    found = crossover(view.posterior)
    draws = np.full_like(found.draws, np.inf)
    beyond = replace(found, draws=draws, summary=summarise_censored(draws, found.weight[0], found.weight[-1]))
    words = headline(beyond, memory_unit(found.weight))
    assert words == "Crossover W+: median > 15.5 GiB, 90% HDI [> 15.5, > 15.5]"
