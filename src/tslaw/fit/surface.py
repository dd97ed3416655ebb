"""The mean surface: can the model solve the problem, and has it finished thinking by the budget?

A trajectory of arm *i* on problem *j* is right at budget *T* if the model *can* solve the problem (probability q) and
if its thinking has *finished* by T (probability F):

    theta_i  = theta0 + alpha x_i - delta_w(b_i) exp(-gamma_w x_i) + u_i
    q_ij     = sigmoid(theta_i - d_j)
    m_ij     = mu0 + mu1 x_i + mu2 s(b_i) + rho d_j + ell_j
    F_ij(T)  = (1 - w) Phi((ln T - m_ij) / sigma_len) + w Phi((ln T - m_ij - tau) / sqrt(sigma_len^2 + tau^2 / 4))
    p_ij(T)  = guess + (1 - slip_i - guess) q_ij F_ij(T)

x is ln(parameters / reference size), b the bits a weight has, s(b) the share of 4 bits' damage that b bits do
(delta_w(b) = delta_w s(b)), m the expected log length of the thinking needed, d_j and ell_j how difficult and how long
problem j is (zero for an average one), w = `late_share` of the solutions come only when thinking is gone over again, a
log time tau = `late_delay` later and more spread by half of that, u_i the arm's own misfit, `guess` the chance to be
right without having solved, `slip` the chance that a probe of a solved trajectory answers wrongly. Every function here
is a pure function of arrays, without priors or data.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid
from jax.scipy.stats import norm

NATIVE_BITS = 16.0
REFERENCE_BITS = 4.0

Params = Mapping[str, Array]


def weight_bit_shape(bits: Array, kappa_w: Array) -> Array:
    """s: how much of the damage of 4 bits `bits` per weight do: 1 at 4 bits, 0 at 16, falling exponentially in between.

    A curve rather than one number a bit width, so that widths nobody ran can be predicted. Shapes broadcast.
    """
    tail = jnp.exp(-kappa_w * (NATIVE_BITS - REFERENCE_BITS))
    return (jnp.exp(-kappa_w * (bits - REFERENCE_BITS)) - tail) / (1.0 - tail)


def weight_bit_penalty(bits: Array, delta_w: Array, kappa_w: Array) -> Array:
    """delta_w(b): logits of ability lost at `bits` per weight, delta_w of them at 4 bits. Shapes broadcast."""
    return delta_w * weight_bit_shape(bits, kappa_w)


def ability(params: Params, x: Array, bits: Array) -> Array:
    """theta without the arm's misfit, in logits; `x` and `bits` broadcast against each other and the parameters."""
    penalty = weight_bit_penalty(bits, params["delta_w"], params["kappa_w"])
    return params["theta0"] + params["alpha"] * x - penalty * jnp.exp(-params["gamma_w"] * x)


def log_length(params: Params, x: Array, bits: Array) -> Array:
    """mu: the mean log thinking length an average problem needs, in log tokens.

    mu2 is what 4 bits add to it. Were it a multiple of delta_w(b) instead, the two would be known only as a product.
    """
    return params["mu0"] + params["mu1"] * x + params["mu2"] * weight_bit_shape(bits, params["kappa_w"])


def slip_rate(params: Params, x: Array) -> Array:
    """The chance that a probe of a solved trajectory is answered wrongly; it may change with size."""
    return sigmoid(params["slip0"] + params["slip1"] * x)


def problem_length(params: Params) -> Array:
    """rho d_j + ell_j: how much longer than average each problem is, in log tokens, shape (..., problem)."""
    return params["rho"] * params["difficulty"] + params["length"]


def solve_probability(theta: Array, difficulty: Array) -> Array:
    """q for every pair: `theta` (arm,) and `difficulty` (problem,) give (arm, problem)."""
    return sigmoid(theta[..., :, None] - difficulty[..., None, :])


def late_spread(params: Params) -> Array:
    """The standard deviation of a late solution's log length."""
    return jnp.hypot(params["sigma_len"], 0.5 * params["late_delay"])


def finished_by(params: Params, log_budget: Array, mean_log_length: Array) -> Array:
    """F: the probability that the thinking needed is over within the budget; the two arrays broadcast.

    Lengths are lognormal, with a late share. Without it a task whose first pass takes nearly the same number of tokens
    every time leaves what later passes mend to guessing, and accuracy at the largest budgets comes out too low.
    """
    slack = log_budget - mean_log_length
    first = norm.cdf(slack / params["sigma_len"])
    late = norm.cdf((slack - params["late_delay"]) / late_spread(params))
    return first + params["late_share"] * (late - first)


def accuracy(solved: Array, guess: Array, slip: Array) -> Array:
    """The chance of a right answer, given the chance that the trajectory is solved by then; shapes broadcast."""
    return guess + (1.0 - slip - guess) * solved
