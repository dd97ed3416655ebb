"""The CUDA backend without a GPU: vLLM's own FlashAttention backend, its kernels replaced by plain torch."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[2] / "reference")]
from session import POLICIES

from tslaw.measure.kv.settings import KVSettings, write_environment

# vLLM warns of other packages' doings as it is imported
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("kv-cuda")]

HEADS, KV_HEADS, HEAD_DIM, SCALE, LAYER, BLOCK_SIZE = 4, 2, 16, 0.25, 3, 32


@pytest.fixture
def backend(monkeypatch):
    """The backend's module, in an engine of nothing but settings."""
    pytest.importorskip("vllm")
    from paging import paged_attention
    from vllm.v1.attention.backends import flash_attn

    from tslaw.measure.kv import backend as common
    from tslaw.measure.kv import cuda_backend

    def varlen(q, k, v, out, cu_seqlens_q, seqused_k, block_table, softmax_scale, causal, **_):
        assert causal is True
        paged_attention(q, k, v, block_table, cu_seqlens_q, seqused_k, softmax_scale, out)

    def store(key, value, key_cache, value_cache, slots, *_):
        size = key_cache.shape[1]
        key_cache[slots // size, slots % size], value_cache[slots // size, slots % size] = key, value

    config = MagicMock()
    config.cache_config = SimpleNamespace(enable_prefix_caching=False, cache_dtype="auto", block_size=BLOCK_SIZE)
    config.speculative_config = None
    config.model_config.rswa_window = None
    config.parallel_config.decode_context_parallel_size = 1
    config.scheduler_config.max_num_seqs = 8
    config.max_in_flight_tokens = 16
    config.compilation_config.cudagraph_mode.has_full_cudagraphs = lambda: False
    monkeypatch.setattr(flash_attn, "flash_attn_varlen_func", varlen, raising=False)
    monkeypatch.setattr(flash_attn, "reshape_and_cache_flash", store, raising=False)
    monkeypatch.setattr(flash_attn, "get_flash_attn_version", lambda *_, **__: None)
    monkeypatch.setattr(common, "get_current_vllm_config", lambda: config)
    for variable in ("TSLAW_KV_POLICY", "TSLAW_KV_OPTIONS"):
        monkeypatch.setenv(variable, "")
    cuda_backend.config = config
    return cuda_backend


def flash_pager(backend, settings):
    """Pages through the backend's builder and one layer of it."""
    import torch
    from paging import Pager
    from vllm.v1.attention.backend import CommonAttentionMetadata
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    write_environment(settings)
    spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=KV_HEADS, head_size=HEAD_DIM, dtype=torch.float32)
    builder = backend.KVAttentionBackend.get_builder_cls()(spec, ["layer"], backend.config, torch.device("cpu"))
    builder.aot_schedule = False
    impl = backend.KVAttentionBackend.get_impl_cls()(HEADS, HEAD_DIM, SCALE, KV_HEADS, None, None, "auto")
    impl.vllm_flash_attn_version = 3
    one = torch.ones(1)
    layer = SimpleNamespace(
        layer_name=f"model.layers.{LAYER}.self_attn.attn",
        **{f"_{x}_scale": one for x in "qkv"},
        **{f"_{x}_scale_float": 1.0 for x in "qkv"},
    )

    class FlashPager(Pager):
        def compute(self, metadata, queries, keys, values):
            output = torch.zeros_like(queries)
            impl.do_kv_cache_update(layer, keys, values, self.cache, metadata.slot_mapping)
            step = builder.build(0, CommonAttentionMetadata(**vars(metadata)))
            return impl.forward(layer, queries, keys, values, self.cache, step, output)

    cache = torch.zeros(60, BLOCK_SIZE, KV_HEADS, 2 * HEAD_DIM).transpose(1, 2)
    return FlashPager(cache, BLOCK_SIZE, settings)


