"""The scheduler's side in vLLM's own KVCacheManager, without an engine: which blocks a sequence holds when."""

from __future__ import annotations

import pytest

from tslaw.measure.kv.schedule import Schedule

# vLLM warns of other packages' doings as it is imported
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("kv-cuda")]

SIZE, RETAIN, BUFFER, IN_FLIGHT, POOL = 32, 64, 32, 96, 200


@pytest.fixture
def manager():
    pytest.importorskip("vllm")
    import torch
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    from tslaw.measure.kv.blocks import EvictingSpec, register_spec

    register_spec()
    plain = FullAttentionSpec(block_size=SIZE, num_kv_heads=2, head_size=16, dtype=torch.bfloat16)
    spec = EvictingSpec.of(plain, Schedule(RETAIN, BUFFER), IN_FLIGHT)
    groups = [KVCacheGroupSpec(["layer"], spec)]
    config = KVCacheConfig(num_blocks=POOL, kv_cache_tensors=[], kv_cache_groups=groups)
    return KVCacheManager(
        config,
        max_model_len=1024,
        scheduler_block_size=SIZE,
        hash_block_size=SIZE,
        max_in_flight_tokens=IN_FLIGHT,
        enable_caching=False,
    )


def request(name: str, tokens: int):
    from vllm import SamplingParams
    from vllm.v1.request import Request

    return Request(name, [5] * tokens, SamplingParams(max_tokens=900), None)


def held(manager, name: str) -> list[int]:
    """Places in the block table that hold a real block."""
    blocks = manager.coordinator.single_type_managers[0].req_to_blocks[name]
    return [place for place, block in enumerate(blocks) if not block.is_null]


@pytest.mark.parametrize("chunks", [[1] * 200, [90] * 5, [7, 64, 1, 96, 33, 40, 32, 90, 17]])
def test_a_sequence_holds_what_it_keeps_and_what_came_since_the_last_eviction(manager, chunks):
    one, done = request("one", sum(chunks)), 0
    for n in chunks:
        assert manager.allocate_slots(one, n) is not None
        evicted = max((t for t in range(RETAIN + BUFFER, done + 1) if (t - RETAIN) % BUFFER == 0), default=0)
        blocks = range(-(-(done + n) // SIZE))
        kept = RETAIN // SIZE if evicted else 0
        wanted = [b for b in blocks if b < kept or b >= evicted // SIZE]
        assert held(manager, "one") == wanted
        assert manager.block_pool.get_num_free_blocks() == POOL - 1 - len(wanted)  # one is the null block
        assert len(wanted) <= manager.coordinator.single_type_managers[0].kv_cache_spec.most_blocks
        done += n
        one.num_computed_tokens = done
    manager.free(one)
    assert manager.block_pool.get_num_free_blocks() == POOL - 1


def test_blocks_given_back_serve_others(manager):
    names = [f"sequence {i}" for i in range(40)]  # 40 times 640 tokens are 800 blocks, of a pool of 200
    sequences = [request(name, 640) for name in names]
    for _ in range(20):
        for sequence in sequences:
            assert manager.allocate_slots(sequence, 32) is not None
            sequence.num_computed_tokens += 32
    owners = [manager.coordinator.single_type_managers[0].req_to_blocks[name] for name in names]
    numbers = [block.block_id for blocks in owners for block in blocks if not block.is_null]
    assert len(numbers) == len(set(numbers)) == 40 * 3  # two kept, one of the last step
