"""Published mean accuracies as a tidy table: one reported mean a line, in a CSV file that people can read and review.

Other people's results come as means over a benchmark's problems, not as answers to single ones. They are kept as the
text they are printed in, so that a reader can set every number against its source. Lines that start with "#" are notes;
the first other line names the columns, in any order:

    family         a family that ships with tslaw, or its YAML file (looked for beside the table first)
    model          a model of that family
    weight_bits    bits a linear weight, 16 for native
    token_budget   the most tokens it was allowed to think
    task           the benchmark
    chance         the chance to be right by guessing
    accuracy       the mean, as a fraction
    n_problems     problems of the benchmark
    n_samples      answers to each problem that went into the mean
    source         where the number is printed
    activation_bits  (may be left out) 16 unless activations were quantized too
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite, sqrt
from pathlib import Path

from tslaw.atomic import replacing
from tslaw.errors import TslawError
from tslaw.family import Family, load_family, shipped_families
from tslaw.memory import MIN_BITS
from tslaw.policy import NATIVE_BITS

OPTIONAL = {"activation_bits": "16"}
SUFFIX = ".csv"


@dataclass(frozen=True)
class ReportedMean:
    """One published mean accuracy; `accuracy` and `chance` are fractions, `token_budget` counts tokens."""

    family: str
    model: str
    weight_bits: float
    token_budget: int
    task: str
    chance: float
    accuracy: float
    n_problems: int
    n_samples: int
    source: str
    activation_bits: float = 16.0

    @property
    def answers(self) -> int:
        """How many answers the mean is over."""
        return self.n_problems * self.n_samples

    @property
    def standard_error(self) -> float:
        """The binomial standard error, half an answer of each kind added: at most so much is due to sampling.

        Where problems differ in difficulty it is less, which is what a fit uses.
        """
        share = (self.accuracy * self.answers + 0.5) / (self.answers + 1.0)
        return sqrt(share * (1.0 - share) / (self.answers + 1.0))


@dataclass(frozen=True)
class MeansTable:
    """The means of one family, in the order of the file."""

    family: Family
    means: tuple[ReportedMean, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The benchmarks, in the order in which they first appear."""
        return tuple(dict.fromkeys(mean.task for mean in self.means))


COLUMNS = tuple(field.name for field in fields(ReportedMean))
REQUIRED = tuple(name for name in COLUMNS if name not in OPTIONAL)
WHOLE = ("token_budget", "n_problems", "n_samples")
NUMBERS = (*WHOLE, "weight_bits", "activation_bits", "chance", "accuracy")


def is_table(path: Path) -> bool:
    """Whether a file is to be read as a table of means rather than as a measured dataset."""
    return path.suffix.lower() == SUFFIX


def read_means(path: str | Path) -> MeansTable:
    """Read and check a table of one family.

    Raises
    ------
    TslawError : missing, unreadable, or with faults; all of them are listed by line.
    """
    path = Path(path)
    lines = _numbered_lines(path)
    means, faults = _parse(path, lines)
    if not faults and not means:
        faults = ["the table has no rows"]
    if not faults:
        faults = _contradictions(means)
    if faults:
        raise _faulty(path, faults, f"the columns {', '.join(REQUIRED)}")
    family = _family(means[0][1].family, path)
    known = [model.name for model in family.models]
    absent = [(line, mean.model) for line, mean in means if mean.model not in known]
    if absent:
        faults = [f"line {line}: the family {family.name} has no model '{model}'" for line, model in absent]
        raise _faulty(path, faults, f"one of {', '.join(known)}")
    return MeansTable(family, tuple(mean for _, mean in means))


def _faulty(path: Path, faults: Sequence[str], expected: str) -> TslawError:
    listed = "\n".join(f"    - {fault}" for fault in faults)
    return TslawError(f"This table of means has {len(faults)} fault(s):\n{listed}", where=str(path), expected=expected)


def _numbered_lines(path: Path) -> list[tuple[int, str]]:
    if not path.is_file():
        what = "This is a folder, not a table." if path.is_dir() else "There is no such file."
        raise TslawError(what, where=str(path), expected="a CSV table of reported means")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TslawError(f"This table is not UTF-8 text ({error}).", where=str(path), expected="a CSV file") from error
    kept = enumerate(text.splitlines(), start=1)
    return [(number, line) for number, line in kept if line.strip() and not line.startswith("#")]


