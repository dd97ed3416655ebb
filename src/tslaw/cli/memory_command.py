"""`tslaw memory`: bytes of weights and KV cache of one configuration."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def command(
    model: Annotated[
        str, typer.Argument(help="A shipped name (Qwen3-8B, ladder-0.4M), a hub id, or a folder with config.json.")
    ],
    weight_bits: Annotated[float, typer.Option(help="Bits per linear weight, 2 to 16; 16 is native.")] = 16,
    token_budget: Annotated[int, typer.Option(help="Thinking tokens per sample.")] = 0,
    samples: Annotated[int, typer.Option(help="Parallel samples that vote.")] = 1,
    kv_policy: Annotated[
        str, typer.Option(help="full, quantized:4, streaming:4096, rkv:2048, random:2048, rkv:2048+quantized:4.")
    ] = "full",
    batch: Annotated[float, typer.Option(help="Concurrent generations that share the weights.")] = 1,
    accounting: Annotated[
        str, typer.Option(help="equation (the formula, any bits) or checkpoint (bytes of GPTQ files).")
    ] = "equation",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count the bytes of a model's weights and KV cache.

    Memory per generation is weights / batch + KV cache of all its samples. For example, 16 samples of 30,000 tokens:

    `tslaw memory Qwen3-8B --weight-bits 8 --token-budget 30000 --samples 16 --accounting checkpoint`
    """
    from tslaw import memory
    from tslaw.family import resolve_model
    from tslaw.policy import parse_kv_policy

    policy = parse_kv_policy(kv_policy)
    shape = resolve_model(model).shape
    chosen: Any = accounting
    total = memory.total_bytes(shape, weight_bits, token_budget, samples, policy, batch, chosen)
    weights = memory.weight_bytes(shape, weight_bits, chosen)
    cache = memory.kv_bytes(shape, token_budget, samples, policy)
    answer = {
        "model": shape.name,
        "n_params": memory.n_params(shape),
        "weight_bits": weight_bits,
        "token_budget": token_budget,
        "samples": samples,
        "kv_policy": str(policy),
        "batch": batch,
        "accounting": accounting,
        "kv_bytes_per_token": memory.kv_bytes_per_token(shape, policy),
        "weights_gib": weights / memory.GIB,
        "weights_per_generation_gib": weights / batch / memory.GIB,
        "kv_gib": cache / memory.GIB,
        "total_gib": total / memory.GIB,
    }
    print(json.dumps(answer, indent=2) if as_json else _table(answer))


def _size(gib: float) -> str:
    """GiB, or MiB where GiB would round away the digits."""
    return f"{gib:10.3f} GiB" if gib >= 0.1 or gib == 0 else f"{gib * 1024:10.3f} MiB"


def _table(answer: dict[str, Any]) -> str:
    plural = "sample" if answer["samples"] == 1 else "samples"
    weights = f"{answer['n_params']:,} parameters at {answer['weight_bits']:g} bits"
    cache = f"{answer['samples']} {plural} x {answer['token_budget']:,} tokens, policy {answer['kv_policy']}"
    lines = [
        f"{answer['model']} ({answer['accounting']} accounting)",
        f"  weights   {_size(answer['weights_gib'])}   {weights}",
    ]
    if answer["batch"] != 1:
        shared = f"the weights shared by {answer['batch']:g} generations"
        lines.append(f"  its share {_size(answer['weights_per_generation_gib'])}   {shared}")
    lines += [
        f"  KV cache  {_size(answer['kv_gib'])}   {cache}",
        f"  total     {_size(answer['total_gib'])}   per generation",
    ]
    return "\n".join(lines)
