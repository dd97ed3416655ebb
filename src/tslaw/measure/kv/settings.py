"""What a policy is made of, from its name and options; handed to vLLM's processes by two environment variables."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tslaw.errors import TslawError
from tslaw.measure.kv.evictors import Evictor
from tslaw.measure.kv.quantized import Quantized
from tslaw.measure.kv.schedule import Schedule
from tslaw.policy import EVICTORS, NATIVE_BITS, KVPolicy, parse_kv_policy

POLICY_VARIABLE = "TSLAW_KV_POLICY"
OPTIONS_VARIABLE = "TSLAW_KV_OPTIONS"
BLOCK_SIZE = 32
"""Tokens a block: the least that vLLM's CPU kernels take. Kept tokens and buffer are whole blocks."""
DEFAULT_BUFFER = 128


@dataclass(frozen=True)
class KVSettings:
    """A policy ready to run: what selects the kept tokens (None: all are kept), what rounds them (None: exact), when.

    `options` are those that the policy takes, defaults included: all that affects its results besides `policy`.
    """

    policy: KVPolicy
    evictor: Evictor | None
    quantizer: Quantized | None
    schedule: Schedule
    options: dict[str, Any]

    def packed(self, platform: str) -> bool:
        """Whether rounded values are stored in their bits on a platform, `cpu` or `cuda`."""
        return platform == "cuda" and self.quantizer is not None and self.evictor is None

    def simulated(self, platform: str) -> bool:
        """Whether memory is credited that is not saved there: rounded values are stored as wide as exact ones."""
        return self.quantizer is not None and not self.packed(platform)

    @staticmethod
    def read(text: str, options: Mapping[str, Any] | None = None) -> KVSettings:
        """Make a policy from its name and options.

        Raises TslawError for an unknown policy, an option that the policy does not take, and bad values.
        """
        policy = parse_kv_policy(text)
        given = dict(options or {})
        known = options_of(policy)
        if unknown := sorted(set(given) - set(known)):
            raise TslawError(
                f"The KV policy '{policy}' has no option '{unknown[0]}'.",
                where="KV options",
                expected=", ".join(sorted(known)) or "no options",
            )
        _check_types(known, given)
        chosen = {**known, **given}
        evictor = _make(_evictor_class(policy), chosen, retain=policy.retain) if policy.evictor else None
        quantizer = None
        if policy.bits != NATIVE_BITS:
            # A hybrid rounds token by token: kept tokens are then the same whoever their neighbours are.
            axis = "token" if policy.evictor else "channel"
            quantizer = _make(Quantized, chosen, bits=policy.bits, axis=axis)
        schedule = Schedule(
            policy.retain,
            chosen.get("buffer", DEFAULT_BUFFER),
            quantizer.residual if quantizer else None,
            quantizer.group if quantizer else 1,
        )
        _check_whole_blocks(policy, schedule)
        return KVSettings(policy, evictor, quantizer, schedule, chosen)


def read_each(text: str, options: Mapping[str, Any]) -> KVSettings:
    """Like `KVSettings.read`, with those of the options that the policy takes: one set of options serves many."""
    known = options_of(parse_kv_policy(text))
    return KVSettings.read(text, {name: value for name, value in options.items() if name in known})


def options_of(policy: KVPolicy) -> dict[str, Any]:
    """The options that a policy takes, with their defaults."""
    options: dict[str, Any] = {}
    if policy.evictor:
        options = {"buffer": DEFAULT_BUFFER, **_defaults(_evictor_class(policy))}
    if policy.bits != NATIVE_BITS:
        options |= _defaults(Quantized)
    return options


def known_options() -> set[str]:
    """Every option that some policy takes."""
    some = [KVPolicy(retain=BLOCK_SIZE, evictor=name) for name in EVICTORS] + [KVPolicy(bits=4)]
    return {option for policy in some for option in options_of(policy)}


def write_environment(settings: KVSettings) -> None:
    """Choose the policy of the engines that this process and its children open."""
    os.environ[POLICY_VARIABLE] = str(settings.policy)
    os.environ[OPTIONS_VARIABLE] = json.dumps(settings.options)


def read_environment() -> KVSettings | None:
    """The policy that was asked for; None where none was, and then the plugin does nothing."""
    text = os.environ.get(POLICY_VARIABLE)
    if not text:
        return None
    try:
        options = json.loads(os.environ.get(OPTIONS_VARIABLE) or "{}")
    except ValueError as error:
        raise TslawError(f"{OPTIONS_VARIABLE} is not JSON: {error}", expected='such as {"buffer": 64}') from error
    return KVSettings.read(text, options)


def _evictor_class(policy: KVPolicy) -> Any:
    return importlib.import_module(f"tslaw.measure.kv.evictors.{policy.evictor}").POLICY


def _defaults(kind: Any) -> dict[str, Any]:
    fields = dataclasses.fields(kind)
    return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}


def _make(kind: Any, options: Mapping[str, Any], **fixed: Any) -> Any:
    return kind(**fixed, **{name: options[name] for name in _defaults(kind)})


def _check_types(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        numbers = (int, float) if isinstance(defaults[name], float) else int
        optional = defaults[name] is None and value is None
        if isinstance(value, bool) or not (optional or isinstance(value, numbers)):
            kind = "a number" if isinstance(defaults[name], float) else "a whole number"
            raise TslawError(f"The KV option '{name}' cannot be {value!r}.", where="KV options", expected=kind)


def _check_whole_blocks(policy: KVPolicy, schedule: Schedule) -> None:
    if schedule.retain is None:
        return
    for what, tokens in (("keeps", schedule.retain), ("has a buffer of", schedule.buffer)):
        if not isinstance(tokens, int) or tokens < BLOCK_SIZE or tokens % BLOCK_SIZE:
            raise TslawError(
                f"The KV policy '{policy}' {what} {tokens} tokens, which are not whole blocks.",
                where="KV policy",
                expected=f"a multiple of {BLOCK_SIZE} tokens, at least {BLOCK_SIZE}",
            )
