"""Turn published tables, as transcribed in measurements/published/source, into tidy tables of means (see tslaw.means).

    python scripts/published_tables.py [--overwrite]

One recipe a table: what its columns mean, and what its source does not print and is assumed here (ASSUMED).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tslaw.errors import TslawError
from tslaw.means import ReportedMean, write_means

FOLDER = Path(__file__).parents[1] / "measurements" / "published"


class Benchmark(NamedTuple):
    """How many problems a benchmark has, and the chance to be right by guessing."""

    problems: int
    chance: float


BENCHMARKS = {
    "AIME24": Benchmark(30, 0.0),
    "AIME25": Benchmark(30, 0.0),
    "MATH-500": Benchmark(500, 0.0),
    "GPQA-D": Benchmark(198, 0.25),
    "LCBv5": Benchmark(167, 0.0),  # ASSUMED: the problems of October 2024 to February 2025
}


def rows(name: str) -> Iterator[dict[str, str]]:
    """The rows of a transcribed table, notes left out."""
    lines = (FOLDER / "source" / name).read_text(encoding="utf-8").splitlines()
    yield from csv.DictReader(line for line in lines if not line.startswith("#"))


def mean(family: str, model: str, task: str, per_cent: str, budget: int, samples: int, source: str, **bits: float):
    """One reported mean, from per cent."""
    problems, chance = BENCHMARKS[task]
    accuracy = round(float(per_cent) / 100.0, 6)
    bits = {"weight_bits": 16.0} | bits
    return ReportedMean(
        family=family,
        model=model,
        token_budget=budget,
        task=task,
        chance=chance,
        accuracy=accuracy,
        n_problems=problems,
        n_samples=samples,
        source=source,
        **bits,
    )


def r1_distill_qwen() -> tuple[list[ReportedMean], list[str]]:
    """Four sizes at 16, 8 and 4 bits, by Red Hat."""
    budget, samples = 32768, 20
    means = [
        mean(
            "r1-distill-qwen",
            f"R1-Distill-Qwen-{row['size_b']}B",
            row["task"],
            row["acc_pct"],
            budget,
            samples,
            f"RedHatAI/DeepSeek-R1-Distill-Qwen-{row['size_b']}B-quantized model cards",
            weight_bits=float(row["wbits"]),
            activation_bits=float(row["abits"]),
        )
        for row in rows("redhat_r1distill_quant.csv")
        if row["family"] == "R1-Distill-Qwen"
    ]
    return means, [
        "DeepSeek-R1-Distill-Qwen at 16, 8 and 4 bits; made by scripts/published_tables.py (see README.md).",
        "ASSUMED, since the cards do not print them: a budget of 32768 tokens and 20 samples a problem.",
        "The 8-bit models (w8a8) have their activations quantized to 8 bits too, not told apart from weights.",
    ]


def qwen3() -> tuple[list[ReportedMean], list[str]]:
    """Six sizes at 16 bits, by the makers of Qwen3."""
    budgets = {"AIME24": 38912, "AIME25": 38912}
    samples = {"AIME24": 64, "AIME25": 64, "GPQA-D": 10}
    means = [
        mean(
            "qwen3",
            row["model"],
            task,
            row[task],
            budgets.get(task, 32768),
            samples.get(task, 1),
            "Qwen3 Technical Report, arXiv 2505.09388, tables 13 15 17 19",
        )
        for row in rows("qwen3_techreport_thinking.csv")
        if row["model"].startswith("Qwen3-")
        for task in BENCHMARKS
    ]
    return means, [
        "Qwen3, thinking, 16-bit weights; made by scripts/published_tables.py from source/ (see README.md).",
        "ASSUMED, since not printed: one sample a problem for MATH-500 and LCBv5, 167 problems of LCBv5.",
    ]


def whole_multiples(task: str, samples: int) -> tuple[int, int]:
    """How many of Red Hat's means of a benchmark are whole numbers of answers out of so many samples a problem, as far
    as the digits printed say, and how many means there are."""
    answers = BENCHMARKS[task].problems * samples
    printed = [float(row["acc_pct"]) for row in rows("redhat_r1distill_quant.csv") if row["task"] == task]
    fits = [abs(round(p * answers / 100.0) / answers * 100.0 - p) <= 0.00501 for p in printed]
    return sum(fits), len(fits)


RECIPES = {"r1-distill-qwen.csv": r1_distill_qwen, "qwen3.csv": qwen3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the tables")
    parser.add_argument("--overwrite", action="store_true", help="replace tables that exist")
    options = parser.parse_args()
    for name, recipe in RECIPES.items():
        means, notes = recipe()
        try:
            print(f"{write_means(means, options.out / name, notes, options.overwrite)}: {len(means)} means")
        except TslawError as error:
            parser.exit(2, f"error: {error}\n")
    for samples in (20, 40):
        n, total = whole_multiples("AIME24", samples)
        print(f"AIME24, R1-Distill: {n} of {total} means are whole numbers of answers with {samples} samples a problem")


if __name__ == "__main__":
    main()
