"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tslaw.atomic import replacing, writing
from tslaw.errors import TslawError


def half_written(place: AbstractContextManager[Path], error: Exception) -> None:
    with place as temporary:
        temporary.write_text("ne")
        raise error


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.txt"
    with replacing(path, suffix=".csv") as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == ".csv"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="half way"):
        half_written(replacing(path), ValueError("half way"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("NetCDF: HDF error")])
def test_a_full_disk_is_one_message(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "result.nc"
    path.write_text("old")
    with pytest.raises(TslawError) as told:
        half_written(writing(path, "The fit"), error)
    for part in ("The fit could not be written", str(error.args[-1]), "nothing was changed", str(path)):
        assert part in str(told.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_place_of_a_folder_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(TslawError, match="could not be written"),
        writing(tmp_path / "file" / "x.nc", "The fit") as place,
    ):
        place.write_text("")


def test_a_faulty_result_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    """A writer's own errors pass as they are."""
    with pytest.raises(TslawError, match="not valid"), writing(tmp_path / "x.nc", "The fit"):
        raise TslawError("This is not valid.")
