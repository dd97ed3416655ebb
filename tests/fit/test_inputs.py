"""A result names all files that it rests on."""

import hashlib
from pathlib import Path

from tslaw.fit.inputs import distinct_names, input_hashes


def test_files_of_one_name_do_not_take_each_others_place(tmp_path):
    files = [tmp_path / "math.nc", tmp_path / "kv" / "math.nc", tmp_path / "kv" / "knowledge.nc"]
    for i, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes([i]))
    digests = [hashlib.sha256(bytes([i])).hexdigest() for i in range(3)]
    assert input_hashes(files) == {
        f"{tmp_path.name}/math.nc": digests[0],
        "kv/math.nc": digests[1],
        "knowledge.nc": digests[2],
    }


def test_names_have_as_many_folders_as_they_need():
    assert distinct_names([Path("/a/x/d.nc"), Path("/b/x/d.nc"), Path("/b/y/d.nc"), Path("/e.nc")]) == [
        "a/x/d.nc",
        "b/x/d.nc",
        "y/d.nc",
        "e.nc",
    ]


def test_a_file_given_twice_has_one_name():
    assert distinct_names([Path("/a/d.nc"), Path("/a/d.nc")]) == ["d.nc", "d.nc"]


def test_a_file_at_the_root_keeps_its_name():
    assert distinct_names([Path("/d.nc"), Path("/a/d.nc")]) == ["/d.nc", "a/d.nc"]
