"""The ladder's sizes and a Qwen3-architecture model in plain PyTorch, whose weights save under transformers' names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tslaw.measure.tasks.ladder_world import EOS, PAD, VOCAB_SIZE

GROUP = 128  # weights that share a scale when quantized


@dataclass(frozen=True)
class Size:
    """One rung: its shape and how it is trained."""

    name: str
    hidden: int
    layers: int
    heads: int
    intermediate: int
    learning_rate: float
    steps: int
    kv_heads: int = 2
    head_dim: int = 64
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    max_positions: int = 2048

    @property
    def widths(self) -> list[int]:
        """Output widths of the fused q, k, v projection."""
        return [self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim]


SIZES = {
    s.name: s
    for s in (
        Size("ladder-0.4M", 128, 2, 4, 128, 4.0e-3, 13000),
        Size("ladder-0.8M", 128, 3, 4, 384, 3.5e-3, 13000),
        Size("ladder-1.7M", 256, 3, 4, 384, 2.5e-3, 13000),
        Size("ladder-3.3M", 256, 4, 4, 768, 2.2e-3, 13000),
        Size("ladder-7M", 384, 4, 6, 1152, 1.6e-3, 13000),
        Size("ladder-15M", 512, 5, 8, 1536, 1.2e-3, 13000),
    )
}
Segments = list[tuple[int, int]]  # (rows, row length) of each piece of a flat batch


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight.to(x.dtype) * y.to(x.dtype)


def rope(positions: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """cos and sin, [..., head_dim], of the rotary embedding."""
    inverse = 1.0 / size.rope_theta ** (
        torch.arange(0, size.head_dim, 2, dtype=torch.float32, device=positions.device) / size.head_dim
    )
    angles = positions.float()[..., None] * inverse
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.ln1, self.ln2 = RMSNorm(size.hidden, size.norm_eps), RMSNorm(size.hidden, size.norm_eps)
        self.qn, self.kn = RMSNorm(size.head_dim, size.norm_eps), RMSNorm(size.head_dim, size.norm_eps)
        self.qkv = nn.Linear(size.hidden, sum(size.widths), bias=False)
        self.o = nn.Linear(size.widths[0], size.hidden, bias=False)
        self.gate_up = nn.Linear(size.hidden, 2 * size.intermediate, bias=False)
        self.down = nn.Linear(size.intermediate, size.hidden, bias=False)

    def heads(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [..., heads, head_dim], keys and values [..., kv_heads, head_dim]."""
        q, k, v = (t.unflatten(-1, (-1, self.size.head_dim)) for t in self.qkv(self.ln1(x)).split(self.size.widths, -1))
        cos, sin = cos.to(q.dtype)[..., None, :], sin.to(q.dtype)[..., None, :]
        return _rotate(self.qn(q), cos, sin), _rotate(self.kn(k), cos, sin), v

    def mlp(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(self.ln2(x)).chunk(2, -1)
        return self.down(F.silu(gate) * up)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: Segments) -> Tensor:
        qkv, pieces, start = self.heads(x, cos, sin), [], 0
        for rows, length in segments:
            stop = start + rows * length
            q, k, v = (t[start:stop].unflatten(0, (rows, length)).transpose(1, 2) for t in qkv)
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            pieces.append(out.transpose(1, 2).reshape(stop - start, self.size.widths[0]))
            start = stop
        x = x + self.o(torch.cat(pieces)).to(x.dtype)
        return x + self.mlp(x).to(x.dtype)


class LM(nn.Module):
    """A causal language model with tied embeddings over flat batches of equally long rows."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(VOCAB_SIZE, size.hidden)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = RMSNorm(size.hidden, size.norm_eps)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, p in self.blocks.named_parameters():
            if p.dim() == 2:
                residual = name.endswith(("o.weight", "down.weight"))
                nn.init.normal_(p, std=p.shape[1] ** -0.5 / (math.sqrt(2 * size.layers) if residual else 1.0))

    def forward(self, ids: Tensor, cos: Tensor, sin: Tensor, segments: Segments, dtype: torch.dtype) -> Tensor:
        """Logits [tokens, vocabulary] of flat ``ids``; ``dtype`` is the residual stream's."""
        x = self.embedding(ids).to(dtype)
        for block in self.blocks:
            x = block(x, cos, sin, segments)
        return F.linear(self.norm(x), self.embedding.weight.to(dtype))

    def loss(self, ids: Tensor, target: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, segments: Segments,
             dtype: torch.dtype) -> Tensor:  # fmt: skip
        """Mean cross-entropy over the tokens of weight 1."""
        logits = self(ids, cos, sin, segments, dtype).float()
        return (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()


def parameter_count(size: Size) -> int:
    """Parameters of a size, the tied embedding counted once."""
    q, kv = size.widths[:2]
    layer = size.hidden * (2 * q + 2 * kv) + 3 * size.hidden * size.intermediate + 2 * size.hidden + 2 * size.head_dim
    return VOCAB_SIZE * size.hidden + size.hidden + size.layers * layer


def hf_config(size: Size) -> dict[str, object]:
    """config.json for transformers and vLLM."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": size.max_positions,
        "rms_norm_eps": size.norm_eps,
        "rope_theta": size.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": size.rope_theta},
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": size.layers,
        "bos_token_id": None,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "torch_dtype": "bfloat16",
    }


def _layer_names(i: int) -> dict[str, tuple[str, ...]]:
    """Our parameter -> the names it is split into (rows, in order)."""
    p = f"model.layers.{i}."
    return {
        "ln1": (p + "input_layernorm.weight",),
        "ln2": (p + "post_attention_layernorm.weight",),
        "qn": (p + "self_attn.q_norm.weight",),
        "kn": (p + "self_attn.k_norm.weight",),
        "qkv": tuple(p + f"self_attn.{x}_proj.weight" for x in "qkv"),
        "o": (p + "self_attn.o_proj.weight",),
        "gate_up": (p + "mlp.gate_proj.weight", p + "mlp.up_proj.weight"),
        "down": (p + "mlp.down_proj.weight",),
    }


def to_hf(model: LM) -> dict[str, Tensor]:
    """The weights in bfloat16 under transformers' names."""
    state = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.norm.weight}
    for i, block in enumerate(model.blocks):
        for ours, names in _layer_names(i).items():
            weight = getattr(block, ours).weight
            rows = model.size.widths if ours == "qkv" else [weight.shape[0] // len(names)] * len(names)
            state.update(zip(names, weight.split(rows), strict=True))
    return {k: v.detach().to(torch.bfloat16).contiguous().cpu() for k, v in state.items()}


def from_hf(size: Size, state: Mapping[str, Tensor]) -> LM:
    """The inverse of ``to_hf``."""
    model = LM(size)
    with torch.no_grad():
        model.embedding.weight.copy_(state["model.embed_tokens.weight"])
        model.norm.weight.copy_(state["model.norm.weight"])
        for i, block in enumerate(model.blocks):
            for ours, names in _layer_names(i).items():
                getattr(block, ours).weight.copy_(torch.cat([state[n] for n in names]))
    return model


@torch.no_grad()
def round_to_nearest(weight: Tensor, bits: int) -> Tensor:
    """Symmetric quantization by rounding, in groups of 128 inputs, dequantized again."""
    top = 2 ** (bits - 1) - 1
    x = weight.float().unflatten(1, (-1, GROUP))
    scale = (x.abs().amax(-1, keepdim=True) / top).clamp_min(1e-8).half().float()
    return (torch.clamp(torch.round(x / scale), -top - 1, top) * scale).flatten(1).to(weight.dtype)
