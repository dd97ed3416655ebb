"""The mean surface: can the model solve the problem, has it finished thinking by the budget, and is it still right?

A trajectory of arm *i* on problem *j* is right at budget *T* if the model *can* solve the problem (probability q) and
if its thinking has *finished* by T (probability F):

    theta_i  = theta0 + alpha (exp(bend x_i) - 1) / bend - delta_w(b_i) exp(-gamma_w x_i) + u_i
    q_ij     = sigmoid(theta_i - d_j + c_ij)
    m_ij     = mu0 + mu1 x_i + mu2 s(b_i) + rho d_j + ell_j + o_ij
    F_ij(T)  = (1 - l) Phi((ln T - m_ij) / sigma_len) + l Phi((ln T - m_ij - tau) / sqrt(sigma_len^2 + tau^2 / 4))
    p_ij(T)  = guess + (1 - slip_i - guess) q_ij S_ij(T)
    S_ij(T)  = F_ij(T) with each of its two terms times w + (1 - w) exp(-kappa_i (c_i(T) - c_i(t)))

x is ln(parameters / reference size), bend how the gain of an e times larger model changes with size (it never turns
into a loss; below 0 ability has a ceiling, as in scaling laws), b the bits a weight has, s(b) the share of 4 bits'
damage that b bits do (delta_w(b) = delta_w s(b)), m the expected log length of the thinking needed, d_j and ell_j how
difficult and how long problem j is (zero for an average one), l = `late_share(...)` of the solutions come only when
thinking is gone over again, a log time tau = `late_delay` later and more spread by half of that, `guess` the chance to
be right without having solved, `slip` the chance that a probe of a solved trajectory answers wrongly.

A solved trajectory may be lost again when thinking goes on (and a lost one found): it relapses at the rate kappa_i on a
clock c_i(T) = (T / typical length)^relapse_power, in the long run to w = `kept`; t is the time at which that term's
solutions typically come. Without it declining accuracy at long budgets (overthinking) cannot be said.

Models of one family do not solve the same problems, nor always at the same length. An arm's own part is what its model
has at native precision and what quantization adds to that, in proportion to s(b):

    u_i  = model_misfit + s(b_i) quantization_misfit                   one number a model each
    c_ij = model_effect_j + s(b_i) quantization_effect_j               one number a model and problem each
    mu0, and the logits or logs of l, slip and kappa, plus              one number a model each (`Traits`)
    o_ij = 0, but with probability `own_length_share` Normal(0, own_length_spread)

A compressed KV cache takes from all three: from theta, from F and from how much stays right. Its terms are in
`cache_terms`; without them the cache is full.

For sizes that nobody ran they are averaged over: see `average_solve_probability` and `solved_by`. Every function here
is a pure function of arrays, without priors or data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import sigmoid
from jax.scipy.special import erf, erfc

from tslaw.fit.cache_terms import CacheTerms, Evicted, eviction_clock, found_by

NATIVE_BITS = 16.0
REFERENCE_BITS = 4.0

TIMING = (
    "kappa_w",
    "sigma_len",
    "late0",
    "late1",
    "late2",
    "late3",
    "late_delay",
    "own_length_share",
    "own_length_spread",
    "relapse0",
    "relapse1",
    "relapse2",
    "relapse_power",
    "kept",
)
"""The parameters that `solved_by` needs."""

TRAITS = {"model_mu": "sd_mu", "model_late": "sd_late", "model_relapse": "sd_relapse", "model_slip": "sd_slip"}
"""A model's own traits, in the order of `Traits`, and the standard deviations over models."""

SMALL = 1e-3
"""Where the series of `bent` is exact to 1e-10."""
FASTEST = 50.0
"""The largest log of a rate of relapses: at once. In single precision what fewer bits than were measured may cost would
be infinite, and a chance to have relapsed within no time not a number."""
SIGMOID_WEIGHTS = (0.16107517, 0.58313582, 0.25578901)
SIGMOID_SLOPES = (0.36361785, 0.57636826, 0.90542097)

Params = Mapping[str, Array]


class Traits(NamedTuple):
    """How far a model lies off the family's trends: in log length, the logit of the share that comes late, the log
    rate of relapses, the logit of the slip rate. Each broadcasts against the log sizes it is used with."""

    mu: Array | np.ndarray | float = 0.0
    late: Array | np.ndarray | float = 0.0
    relapse: Array | np.ndarray | float = 0.0
    slip: Array | np.ndarray | float = 0.0


ON_TREND = Traits()


def traits_of(params: Params, model: np.ndarray | slice = slice(None)) -> Traits:
    """The traits of models: `model` indexes the last axis of the parameters."""
    return Traits(*(params[name][..., model] for name in TRAITS))


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
    return params["theta0"] + rise(params, x) - penalty * jnp.exp(-params["gamma_w"] * x)


