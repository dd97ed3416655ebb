"""NUTS by NumPyro in blocks of iterations, so that a long run shows how far it is and can be resumed.

Chains run side by side, shared out evenly among devices (`numpyro.set_host_device_count` makes one for each chain on
a CPU); those of one device are vectorised on a GPU, and run one after the other on a CPU. A block is compiled once, for
warm-up and sampling alike.

The metric is learned from all chains together, and shrunk to the one before. Learned by each chain from its own few
draws, as usual, the dense part of some seventy parameters is mostly noise in a warm-up of a few hundred iterations, and
trajectories get longer, not shorter, when it is taken up. Step sizes are found by each chain and then shared, for the
same reason: vectorised chains wait for the one whose steps are shortest.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpyro.infer import NUTS
from numpyro.infer.hmc_util import dual_averaging
from numpyro.infer.util import ParamInfo

from tslaw.atomic import replacing

if TYPE_CHECKING:
    from tslaw.fit.infer import Sampling

BLOCK = 10
LEARNING = (0.15, 0.35, 0.6, 0.85)
"""Parts of the warm-up after which the metric is learned anew, from what was drawn since the one before."""
FIRST_SKIPPED = 0.4
"""The part of the draws before the first of them that is still on the way from the start."""
PRIOR_DRAWS = 5
"""Draws that a variance's former value counts for; a dense block's counts for as many as it has parameters."""
SECONDS_BETWEEN_SAVES = 60.0
FIELDS = ("z", "diverging", "accept_prob", "num_steps", "energy", "potential_energy")

Positions = dict[str, Array]
Metric = dict[tuple[str, ...], Array]
Potential = Callable[[Positions], Array]
Energy = Callable[[Positions], tuple[Array, Positions]]
"""From one chain's positions to the potential energy and its gradient."""
Show = Callable[[int, str], None]
"""How many iterations are done, and what else there is to say."""


class Chains(NamedTuple):
    """Unconstrained draws and the sampler's statistics: names to (chain, draw, ...) arrays."""

    z: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """Where an unfinished run is kept; `key` says what it was a run of, see `fingerprint`."""

    path: Path
    key: str

    def exists(self) -> bool:
        """Whether something was kept of this very run."""
        return self.load() is not None

    def load(self) -> list[np.ndarray] | None:
        """What `save` was given last, or None where nothing was kept of this very run."""
        try:
            with np.load(self.path) as kept:
                if str(kept["key"]) != self.key:
                    return None
                return [kept[f"leaf{i}"] for i in range(len(kept.files) - 1)]
        except (OSError, ValueError, KeyError):  # none, or of another version
            return None

    def save(self, leaves: list[np.ndarray]) -> None:
        """Replace what was kept."""
        named: dict[str, Any] = {f"leaf{i}": leaf for i, leaf in enumerate(leaves)}
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=np.array(self.key), **named)


