"""An engine on a packed cache, on the CPU, its kernels replaced by plain torch: `packed_session.py OUT.json`.

vLLM allocates the pages, hands out blocks, preempts and replays as on a GPU. What the same prompts say under the
simulation stands beside.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import session

POLICY, OPTIONS, TOKENS = "quantized:4", {"residual": 32, "group": 32}, 60


def main(out: Path) -> None:
    from tslaw.measure.engine import prepare_environment

    prepare_environment()
    found = {}
    with session.engine(POLICY, OPTIONS) as llm:
        found["simulated"] = session.generate(llm, session.prompts(), TOKENS)
        found["simulated blocks"] = blocks_at_once(llm)
    pack_on_the_cpu()
    with session.engine(POLICY, OPTIONS) as llm:
        found["together"] = session.generate(llm, session.prompts(), TOKENS)
        found["packed blocks"] = blocks_at_once(llm)
        found["effects"] = effects()
        prefixes = [p + t[:45] for p, t in zip(session.prompts(), found["together"], strict=True)]
        replayed = session.generate(llm, prefixes, TOKENS - 45)
        found["replayed"] = [t[:45] + r for t, r in zip(found["together"], replayed, strict=True)]
    with session.engine(POLICY, OPTIONS, 0.75, max_num_batched_tokens=48, enable_chunked_prefill=True) as llm:
        preempted = session.count_preemptions(llm)
        found["preempted"] = session.generate(llm, session.prompts(), TOKENS)
        found["preemptions"] = len(preempted)
    out.write_text(json.dumps(found))


def pack_on_the_cpu() -> None:
    """Have engines on the CPU take the backend that is made for CUDA."""
    import packed_reference

    from tslaw.measure.kv import plugin
    from tslaw.measure.kv.packed import backend, manager, pages, step

    for name in ("pack", "store", "attend"):
        setattr(step, name, getattr(packed_reference, name))
    # This vLLM makes a cache of equal parts for all tokens of a page, and hands over a view of them: the same bytes.
    manager.PackedSpec.state_content_size_bytes = property(lambda spec: spec.layout.head_bytes // spec.group)
    flat = pages.Pages.of
    pages.Pages.of = lambda cache, dtype: flat(cache.as_strided((cache.numel(),), (1,)), dtype)
    kind = backend.PackedAttentionBackend
    kind.get_name = staticmethod(lambda: "CPU_ATTN")
    kind.supports_compute_capability = classmethod(lambda *_: True)
    plugin.CPU_BACKEND = plugin.PACKED_BACKEND
    manager.register_packed_spec()


def blocks_at_once(llm) -> int:
    """Blocks of 32 tokens of the pool."""
    return llm.llm_engine.engine_core.engine_core.scheduler.kv_cache_manager.block_pool.num_gpu_blocks


def effects() -> dict[str, int]:
    from tslaw.measure.kv.effects import EFFECTS

    return EFFECTS.as_dict()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
