"""Read GPTQ checkpoints back into plain weights: what a platform without the kernel runs instead.

Layout (AutoGPTQ version 1, written by gptqmodel): for a linear layer of I inputs and O outputs at b bits, with n = 32
/ b,

    qweight (I/n, O) int32   n consecutive inputs of one output in one word, lowest bits first
    qzeros  (groups, O/n) int32   zero points, packed along the outputs; version 1 stores them less one
    scales  (groups, O)   g_idx (I,) group of each input

    weight[o, i] = scales[g_idx[i], o] * (q[i, o] - zero[g_idx[i], o])
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

WORD_BITS = 32


def unpack_rows(packed: Any, bits: int) -> Any:
    """(R, C) int32 words -> (R * 32/bits, C) values, packed along the rows, lowest bits first."""
    import torch

    shifts = torch.arange(0, WORD_BITS, bits, device=packed.device)
    values = (packed[:, None, :] >> shifts[None, :, None]) & (2**bits - 1)
    return values.reshape(-1, packed.shape[1])


def unpack_columns(packed: Any, bits: int) -> Any:
    """(R, C) int32 words -> (R, C * 32/bits) values, packed along the columns, lowest bits first."""
    return unpack_rows(packed.t().contiguous(), bits).t()


def dequantize_linear(state: dict[str, Any], layer: str, bits: int, zeros_less_one: bool) -> Any:
    """(O, I) float32 weight of the linear called `layer`, exactly the product of the formula above."""
    groups = state[f"{layer}.g_idx"].long()
    zeros = unpack_columns(state[f"{layer}.qzeros"], bits) + (1 if zeros_less_one else 0)
    levels = unpack_rows(state[f"{layer}.qweight"], bits) - zeros[groups]
    return (levels.float() * state[f"{layer}.scales"].float()[groups]).t().contiguous()


def dequantize_state(state: dict[str, Any], bits: int, zeros_less_one: bool, dtype: Any) -> dict[str, Any]:
    """All tensors of a checkpoint with its quantized linears as plain weights of `dtype`."""
    plain = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if kind == "qweight":
            plain[f"{stem}.weight"] = dequantize_linear(state, stem, bits, zeros_less_one).to(dtype)
        elif kind not in ("qzeros", "scales", "g_idx"):
            plain[name] = tensor
    return plain


def read_state(folder: Path) -> dict[str, Any]:
    """All tensors of a folder's safetensors files."""
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_file(path)
    return state


def dequantize_checkpoint(quantized: Path, destination: Path) -> None:
    """Write `quantized`'s weights as an ordinary 16-bit checkpoint, with everything else of the folder beside it."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((quantized / "config.json").read_text())
    quantization = config.pop("quantization_config")
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"))
    less_one = quantization.get("checkpoint_format", "gptq") == "gptq"
    state = dequantize_state(read_state(quantized), quantization["bits"], less_one, dtype)
    destination.mkdir(parents=True, exist_ok=True)
    for path in quantized.iterdir():
        if (
            path.suffix in (".json", ".jinja", ".txt", ".model")
            and "quant" not in path.name
            and "index" not in path.name
        ):
            shutil.copy(path, destination / path.name)
    save_file(state, destination / "model.safetensors", metadata={"format": "pt"})
    (destination / "config.json").write_text(json.dumps(config, indent=1))
