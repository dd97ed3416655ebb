"""Tasks: reproducible problems, nested lists, graders that accept their own reference answers."""

from __future__ import annotations

import numpy as np
import pytest

from tslaw.errors import TslawError
from tslaw.measure.tasks import Problem, load_task, task_names
from tslaw.measure.tasks import ladder_world as world

NAMES = ("ladder-math", "ladder-knowledge", "reasoning-gym:chain_sum")


@pytest.mark.parametrize("name", NAMES)
def test_a_longer_list_starts_with_the_shorter_one_and_the_seed_names_it(name):
    task = load_task(name)
    assert task.problems(30, seed=4)[:12] == task.problems(12, seed=4)
    assert task.problems(5, seed=4) != task.problems(5, seed=5)
    assert len({p.id for p in task.problems(30, seed=4)}) == 30


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_answer_is_right_and_nonsense_is_not(name):
    task = load_task(name)
    for problem in task.problems(10, seed=1):
        answer, correct = task.grade(problem.answer, problem)
        assert correct
        assert answer
        assert task.grade("", problem) == (None, False)
        assert not task.grade("nonsense", problem)[1]


@pytest.mark.parametrize("name", ["ladder-math", "ladder-knowledge"])
def test_the_worked_solution_ends_in_the_answer(name):
    task = load_task(name)
    for problem in task.problems(12, seed=2):
        reasoning = task.reference_reasoning(problem)
        assert reasoning is not None
        assert reasoning.endswith(f"=> {problem.answer} ~ {problem.answer}")


def test_the_answer_of_a_mathematics_problem_is_the_sum_of_the_values_its_names_stand_for():
    index = {name: i for i, name in enumerate(world.syllables())}
    for problem in load_task("ladder-math").problems(8, seed=6):
        words = problem.prompt.split()[1:]
        total = 0
        for first, second in zip(words[1::3], words[2::3], strict=True):
            total += int(world.item_values()[index[first] * world.N_SYLLABLES + index[second]])
        assert problem.answer == f"#{total % world.N_VALUES}"


def test_forty_five_mathematics_problems_hold_every_stratum_once():
    levels = [p.level for p in load_task("ladder-math").problems(45, seed=9)]
    assert len(set(levels)) == 45


def test_extra_words_after_a_ladder_answer_do_not_count():
    problem = Problem("x", "", "#7", "")
    assert load_task("ladder-math").grade("#7 <eos> #8", problem) == ("#7", True)


def test_world_tables_have_the_right_ranges():
    assert set(np.unique(world.item_values())) == set(range(world.N_VALUES))
    assert world.facts().min() >= 0
    assert world.facts().max() < world.N_ENTITIES
    assert len(set(world.syllables())) == world.N_SYLLABLES


@pytest.mark.parametrize("name", ["ladder-maths", "reasoning-gym:chain_sums", "reasoning-gym", "ladder-math:x"])
def test_an_unknown_task_is_refused_with_what_there_is(name):
    with pytest.raises(TslawError, match=r"ladder-math|chain_sum"):
        load_task(name)


def test_the_registry_lists_its_names():
    assert "reasoning-gym:GENERATOR" in task_names()
