"""The scheduler's side of a packed cache: pages of so many bytes, and how many of them a sequence takes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

from tslaw.errors import TslawError
from tslaw.measure.kv.packed.layout import PageLayout
from tslaw.measure.kv.settings import KVSettings


@dataclass(frozen=True, kw_only=True)
class PackedSpec(FullAttentionSpec):
    """A cache of full attention in packed pages; the fields are those of `PageLayout`."""

    bits: int = 8
    group: int = 64
    residual: int = 128
    itemsize: int = 2

    @classmethod
    def of(cls, spec: Any, settings: KVSettings) -> PackedSpec:
        """An ordinary spec in a policy's pages. TslawError for blocks that are not whole groups."""
        import torch

        assert settings.quantizer is not None
        if spec.block_size % settings.quantizer.group:
            raise TslawError(
                f"The KV policy '{settings.policy}' needs blocks of whole groups of {settings.quantizer.group} tokens.",
                where=f"blocks of {spec.block_size} tokens",
                fix=f"open the engine with block_size={settings.quantizer.group}, or a multiple of it",
            )
        base = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.init}
        rounding = {name: getattr(settings.quantizer, name) for name in ("bits", "group", "residual")}
        return cls(**{**base, "dtype": torch.uint8}, **rounding, itemsize=spec.dtype.itemsize)

    @classmethod
    def merge(cls, specs: list[Any]) -> Any:
        """One spec for layers that are alike."""
        own = {name: getattr(specs[0], name) for name in ("bits", "group", "residual", "itemsize")}
        return dataclasses.replace(super().merge(specs), **own)

    @property
    def layout(self) -> PageLayout:
        return PageLayout(self.bits, self.group, self.residual, self.num_kv_heads, self.head_size, self.itemsize)

    @property
    def pages_per_block(self) -> int:
        """vLLM hands out blocks; the worker sees the pages that they are made of."""
        return int(self.block_size // self.group)

    @property
    def page_size_bytes(self) -> int:
        """Of what vLLM calls a page, a block."""
        return self.pages_per_block * self.layout.page_bytes

    real_page_size_bytes = unpadded_page_size_bytes = page_size_bytes

    @property
    def prefix_cacheable(self) -> bool:
        """Never: the first blocks hold the last tokens."""
        return False

    def blocks(self, tokens: int) -> int:
        """Blocks that a sequence takes."""
        return -(-self.layout.pages(tokens) // self.pages_per_block)

    @property
    def more_blocks(self) -> int:
        """How many more entries a block table needs than its tokens fill blocks."""
        return -(-self.layout.exact_pages // self.pages_per_block)

    def max_memory_usage_bytes(self, vllm_config: Any) -> int:
        """Bytes that the longest sequence may need; vLLM refuses to start with less."""
        return int(self.blocks(vllm_config.model_config.max_model_len) * self.page_size_bytes)

    def max_num_blocks_per_req(self, vllm_config: Any, max_len: int) -> int:
        """Entries of a block table."""
        return int(super().max_num_blocks_per_req(vllm_config, max_len)) + self.more_blocks


class PackedManager(FullAttentionManager):
    """Asks for what a sequence takes, as if its tokens were so many as fill that many blocks."""

    def get_num_blocks_to_allocate(self, request_id: str, num_tokens: int, *arguments: Any, **keywords: Any) -> int:
        """See `SingleTypeKVCacheManager.get_num_blocks_to_allocate`."""
        tokens = self._tokens_of_blocks(num_tokens)
        return int(super().get_num_blocks_to_allocate(request_id, tokens, *arguments, **keywords))

    def allocate_new_blocks(self, request_id: str, num_tokens: int, *arguments: Any, **keywords: Any) -> Any:
        """See `SingleTypeKVCacheManager.allocate_new_blocks`."""
        return super().allocate_new_blocks(request_id, self._tokens_of_blocks(num_tokens), *arguments, **keywords)

    def _tokens_of_blocks(self, tokens: int) -> int:
        return int(self.kv_cache_spec.blocks(tokens) * self.block_size)


def register_packed_spec() -> None:
    """Tell vLLM which manager serves the spec; twice does no harm."""
    KVCacheSpecRegistry._ensure_registered()
    KVCacheSpecRegistry.register(PackedSpec, manager_class=PackedManager, uniform_type_base_spec=FullAttentionSpec)
