"""The layout of a measurement dataset: every variable with its dimensions, type, units and meaning. Data, no logic."""

from __future__ import annotations

from typing import NamedTuple

SCHEMA = "tslaw-measurement"
SCHEMA_VERSION = 1

NO_ANSWER = -1
"""In `answer`: the probe gave no answer that could be read. In `natural_length`: never tried to stop."""
NOT_MEASURED = -2
"""In every integer measurement: this cell was not measured."""

DIMS = ("arm", "budget", "problem", "sample", "answer_id")
WEIGHT_FORMATS = ("native", "gptq-g128", "gptq-g128-dequantized")


class Variable(NamedTuple):
    """One variable: dimensions in order, numpy type code or "str", units ("1" for codes and flags), long name."""

    dims: tuple[str, ...]
    dtype: str
    units: str
    long_name: str


_CELL = ("arm", "budget", "problem", "sample")

DATA: dict[str, Variable] = {
    "answer": Variable(_CELL, "i2", "1", "index into answers; -1 no answer, -2 not measured"),
    "correct": Variable(_CELL, "i1", "1", "1 right, 0 wrong, -2 not measured"),
    "thinking_tokens": Variable(_CELL, "i4", "token", "thinking tokens before the probe; -2 not measured"),
    "probe_tokens": Variable(_CELL, "i2", "token", "tokens decoded to get the answer; -2 not measured"),
    "natural_length": Variable(
        ("arm", "problem", "sample"),
        "i4",
        "token",
        "thinking tokens before the model first tried to stop; -1 never within the largest budget, -2 not measured",
    ),
    "tokens_per_second": Variable(("arm",), "f8", "token s-1", "thinking throughput, NaN where unknown"),
    "thinking_seconds": Variable(("arm",), "f8", "s", "wall time of thinking, NaN where unknown"),
    "probe_seconds": Variable(("arm",), "f8", "s", "wall time of probes, NaN where unknown"),
    "weight_bytes_observed": Variable(("arm",), "f8", "byte", "weight bytes seen in the engine, NaN where unknown"),
    "kv_bytes_per_token_observed": Variable(
        ("arm",), "f8", "byte token-1", "KV bytes per token seen in the engine, NaN where unknown"
    ),
    "answers": Variable(("answer_id",), "str", "name", "canonical answers"),
}

COORDS: dict[str, Variable] = {
    "arm": Variable(("arm",), "str", "name", "model, weight bits and KV policy"),
    "model": Variable(("arm",), "str", "name", "model"),
    "n_params": Variable(("arm",), "i8", "1", "number of parameters"),
    "weight_bits": Variable(("arm",), "f8", "bit", "bits per quantized linear weight; 16 is native"),
    "weight_format": Variable(("arm",), "str", "name", "how the weights are stored"),
    "weights_simulated": Variable(("arm",), "i1", "1", "1 where quantized weights were run dequantized"),
    "kv_policy": Variable(("arm",), "str", "name", "KV-cache policy"),
    "kv_kind": Variable(("arm",), "str", "name", "kind of KV-cache policy"),
    "kv_bits": Variable(("arm",), "i4", "bit", "bits per KV-cache entry; 16 is native"),
    "kv_retain": Variable(("arm",), "i8", "token", "tokens kept by eviction; 0 where nothing is evicted"),
    "kv_simulated": Variable(("arm",), "i1", "1", "1 where the engine did not save the KV memory it is credited with"),
    "weight_gib_equation": Variable(("arm",), "f8", "GiB", "weight memory by the equation accounting"),
    "weight_gib_checkpoint": Variable(("arm",), "f8", "GiB", "weight memory by the checkpoint accounting"),
    "kv_bytes_per_token": Variable(("arm",), "f8", "byte token-1", "KV-cache bytes per token at 16 bits"),
    "budget": Variable(("budget",), "i8", "token", "thinking-token budget"),
    "problem": Variable(("problem",), "str", "name", "problem"),
    "level": Variable(("problem",), "str", "name", "difficulty label of the problem"),
    "sample": Variable(("sample",), "i8", "1", "number of the sampled trajectory"),
}

VARIABLES: dict[str, Variable] = DATA | COORDS

RUN_ATTRS: dict[str, type] = {
    "family": str,
    "task": str,
    "task_version": str,
    "task_chance": float,
    "engine": str,
    "engine_version": str,
    "device": str,
    "temperature": float,
    "top_p": float,
    "seed": int,
    "shared_trajectories": int,
    "provenance": str,
}
"""Global attributes that whoever measures gives; `provenance` is one JSON string."""

ATTRS: dict[str, type] = RUN_ATTRS | {
    "schema": str,
    "schema_version": int,
    "model_shapes": str,
    "tslaw_version": str,
    "created": str,
}
"""Every global attribute of a dataset; netCDF knows only text and numbers."""
