"""Measured configurations as one flat table: what each costs and how it does on every problem."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tslaw.errors import TslawError
from tslaw.memory import GIB, SCALE_BITS, kv_bytes, kv_bytes_per_token
from tslaw.policy import NATIVE_BITS, KVPolicy, parse_kv_policy
from tslaw.shape import ModelShape
from tslaw.votes import pass_at_1

if TYPE_CHECKING:
    import xarray as xr

CacheBytes = Callable[[ModelShape, KVPolicy, int], float]
"""Bytes of one generation's KV cache under a policy at a thinking budget."""


def formula(shape: ModelShape, policy: KVPolicy, budget: int) -> float:
    """The paper's formula: thinking tokens only, without eviction's buffer and without the window kept exact."""
    return kv_bytes(shape, budget, 1, policy)


@dataclass(frozen=True)
class Held:
    """The most that a generation really holds, averaged over the problems: its prompt, the buffer of eviction, and the
    window that rounding leaves exact are counted too.

    Parameters
    ----------
    prompt : (problem,) tokens. buffer, residual, group : tokens, the options that the policies were run with.
    """

    prompt: np.ndarray
    buffer: int
    residual: int
    group: int

    def __call__(self, shape: ModelShape, policy: KVPolicy, budget: int) -> float:
        tokens = np.asarray(self.prompt, float) + budget
        if policy.retain is not None:
            tokens = np.minimum(tokens, policy.retain + self.buffer)
        native = kv_bytes_per_token(shape)
        if policy.bits == NATIVE_BITS:
            return float(tokens.mean() * native)
        exact = np.minimum(tokens, self.residual + self.group - 1)
        share = (policy.bits + SCALE_BITS / self.group) / NATIVE_BITS
        return float((exact + (tokens - exact) * share).mean() * native)


@dataclass(frozen=True)
class Configurations:
    """Every (model, weight bits, KV policy, thinking budget) of some datasets, one sample.

    All arrays are (configuration,) but `rows`. `weights`, `cache` and `uncompressed` are bytes: of the weights, of the
    KV cache, and of a full cache at the same budget. `policy` is written as in datasets, with " pinned" behind it where
    the prompt was never evicted; `retain` is 0 and `kv_bits` 16 where nothing is evicted or rounded. `rows`
    (configuration, problem) is the share of right samples.
    """

    model: np.ndarray
    weight_bits: np.ndarray
    policy: np.ndarray
    kind: np.ndarray
    kv_bits: np.ndarray
    retain: np.ndarray
    budget: np.ndarray
    weights: np.ndarray
    cache: np.ndarray
    uncompressed: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.model)

    def where(self, chosen: np.ndarray) -> Configurations:
        """Some of the configurations, by a mask or by places (configuration,)."""
        return Configurations(**{f.name: getattr(self, f.name)[chosen] for f in dataclasses.fields(self)})

    def memory(self, batch: float = 1) -> np.ndarray:
        """Bytes a generation, weights shared by `batch` of them: (configuration,)."""
        return np.asarray(self.weights / batch + self.cache)

    @property
    def full(self) -> np.ndarray:
        """Which have an uncompressed cache: (configuration,) booleans."""
        return self.kind == "full"

    @property
    def saves(self) -> np.ndarray:
        """Which have a compressed cache that is smaller than a full one at the same budget.

        An evicting policy at a budget below what it keeps has changed nothing yet: it is the full cache measured
        again, and would enter a choice of the best as one more throw of the same die.
        """
        return ~self.full & (self.cache < self.uncompressed)


def joined(parts: Sequence[Configurations]) -> Configurations:
    """Tables of the same problems, one after the other."""
    names = [f.name for f in dataclasses.fields(Configurations)]
    return Configurations(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})


def configurations(
    ds: xr.Dataset,
    cache_bytes: CacheBytes,
    problems: Sequence[str] | None = None,
    budgets: Sequence[int] | None = None,
    pinned: bool = False,
) -> Configurations:
    """A dataset as a table.

    Parameters
    ----------
    problems, budgets : those to take, in this order; all of the dataset when not given.
    pinned : whether the prompt was kept from eviction in this run.

    Raises TslawError when the dataset lacks a problem or budget.
    """
    rows = pass_at_1(ds["correct"].values)
    rows = rows[:, _places(ds, "budget", budgets)][:, :, _places(ds, "problem", problems)]
    tokens = [int(b) for b in (ds["budget"].values if budgets is None else budgets)]
    shapes = {name: ModelShape(**fields) for name, fields in json.loads(ds.attrs["model_shapes"]).items()}
    columns: dict[str, list] = {f.name: [] for f in dataclasses.fields(Configurations)}
    for i in range(ds.sizes["arm"]):
        policy = parse_kv_policy(str(ds["kv_policy"].values[i]))
        shape = shapes[str(ds["model"].values[i])]
        for k, budget in enumerate(tokens):
            values = {
                "model": shape.name,
                "weight_bits": float(ds["weight_bits"].values[i]),
                "policy": f"{policy} pinned" if pinned else str(policy),
                "kind": policy.kind,
                "kv_bits": policy.bits,
                "retain": policy.retain or 0,
                "budget": budget,
                "weights": float(ds["weight_gib_checkpoint"].values[i]) * GIB,
                "cache": cache_bytes(shape, policy, budget),
                "uncompressed": cache_bytes(shape, KVPolicy(), budget),
                "rows": rows[i, k],
            }
            for name, value in values.items():
                columns[name].append(value)
    return Configurations(**{name: np.array(column) for name, column in columns.items()})


def _places(ds: xr.Dataset, dim: str, wanted: Sequence | None) -> np.ndarray:
    """Places of the wanted labels along a dimension of the dataset."""
    there = {label: i for i, label in enumerate(ds[dim].values.tolist())}
    labels = list(there) if wanted is None else list(wanted)
    if missing := [label for label in labels if label not in there]:
        raise TslawError(f"The dataset has no {dim} {missing[0]!r}.", expected=f"its {len(labels)} {dim}s")
    return np.array([there[label] for label in labels], int)
