"""The attention backend of a packed cache: vLLM hands a step over, Triton kernels do it."""

from __future__ import annotations

from typing import Any

from vllm.v1.attention.backend import AttentionCGSupport, AttentionMetadataBuilder
from vllm.v1.attention.backends.flash_attn import FlashAttentionBackend, FlashAttentionImpl

from tslaw.measure.kv.backend import settings_in_force
from tslaw.measure.kv.engine_check import check_engine, check_layer
from tslaw.measure.kv.packed.layout import PageLayout, check_group
from tslaw.measure.kv.packed.manager import PackedSpec
from tslaw.measure.kv.packed.pages import Pages
from tslaw.measure.kv.packed.step import PackedStep, prepare, run, warm_up
from tslaw.measure.kv.vllm_versions import lengths_on_host, let_backends_customize_specs, let_block_tables_be_longer


def layout_in_force(kv_heads: int, head_dim: int, itemsize: int) -> PageLayout:
    """The pages of the policy that the environment names."""
    quantizer = settings_in_force().quantizer
    assert quantizer is not None
    return PageLayout(quantizer.bits, quantizer.group, quantizer.residual, kv_heads, head_dim, itemsize)


class PackedMetadataBuilder(AttentionMetadataBuilder[PackedStep]):
    """Prepares every step once for all layers. It is never part of a CUDA graph."""

    _cudagraph_support = AttentionCGSupport.NEVER
    supports_update_block_table = False

    @classmethod
    def get_cudagraph_support(cls, vllm_config: Any, kv_cache_spec: Any) -> Any:
        """See `AttentionMetadataBuilder.get_cudagraph_support`."""
        return AttentionCGSupport.NEVER

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: Any) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        check_engine(settings_in_force(), vllm_config)
        self.layout = kv_cache_spec.layout
        self.heads = vllm_config.model_config.get_num_attention_heads(vllm_config.parallel_config)

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> PackedStep:
        """See `AttentionMetadataBuilder.build`."""
        common = common_attn_metadata
        starts = common.query_start_loc_cpu[: common.num_reqs + 1].numpy()
        return prepare(self.layout, lengths_on_host(common), starts, common.block_table_tensor, self.heads, self.device)

    def use_cascade_attention(self, *arguments: Any, **keywords: Any) -> bool:
        """Never: sequences share no blocks."""
        return False


class PackedAttentionImpl(FlashAttentionImpl):
    """One layer's attention. What it knows of sequences is in their pages."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        check_layer(settings_in_force(), self)
        self._cache: Any = None
        self._pages: Any = None

    def process_weights_after_loading(self, act_dtype: Any) -> None:
        """Compile the kernels before the engine starts."""
        layout = layout_in_force(self.num_kv_heads, self.head_size, act_dtype.itemsize)
        warm_up(check_group(layout), self.num_heads, act_dtype)

    def forward(
        self,
        layer: Any,
        query: Any,
        key: Any,
        value: Any,
        kv_cache: Any,
        attn_metadata: PackedStep | None,
        output: Any,
        output_scale: Any = None,
        output_block_scale: Any = None,
    ) -> Any:
        """See `FlashAttentionImpl.forward`; the step's keys and values are not in the cache yet."""
        if attn_metadata is None:
            return output.fill_(0)
        if self._cache is not kv_cache:
            self._cache, self._pages = kv_cache, Pages.of(kv_cache, key.dtype)
        run(attn_metadata, self._pages, query, key, value, self.scale, output)
        return output


class PackedAttentionBackend(FlashAttentionBackend):
    """vLLM knows it under the name that it keeps for backends from outside."""

    forward_includes_kv_cache_update = True
    more_blocks = 0
    """Of the engine whose cache was specified last; see `let_block_tables_be_longer`."""

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[PackedAttentionImpl]:
        return PackedAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[PackedMetadataBuilder]:
        return PackedMetadataBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[Any]:
        """A page: vLLM cuts its blocks into them."""
        return [settings_in_force().schedule.group]

    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_size: int, cache_dtype_str: str = "auto"
    ) -> tuple[int, ...]:
        """See `PageLayout`; how wide the model's type is plays no part in it."""
        return num_blocks, num_kv_heads, layout_in_force(num_kv_heads, head_size, 2).head_bytes

    @staticmethod
    def get_kv_cache_stride_order(include_num_layers_dimension: bool = False) -> tuple[int, ...]:
        """Memory is as the shape says."""
        raise NotImplementedError

    @classmethod
    def customize_spec(cls, spec: Any) -> Any:
        """See `AttentionBackend.customize_spec`."""
        packed = PackedSpec.of(spec, settings_in_force())
        cls.more_blocks = packed.more_blocks
        return packed


let_backends_customize_specs()
let_block_tables_be_longer(lambda: PackedAttentionBackend.more_blocks)
