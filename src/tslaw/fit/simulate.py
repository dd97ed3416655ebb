"""Data simulated from the model itself, for calibration and for tests with a known answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tslaw.fit.data import TaskData, distinct_rows
from tslaw.fit.likelihood import Relapse
from tslaw.policy import FULL, KVPolicy

if TYPE_CHECKING:
    from tslaw.shape import ModelShape


def simulate_patterns(
    states: np.ndarray, guess: float, slip: np.ndarray, relapse: Relapse, rng: np.random.Generator
) -> np.ndarray:
    """Right and wrong answers of independent trajectories at every budget.

    Parameters
    ----------
    states : (trajectory, K + 1) probabilities of being solved in each interval or never.
    guess : chance that a probe before solving is right.
    slip : (trajectory, K) chance that a probe after solving is wrong.
    relapse : the chain after solving, `decay` (trajectory, K).

    Returns
    -------
    (trajectory, K) of 0 and 1.
    """
    n, n_budgets = len(states), states.shape[1] - 1
    solved_in = (rng.random((n, 1)) > np.cumsum(states[:, :-1], axis=1)).sum(axis=1)
    enter, stay, found = (np.asarray(p) for p in (relapse.from_right(True), relapse.from_right(), relapse.from_lost()))
    holds, outcomes = np.zeros(n, bool), []
    for k in range(n_budgets):
        p_held = np.where(solved_in == k, enter[:, k], np.where(holds, stay[:, k], found[:, k]))
        holds = (solved_in <= k) & (rng.random(n) < p_held)
        outcomes.append(rng.random(n) < np.where(holds, 1.0 - slip[:, k], guess))
    return np.stack(outcomes, axis=1).astype(np.int8)


def task_without_data(
    shapes: Mapping[str, ModelShape],
    weight_bits: Sequence[float],
    budgets: Sequence[int],
    n_problems: int,
    family: str,
    task: str,
    policies: Sequence[KVPolicy] = (FULL,),
) -> TaskData:
    """Every model at every weight bit width with every KV policy, without trajectories: what `simulate_task` fills.
    Three wrong answers are equally likely."""
    from tslaw.memory import n_params

    arms = [(m, float(b), policy) for policy in policies for m in shapes for b in weight_bits]
    sizes = np.array([n_params(shapes[m]) for m, *_ in arms], float)
    reference = float(np.exp(np.log(np.unique(sizes)).mean()))
    nothing = np.zeros(0, int)
    return TaskData(
        task=task,
        family=family,
        chance=0.0,
        arms=tuple(f"{m}:w{b:g}:{policy}" for m, b, policy in arms),
        models=tuple(m for m, *_ in arms),
        log_size=np.log(sizes / reference),
        weight_bits=np.array([b for _, b, _ in arms]),
        reference_size=reference,
        budgets=np.array(budgets, float),
        problems=tuple(f"p{j:03d}" for j in range(n_problems)),
        patterns=np.zeros((0, len(budgets)), np.int8),
        row_arm=nothing,
        row_problem=nothing,
        row_pattern=nothing,
        row_count=nothing,
        shapes=dict(shapes),
        wrong_spread=np.full(n_problems, 3.0),
        policies=tuple(policy for *_, policy in arms) if tuple(policies) != (FULL,) else (),
    )


def simulate_task(template: TaskData, truth: Mapping[str, np.ndarray], samples: int, seed: int) -> TaskData:
    """A task's data with the arms, budgets and problems of `template` and trajectories drawn from `truth`.

    `truth` holds every population parameter, every effect and every length: see `model.state_table`.
    """
    from dataclasses import replace

    import jax
    import jax.numpy as jnp

    from tslaw.fit import cache_arms
    from tslaw.fit.lengths import arm_traits, relapse_chain
    from tslaw.fit.model import state_table

    @jax.jit  # one by one, its operations take several times as long to compile
    def of(params: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, Relapse]:
        slip = cache_arms.slips(params, template, arm_traits(params, template))
        return state_table(params, template), slip, relapse_chain(params, template)

    found = of({k: jnp.asarray(v) for k, v in truth.items()})
    states, slip, chain = jax.tree.map(np.asarray, found)
    n_arms, n_problems, n_states = states.shape
    flat = np.repeat(states.reshape(-1, n_states), samples, axis=0)
    arm = np.repeat(np.arange(n_arms), n_problems * samples)
    correct = simulate_patterns(flat, float(truth["guess"]), slip[arm], chain.of(arm), np.random.default_rng(seed))
    correct = correct.reshape(n_arms, n_problems, samples, n_states - 1)
    patterns, arm, problem, pattern, count = distinct_rows(correct, shared=True)
    return replace(template, patterns=patterns, row_arm=arm, row_problem=problem, row_pattern=pattern, row_count=count)
