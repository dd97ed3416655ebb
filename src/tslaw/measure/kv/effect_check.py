"""A compressed arm takes effect or fails: before anything runs by its lengths, after every batch by what was seen."""

from __future__ import annotations

from tslaw.errors import TslawError
from tslaw.measure.kv.effects import Effects
from tslaw.measure.kv.settings import KVSettings


def check_it_will_bite(settings: KVSettings, tokens: int, where: str) -> None:
    """TslawError if no sequence of up to `tokens` tokens would be compressed at all."""
    bites_at = settings.schedule.bites_at
    if bites_at is not None and tokens <= bites_at:
        raise TslawError(
            f"The KV policy '{settings.policy}' would change nothing: it acts on sequences longer than {bites_at} "
            f"tokens, and with the largest budget some have only {tokens}.",
            where=where,
            expected="a larger budget, fewer kept tokens, or a smaller buffer or exact window",
            fix="in the plan, kv_options: {buffer: 32} makes eviction act sooner, {residual: 32, group: 32} rounding",
        )


def check_it_did_bite(settings: KVSettings, effects: Effects) -> None:
    """TslawError if the sequences of a batch were decoded and the policy left no trace."""
    missing = []
    if settings.evictor is not None and not (effects.evicted and effects.blocks_freed):
        missing.append("evicted nothing" if not effects.evicted else "gave no block back")
    if settings.quantizer is not None and not effects.changed:
        missing.append("rounded nothing")
    if effects.lost_queries:
        missing.append("lost queries that it needed")
    if missing:
        raise TslawError(
            f"The KV policy '{settings.policy}' {' and '.join(missing)}: the arm would be the full cache under another "
            "name.",
            where=f"seen in the engine: {effects.as_dict()}",
            expected="an engine that runs tslaw's attention backend on every layer",
        )