def rise(params: Params, x: Array) -> Array:
    """Logits of ability above that of the reference size, alpha (exp(bend x) - 1) / bend; the two broadcast."""
    return params["alpha"] * bent(params["bend"], x)


def bent(bend: Array, x: Array) -> Array:
    """(exp(bend x) - 1) / bend, which is x for a bend of 0; of the shape to which the two broadcast."""
    t = bend * x
    small = jnp.abs(t) < SMALL
    # Where the ratio would be 0 / 0 its series stands in, and the unused branch gets an argument without a singularity.
    safe = jnp.where(small, 1.0, t)
    return x * jnp.where(small, 1.0 + 0.5 * t + t * t / 6.0, jnp.expm1(safe) / safe)


def log_length(params: Params, x: Array, bits: Array, own: Array | np.ndarray | float = 0.0) -> Array:
    """mu: the mean log thinking length an average problem needs, in log tokens; `own` is the model's.

    mu2 is what 4 bits add to it. Were it a multiple of delta_w(b) instead, the two would be known only as a product.
    """
    return params["mu0"] + params["mu1"] * x + params["mu2"] * weight_bit_shape(bits, params["kappa_w"]) + own


def slip_rate(params: Params, x: Array, own: Array | np.ndarray | float = 0.0) -> Array:
    """The chance that a probe of a solved trajectory is answered wrongly; it may change with size."""
    return sigmoid(params["slip0"] + params["slip1"] * x + own)


def problem_length(params: Params) -> Array:
    """rho d_j + ell_j: how much longer than average each problem is, in log tokens, shape (..., problem)."""
    return params["rho"] * params["difficulty"] + params["length"]


def solve_probability(theta: Array, difficulty: Array, own: Array | np.ndarray | float = 0.0) -> Array:
    """q for every pair: `theta` (arm,), `difficulty` (problem,) and the arms' own effects c give (arm, problem)."""
    return sigmoid(theta[..., :, None] - difficulty[..., None, :] + own)


def own_effect(model_effect: Array, quantization_effect: Array, quantized: Array, model: np.ndarray) -> Array:
    """c of every arm, (..., arm, problem), from effects (..., model, problem), the arms' s(b) and models (arm,)."""
    return model_effect[..., model, :] + quantized[..., :, None] * quantization_effect[..., model, :]


def effect_spread(params: Params, bits: Array) -> Array:
    """The standard deviation over problems of an arm's own effects c, in logits; of the shape of `bits`."""
    quantized = weight_bit_shape(bits, params["kappa_w"]) * params["sd_effect_w"]
    return jnp.hypot(params["sd_effect"], quantized)


def normal_cdf(z: Array) -> Array:
    """The standard normal distribution function; in single precision without care for its tail, which is faster."""
    if z.dtype == jnp.float32:
        return 0.5 * (1.0 + erf(z * np.float32(np.sqrt(0.5))))
    # As exact as norm.cdf in both tails, at half the time: that computes erf as well, and chooses.
    return 0.5 * erfc(-np.sqrt(0.5) * z)


def average_solve_probability(logit: Array, spread: Array) -> Array:
    """The mean of sigmoid(logit + spread z) over a standard normal z; the two broadcast.

    The sigmoid is replaced by a mixture of three normal distribution functions (Monahan and Stefanski 1992; least
    squares, off by at most 5e-5), whose means are known.
    """
    slopes = jnp.asarray(SIGMOID_SLOPES, logit.dtype)
    wider = slopes / jnp.sqrt(1.0 + jnp.square(slopes * spread[..., None]))
    return jnp.sum(jnp.asarray(SIGMOID_WEIGHTS, logit.dtype) * normal_cdf(logit[..., None] * wider), axis=-1)


def late_spread(params: Params) -> Array:
    """The standard deviation of a late solution's log length."""
    return jnp.hypot(params["sigma_len"], 0.5 * params["late_delay"])


def late_share(params: Params, longer: Array, x: Array, bits: Array, own: Array | np.ndarray | float = 0.0) -> Array:
    """l: the share of solutions that come late, for problems that are `longer` than average by so many log tokens; all
    broadcast. What takes more steps goes wrong more often the first time."""
    quantized = weight_bit_shape(bits, params["kappa_w"])
    trend = params["late0"] + params["late1"] * longer + params["late2"] * x + params["late3"] * quantized
    return sigmoid(trend + own)


def finished_by(
    params: Params, log_budget: Array, mean_log_length: Array, late: Array, evicted: Evicted | None = None
) -> Array:
    """F: the probability that the thinking needed is over within the budget; all broadcast.

    Lengths are lognormal, with the share `late` of late ones. Without it a task whose first pass takes nearly the same
    number of tokens every time leaves what later passes mend to guessing, and accuracy at the largest budgets comes out
    too low.

    With `evicted`, of thinking that was not cut short by the cache: F then does not reach 1.
    """
    kept = None if evicted is None else evicted.log_kept - mean_log_length
    first, after = _terms(params, log_budget - mean_log_length, late, 0.0, evicted, kept)
    return first + after


