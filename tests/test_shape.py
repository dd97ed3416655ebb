"""Shapes read from Hugging Face configs: parameter counts as transformers builds them, and clear refusals."""

from __future__ import annotations

import pytest

from tslaw.errors import TslawError
from tslaw.family import load_family
from tslaw.memory import n_params
from tslaw.shape import ARCHITECTURES, shape_from_config

SMALL = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
VARIANTS = {
    "llama": [{}, {"attention_bias": True, "mlp_bias": True}, {"head_dim": 16, "tie_word_embeddings": True}],
    "qwen3": [{"head_dim": 8}, {"attention_bias": True, "tie_word_embeddings": True}, {}],
    "granite": [{}, {"attention_bias": True, "mlp_bias": True}],
    "smollm3": [{}, {"attention_bias": True, "mlp_bias": True}],
    "gemma": [{"head_dim": 8}, {"attention_bias": True}],
    "olmo2": [{}, {"attention_bias": True}],
    "mistral": [{"sliding_window": None}, {"sliding_window": None, "head_dim": 16}],
}


@pytest.mark.parametrize(
    ("model_type", "extra"),
    [(model_type, extra) for model_type in ARCHITECTURES for extra in VARIANTS.get(model_type, [{}])],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
@pytest.mark.filterwarnings("ignore")  # of other people's packages
def test_parameters_as_transformers_builds_them(model_type: str, extra: dict) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(model_type, **SMALL, **extra)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shape = shape_from_config({"model_type": model_type} | SMALL | extra, "small")
    assert n_params(shape) == model.num_parameters()
    assert shape_from_config(config.to_dict(), "small") == shape


def test_qwen3_has_the_parameters_its_model_cards_state() -> None:
    """In billions, one decimal."""
    stated = [0.6, 1.7, 4.0, 8.2, 14.8, 32.8]
    assert [round(n_params(ref.shape) / 1e9, 1) for ref in load_family("qwen3").models] == stated


GOOD = {"model_type": "qwen3", "head_dim": 8} | SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 8}, "mixture of experts"),
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"n_routed_experts": 64}, "mixture of experts"),
        ({"kv_lora_rank": 512}, "latent attention"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"text_config": {"hidden_size": 8}}, "multimodal"),
        ({"sliding_window": 32}, "sliding-window"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear attention"),
        ({"model_type": "mamba"}, "one of gemma, granite, llama"),
        ({"model_type": None}, "no 'model_type'"),
        ({"hidden_size": None}, "no 'hidden_size'"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' is 0"),
        ({"vocab_size": -5}, "'vocab_size' is -5"),
        ({"vocab_size": "many"}, "'vocab_size' is 'many'"),
        ({"intermediate_size": 2.5}, "'intermediate_size' is 2.5"),
        ({"num_key_value_heads": 4}, "divides"),
        ({"model_type": "llama", "head_dim": None, "num_attention_heads": 5}, "not a multiple"),
        ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings' is 'yes'"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(TslawError, match=message):
        shape_from_config(GOOD | change, "the-model")


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"])
def test_a_missing_key_is_named(key: str) -> None:
    config = {name: value for name, value in GOOD.items() if name != key}
    with pytest.raises(TslawError, match=f"no '{key}'"):
        shape_from_config(config, "the-model")


@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window": 32, "use_sliding_window": False},
        {"sliding_window": 64},
        {"layer_types": ["full_attention"] * 3, "sliding_window": None},
        {"num_experts": None, "quantization_config": {"bits": 4}},
    ],
)
def test_settings_that_change_nothing_are_accepted(change: dict) -> None:
    assert shape_from_config(GOOD | change, "m") == shape_from_config(GOOD, "m")