def _parse(path: Path, lines: Sequence[tuple[int, str]]) -> tuple[list[tuple[int, ReportedMean]], list[str]]:
    """The rows with their line numbers, and what is wrong with the others."""
    if not lines:
        return [], ["the table is empty"]
    header = _cells(lines[0][1])
    missing, unknown = [c for c in REQUIRED if c not in header], [c for c in header if c not in COLUMNS]
    faults = [f"line {lines[0][0]}: the column '{c}' is missing" for c in missing]
    faults += [f"line {lines[0][0]}: the column '{c}' is not known" for c in unknown]
    faults += [f"line {lines[0][0]}: the column '{c}' is there twice" for c in set(header) if header.count(c) > 1]
    means: list[tuple[int, ReportedMean]] = []
    for number, line in [] if faults else lines[1:]:
        cells = _cells(line)
        if len(cells) != len(header):
            faults.append(f"line {number}: {len(cells)} cells where the header has {len(header)}")
            continue
        row = OPTIONAL | {name: cell for name, cell in zip(header, cells, strict=True)}
        wrong = _wrong(row)
        faults += [f"line {number}: {what}" for what in wrong]
        if not wrong:
            means.append((number, _mean(row)))
    return means, faults


def _cells(line: str) -> list[str]:
    """Without spaces around them; a line that is no CSV at all is one cell."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
    except csv.Error:
        return [line]


def _mean(row: Mapping[str, str]) -> ReportedMean:
    numbers = {name: float(row[name]) for name in NUMBERS}
    whole = {name: int(numbers[name]) for name in WHOLE}
    return ReportedMean(**(dict(row) | numbers | whole))  # type: ignore[arg-type]


def _wrong(row: Mapping[str, str]) -> list[str]:
    """What is wrong with one row, a sentence each."""
    faults = [f"'{name}' is empty" for name in COLUMNS if not row[name]]
    values: dict[str, float] = {}
    for name in NUMBERS:
        try:
            values[name] = float(row[name])
        except ValueError:
            faults += [f"{name} is '{row[name]}', not a number"] if row[name] else []
    for name, value in values.items():
        if not isfinite(value):
            faults.append(f"{name} is {row[name]}, not a finite number")
        elif name in WHOLE and (value != int(value) or value < 1):
            faults.append(f"{name} is {row[name]}; expected a whole number of at least 1")
        elif name in ("weight_bits", "activation_bits") and not MIN_BITS <= value <= NATIVE_BITS:
            faults.append(f"{name} is {row[name]}; expected {MIN_BITS} to {NATIVE_BITS}")
        elif name == "chance" and not 0 <= value < 1:
            faults.append(f"chance is {row[name]}; expected 0 or more and less than 1")
        elif name == "accuracy" and not 0 <= value <= 1:
            hint = " (is it in per cent?)" if 1 < value <= 100 else ""
            faults.append(f"accuracy is {row[name]}; expected a fraction from 0 to 1{hint}")
    return faults


def _contradictions(means: Sequence[tuple[int, ReportedMean]]) -> list[str]:
    """Rows that cannot both be true."""
    faults: list[str] = []
    seen: dict[tuple[object, ...], int] = {}
    tasks: dict[str, ReportedMean] = {}
    for line, mean in means:
        key = (mean.model, mean.weight_bits, mean.token_budget, mean.task, mean.source)
        if key in seen:
            faults.append(f"line {line}: says again what line {seen[key]} says of the same arm, budget and source")
        seen.setdefault(key, line)
        known = tasks.setdefault(mean.task, mean)
        if (mean.chance, mean.n_problems) != (known.chance, known.n_problems):
            faults.append(f"line {line}: the task {mean.task} has another chance or number of problems than before")
        if mean.family != means[0][1].family:
            faults.append(f"line {line}: family '{mean.family}' after '{means[0][1].family}'; one family a table")
    return faults


def _family(name: str, path: Path) -> Family:
    beside = path.parent / name
    return load_family(beside if name not in shipped_families() and beside.is_file() else name)


def write_means(means: Sequence[ReportedMean], path: str | Path, notes: Sequence[str], overwrite: bool = False) -> Path:
    """Write a table whole or not at all, and read it back to see that it is valid before it takes its place.

    Raises
    ------
    TslawError : the file exists and `overwrite` is False, or the table has faults.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise TslawError(
            "This file exists and is not overwritten.", where=str(path), fix="choose another name, or say --overwrite"
        )
    with replacing(path, SUFFIX) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.writelines(f"# {line}\n" for note in notes for line in note.splitlines())
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(COLUMNS)
            rows.writerows([_as_printed(getattr(mean, name)) for name in COLUMNS] for mean in means)
        read_means(temporary)
    return path


def _as_printed(value: str | float | int) -> str:
    """A cell that is read as the very same value, whole numbers without a point."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
