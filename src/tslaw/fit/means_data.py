"""From a table of published means to what their likelihood needs, one set a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tslaw.dataset_arms import arm_name
from tslaw.errors import TslawError
from tslaw.means import MeansTable, ReportedMean
from tslaw.memory import n_params
from tslaw.policy import FULL, NATIVE_BITS
from tslaw.shape import ModelShape


@dataclass(frozen=True)
class MeansData:
    """One task's reported means. Beside `data.TaskData`, whose names it shares, it knows no single problem.

    Invariants
    ----------
    1. `report_arm`, `report_budget` (places in `arms` and `budgets`), `report_accuracy` and `report_answers` (how many
    answers a mean is over) have shape (report,).
    2. `budgets` rises strictly; `log_size` and `weight_bits` have shape (arm,); every arm has a report.
    """

    task: str
    family: str
    chance: float
    arms: tuple[str, ...]
    models: tuple[str, ...]
    log_size: np.ndarray
    weight_bits: np.ndarray
    reference_size: float
    budgets: np.ndarray
    shapes: dict[str, ModelShape]
    report_arm: np.ndarray
    report_budget: np.ndarray
    report_accuracy: np.ndarray
    report_answers: np.ndarray
    sources: tuple[str, ...]
    activations_quantized: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def with_reference_size(self, reference_size: float) -> MeansData:
        """The same data with sizes expressed relative to another reference."""
        shift = np.log(self.reference_size) - np.log(reference_size)
        return replace(self, reference_size=reference_size, log_size=self.log_size + shift)

    def model_index(self) -> np.ndarray:
        """Which of the models, in the order in which they first appear, each arm is: (arm,)."""
        names = list(self.shapes)
        return np.array([names.index(model) for model in self.models])

    def model_log_size(self) -> np.ndarray:
        """x of every model, in the same order: (model,)."""
        return np.log([n_params(shape) / self.reference_size for shape in self.shapes.values()])

    def accuracy(self) -> tuple[np.ndarray, np.ndarray]:
        """Reported accuracy, several reports weighed by their answers, and the number of answers: (arm, budget) each;
        accuracy is NaN where nothing was reported."""
        right, answers = np.zeros((2, len(self.arms), len(self.budgets)))
        np.add.at(answers, (self.report_arm, self.report_budget), self.report_answers)
        np.add.at(right, (self.report_arm, self.report_budget), self.report_answers * self.report_accuracy)
        with np.errstate(invalid="ignore"):
            return right / answers, answers

    def describe(self) -> str:
        """One line for the log."""
        budgets = ", ".join(f"{b:.0f}" for b in self.budgets)
        return (
            f"{self.task}: {len(self.report_arm)} published means of {len(self.arms)} arms at {budgets} tokens; "
            "no single problem is known"
        )

    def caveats(self) -> tuple[str, ...]:
        """What a fit of these means cannot say, a sentence each."""
        found = ["it rests on published means: nothing is known of single problems, and votes cannot be derived"]
        if len(self.budgets) == 1:
            found.append(
                f"every mean is at one budget ({self.budgets[0]:.0f} tokens): nothing was learned of how long models "
                "think, so the crossover and accuracies at other budgets are the prior's"
            )
        if len(set(self.weight_bits)) == 1:
            found.append(
                f"all weights have {self.weight_bits[0]:g} bits: what other widths cost is the prior's, not the data's"
            )
        if self.activations_quantized:
            found.append(f"activations were quantized with the weights in {', '.join(self.activations_quantized)}")
        return tuple(found)


def means_data(tables: Sequence[MeansTable]) -> list[MeansData]:
    """One `MeansData` a task, all with the same reference size (the geometric mean of the sizes seen anywhere).

    Several tables of one family are joined: reports of the same arm and budget by different sources are kept apart.

    Raises
    ------
    TslawError : tables of different families, or the same report in two tables.
    """
    families = sorted({table.family.name for table in tables})
    if len(families) > 1:
        raise TslawError(
            f"These tables belong to different families: {', '.join(families)}.",
            expected="tables of one family",
            fix="fit each family by itself",
        )
    means = [mean for table in tables for mean in table.means]
    if len({(m.task, m.model, m.weight_bits, m.token_budget, m.source) for m in means}) < len(means):
        raise TslawError("Two tables hold the same report.", expected="every report once", fix="leave one table out")
    shapes = {ref.name: ref.shape for ref in tables[0].family.models}
    used = {mean.model for mean in means}
    reference = float(np.exp(np.mean([np.log(n_params(shape)) for name, shape in shapes.items() if name in used])))
    tasks = dict.fromkeys(mean.task for mean in means)
    family = tables[0].family.name
    return [_task(family, [m for m in means if m.task == task], shapes, reference) for task in tasks]


def _task(family: str, means: list[ReportedMean], shapes: dict[str, ModelShape], reference: float) -> MeansData:
    order = list(shapes)
    arms = sorted({(m.model, m.weight_bits) for m in means}, key=lambda a: (order.index(a[0]), -a[1]))
    models = tuple(model for model, _ in arms)
    budgets = sorted({m.token_budget for m in means})
    both = {arm_name(m.model, m.weight_bits, FULL): None for m in means if m.activation_bits < NATIVE_BITS}
    return MeansData(
        task=means[0].task,
        family=family,
        chance=means[0].chance,
        arms=tuple(arm_name(model, bits, FULL) for model, bits in arms),
        models=models,
        log_size=np.log([n_params(shapes[m]) / reference for m in models]),
        weight_bits=np.array([bits for _, bits in arms]),
        reference_size=reference,
        budgets=np.array(budgets, float),
        shapes={m: shapes[m] for m in dict.fromkeys(models)},
        report_arm=np.array([arms.index((m.model, m.weight_bits)) for m in means]),
        report_budget=np.array([budgets.index(m.token_budget) for m in means]),
        report_accuracy=np.array([m.accuracy for m in means]),
        report_answers=np.array([float(m.answers) for m in means]),
        sources=tuple(dict.fromkeys(m.source for m in means)),
        activations_quantized=tuple(both),
    )
