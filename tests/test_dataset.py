"""The dataset on disk: round trip, atomic save, files that are something else, merge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from measurements import ANSWERS, ATTRS, good_dataset, ladder_arms, measured
from tslaw.dataset import build_dataset, merge, open_dataset, save_dataset, validate
from tslaw.errors import TslawError
from tslaw.votes import pass_at_1


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_dataset(good_dataset(), tmp_path / "good.nc")


def test_round_trip_on_disk(saved: Path) -> None:
    original, read = good_dataset(), open_dataset(saved)
    original.attrs["created"] = read.attrs["created"]
    xr.testing.assert_identical(read, original)
    assert {name: str(v.dtype.kind) for name, v in read.variables.items()} == {
        name: str(v.dtype.kind) for name, v in original.variables.items()
    }
    assert json.loads(read.attrs["provenance"]) == {"plan": "a test"}


def test_opens_with_plain_xarray(saved: Path) -> None:
    with xr.open_dataset(saved) as plain:
        assert plain["arm"].values.tolist()[0] == "ladder-a:w16:full"
        assert plain["thinking_seconds"].dtype == float
        assert plain["answer"].dtype == np.int16


def test_a_dataset_without_any_answer_survives(tmp_path: Path) -> None:
    codes = measured(1, 2)
    codes["answer"][codes["answer"] >= 0] = -1
    codes["correct"][codes["correct"] == 1] = 0
    ds = build_dataset(ladder_arms()[:1], (64, 128, 256), list("abcd"), list("xxyy"), [], codes, ATTRS)
    assert open_dataset(save_dataset(ds, tmp_path / "silent.nc")).sizes["answer_id"] == 0


def test_a_saved_dataset_can_be_selected_from_and_saved_again(saved: Path, tmp_path: Path) -> None:
    part = open_dataset(saved).isel(arm=[0, 2], budget=[0, 1])
    part["natural_length"] = part["natural_length"].clip(max=128)
    assert open_dataset(save_dataset(part, tmp_path / "part.nc")).sizes["arm"] == 2


def test_nothing_is_overwritten_unasked(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(TslawError, match="exists"):
        save_dataset(good_dataset(seed=1), saved)
    assert saved.read_bytes() == before
    save_dataset(good_dataset(seed=1), saved, overwrite=True)
    assert not open_dataset(saved)["answer"].equals(good_dataset()["answer"])


def test_faulty_data_never_reach_the_disk(saved: Path) -> None:
    bad = good_dataset()
    bad["correct"][0, 0, 0, 0] = 9
    before = saved.read_bytes()
    with pytest.raises(TslawError, match=r"Not written.*\n.*correct\["):
        save_dataset(bad, saved, overwrite=True)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


WRITE_WITH_LITTLE_ROOM = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from measurements import good_dataset
from tslaw.dataset import save_dataset
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ds = good_dataset(seed=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    save_dataset(ds, sys.argv[1], overwrite=True)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
else:
    print("written")
"""


@pytest.mark.parametrize("room", [0, 5000, 40000])
def test_a_write_that_fails_midway_changes_nothing(saved: Path, room: int) -> None:
    """The operating system refuses to let the file grow, as a full disk would."""
    before = saved.read_bytes()
    assert room < len(before)
    arguments = [sys.executable, "-c", WRITE_WITH_LITTLE_ROOM, str(saved), str(Path(__file__).parent), str(room)]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("TslawError: The file could not be written")
    assert f"where: {saved}" in run.stdout
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TslawError, match="could not be written"):
        save_dataset(good_dataset(), tmp_path / "file" / "x.nc")


