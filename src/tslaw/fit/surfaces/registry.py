"""Surfaces by name, or a user's own by the path of a Python file that defines `SURFACE`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import jax
from numpyro.handlers import seed, trace

from tslaw.errors import TslawError
from tslaw.fit.data import TaskData
from tslaw.fit.surfaces.protocol import Surface

BUILT_IN = {"mechanistic": "tslaw.fit.surfaces.mechanistic", "plain": "tslaw.fit.surfaces.plain"}
NEEDED = ("name", "title", "effects", "model", "sample", "left_out_log_likelihood", "replicate")


def load_surface(name_or_file: str) -> Surface:
    """A built-in surface by its name, or the `SURFACE` of a Python file. The file is run.

    Raises
    ------
    TslawError : no such name or file, the file cannot be run, or its SURFACE lacks something.
    """
    if name_or_file in BUILT_IN:
        found: Surface = importlib.import_module(BUILT_IN[name_or_file]).SURFACE
        return found
    path = Path(name_or_file)
    if path.suffix != ".py":
        raise TslawError(
            f"There is no surface '{name_or_file}'.",
            where="--surface",
            expected=f"{', '.join(BUILT_IN)}, or the path of a Python file (.py) that defines SURFACE",
        )
    if not path.is_file():
        raise TslawError("There is no such file.", where=str(path), expected="a Python file that defines SURFACE")
    return _checked(getattr(_run(path), "SURFACE", None), path)


def load_surfaces(names_or_files: Sequence[str]) -> list[Surface]:
    """Several surfaces; see `load_surface`.

    Raises
    ------
    TslawError : also when two of them have the same name.
    """
    found = [load_surface(each) for each in names_or_files]
    names = [surface.name for surface in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TslawError(
            f"More than one surface is called {', '.join(twice)}.", where="--surface", expected="a name for each"
        )
    return found


def check_model(surface: Surface, data: TaskData) -> None:
    """Go through a surface's model once without computing anything, so that its mistakes show before anything is
    fitted.

    Raises
    ------
    TslawError : the model raises, whatever it is.
    """
    try:
        jax.eval_shape(lambda key: _values(surface, data, key), jax.random.PRNGKey(0))
    except TslawError:
        raise
    except Exception as error:  # whatever a user's model raises
        raise TslawError(
            f"The model of the surface '{surface.name}' fails: {type(error).__name__}: {str(error).splitlines()[0]}",
            where=f"task {data.task}",
        ) from error


def _values(surface: Surface, data: TaskData, key: jax.Array) -> dict[str, jax.Array]:
    return {name: site["value"] for name, site in trace(seed(surface.model, key)).get_trace(data).items()}


def _run(path: Path) -> ModuleType:
    """The file as a module, under a name that no package has."""
    name = f"tslaw_surface_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # any path that ends in .py has one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises
        raise TslawError(
            f"This file of a surface cannot be run: {type(error).__name__}: {error}.", where=str(path)
        ) from error
    return module


def _checked(surface: object, path: Path) -> Surface:
    if surface is None:
        raise TslawError("This file defines no SURFACE.", where=str(path), fix="end it with: SURFACE = YourSurface()")
    missing = [part for part in NEEDED if not hasattr(surface, part)]
    if missing or not isinstance(surface, Surface):
        raise TslawError(
            f"Its SURFACE lacks {', '.join(missing)}.",
            where=str(path),
            expected="an object as tslaw.fit.surfaces.protocol describes it (an instance, not a class)",
            fix="derive it from tslaw.fit.surfaces.logit.LogitSurface",
        )
    return surface
