"""Sampling in blocks: right draws, the same ones when interrupted and resumed, and no mixing up of runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.hmc import HMCState
from simulated import SHORT, template

from tslaw.fit import nuts
from tslaw.fit.model import Prior
from tslaw.fit.nuts import (
    LEARNING,
    Chains,
    Checkpoint,
    Positions,
    devices_for,
    fingerprint,
    for_every_chain,
    learned_metric,
    lesson_blocks,
    sample_chains,
    with_energy,
)

MEAN = jnp.array([1.0, -2.0])
COVARIANCE = np.array([[1.0, 0.8], [0.8, 2.0]])
STARTS = {"a": jnp.zeros((2, 2)), "b": jnp.ones((2,))}


def potential(z: dict[str, jax.Array]) -> jax.Array:
    """Two correlated normals, and a third of its own with standard deviation 3."""
    off = z["a"] - MEAN
    return 0.5 * off @ jnp.linalg.inv(COVARIANCE) @ off + 0.5 * (z["b"] / 3.0) ** 2


def run(samples: int = 60, checkpoint: Checkpoint | None = None, scale: float = 1.0) -> Chains:
    mass = {("a",): scale * jnp.eye(2), ("b",): scale * jnp.ones(1)}
    sampling = replace(SHORT, warmup=200, samples=samples, target_accept=0.8)
    starts = jax.tree.map(lambda at: scale * at, STARTS)
    return sample_chains(potential, starts, mass, ("a",), sampling, checkpoint)


def test_draws_have_the_moments_of_the_target() -> None:
    chains = run(3000)
    a, b = chains.z["a"].reshape(-1, 2), chains.z["b"].ravel()
    assert chains.z["a"].shape == (2, 3000, 2)
    assert a.mean(axis=0) == pytest.approx(np.asarray(MEAN), abs=0.12)
    assert np.cov(a.T) == pytest.approx(COVARIANCE, abs=0.25)
    assert b.std() == pytest.approx(3.0, rel=0.1)
    assert chains.stats["diverging"].sum() == 0


def test_the_metric_is_learned_from_all_chains_and_shrunk_to_the_former() -> None:
    rng = np.random.default_rng(0)
    root = np.array([[1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [0.0, 2.0, 1.0]])
    z = {"a": rng.standard_normal((4, 5000, 3)) @ root.T, "b": 7.0 * rng.standard_normal((4, 5000, 2, 2))}
    former = {("a",): jnp.eye(3), ("b",): jnp.ones(4)}
    found = learned_metric(z, former)
    assert found["a",] == pytest.approx(root @ root.T, abs=0.15)
    assert found["b",] == pytest.approx(49.0, rel=0.05)
    # Two chains that each stay where they are: what lies between them counts, and the former keeps it from being flat.
    stuck = {"a": np.broadcast_to([[[1.0, 0.0, 0.0]], [[-1.0, 0.0, 0.0]]], (2, 3, 3)), "b": np.zeros((2, 3, 2, 2))}
    found = learned_metric(stuck, former)
    assert found["a",] == pytest.approx(np.diag([1.0, 1 / 3, 1 / 3]), abs=1e-12)
    assert found["b",] == pytest.approx(5 / 11)


def test_chains_share_their_step_size_once_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    own: list[np.ndarray] = []
    share = nuts.with_one_step_size

    def watched(state: HMCState) -> HMCState:
        own.append(np.asarray(state.adapt_state.step_size))
        return share(state)

    monkeypatch.setattr(nuts, "with_one_step_size", watched)
    sizes = np.unique(run(60).stats["step_size"])
    assert len(own) == len(lesson_blocks(200)) + 1
    assert np.ptp(own[-1]) > 0.0
    assert sizes == pytest.approx([np.median(own[-1])])


@pytest.mark.parametrize("warmup", [0, 10, 70, 500])
def test_lessons_come_in_order_and_before_the_end(warmup: int) -> None:
    lessons = lesson_blocks(warmup)
    assert all(1 <= since < after <= warmup / 10 for after, since in lessons.items())
    assert len(lessons) == (len(LEARNING) if warmup == 500 else len(lessons))


def test_steep_and_flat_directions_are_learned_during_the_warm_up() -> None:
    """Twelve normals, a thousand times wider along one direction: at first that takes thousands of steps."""
    direction = jnp.ones(12) / jnp.sqrt(12.0)

    def steep(z: dict[str, jax.Array]) -> jax.Array:
        along = z["a"] @ direction
        return 0.5 * jnp.sum(jnp.square(z["a"] - along * direction)) / 1e-4 + 0.5 * (along / 10.0) ** 2

    sampling = replace(SHORT, warmup=300, samples=200, target_accept=0.8)
    starts = {"a": 0.01 * jnp.arange(24.0).reshape(2, 12)}
    chains = sample_chains(steep, starts, {("a",): jnp.eye(12)}, ("a",), sampling)
    assert chains.stats["num_steps"].mean() < 31
    assert (chains.z["a"] @ np.asarray(direction)).std() == pytest.approx(10.0, rel=0.25)


class Interrupted(Exception):
    """Stands for a user's Ctrl-C or a lost machine."""


