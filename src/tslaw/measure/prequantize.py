"""A plan's quantized weights made ahead of its sweep, for a machine that has a GPU but no quantizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tslaw.errors import TslawError
from tslaw.measure.plan import Plan
from tslaw.measure.quantize import NATIVE_KERNEL_BITS, ensure_quantized
from tslaw.measure.units import fetch_model, model_digest, quantization_recipes


def prequantize(plan: Plan, cache: Path, platform: str, on_start: Callable[[str], None]) -> dict[str, Path]:
    """Make the weights that `tslaw measure` will look for with TSLAW_CACHE set to `cache`.

    Parameters
    ----------
    platform : what they are to run on, `cpu` or `cuda`; where vLLM has no kernel for a width they are dequantized.
    on_start : called with "MODEL at BITS bits" before what is not there yet is made.

    Returns
    -------
    The folder of every "MODEL at BITS bits".

    Raises
    ------
    TslawError : an unknown platform, a plan of 16 bits alone, or a model that cannot be quantized.
    MissingExtraError : gptqmodel is not installed.
    """
    if platform not in NATIVE_KERNEL_BITS:
        raise TslawError(f"There is no platform '{platform}'.", expected=" or ".join(NATIVE_KERNEL_BITS))
    recipes = quantization_recipes(plan)
    if not recipes:
        raise TslawError("Nothing to quantize: the plan's weights are all native.", where=f"plan {plan.name}")
    folders = {}
    for ref in plan.model_refs:
        digest, source = model_digest(ref.source), fetch_model(ref.source)
        for bits in (recipe["bits"] for recipe in recipes):
            name = f"{ref.name} at {bits} bits"
            folder, _ = ensure_quantized(
                source,
                ref.thinking_format,
                bits,
                recipes,
                digest,
                str(cache / "weights"),
                lambda name=name: on_start(name),  # type: ignore[misc]
                platform,
            )
            folders[name] = Path(folder)
    return folders
