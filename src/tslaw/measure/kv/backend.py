"""What the attention backends of all platforms share: each puts a platform's own kernels in these places."""

from __future__ import annotations

from typing import Any

from vllm.config import get_current_vllm_config

from tslaw.errors import TslawError
from tslaw.measure.kv.blocks import EvictingSpec
from tslaw.measure.kv.engine_check import check_engine, check_layer
from tslaw.measure.kv.events import LayerState, PagedCache
from tslaw.measure.kv.settings import KVSettings, read_environment
from tslaw.measure.kv.steps import StepCutter, new_stash
from tslaw.measure.kv.vllm_versions import tokens_in_flight


def settings_in_force() -> KVSettings:
    """The policy that the environment names; the backend is registered only where it names one."""
    settings = read_environment()
    if settings is None:
        raise TslawError("No KV policy is chosen.", fix="tslaw.measure.kv.compress, or the variable TSLAW_KV_POLICY")
    return settings


def new_cutter(vllm_config: Any, block_size: int, device: Any) -> StepCutter:
    """For a metadata builder; TslawError for an engine that the policy cannot run in."""
    settings = settings_in_force()
    check_engine(settings, vllm_config)
    return StepCutter(settings, block_size, vllm_config.scheduler_config.max_num_seqs, device)


class Layer:
    """What a layer's attention (vLLM's AttentionImpl) adds to vLLM's own: the policy, and the stashed queries."""

    def __init__(self, attention: Any) -> None:
        self.settings = settings_in_force()
        check_layer(self.settings, attention)
        scheduler = get_current_vllm_config().scheduler_config
        self.stash, self.scale = new_stash(self.settings, scheduler.max_num_seqs), attention.scale

    def state(self, layer: Any, cache: PagedCache) -> LayerState:
        """For the events of a step; `layer` is vLLM's Attention module."""
        number = int(next(part for part in layer.layer_name.split(".") if part.isdigit()))
        return LayerState(cache, self.stash, number, self.scale)


class SpecOfPolicy:
    """How an evicting policy's cache comes to be managed by `EvictingManager`.

    `in_flight` is the engine's, noted when its layers are made: `customize_spec` is not told of an engine.
    """

    in_flight = 0

    @classmethod
    def note_engine(cls) -> None:
        """Called where a layer is made."""
        cls.in_flight = tokens_in_flight(get_current_vllm_config())

    @classmethod
    def customize_spec(cls, spec: Any) -> Any:
        """See `AttentionBackend.customize_spec`."""
        settings = settings_in_force()
        return spec if settings.evictor is None else EvictingSpec.of(spec, settings.schedule, cls.in_flight)