@pytest.mark.parametrize("name", ["full", "streaming", "rkv-pinned", "random", "quantized-2", "rkv+quantized"])
def test_outputs_are_the_references_however_sequences_are_paged(backend, name):
    import torch
    from kv_reference import attend
    from paging import LENGTHS, deviations, random_sequence

    policy, options = POLICIES[name]
    settings = KVSettings.read(policy, options)
    sequences = [random_sequence(n, HEADS, KV_HEADS, HEAD_DIM, torch.float32, i) for i, n in enumerate(LENGTHS)]
    wanted = [
        attend(policy, settings.options, s.queries, s.keys, s.values, SCALE, LAYER, s.tokens.tolist())[0]
        for s in sequences
    ]
    assert max(deviations(flash_pager(backend, settings), sequences, wanted).values()) < 1e-4


def test_a_step_is_never_part_of_a_cuda_graph_and_is_built_anew_for_every_group(backend):
    from vllm.v1.attention.backend import AttentionCGSupport

    builder = backend.KVMetadataBuilder
    assert builder.get_cudagraph_support(None, None) == AttentionCGSupport.NEVER
    assert not builder.supports_update_block_table
    assert backend.KVAttentionBackend.get_name() == "CUSTOM"


def test_a_layers_cache_is_managed_by_the_evicting_manager_of_an_evicting_policy(backend):
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    from tslaw.measure.kv.blocks import EvictingSpec

    plain = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=2, head_size=16, dtype=torch.bfloat16)
    write_environment(KVSettings.read("rkv:64", {"buffer": 32}))
    backend.KVAttentionBackend.note_engine()
    spec = backend.KVAttentionBackend.customize_spec(plain)
    assert isinstance(spec, EvictingSpec)
    assert (spec.retain, spec.buffer, spec.in_flight, spec.page_size_bytes) == (64, 32, 16, plain.page_size_bytes)
    assert spec.merge([spec, spec]) == spec
    write_environment(KVSettings.read("full"))
    assert backend.KVAttentionBackend.customize_spec(plain) is plain


def test_the_plugin_registers_this_backend_on_cuda_and_refuses_platforms_it_does_not_know(backend, monkeypatch):
    import vllm.platforms
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    from tslaw.errors import TslawError
    from tslaw.measure.kv import compress
    from tslaw.measure.kv.blocks import register_spec

    register_spec()  # vLLM's own specs, which it registers by the real platform
    for kind in ("cuda", "tpu"):
        platform = SimpleNamespace(is_cpu=lambda: False, is_cuda=lambda kind=kind: kind == "cuda", device_type=kind)
        monkeypatch.setattr(vllm.platforms, "current_platform", platform)
        if kind == "cuda":
            arguments = compress("rkv:64", buffer=32)
            assert arguments == {"enable_prefix_caching": False, "block_size": 32, "attention_backend": "CUSTOM"}
            assert AttentionBackendEnum.CUSTOM.get_class() is backend.KVAttentionBackend
        else:
            with pytest.raises(TslawError, match="CPU and CUDA platforms only"):
                compress("rkv:64", buffer=32)


def test_layers_ask_their_backend_for_the_spec_where_vllm_does_not(backend):
    import torch
    from vllm.model_executor.layers.attention import Attention
    from vllm.v1.attention.backend import AttentionBackend

    from tslaw.measure.kv.blocks import EvictingSpec

    if hasattr(AttentionBackend, "customize_spec"):
        pytest.skip("this vLLM asks by itself")
    write_environment(KVSettings.read("streaming:64", {"buffer": 32}))
    layer = MagicMock(
        attn_type="decoder",
        sliding_window=None,
        kv_cache_dtype="auto",
        kv_cache_torch_dtype=torch.bfloat16,
        attn_backend=backend.KVAttentionBackend,
        num_kv_heads=KV_HEADS,
        head_size=HEAD_DIM,
        head_size_v=HEAD_DIM,
    )
    backend.config.cache_config.block_size = BLOCK_SIZE
    spec = Attention.get_kv_cache_spec(layer, backend.config)
    assert isinstance(spec, EvictingSpec)
    assert (spec.retain, spec.block_size, spec.num_kv_heads) == (64, BLOCK_SIZE, KV_HEADS)
