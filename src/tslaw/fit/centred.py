"""Effects that are sampled as far from their expected values as the data say little of them."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array


def sample_centred(name: str, expected: Array, spread: Array, centred: np.ndarray) -> Array:
    """Draw effects of standard deviation `spread`, partially centred (Papaspiliopoulos, Roberts & Skold 2007) by
    `centred` on what is `expected`; of the shape of both.

    Fully centred, effects of which the data say little make a funnel of the spread; not centred, those of which they
    say much tie the expected values to every effect.
    """
    drawn = numpyro.sample(name, dist.Normal(centred * expected, spread**centred).to_event(np.ndim(centred)))
    return spread ** (1.0 - centred) * (drawn - centred * expected)
