"""Normal distributions of many parameters of which most belong to one problem each: arrows.

z = (p, e): p what all problems share, e = (e_1, ..., e_J) the effects on each of them, K a problem. Given p, what one
problem's effects are says nothing of another's, so that the precision matrix has the shape of an arrow. Hence

    p = m_p + L a           e_j = m_j + B_j a + L_j b_j           a, b_j ~ Normal(0, 1)

with L and all L_j lower triangular and B dense.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

STEP = 1e-3
"""Of the differences that curvatures are taken by: far above the single precision of the likelihood."""
LEAST_CURVATURE = 1.0
"""A mode at fixed scales is none in all directions: curvatures below this are taken to be this."""


class Arrow(NamedTuple):
    """A normal distribution of (p, e), e problem after problem.

    middle : (p + J K,). lower : (p, p) and within : (J, K, K), of which the parts below the diagonals count.
    log_scale : (p + J K,), logs of the diagonals. coupling : (J, K, p).
    """

    middle: Array
    lower: Array
    log_scale: Array
    coupling: Array
    within: Array

    @property
    def root(self) -> Array:
        """L: (p, p)."""
        return jnp.tril(self.lower, -1) + jnp.diag(jnp.exp(self.log_scale[: len(self.lower)]))

    @property
    def roots(self) -> Array:
        """L_j: (J, K, K)."""
        scale = jnp.exp(self.log_scale[len(self.lower) :]).reshape(self.within.shape[:2])
        return jnp.tril(self.within, -1) + jax.vmap(jnp.diag)(scale)

    def place(self, normal: Array) -> Array:
        """(p + J K,) from as many standard normal draws."""
        a, b = self._parts(normal)
        effects = self.coupling @ a + jnp.einsum("jkl,jl->jk", self.roots, b)
        return self.middle + jnp.concatenate([self.root @ a, effects.ravel()])

    def normal(self, place: Array) -> Array:
        """The inverse of `place`."""
        shared, effects = self._parts(place - self.middle)
        a = jax.scipy.linalg.solve_triangular(self.root, shared, lower=True)
        left = (effects - self.coupling @ a)[..., None]
        return jnp.concatenate([a, jax.scipy.linalg.solve_triangular(self.roots, left, lower=True).ravel()])

    def of(self, inner: Arrow) -> Arrow:
        """The distribution of `place` of draws from `inner`."""
        root, roots = inner.root, self.roots
        return Arrow(
            self.place(inner.middle),
            self.root @ root,
            self.log_scale + inner.log_scale,
            self.coupling @ root + roots @ inner.coupling,
            roots @ inner.roots,
        )

    def log_density(self, place: Array) -> Array:
        """Up to a constant."""
        z = self.normal(place)
        return -0.5 * z @ z - jnp.sum(self.log_scale)

    def _parts(self, whole: Array) -> tuple[Array, Array]:
        """What all share, (p,), and the problems' own, (J, K)."""
        n = len(self.lower)
        return whole[:n], whole[n:].reshape(self.within.shape[:2])


def standard(n_shared: int, n_problems: int, n_each: int) -> Arrow:
    """The standard normal distribution as an arrow."""
    n = n_shared + n_problems * n_each
    shared, each = jnp.zeros((n_shared, n_shared)), (n_problems, n_each)
    return Arrow(jnp.zeros(n), shared, jnp.zeros(n), jnp.zeros((*each, n_shared)), jnp.zeros((*each, n_each)))


def laplace_arrow(middle: np.ndarray, slope: Callable[[np.ndarray], np.ndarray], n_shared: int, n_each: int) -> Arrow:
    """The normal with the curvature of an energy at `middle` (p + J K,), by differences of its `slope` there.

    Problems do not know of each other given p, so that one step in the same effect of all problems at once shows every
    problem's curvature: p + K + 1 slopes are enough, whatever their number.
    """
    middle = np.asarray(middle, float)
    here, n = slope(middle), len(middle)
    each = np.arange(n_shared, n).reshape(-1, n_each)

    def bent(at: np.ndarray | int) -> np.ndarray:
        moved = middle.copy()
        moved[at] += STEP
        return np.asarray((slope(moved) - here) / STEP)

    of_shared = np.stack([bent(i) for i in range(n_shared)])
    own = np.stack([bent(each[:, k])[each] for k in range(n_each)], axis=1)  # (J, K, K)
    cross = of_shared[:, each]  # (p, J, K)
    variances = np.linalg.inv(_at_least(own))
    # e_j given p: its mean moves by this much for every p.
    moves = -np.einsum("jkl,pjl->jkp", variances, cross)
    left = of_shared[:, :n_shared] + np.einsum("pjk,jkq->pq", cross, moves)
    root = np.linalg.cholesky(np.linalg.inv(_at_least(left)))
    roots = np.linalg.cholesky(variances)
    diagonals = [np.diag(root), np.diagonal(roots, axis1=1, axis2=2).ravel()]
    parts = (middle, root, np.log(np.concatenate(diagonals)), moves @ root, roots)
    return Arrow(*(jnp.asarray(part) for part in parts))


def _at_least(curvature: np.ndarray) -> np.ndarray:
    """Symmetric, and positive definite: (..., n, n)."""
    found, axes = np.linalg.eigh(0.5 * (curvature + np.swapaxes(curvature, -1, -2)))
    return np.asarray((axes * np.maximum(found, LEAST_CURVATURE)[..., None, :]) @ np.swapaxes(axes, -1, -2))