@pytest.mark.parametrize("after", [7, 22])  # 20 blocks are warm-up, and after the seventh the metric is learned
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 7 in lesson_blocks(200)
    whole = run()
    kept = Checkpoint(tmp_path / "fit.nc.math.unfinished.npz", "this run")
    save, saves = Checkpoint.save, []

    def save_and_stop(self: Checkpoint, leaves: list[np.ndarray]) -> None:
        save(self, leaves)
        saves.append(len(leaves))
        if len(saves) == after:
            raise Interrupted

    monkeypatch.setattr(nuts, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(Checkpoint, "save", save_and_stop)
    with pytest.raises(Interrupted):
        run(checkpoint=kept)
    monkeypatch.setattr(Checkpoint, "save", save)
    resumed = run(checkpoint=kept, scale=7.0)  # where chains began is of no account any more
    assert len(saves) == after
    for name, values in whole.z.items():
        np.testing.assert_array_equal(resumed.z[name], values)
    np.testing.assert_array_equal(resumed.stats["num_steps"], whole.stats["num_steps"])
    assert [p.name for p in tmp_path.iterdir()] == [kept.path.name]
    kept.path.unlink()
    assert kept.load() is None


def test_a_finished_run_is_not_sampled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoint(tmp_path / "kept.npz", "this run")
    first = run(checkpoint=kept)
    monkeypatch.setattr(Checkpoint, "save", lambda *_: pytest.fail("it was sampled again"))
    np.testing.assert_array_equal(run(checkpoint=kept).z["a"], first.z["a"])


def test_what_another_run_kept_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "kept.npz"
    Checkpoint(path, "one").save([np.arange(3)])
    assert Checkpoint(path, "another").load() is None
    assert Checkpoint(path, "one").load()[0].tolist() == [0, 1, 2]  # type: ignore[index]
    path.write_bytes(b"no archive")
    assert Checkpoint(path, "one").load() is None


def test_a_fingerprint_tells_runs_apart() -> None:
    data = template(4)
    same = fingerprint(data, SHORT, Prior())
    assert fingerprint(template(4), replace(SHORT), Prior()) == same
    others = [
        fingerprint(replace(data, log_size=data.log_size + 1e-9), SHORT, Prior()),
        fingerprint(data, replace(SHORT, seed=9), Prior()),
        fingerprint(data, SHORT, Prior(alpha=3.9)),
    ]
    assert len({same, *others}) == 4


@pytest.mark.parametrize("chains", [1, 2, 5, 6])  # on two devices: tests/fit/conftest.py
def test_a_function_of_one_chain_is_applied_to_each(chains: int) -> None:
    x, y = jnp.arange(3.0 * chains).reshape(chains, 3), jnp.arange(float(chains))
    found = for_every_chain(lambda a, b: {"sum": a.sum() + b}, chains)(x, y)
    np.testing.assert_allclose(np.asarray(found["sum"]), [float(a.sum() + b) for a, b in zip(x, y, strict=True)])


@pytest.mark.parametrize(("chains", "available", "devices"), [(4, 1, 1), (4, 2, 2), (4, 8, 4), (4, 3, 2), (5, 2, 1)])
def test_chains_are_shared_out_evenly(chains: int, available: int, devices: int) -> None:
    assert devices_for(chains, available) == devices


def test_chains_begin_with_the_energy_that_was_compiled_already() -> None:
    asked = []

    def energy(z: Positions) -> tuple[jax.Array, Positions]:
        asked.append(z)
        return jax.value_and_grad(potential)(z)

    starts = {"a": jnp.arange(4.0).reshape(2, 2), "b": jnp.ones(2)}
    at = with_energy(starts, energy)
    assert len(asked) == 2
    for chain in range(2):
        level, slope = jax.value_and_grad(potential)({name: leaf[chain] for name, leaf in starts.items()})
        assert float(at.potential_energy[chain]) == pytest.approx(float(level))
        np.testing.assert_allclose(at.z_grad["a"][chain], slope["a"])
        np.testing.assert_allclose(at.z_grad["b"][chain], slope["b"])
