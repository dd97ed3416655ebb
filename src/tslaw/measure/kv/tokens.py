"""What tells sequences apart, for a policy that draws: a number made of a sequence's first tokens.

vLLM does not show an attention backend the tokens themselves. The model is given them in every step (`STEP`); here
they are noted beside the cache, under the slots of their keys. The first `retain` slots of a sequence stay its own
while it runs, so that its first tokens are at hand at every eviction, in whatever steps and beside whatever others
they were computed; a sequence that starts over writes them anew. Nothing is read back from the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from tslaw.errors import TslawError
from tslaw.measure.kv.hashing import GAMMA, mixed


@dataclass
class StepTokens:
    """The tokens, (rows,) integers, that the model computes now; None where it was given none."""

    ids: Any = None

    def note(self, ids: Any) -> None:
        """Called before every step of the model, with its input."""
        self.ids = ids


STEP = StepTokens()


class TokenTable:
    """The token of every slot of an engine's cache."""

    def __init__(self) -> None:
        self._ids: Any = None

    def put(self, slots: Any, ids: Any, n_slots: int) -> None:
        """Note the tokens ids (rows,) in slots (rows,) of n_slots that there are."""
        if self._ids is None:
            # One more than there are: -1, vLLM's slot of rows that are not to be stored, must not be a sequence's.
            self._ids = torch.zeros(n_slots + 1, dtype=torch.int32, device=slots.device)
        self._ids[slots] = ids.to(torch.int32)

    def seeds(self, slots: Any) -> Any:
        """(sequences,) int64, a hash of the tokens in slots (sequences, tokens) and of their order."""
        places = torch.arange(1, slots.shape[1] + 1, device=slots.device)
        return mixed(mixed(self._ids[slots].long() + places * GAMMA).sum(dim=1))


@dataclass
class TokensOfStep:
    """One step's part in the table. slots : (rows,) of its keys; noted : whether its tokens are in the table."""

    table: TokenTable
    slots: Any
    noted: bool = False

    def note(self, n_slots: int) -> None:
        """Note the step's tokens; TslawError if the model was given none."""
        ids, STEP.ids = STEP.ids, None  # a step that is given none must not find those of the last
        if ids is None or len(ids) < len(self.slots):
            raise TslawError(
                "The model was given no token ids, by which this KV policy draws.",
                where="KV policy",
                expected="a model that vLLM loads itself and that reads token ids",
                fix="another policy",
            )
        self.table.put(self.slots, ids[: len(self.slots)], n_slots)
        self.noted = True


@dataclass
class Seeds:
    """The seeds of the sequences of an event; asked for when the step's tokens are noted, and made once."""

    table: TokenTable
    slots: Any
    _made: Any = field(default=None)

    def __call__(self) -> Any:
        if self._made is None:
            self._made = self.table.seeds(self.slots)
        return self._made
