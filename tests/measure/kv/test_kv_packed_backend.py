"""The backend of a packed cache without a GPU: vLLM's own classes, the kernels replaced by plain torch."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

pytest.importorskip("triton")

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[2] / "reference")]
from session import POLICIES

from tslaw.errors import TslawError
from tslaw.measure.kv.effects import EFFECTS
from tslaw.measure.kv.settings import KVSettings, write_environment

# vLLM warns of other packages' doings as it is imported
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("kv-cuda")]

HEADS, KV_HEADS, HEAD_DIM, SCALE, LAYER = 4, 2, 16, 0.25, 3


@pytest.fixture
def backend(monkeypatch):
    """The backend's module, in an engine of nothing but settings."""
    pytest.importorskip("vllm")
    import packed_reference
    from vllm.v1.attention.backends import flash_attn

    from tslaw.measure.kv.packed import backend, step

    for name in ("pack", "store", "attend"):
        monkeypatch.setattr(step, name, getattr(packed_reference, name))
    monkeypatch.setattr(flash_attn, "get_flash_attn_version", lambda *_, **__: None)
    for variable in ("TSLAW_KV_POLICY", "TSLAW_KV_OPTIONS"):
        monkeypatch.setenv(variable, "")
    return backend


def plain_spec(block_size: int):
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    return FullAttentionSpec(block_size=block_size, num_kv_heads=KV_HEADS, head_size=HEAD_DIM, dtype=torch.float32)


def packed_pager(backend, settings, block_size):
    """Pages through the backend's builder and one layer of it; a page of the pager is one of the cache."""
    import torch
    from paging import Pager
    from vllm.v1.attention.backend import CommonAttentionMetadata

    write_environment(settings)
    kind = backend.PackedAttentionBackend
    spec = kind.customize_spec(plain_spec(block_size))
    config = MagicMock()
    config.cache_config = SimpleNamespace(enable_prefix_caching=False, cache_dtype="auto", block_size=block_size)
    config.speculative_config = None
    config.model_config.get_num_attention_heads = lambda _: HEADS
    (page,) = kind.get_supported_kernel_block_sizes()
    device = torch.device("cpu")
    builder = kind.get_builder_cls()(spec.copy_with_new_block_size(page), ["layer"], config, device)
    impl = kind.get_impl_cls()(HEADS, HEAD_DIM, SCALE, KV_HEADS, None, None, "auto")
    shape = kind.get_kv_cache_shape(400, page, KV_HEADS, HEAD_DIM)
    assert spec.page_size_bytes == block_size // page * shape[1] * shape[2]

    class PackedPager(Pager):
        def n_blocks(self, tokens):
            return spec.layout.pages(tokens)

        def slot(self, sequence, token):
            return 0  # not looked at

        def poison(self, blocks):
            self.cache[blocks] = 127

        def compute(self, metadata, queries, keys, values):
            output = torch.zeros_like(queries)
            step = builder.build(0, CommonAttentionMetadata(**vars(metadata)))
            return impl.forward(SimpleNamespace(), queries, keys, values, self.cache, step, output)

    pager = PackedPager(torch.zeros(shape, dtype=torch.uint8), page, settings)
    pager.free = list(range(1, 400))
    pager.poison(pager.free)
    return pager


@pytest.mark.parametrize("name", ["quantized-8", "quantized-4", "quantized-2"])
def test_outputs_are_the_references_however_sequences_are_paged(backend, name):
    import torch
    from kv_reference import attend
    from paging import LENGTHS, deviations, random_sequence

    policy, options = POLICIES[name]
    settings = KVSettings.read(policy, options)
    sequences = [random_sequence(n, HEADS, KV_HEADS, HEAD_DIM, torch.float32, i) for i, n in enumerate(LENGTHS)]
    wanted = [attend(policy, settings.options, s.queries, s.keys, s.values, SCALE, LAYER)[0] for s in sequences]
    EFFECTS.reset()
    pager = packed_pager(backend, settings, 2 * settings.schedule.group)
    assert max(deviations(pager, sequences, wanted).values()) < 1e-4
    assert EFFECTS.as_dict()["roundings"] > 0
    assert EFFECTS.as_dict()["changed"] > 0
    EFFECTS.reset()


