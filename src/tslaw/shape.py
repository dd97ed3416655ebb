"""A model's shape: the numbers that decide its bytes, read from a Hugging Face config. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tslaw.errors import TslawError


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a dense decoder-only transformer that decide its bytes.

    Layers are Llama-like: query, key, value and output projections, an MLP of `mlp_matrices` matrices (3 when gated),
    two RMS norms. `duplicated_tied_embedding` says that the 16-bit file stores a tied embedding twice. `qk_norm` is
    one vector per layer for queries and one for keys, of one head's size (Qwen3) or, with `qk_norm_per_head`, one
    head's size for each head (OLMo 2). `attention_bias` is on query, key and value.
    """

    name: str
    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool
    attention_bias: bool = False
    qk_norm: bool = False
    duplicated_tied_embedding: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    mlp_matrices: int = 3
    qk_norm_per_head: bool = False

    def __post_init__(self) -> None:
        for field in (
            "n_layers",
            "hidden_size",
            "intermediate_size",
            "n_heads",
            "n_kv_heads",
            "head_dim",
            "vocab_size",
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise TslawError(f"{field} is {value!r}.", where=self.name, expected="a whole number of at least 1")
        if self.n_heads % self.n_kv_heads:
            raise TslawError(
                f"{self.n_heads} attention heads cannot share {self.n_kv_heads} KV heads evenly.",
                where=self.name,
                expected="a number of KV heads that divides the number of attention heads",
            )

    def linears(self) -> Iterator[tuple[int, int]]:
        """(input features, output features) of every linear layer of one decoder layer."""
        queries, keys = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        yield from ((self.hidden_size, queries), (self.hidden_size, keys), (self.hidden_size, keys))
        yield (queries, self.hidden_size)
        yield from ((self.hidden_size, self.intermediate_size),) * (self.mlp_matrices - 1)
        yield (self.intermediate_size, self.hidden_size)


@dataclass(frozen=True)
class _Architecture:
    """What a `model_type` fixes without saying so in its config, and the defaults of what it leaves out."""

    tied_embeddings: bool = False
    query_bias: bool = False
    qk_norm: bool = False
    qk_norm_per_head: bool = False
    head_dim: int | None = None


ARCHITECTURES: dict[str, _Architecture] = {
    "gemma": _Architecture(tied_embeddings=True, head_dim=256),
    "granite": _Architecture(),
    "llama": _Architecture(),
    "mistral": _Architecture(),
    "olmo2": _Architecture(qk_norm=True, qk_norm_per_head=True),
    "phi3": _Architecture(),
    "qwen2": _Architecture(query_bias=True),
    "qwen3": _Architecture(qk_norm=True, head_dim=128),
    "smollm3": _Architecture(tied_embeddings=True),
}
"""Dense decoder-only architectures whose parameter counts were checked against transformers."""

_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size", "moe_num_experts")


def shape_from_config(config: Mapping[str, Any], name: str) -> ModelShape:
    """The shape of a dense decoder-only model from the contents of its `config.json`.

    Raises TslawError for mixtures of experts, multi-head latent attention, encoder-decoders, multimodal models, layers
    whose cache does not grow with every token, architectures not in `ARCHITECTURES`, missing keys and nonsense numbers.
    """
    if not isinstance(config, Mapping):
        raise TslawError("This config is not a JSON object.", where=name, expected="a Hugging Face config.json")
    _refuse_unsupported(config, name)
    model_type = config.get("model_type")
    architecture = ARCHITECTURES.get(str(model_type))
    if architecture is None:
        raise TslawError(
            f"The architecture {model_type!r} is not known." if model_type else "The config has no 'model_type'.",
            where=f"config of {name}",
            expected=f"one of {', '.join(ARCHITECTURES)}",
            fix="if its layers are Llama-like, list the model in a family YAML with model_type: llama",
        )
    hidden, heads = _count(config, "hidden_size", name), _count(config, "num_attention_heads", name)
    bias = _flag(config, "attention_bias", architecture.query_bias, name)
    return ModelShape(
        name=name,
        n_layers=_count(config, "num_hidden_layers", name),
        hidden_size=hidden,
        intermediate_size=_count(config, "intermediate_size", name),
        n_heads=heads,
        n_kv_heads=_count(config, "num_key_value_heads", name, default=heads),
        head_dim=_head_dim(config, architecture, hidden, heads, name),
        vocab_size=_count(config, "vocab_size", name),
        tied_embeddings=_flag(config, "tie_word_embeddings", architecture.tied_embeddings, name),
        attention_bias=bias,
        attention_output_bias=bias and not architecture.query_bias,
        mlp_bias=_flag(config, "mlp_bias", False, name),
        qk_norm=architecture.qk_norm,
        qk_norm_per_head=architecture.qk_norm_per_head,
    )


def _refuse_unsupported(config: Mapping[str, Any], name: str) -> None:
    fault = None
    if config.get("is_encoder_decoder"):
        fault = "an encoder-decoder"
    elif any(config.get(key) for key in _EXPERT_KEYS):
        fault = "a mixture of experts"
    elif config.get("kv_lora_rank"):
        fault = "a model with multi-head latent attention"
    elif isinstance(config.get("text_config"), Mapping):
        fault = "a multimodal model"
    elif not _every_layer_keeps_every_token(config):
        fault = "a model with sliding-window or linear attention"
    if fault:
        raise TslawError(
            f"{name} is {fault}; its memory is not modelled.",
            where=f"config of {name}",
            expected="a dense decoder-only model whose layers all attend to every token",
        )


def _every_layer_keeps_every_token(config: Mapping[str, Any]) -> bool:
    if config.get("layer_types"):
        return set(config["layer_types"]) == {"full_attention"}
    window = config.get("sliding_window")
    if window is None or config.get("use_sliding_window") is False:
        return True
    return window >= config.get("max_position_embeddings", float("inf"))


def _head_dim(config: Mapping[str, Any], architecture: _Architecture, hidden: int, heads: int, name: str) -> int:
    if config.get("head_dim") is not None:
        return _count(config, "head_dim", name)
    if architecture.head_dim is not None:
        return architecture.head_dim
    if hidden % heads:
        raise TslawError(
            f"The hidden size {hidden} is not a multiple of {heads} attention heads, and no 'head_dim' is given.",
            where=f"config of {name}",
        )
    return hidden // heads


def _count(config: Mapping[str, Any], key: str, name: str, default: int | None = None) -> int:
    value = config.get(key, default)
    if value is None:
        value = default
    if value is None:
        raise TslawError(
            f"The config has no '{key}'.", where=f"config of {name}", expected="a Hugging Face config.json"
        )
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TslawError(f"'{key}' is {value!r}.", where=f"config of {name}", expected="a whole number of at least 1")
    return value


def _flag(config: Mapping[str, Any], key: str, default: bool, name: str) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise TslawError(f"'{key}' is {value!r}.", where=f"config of {name}", expected="true or false")
    return value
