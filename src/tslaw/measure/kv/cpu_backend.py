"""The attention backend on vLLM's CPU platform: vLLM's own kernels, and a policy's events between them."""

from __future__ import annotations

from typing import Any

from vllm import _custom_ops as ops
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadataBuilder,
)

from tslaw.measure.kv.backend import Layer, SpecOfPolicy, new_cutter
from tslaw.measure.kv.events import LayerState
from tslaw.measure.kv.layout import BlockLayout, PackedCache, learn_layout
from tslaw.measure.kv.steps import Step, run


class KVMetadataBuilder(CPUAttentionMetadataBuilder):
    """Cuts every step into rounds, once for all layers."""

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: Any) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.cutter = new_cutter(vllm_config, kv_cache_spec.block_size, device)

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Step:
        """See `AttentionMetadataBuilder.build`."""
        own = super().build
        return self.cutter.cut(common_attn_metadata, lambda common: own(common_prefix_len, common, fast_build))


class KVAttentionImpl(CPUAttentionBackendImpl):
    """One layer's attention. It holds no state of a sequence but the stashed queries."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.policy = Layer(self)
        KVAttentionBackend.note_engine()
        self._layout: BlockLayout | None = None

    def forward(
        self,
        layer: Any,
        query: Any,
        key: Any,
        value: Any,
        kv_cache: Any,
        attn_metadata: Step | None,
        output: Any,
        output_scale: Any = None,
        output_block_scale: Any = None,
    ) -> Any:
        """See `CPUAttentionBackendImpl.forward`; keys and values of the whole step are in the cache already."""
        if attn_metadata is None:
            return output
        own, scales = super().forward, (output_scale, output_block_scale)

        def attend(metadata: Any, queries: Any, into: Any) -> None:
            own(layer, queries, key, value, kv_cache, metadata, into, *scales)

        def state() -> LayerState:
            return self.policy.state(layer, self._paged(layer, kv_cache))

        run(attn_metadata, self.policy.settings, state, query, output, attend)
        return output

    def _paged(self, layer: Any, kv_cache: Any) -> PackedCache:
        n_blocks, kv_heads, block_size, _ = kv_cache.shape
        key_cache, value_cache = kv_cache.view(n_blocks, kv_heads, block_size * 2, -1).chunk(2, dim=2)

        def store(keys: Any, values: Any, key_cache: Any, value_cache: Any, slots: Any) -> None:
            ops.cpu_attn_reshape_and_cache(keys, values, key_cache, value_cache, slots, layer.isa)

        if self._layout is None:
            self._layout = learn_layout(store, block_size, self.head_size, kv_cache.dtype)
        return PackedCache(key_cache, value_cache, self._layout, store)


class KVAttentionBackend(SpecOfPolicy, CPUAttentionBackend):
    """Takes the place of vLLM's CPU backend; that platform knows no other name."""

    @staticmethod
    def get_impl_cls() -> type[KVAttentionImpl]:
        return KVAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[KVMetadataBuilder]:
        return KVMetadataBuilder