def damage(saved: Path, how: str) -> Path:
    """A file at `bad.nc` that is not a dataset, in one of several ways."""
    bad, whole = saved.with_name("bad.nc"), saved.read_bytes()
    if how == "csv":
        bad.write_text("model,accuracy\nladder-a,0.5\n")
    elif how == "empty":
        bad.write_bytes(b"")
    elif how == "garbage":
        bad.write_bytes(np.random.default_rng(0).bytes(5000))
    elif how == "half":
        bad.write_bytes(whole[: len(whole) // 2])
    elif how == "last byte":
        bad.write_bytes(whole[:-1])
    elif how == "header only":
        bad.write_bytes(whole[:64])
    elif how == "folder":
        bad.mkdir()
    return bad


@pytest.mark.parametrize("how", ["csv", "empty", "garbage", "half", "last byte", "header only", "folder", "missing"])
def test_files_that_are_no_dataset_give_one_clear_message(saved: Path, how: str) -> None:
    bad = damage(saved, how)
    with pytest.raises(TslawError) as caught:
        open_dataset(bad)
    message = str(caught.value)
    assert str(bad) in message
    assert "netCDF4" in message
    assert len(message.splitlines()) <= 4


def test_flipped_bits_in_the_measurements_are_noticed(saved: Path) -> None:
    """Two files that differ in one measurement show where it is stored; damage there is told by the checksum."""
    first, second = good_dataset(samples=200), good_dataset(samples=200)
    second.attrs["created"] = first.attrs["created"]
    second["natural_length"][2, 3, 100] = 77
    one = save_dataset(first, saved.with_name("one.nc")).read_bytes()
    other = save_dataset(second, saved.with_name("other.nc")).read_bytes()
    place = next(i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y)
    saved.write_bytes(one[:place] + bytes([one[place] ^ 0xFF]) + one[place + 1 :])
    with pytest.raises(TslawError, match="damaged"):
        open_dataset(saved)


def test_foreign_netcdf_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "weather.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", 3)
        file.createVariable("temperature", "f4", ("time",))[:] = [1, 2, 3]
        file.title = "weather"
    with pytest.raises(TslawError, match="not a tslaw measurement"):
        open_dataset(path)


def test_a_later_layout_is_not_guessed_at(saved: Path) -> None:
    with netCDF4.Dataset(saved, "a") as file:
        file.schema_version = 2
    with pytest.raises(TslawError, match=r"schema_version: is .*2.*; expected 1"):
        open_dataset(saved)


def test_open_lists_all_faults_at_once(saved: Path) -> None:
    with netCDF4.Dataset(saved, "a") as file:
        file["correct"][0, 0, 0, 0] = 7
        file["budget"].units = "furlong"
        file.top_p = 3.0
    with pytest.raises(TslawError) as caught:
        open_dataset(saved)
    assert "3 fault(s)" in str(caught.value)
    for part in ("correct[arm=ladder-a:w16:full", "furlong", "top_p"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("given", "stored"), [(True, 1), ({"a": [1, None]}, '{"a": [1, null]}'), ([1, 2], "[1, 2]"), (np.True_, 1)]
)
def test_attributes_become_what_netcdf_stores(given: object, stored: object) -> None:
    attribute = "shared_trajectories" if stored == 1 else "provenance"
    assert good_dataset(**{attribute: given}).attrs[attribute] == stored


def test_numbers_too_large_for_their_type_are_refused() -> None:
    codes = measured(1, 2)
    codes["answer"][0, 0, 0, 0] = 40_000
    with pytest.raises(TslawError, match="do not fit int16"):
        build_dataset(ladder_arms()[:1], (64, 128, 256), list("abcd"), list("xxyy"), ANSWERS, codes, ATTRS)


def test_merge_joins_arms_and_renumbers_answers(tmp_path: Path) -> None:
    arms = ladder_arms()
    first, second = good_dataset(arms[:1]), good_dataset(arms[1:], samples=6, seed=2, device="gpu")
    second = _renumbered(second, ["#4", "#9", "#3", "#2", "#1"])
    merged = open_dataset(save_dataset(merge([first, second]), tmp_path / "merged.nc"))
    assert merged["arm"].values.tolist() == [arm.name for arm in arms]
    assert merged["answers"].values.tolist() == ["#1", "#2", "#3", "#4", "#9"]
    assert merged.sizes["sample"] == 6
    for name in ("answer", "correct", "thinking_tokens", "probe_tokens", "natural_length"):
        assert (merged[name][0].isel(sample=[4, 5]) == -2).all()
        assert merged[name].dtype == first[name].dtype
    for source, ds in ((first, merged.isel(arm=[0], sample=slice(4))), (second, merged.isel(arm=[1, 2]))):
        np.testing.assert_array_equal(_texts(source), _texts(ds))
        np.testing.assert_array_equal(pass_at_1(source["correct"]), pass_at_1(ds["correct"]))
        xr.testing.assert_equal(source["tokens_per_second"], ds["tokens_per_second"])
    assert merged.attrs["device"] == "cpu; gpu"
    assert set(json.loads(merged.attrs["model_shapes"])) == {"ladder-a", "ladder-d"}
    assert [part["device"] for part in json.loads(merged.attrs["provenance"])["merged"]] == ["cpu", "gpu"]


def _renumbered(ds: xr.Dataset, answers: list[str]) -> xr.Dataset:
    """The same answers, listed in another order and with one more."""
    codes = np.array([answers.index(text) for text in ds["answers"].values] + [-2, -1], dtype=np.int16)
    attrs = ds["answers"].attrs
    ds = ds.assign(answer=ds["answer"].copy(data=codes[ds["answer"].values])).drop_vars("answers")
    return ds.assign(answers=("answer_id", np.array(answers), attrs))


def _texts(ds: xr.Dataset) -> np.ndarray:
    return np.append(ds["answers"].values, ["not measured", "none"])[ds["answer"].values]


def test_merging_one_dataset_changes_no_measurement() -> None:
    merged = merge([good_dataset()])
    assert validate(merged) == []
    xr.testing.assert_equal(merged, good_dataset())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds, "arm 'ladder-a:w8:full' occurs in datasets 1 and 2"),
        (lambda ds: ds.assign_attrs(family="qwen3"), "different family"),
        (lambda ds: ds.assign_attrs(task="ladder-knowledge"), "different task"),
        (lambda ds: ds.assign_attrs(task_version="2"), "different task_version"),
        (lambda ds: ds.assign_attrs(temperature=1.0), "different temperature"),
        (lambda ds: ds.assign_attrs(shared_trajectories=0), "different shared_trajectories"),
        (lambda ds: ds.isel(budget=[0, 1]), "different budget"),
        (lambda ds: ds.isel(problem=[1, 0, 2, 3]), "different problem"),
    ],
)
def test_what_does_not_belong_together_is_not_merged(change, message: str) -> None:
    arms = ladder_arms()
    with pytest.raises(TslawError, match=message):
        merge([good_dataset(arms[:2]), change(good_dataset(arms[1:]))])


def test_models_of_one_name_must_be_one_model() -> None:
    arms = ladder_arms()
    other = good_dataset(arms[1:2])
    other.attrs["model_shapes"] = other.attrs["model_shapes"].replace('"n_layers": 2', '"n_layers": 3')
    with pytest.raises(TslawError, match="disagree about the shape of the model 'ladder-a'"):
        merge([good_dataset(arms[:1]), other])


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(TslawError, match="nothing to merge"):
        merge([])
