"""Tables of published means: what is read, what is refused and how, and the tables that ship."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tslaw.errors import TslawError
from tslaw.family import load_family
from tslaw.means import COLUMNS, read_means, write_means
from tslaw.memory import n_params

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "measurements" / "published"
HEADER = "family,model,weight_bits,token_budget,task,chance,accuracy,n_problems,n_samples,source"
ROW = "qwen3,Qwen3-4B,16,32768,AIME24,0,0.738,30,64,a report"


def table(folder: Path, *lines: str) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_table_is_read_with_notes_and_columns_in_any_order(tmp_path: Path) -> None:
    names = HEADER.split(",")
    turned = [names.index(n) for n in reversed(names)]
    lines = [",".join(line.split(",")[i] for i in turned) for line in (HEADER, ROW)]
    found = read_means(table(tmp_path, "# a note", lines[0], "", lines[1]))
    assert (found.family.name, found.tasks) == ("qwen3", ("AIME24",))
    (mean,) = found.means
    assert (mean.model, mean.weight_bits, mean.accuracy, mean.answers) == ("Qwen3-4B", 16.0, 0.738, 1920)
    assert mean.activation_bits == 16.0
    # The binomial standard error, but never zero.
    assert mean.standard_error == pytest.approx((0.738 * 0.262 / 1920) ** 0.5, rel=0.01)


def test_spaces_beside_commas_do_not_matter(tmp_path: Path) -> None:
    header, row = (line.replace(",", " , ") for line in (HEADER, ROW))
    (mean,) = read_means(table(tmp_path, header, row.replace("a report", '"a report, page 3"'))).means
    assert (mean.model, mean.source) == ("Qwen3-4B", "a report, page 3")


def test_a_perfect_mean_still_has_an_error(tmp_path: Path) -> None:
    (mean,) = read_means(table(tmp_path, HEADER, ROW.replace("0.738", "1"))).means
    assert 1e-4 < mean.standard_error < 2e-3


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([], "the table is empty"),
        (["# only notes"], "the table is empty"),
        ([HEADER], "no rows"),
        ([HEADER.replace("accuracy", "score"), ROW], "column 'accuracy' is missing"),
        ([HEADER.replace("accuracy", "score"), ROW], "column 'score' is not known"),
        ([HEADER + ",task", ROW + ",x"], "there twice"),
        ([HEADER, ROW + ",x"], "line 2: 11 cells where the header has 10"),
        ([HEADER, ROW.replace("0.738", "73.8")], "is it in per cent?"),
        ([HEADER, ROW.replace("0.738", "")], "'accuracy' is empty"),
        ([HEADER, ROW.replace("0.738", "high")], "'high', not a number"),
        ([HEADER, ROW.replace("0.738", "nan")], "not a finite number"),
        ([HEADER, ROW.replace(",16,", ",1,")], "weight_bits is 1; expected 2 to 16"),
        ([HEADER, ROW.replace("32768", "0")], "token_budget is 0; expected a whole number of at least 1"),
        ([HEADER, ROW.replace(",64,", ",6.5,")], "n_samples is 6.5; expected a whole number"),
        ([HEADER, ROW.replace("AIME24,0,", "AIME24,1,")], "chance is 1"),
        ([HEADER, ROW, ROW], "line 3: says again what line 2 says"),
        ([HEADER, ROW, ROW.replace("AIME24,0,", "AIME24,0.1,").replace("4B", "8B")], "another chance"),
        ([HEADER, ROW, ROW.replace("qwen3,", "ladder,").replace("4B", "8B")], "one family a table"),
        ([HEADER, ROW.replace("4B", "5B")], "has no model 'Qwen3-5B'"),
        (
            [HEADER, ROW.replace("4B", "5B"), ROW.replace("4B", "6B")],
            "line 3: the family qwen3 has no model 'Qwen3-6B'",
        ),
        ([HEADER, "x" * 200_000], "line 2: 1 cells where the header has 10"),
        ([HEADER, ROW.replace("qwen3,", "nobody,")], "no family 'nobody'"),
    ],
)
def test_faults_are_named_by_line(lines: list[str], what: str, tmp_path: Path) -> None:
    with pytest.raises(TslawError) as error:
        read_means(table(tmp_path, *lines))
    assert what in str(error.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(TslawError, match="no such file"):
        read_means(tmp_path / "absent.csv")
    with pytest.raises(TslawError, match="folder"):
        read_means(tmp_path)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\x89HDF\xff\xfe")
    with pytest.raises(TslawError, match="not UTF-8"):
        read_means(binary)


def test_what_is_written_is_read_again_and_nothing_is_overwritten(tmp_path: Path) -> None:
    means = read_means(PUBLISHED / "r1-distill-qwen.csv").means
    path = write_means(means, tmp_path / "deep" / "copy.csv", ["a note"])
    assert read_means(path).means == means
    assert path.read_text(encoding="utf-8").splitlines()[:2] == ["# a note", ",".join(COLUMNS)]
    with pytest.raises(TslawError, match="not overwritten"):
        write_means(means[:1], path, [])
    with pytest.raises(TslawError, match="fault"):
        write_means([*means, means[0]], path, [], overwrite=True)
    assert read_means(path).means == means
    assert list(path.parent.iterdir()) == [path]


def test_a_mean_is_written_as_it_is(tmp_path: Path) -> None:
    """To the last digit: a third is not 0.333333."""
    (mean,) = read_means(table(tmp_path, HEADER, ROW)).means
    means = tuple(replace(mean, accuracy=a, token_budget=b) for a, b in ((1 / 3, 1), (2e-5, 2), (1.0, 38912)))
    path = write_means(means, tmp_path / "copy.csv", ["a note\nof two lines"])
    assert read_means(path).means == means


def test_the_shipped_tables_follow_from_their_transcriptions(tmp_path: Path) -> None:
    """The script makes them again, and three numbers are as printed."""
    run = [sys.executable, str(ROOT / "scripts" / "published_tables.py"), "--out", str(tmp_path)]
    subprocess.run(run, check=True, capture_output=True)
    for name in ("r1-distill-qwen.csv", "qwen3.csv"):
        assert (tmp_path / name).read_bytes() == (PUBLISHED / name).read_bytes()
    again = subprocess.run(run, check=False, capture_output=True, text=True)
    assert again.returncode == 2
    assert "not overwritten" in again.stderr
    r1, qwen3 = (read_means(PUBLISHED / name).means for name in ("r1-distill-qwen.csv", "qwen3.csv"))
    printed = {(m.model, m.weight_bits, m.task): m.accuracy for m in (*r1, *qwen3)}
    assert printed["R1-Distill-Qwen-1.5B", 8.0, "AIME24"] == 0.2667
    assert printed["R1-Distill-Qwen-32B", 4.0, "GPQA-D"] == 0.6379
    assert printed["Qwen3-14B", 16.0, "LCBv5"] == 0.635
    assert len(r1) == len(qwen3) == 30
    assert {m.activation_bits for m in r1 if m.weight_bits == 8} == {8.0}


def test_r1_distill_qwen_has_the_published_numbers_of_parameters() -> None:
    """As the hub counts them in the published files (all tensors, lm_head apart from the embedding)."""
    found = {ref.name.rsplit("-", 1)[1]: n_params(ref.shape) for ref in load_family("r1-distill-qwen").models}
    assert found == {"1.5B": 1_777_088_000, "7B": 7_615_616_512, "14B": 14_770_033_664, "32B": 32_763_876_352}
