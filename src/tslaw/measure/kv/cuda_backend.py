"""The attention backend with CUDA: vLLM's FlashAttention, and a policy's events between its calls."""

from __future__ import annotations

from typing import Any

from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadataBuilder,
)

from tslaw.measure.kv.backend import Layer, SpecOfPolicy, new_cutter
from tslaw.measure.kv.events import LayerState
from tslaw.measure.kv.plain_cache import PlainCache
from tslaw.measure.kv.steps import Step, run
from tslaw.measure.kv.vllm_versions import let_backends_customize_specs

let_backends_customize_specs()


class KVMetadataBuilder(FlashAttentionMetadataBuilder):
    """Cuts every step into rounds, once for all layers. A round is never part of a CUDA graph; what is between two
    layers' attention may be."""

    _cudagraph_support = AttentionCGSupport.NEVER
    supports_update_block_table = False

    @classmethod
    def get_cudagraph_support(cls, vllm_config: Any, kv_cache_spec: Any) -> Any:
        """See `AttentionMetadataBuilder.get_cudagraph_support`."""
        return AttentionCGSupport.NEVER

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: Any) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.cutter = new_cutter(vllm_config, kv_cache_spec.block_size, device)

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Step:
        """See `AttentionMetadataBuilder.build`."""
        own = super().build
        return self.cutter.cut(common_attn_metadata, lambda common: own(0, common, fast_build))

    def use_cascade_attention(self, *arguments: Any, **keywords: Any) -> bool:
        """Never: sequences share no blocks."""
        return False


class KVAttentionImpl(FlashAttentionImpl):
    """One layer's attention. It holds no state of a sequence but the stashed queries."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.policy = Layer(self)
        KVAttentionBackend.note_engine()

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
        """See `FlashAttentionImpl.forward`; keys and values of the whole step are in the cache already."""
        own, scales = super().forward, (output_scale, output_block_scale)
        if attn_metadata is None:
            return own(layer, query, key, value, kv_cache, None, output, *scales)

        def attend(metadata: Any, queries: Any, into: Any) -> None:
            own(layer, queries, key, value, kv_cache, metadata, into, *scales)

        def state() -> LayerState:
            # vLLM's is (n_blocks, kv_heads, block_size, 2 * head_dim), whatever lies side by side in memory.
            return self.policy.state(layer, PlainCache(kv_cache.transpose(1, 2)))

        run(attn_metadata, self.policy.settings, state, query, output, attend)
        return output


class KVAttentionBackend(SpecOfPolicy, FlashAttentionBackend):
    """vLLM knows it under the name that it keeps for backends from outside."""

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[KVAttentionImpl]:
        return KVAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[KVMetadataBuilder]:
        return KVMetadataBuilder