def fingerprint(*parts: Any) -> str:
    """A hash of dataclasses, arrays and plain values: two runs with the same one are the same run."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        elif hasattr(part, "__dataclass_fields__"):
            digest.update(fingerprint(*(getattr(part, name) for name in part.__dataclass_fields__)).encode())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


def for_every_chain(function: Callable[..., Any], chains: int) -> Callable[..., Any]:
    """`function` of one chain, compiled for arguments with a leading axis of chains."""
    devices = devices_for(chains, jax.local_device_count())
    each = chains // devices
    if each == 1 < chains:
        return jax.pmap(function)

    def all_of_one_device(*arguments: Any) -> Any:
        if jax.default_backend() == "cpu":
            return lax.map(lambda one: function(*one), arguments)
        return jax.vmap(function)(*arguments)

    if devices == 1:
        return jax.jit(all_of_one_device)
    together = jax.pmap(all_of_one_device)

    def shared_out(*arguments: Any) -> Any:
        split = jax.tree.map(lambda leaf: leaf.reshape(devices, each, *leaf.shape[1:]), arguments)
        return jax.tree.map(lambda leaf: leaf.reshape(chains, *leaf.shape[2:]), together(*split))

    return shared_out


def devices_for(chains: int, available: int) -> int:
    """On how many devices to run chains, as many on each: the most that there are."""
    return max(n for n in range(1, min(chains, available) + 1) if chains % n == 0)


class Moves(NamedTuple):
    """What all chains do together; every argument and result has a leading axis of chains.

    begin : (key, positions with their energy and its gradient, metric) to the sampler's state. advance : a state to the
    one a block of iterations later, and what was seen on the way. retune : (state, metric) to the same place and number
    of iterations with another metric, the search for a step size begun anew.
    """

    begin: Callable[..., Any]
    advance: Callable[..., Any]
    retune: Callable[..., Any]


def nuts_moves(
    potential: Potential, inverse_mass: Metric, dense: tuple[str, ...], start: ParamInfo, sampling: Sampling
) -> Moves:
    """NUTS whose metric is only changed from outside; `start` is one chain's, of which only shapes matter."""

    def nuts(metric: Metric) -> NUTS:
        return NUTS(
            potential_fn=potential,
            target_accept_prob=sampling.target_accept,
            dense_mass=[dense],
            inverse_mass_matrix=metric,
            adapt_mass_matrix=False,
        )

    def begin(key: Array, at: ParamInfo, metric: Metric) -> Any:
        return nuts(metric).init(key, sampling.warmup, at, (), {})

    def retune(state: Any, metric: Metric) -> Any:
        here = ParamInfo(state.z, state.potential_energy, state.z_grad)
        tuned, step_size = begin(state.rng_key, here, metric).adapt_state, state.adapt_state.step_size
        search = dual_averaging()[0](jnp.log(10.0 * step_size))
        kept = {name: getattr(state.adapt_state, name) for name in ("window_idx", "rng_key", "mm_state")}
        return state._replace(adapt_state=tuned._replace(step_size=step_size, ss_state=search, **kept))

    def advance(state: Any) -> tuple[Any, dict[str, Any]]:
        def step(state: Any, _: None) -> tuple[Any, dict[str, Any]]:
            state = kernel.sample(state, (), {})
            seen = {name: getattr(state, name) for name in FIELDS}
            return state, {**seen, "step_size": state.adapt_state.step_size}

        return lax.scan(step, state, None, length=BLOCK)

    kernel, key = nuts(inverse_mass), jax.random.PRNGKey(0)
    jax.eval_shape(lambda key, at: kernel.init(key, sampling.warmup, at, (), {}), key, start)  # sets the kernel up
    return Moves(*(for_every_chain(move, sampling.chains) for move in (begin, advance, retune)))


def sample_chains(
    potential: Potential,
    starts: Positions,
    inverse_mass: Metric,
    dense: tuple[str, ...],
    sampling: Sampling,
    checkpoint: Checkpoint | None = None,
    energy: Energy | None = None,
) -> Chains:
    """Draw from exp(-potential) over unconstrained positions.

    Parameters
    ----------
    starts : names to (chain, ...) arrays. inverse_mass : to begin with, as `NUTS` takes it.
    dense : the names whose metric is dense; the others' is diagonal.
    checkpoint : where to keep the run once a minute, and from where to resume it. Of a resumed run's starts and inverse
        mass only shapes matter.
    energy : the potential with its gradient where it is compiled already; compiling it again would take longer than
        anything it is asked here.
    """

    def first() -> tuple[Array, ParamInfo, Metric]:
        keys = jax.random.split(jax.random.PRNGKey(sampling.seed + 2), sampling.chains)
        at = with_energy(starts, energy or jax.jit(jax.value_and_grad(potential)))
        return keys, at, for_chains(inverse_mass, sampling.chains)

    like = jax.eval_shape(first)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), like[1])
    moves = nuts_moves(potential, inverse_mass, dense, one, sampling)
    resumed = _Run.resumed(checkpoint, jax.eval_shape(moves.begin, *like), moves.advance)
    run = resumed or _Run(moves.begin(*first()), [])
    total, saved = sampling.warmup + sampling.samples, time.monotonic()
    lessons = lesson_blocks(sampling.warmup)
    with progress_bar(total, sampling.progress) as show:
        while (done := BLOCK * len(run.blocks)) < total:
            show(done, _how_they_move(run.blocks))
            state, block = moves.advance(run.state)
            run = _Run(state, [*run.blocks, jax.tree.map(np.asarray, block)])
            if since := lessons.get(len(run.blocks)):
                metric = for_chains(run.lesson(since), sampling.chains)
                run = run._replace(state=moves.retune(with_one_step_size(state), metric))
            elif done < sampling.warmup <= done + BLOCK:
                run = run._replace(state=with_one_step_size(state))
            if checkpoint and (time.monotonic() - saved > SECONDS_BETWEEN_SAVES or done + BLOCK >= total):
                checkpoint.save(run.leaves())
                saved = time.monotonic()
        show(total, _how_they_move(run.blocks))
    kept = jax.tree.map(lambda leaf: leaf[:, sampling.warmup : total], joined(run.blocks))
    return Chains(kept.pop("z"), kept)


