"""Bytes of weights and KV cache, from a model's shape: pure functions, no I/O.

The decomposition is that of Kim et al. (2025), arXiv 2510.10964, appendix A:

    M = M_weights(N, P_W) / batch + M_kv(policy, T, G)

in two accountings of the weights. `equation` is the paper's formula: quantized linear weights at P_W bits with one
16-bit scale per group of 128 and no zero points, everything else at 16 bits. `checkpoint` is what the paper's table 1
prints and what is on disk: the GPTQ v1 layout (see `_quantized_file_bytes`). They differ by up to a few per cent.
"""

from __future__ import annotations

from typing import Literal, get_args

from tslaw.errors import TslawError
from tslaw.policy import FULL, NATIVE_BITS, KVPolicy
from tslaw.shape import ModelShape, shape_from_config

__all__ = [
    "GIB",
    "Accounting",
    "ModelShape",
    "embedding_params",
    "kv_bytes",
    "kv_bytes_per_token",
    "linear_params",
    "n_params",
    "shape_from_config",
    "total_bytes",
    "weight_bytes",
]

Accounting = Literal["equation", "checkpoint"]

GIB = 2**30
WEIGHT_GROUP = 128
KV_GROUP = 64
SCALE_BITS = 16
NATIVE_BYTES = NATIVE_BITS / 8
MIN_BITS = 2


def linear_params(shape: ModelShape) -> int:
    """Parameters that weight quantization touches: the matrices of the decoder layers' linears."""
    return shape.n_layers * sum(inputs * outputs for inputs, outputs in shape.linears())


def embedding_params(shape: ModelShape) -> int:
    """Parameters of one embedding matrix (the input embedding, or an untied lm_head)."""
    return shape.vocab_size * shape.hidden_size


def n_params(shape: ModelShape) -> int:
    """Every parameter, a tied embedding counted once."""
    return linear_params(shape) + _small_params(shape) + embedding_params(shape) * (1 if shape.tied_embeddings else 2)


def weight_bytes(shape: ModelShape, bits: float, accounting: Accounting = "equation") -> float:
    """Bytes of the weights at `bits` (2 to 16, 16 = native) per quantized linear weight.

    `equation` takes any real number of bits, `checkpoint` whole ones only. Neither ever exceeds the native bytes:
    just below 16 bits the scales would cost more than quantization saves, and nobody would then quantize.
    """
    _check_accounting(accounting)
    if not MIN_BITS <= bits <= NATIVE_BITS:
        raise TslawError(
            f"Weights of {bits:g} bits cannot be counted.", where="weight bits", expected=f"{MIN_BITS} to {NATIVE_BITS}"
        )
    if accounting == "checkpoint" and bits != int(bits):
        raise TslawError(
            f"No checkpoint stores weights at {bits:g} bits.",
            where="weight bits",
            expected="a whole number of bits, or the accounting 'equation', which takes any",
        )
    native = n_params(shape) * NATIVE_BYTES
    if accounting == "checkpoint" and shape.tied_embeddings and shape.duplicated_tied_embedding:
        native += embedding_params(shape) * NATIVE_BYTES
    if bits == NATIVE_BITS:
        return native
    linears = _equation_bytes(shape, bits) if accounting == "equation" else _quantized_file_bytes(shape, int(bits))
    return min(linears + (n_params(shape) - linear_params(shape)) * NATIVE_BYTES, native)


def _equation_bytes(shape: ModelShape, bits: float) -> float:
    return linear_params(shape) * (bits + SCALE_BITS / WEIGHT_GROUP) / 8


def _quantized_file_bytes(shape: ModelShape, bits: int) -> float:
    """GPTQ v1 layout of every quantized linear: packed weights, then per group of 128 input features an fp16 scale
    and a packed zero point for each output, and an int32 group index (`g_idx`) for each input feature."""
    total = 0.0
    for inputs, outputs in shape.linears():
        groups = -(-inputs // WEIGHT_GROUP)
        total += inputs * outputs * bits / 8 + groups * outputs * (SCALE_BITS + bits) / 8 + inputs * 4
    return shape.n_layers * total


def kv_bytes_per_token(shape: ModelShape, policy: KVPolicy = FULL) -> float:
    """Bytes that one *kept* token takes in the KV cache: keys and values of every layer and KV head.

    A quantized entry adds one 16-bit scale per group of 64 (the paper's formula: no zero points, and no window of
    exact recent tokens, which an engine may add).
    """
    entry_bytes = NATIVE_BYTES
    if policy.bits != NATIVE_BITS:
        entry_bytes = (policy.bits + SCALE_BITS / KV_GROUP) / 8
    return 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * entry_bytes


def kv_bytes(shape: ModelShape, token_budget: float, samples: int = 1, policy: KVPolicy = FULL) -> float:
    """Bytes of the KV cache of `samples` parallel samples that each think for `token_budget` tokens."""
    if not 0 <= token_budget < float("inf"):
        raise TslawError(f"A thinking budget of {token_budget:g} tokens makes no sense.", expected="0 tokens or more")
    if samples < 1:
        raise TslawError(f"{samples} samples make no sense.", expected="at least 1 sample")
    kept = token_budget if policy.retain is None else min(token_budget, policy.retain)
    return samples * kept * kv_bytes_per_token(shape, policy)


def total_bytes(
    shape: ModelShape,
    weight_bits: float,
    token_budget: float,
    samples: int = 1,
    policy: KVPolicy = FULL,
    batch: float = 1,
    accounting: Accounting = "equation",
) -> float:
    """Bytes per generation: weights shared by `batch` concurrent generations, plus one generation's KV cache."""
    if not 1 <= batch < float("inf"):
        raise TslawError(f"A batch of {batch:g} generations makes no sense.", expected="a batch of at least 1")
    weights = weight_bytes(shape, weight_bits, accounting)
    return weights / batch + kv_bytes(shape, token_budget, samples, policy)


def _small_params(shape: ModelShape) -> int:
    """Norms and biases, which stay at native precision."""
    queries, keys = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    layer = 2 * shape.hidden_size
    if shape.qk_norm:
        layer += queries + keys if shape.qk_norm_per_head else 2 * shape.head_dim
    if shape.attention_bias:
        layer += queries + 2 * keys
    if shape.attention_output_bias:
        layer += shape.hidden_size
    if shape.mlp_bias:
        layer += (shape.mlp_matrices - 1) * shape.intermediate_size + shape.hidden_size
    return shape.n_layers * layer + shape.hidden_size


def _check_accounting(accounting: str) -> None:
    if accounting not in get_args(Accounting):
        raise TslawError(
            f"The accounting '{accounting}' is not known.",
            expected="equation (the paper's formula) or checkpoint (the bytes of the files)",
        )