def _terms(
    params: Params,
    slack: Array,
    late: Array,
    spread: Array | float,
    evicted: Evicted | None = None,
    kept: Array | None = None,
) -> tuple[Array, Array]:
    """The first and the late solutions finished by `slack`; `spread` widens both. `kept`: the slack at which an
    `evicted` cache is full."""
    delay = params["late_delay"]
    widths = jnp.hypot(params["sigma_len"], spread), jnp.hypot(late_spread(params), spread)
    if evicted is None or kept is None:
        first, after = normal_cdf(slack / widths[0]), normal_cdf((slack - delay) / widths[1])
    else:
        first = found_by(slack, kept, widths[0], evicted.exponent)
        after = found_by(slack - delay, kept - delay, widths[1], evicted.exponent)
    return (1.0 - late) * first, late * after


def relapse_rate(params: Params, x: Array, bits: Array, own: Array | np.ndarray | float = 0.0) -> Array:
    """kappa: relapses and recoveries a unit of the clock; `x` and `bits` broadcast."""
    quantized = weight_bit_shape(bits, params["kappa_w"])
    trend = params["relapse0"] + params["relapse1"] * x + params["relapse2"] * quantized
    return jnp.exp(jnp.minimum(trend + own, FASTEST))


def clock(params: Params, slack: Array) -> Array:
    """c: the time in which relapses happen, at log tokens `slack` beyond the arm's typical length."""
    return jnp.exp(params["relapse_power"] * slack)


def still_right(params: Params, rate: Array, elapsed: Array, lost: Array | float = 0.0) -> Array:
    """The chance that what was solved is right after `elapsed` on the clock, in which a compressed cache adds `lost` to
    the rate's losses and nothing to its recoveries; all broadcast."""
    relapses = rate * elapsed
    total = relapses + lost
    if isinstance(lost, float) and lost == 0.0:
        return params["kept"] + (1.0 - params["kept"]) * jnp.exp(-relapses)
    kept = params["kept"] * relapses / jnp.maximum(total, np.finfo(np.float32).tiny)
    return kept + (1.0 - kept) * jnp.exp(-total)


def lost_by(params: Params, cache: CacheTerms, slack: Array, kept: Array | None = None) -> Array:
    """The losses (as multiples of e) that a compressed cache adds up to log tokens `slack` beyond the arm's typical
    length; `kept` is the slack at which eviction begins. All broadcast."""
    lost = cache.loss * clock(params, slack)
    if cache.evicted is None or kept is None:
        return lost
    return lost + cache.evicted.loss * eviction_clock(slack - kept, cache.evicted.power)


def solved_by(
    params: Params,
    slack: Array,
    longer: Array,
    x: Array,
    bits: Array,
    own_lengths: bool = False,
    traits: Traits = ON_TREND,
    cache: CacheTerms | None = None,
) -> Array:
    """S: the chance that a solvable problem is solved by then and not lost again.

    `slack` is the log budget beyond the arm's typical log length, `longer` how much longer the problem is (and the
    arm's own length for it), `traits` the model's, `cache` what a compressed one costs (full without); all broadcast.
    With `own_lengths` the lengths of its own that an arm may have for a problem are averaged over: that of an arm
    nobody ran.
    """
    behind, late = slack - longer, late_share(params, longer, x, bits, traits.late)
    rate = relapse_rate(params, x, bits, traits.relapse)
    evicted = None if cache is None else cache.evicted
    begins = None if evicted is None else evicted.log_kept - log_length(params, x, bits, traits.mu)
    kept = None if begins is None else begins - longer
    terms = _terms(params, behind, late, 0.0, evicted, kept)
    if own_lengths:
        share = params["own_length_share"]
        wide = _terms(params, behind, late, params["own_length_spread"], evicted, kept)
        terms = (terms[0] + share * (wide[0] - terms[0]), terms[1] + share * (wide[1] - terms[1]))
    now, delays = clock(params, slack), (0.0, params["late_delay"])
    since = [jnp.maximum(now - clock(params, longer + delay), 0.0) for delay in delays]
    lost: list[Array | float] = [0.0, 0.0]
    if cache is not None:
        total = lost_by(params, cache, slack, begins)
        lost = [jnp.maximum(total - lost_by(params, cache, longer + delay, begins), 0.0) for delay in delays]
    first, after = (term * still_right(params, rate, t, gone) for term, t, gone in zip(terms, since, lost, strict=True))
    return first + after


def accuracy(solved: Array, guess: Array, slip: Array) -> Array:
    """The chance of a right answer, given the chance that the trajectory is solved by then; shapes broadcast."""
    return guess + (1.0 - slip - guess) * solved