def with_energy(starts: Positions, energy: Energy) -> ParamInfo:
    """Positions, (chain, ...) each, with the potential energy there, (chain,), and its gradient, as the positions."""
    chains = len(jax.tree.leaves(starts)[0])
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], starts) for i in range(chains)]
    found = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(energy(z) for z in each))
    return ParamInfo(starts, *found)


def with_one_step_size(state: Any) -> Any:
    """All chains with the step size that is the middle one of theirs."""
    found = jnp.asarray(state.adapt_state.step_size)
    shared = jnp.full_like(found, jnp.median(found))
    return state._replace(adapt_state=state.adapt_state._replace(step_size=shared))


def lesson_blocks(warmup: int) -> dict[int, int]:
    """After how many blocks the metric is learned, and how many of them are too old to learn from."""
    ends = [round(part * warmup / BLOCK) for part in LEARNING]
    starts = [round(FIRST_SKIPPED * ends[0]), *ends[:-1]]
    return {end: max(start, 1) for start, end in zip(starts, ends, strict=True) if end > max(start, 1)}


def learned_metric(z: dict[str, np.ndarray], former: Metric) -> Metric:
    """Inverse masses from draws (chain, draw, ...) of all chains together, shrunk to the former ones: the covariance of
    the names of a matrix, variances for a vector."""
    found: dict[tuple[str, ...], Array] = {}
    for names, before in former.items():
        drawn = np.concatenate([z[name].reshape(*z[name].shape[:2], -1) for name in names], axis=-1)
        flat = drawn.reshape(-1, drawn.shape[-1])
        own = np.cov(flat, rowvar=False, bias=True) if np.ndim(before) == 2 else flat.var(axis=0)
        weight = np.shape(before)[0] if np.ndim(before) == 2 else PRIOR_DRAWS
        found[names] = jnp.asarray(
            (len(flat) * np.reshape(own, np.shape(before)) + weight * before) / (len(flat) + weight)
        )
    return found


def for_chains(metric: Metric, chains: int) -> Metric:
    """The same metric for every chain, as arrays with a leading axis of chains."""
    return {names: jnp.broadcast_to(matrix, (chains, *matrix.shape)) for names, matrix in metric.items()}


def joined(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Blocks of (chain, iteration, ...) arrays, one after the other."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *blocks)


class _Run(NamedTuple):
    """The state of the chains and what was collected so far, a block each."""

    state: Any
    blocks: list[dict[str, Any]]

    def leaves(self) -> list[np.ndarray]:
        """State and collected iterations as arrays."""
        return [np.asarray(leaf) for leaf in (*jax.tree.leaves(self.state), *jax.tree.leaves(joined(self.blocks)))]

    def lesson(self, since: int) -> Metric:
        """The metric learned from all blocks but the first `since`, and from the one in use."""
        metric = jax.tree.map(lambda leaf: np.asarray(leaf)[0], self.state.adapt_state.inverse_mass_matrix)
        return learned_metric(joined(self.blocks[since:])["z"], metric)

    @classmethod
    def resumed(cls, checkpoint: Checkpoint | None, state: Any, advance: Callable[..., Any]) -> _Run | None:
        """What `checkpoint` kept, if anything, in the structure of `state` and of what `advance` collects."""
        leaves = checkpoint.load() if checkpoint else None
        if leaves is None:
            return None
        n_state, block = len(jax.tree.leaves(state)), jax.eval_shape(advance, state)[1]
        structure = jax.tree.structure(block)
        if len(leaves) != n_state + len(jax.tree.leaves(block)):
            return None
        collected = [np.split(leaf, leaf.shape[1] // BLOCK, axis=1) for leaf in leaves[n_state:]]
        blocks = [jax.tree.unflatten(structure, each) for each in zip(*collected, strict=True)]
        return cls(jax.tree.unflatten(jax.tree.structure(state), leaves[:n_state]), blocks)


def _how_they_move(blocks: list[dict[str, Any]]) -> str:
    if not blocks:
        return "compiling"
    steps, divergent = blocks[-1]["num_steps"].mean(), sum(int(b["diverging"].sum()) for b in blocks)
    return f"{steps:.0f} steps a draw, {divergent} divergent, warm-up included"


@contextmanager
def progress_bar(total: int, wanted: bool) -> Iterator[Show]:
    """A bar on the terminal that counts iterations and says something beside, or nothing at all."""
    if not wanted:
        yield lambda done, text: None
        return
    from rich import progress
    from rich.console import Console

    names = ("BarColumn", "MofNCompleteColumn", "TimeElapsedColumn", "TimeRemainingColumn")
    columns = (*(getattr(progress, name)() for name in names), progress.TextColumn("{task.description}"))
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, text: bar.update(task, completed=done, description=text)