def test_blocks_must_be_whole_groups(backend):
    write_environment(KVSettings.read("quantized:4"))
    with pytest.raises(TslawError, match="blocks of whole groups of 64 tokens"):
        backend.PackedAttentionBackend.customize_spec(plain_spec(32))


def test_a_spec_of_pages_merges_and_widens_block_tables(backend):
    write_environment(KVSettings.read("quantized:4", {"group": 32, "residual": 32}))
    kind = backend.PackedAttentionBackend
    spec = kind.customize_spec(plain_spec(64))
    assert spec.merge([spec, spec]) == spec
    layout = spec.layout
    assert (layout.group, layout.itemsize, spec.dtype.itemsize) == (32, 4, 1)
    assert spec.page_size_bytes == 2 * layout.page_bytes
    assert kind.more_blocks == spec.more_blocks == -(-layout.exact_pages // 2)
    config = MagicMock()
    config.model_config.max_model_len = 1000
    config.parallel_config.decode_context_parallel_size = 1
    assert spec.max_memory_usage_bytes(config) == -(-layout.pages(1000) // 2) * spec.page_size_bytes
    assert spec.max_num_blocks_per_req(config, 1000) == 16 + spec.more_blocks >= spec.blocks(1000)


def test_the_workers_block_tables_are_as_long_as_the_spec_says(backend, monkeypatch):
    import torch
    from vllm.v1.worker.gpu.block_table import BlockTables

    monkeypatch.setattr(backend.PackedAttentionBackend, "more_blocks", 7)

    def made(size, **_):
        raise RuntimeError(str(size))  # what comes after needs a GPU

    monkeypatch.setattr("vllm.v1.worker.gpu.block_table.StagedWriteTensor", made)
    with pytest.raises(RuntimeError, match=r"\(4, 23\)"):
        BlockTables([64], 4, 100, max_num_blocks_per_group=[16], device=torch.device("cpu"))


def test_the_pool_gives_a_sequence_the_pages_that_it_needs(backend):
    from vllm import SamplingParams
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.request import Request

    from tslaw.measure.kv.packed.manager import register_packed_spec

    register_packed_spec()
    write_environment(KVSettings.read("quantized:4", {"group": 32, "residual": 32}))
    spec = backend.PackedAttentionBackend.customize_spec(plain_spec(32))
    config = KVCacheConfig(num_blocks=100, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    manager = KVCacheManager(
        config,
        max_model_len=1024,
        scheduler_block_size=32,
        hash_block_size=32,
        max_in_flight_tokens=64,
        enable_caching=False,
    )
    one, done = Request("one", [5] * 700, SamplingParams(max_tokens=9), None), 0
    for n in (1, 30, 1, 1, 62, 1, 1, 400):
        assert manager.allocate_slots(one, n) is not None
        done += n
        one.num_computed_tokens = done
        assert manager.block_pool.get_num_free_blocks() == 99 - spec.layout.pages(done)  # one is the null block
    manager.free(one)
    assert manager.block_pool.get_num_free_blocks() == 99


def test_the_plugin_chooses_this_backend_for_what_it_can_pack(backend, monkeypatch):
    import vllm.platforms
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    from tslaw.measure.kv import compress
    from tslaw.measure.kv.blocks import register_spec

    register_spec()  # vLLM's own specs, which it registers by the real platform
    platform = SimpleNamespace(is_cpu=lambda: False, is_cuda=lambda: True, device_type="cuda")
    monkeypatch.setattr(vllm.platforms, "current_platform", platform)
    arguments = compress("quantized:4", group=24)
    assert arguments == {"enable_prefix_caching": False, "block_size": 48, "attention_backend": "CUSTOM"}
    assert AttentionBackendEnum.CUSTOM.get_class() is backend.PackedAttentionBackend
    assert compress("rkv:64+quantized:4", buffer=32)["block_size"] == 32
    assert AttentionBackendEnum.CUSTOM.get_class() is not backend.PackedAttentionBackend
