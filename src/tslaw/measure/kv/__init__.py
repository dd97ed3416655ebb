"""KV-cache compression inside vLLM: an attention backend that vLLM loads as a plugin, and the policies it hosts.

    from tslaw.measure.kv import compress
    from vllm import LLM
    llm = LLM(model, **compress("rkv:2048"))

Nothing here happens unless `compress` was called or the environment variable TSLAW_KV_POLICY names a policy. Importing
this package imports neither torch nor vLLM. docs/kv.md says what is real, what is simulated, and how to add a policy.

How it works. A policy acts at token positions that its `Schedule` fixes beforehand, and never in between. At such an
event the tokens that a sequence keeps are written, compacted, into its first blocks (each KV head its own tokens); the
tokens that follow go where vLLM puts them. So what is visible is always the first `retain` slots and the blocks since
the last event: a paged sequence again, only shorter, on which vLLM's own kernel runs with an edited block table. The
scheduler's side knows the same schedule and gives the blocks in between back to the pool.

With CUDA a cache that is rounded but not evicted from has a backend of its own, which stores it in its bits: `packed`.

Invariants
1. What a token sees depends on the tokens before it only, not on how they were chunked, batched, or decoded: chunks are
   cut at events (in packed caches, each query reads the state of its own turn). A sequence that is preempted, or
   prefilled again from its tokens, comes to the same state.
2. The worker and the scheduler never talk: both derive everything from the number of tokens.
3. No state is kept by request: the only state outside the cache is the last queries before an event, under the
   sequence's first block, and for a policy that draws the token of every slot; both are written anew by whoever owns
   the block.
4. A step asks the device for nothing: rounds follow from lengths that the engine knows, counts are read when asked for.
"""

from __future__ import annotations

from typing import Any

from tslaw.measure.kv.settings import BLOCK_SIZE, KVSettings, write_environment

__all__ = ["KVSettings", "compress"]


def compress(policy: str, **options: Any) -> dict[str, Any]:
    """Have vLLM engines that this process opens from now on compress their KV cache; returns arguments for `vllm.LLM`.

    Parameters
    ----------
    policy : as everywhere in tslaw, such as "rkv:2048", "streaming:1024", "random:512", "quantized:4",
        "rkv:2048+quantized:4", or "full" (vLLM's own behaviour, through this backend).
    options : fields of the policy and of its schedule, such as buffer=64 or pin=200; see docs/kv.md.

    Raises
    ------
    TslawError : an unknown policy or option, or a value out of its range.
    MissingExtraError : vLLM is not installed.
    """
    from tslaw.measure.kv.plugin import register

    write_environment(KVSettings.read(policy, options))
    return {"enable_prefix_caching": False, "block_size": BLOCK_SIZE, **register()}
