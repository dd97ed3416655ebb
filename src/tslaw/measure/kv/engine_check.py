"""Which engines a policy can run in."""

from __future__ import annotations

from typing import Any

from tslaw.errors import TslawError
from tslaw.measure.kv.settings import KVSettings


def check_engine(settings: KVSettings, vllm_config: Any) -> None:
    """TslawError where the engine's own settings (a VllmConfig) would make the policy wrong."""
    if settings.schedule.bites_at is None:
        return
    cache = vllm_config.cache_config
    if cache.enable_prefix_caching:
        raise TslawError(
            f"The KV policy '{settings.policy}' cannot share cached prefixes: a block may hold other tokens by now.",
            fix="open the engine with enable_prefix_caching=False (vllm serve: --no-enable-prefix-caching)",
        )
    if cache.cache_dtype != "auto":
        raise TslawError(
            f"The KV policy '{settings.policy}' cannot run on vLLM's KV cache type '{cache.cache_dtype}': it reads "
            "keys and values back as they were written.",
            fix="leave kv_cache_dtype at auto",
        )
    if vllm_config.speculative_config is not None:
        raise TslawError(
            f"The KV policy '{settings.policy}' cannot take back tokens, which speculative decoding does.",
            fix="open the engine without speculative decoding",
        )
    tokens = (settings.schedule.retain or 0, settings.schedule.buffer if settings.evictor else 0)
    if any(n % cache.block_size for n in tokens):
        raise TslawError(
            f"The KV policy '{settings.policy}' needs kept tokens and buffer in whole blocks of {cache.block_size}.",
            fix=f"open the engine with a block size that divides {tokens[0]} and {tokens[1]}, such as block_size=32",
        )


def check_layer(settings: KVSettings, attention: Any) -> None:
    """TslawError for a layer (vLLM's AttentionImpl) that is not plain causal attention over the whole sequence."""
    if settings.schedule.bites_at is None:
        return
    odd = {
        "a sliding window": attention.sliding_window not in (None, -1, (-1, -1)),
        "ALiBi": attention.alibi_slopes is not None,
        "a cache shared between layers": attention.kv_sharing_target_layer_name is not None,
        f"attention of type {attention.attn_type}": attention.attn_type != "decoder",
    }
    for what, found in odd.items():
        if found:
            raise TslawError(
                f"The KV policy '{settings.policy}' cannot run in a model with {what}.",
                expected="causal attention over the whole sequence in every layer",
            )
