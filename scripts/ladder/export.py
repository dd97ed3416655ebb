"""Write a checkpoint folder that transformers and vLLM load as it is, with its model card and training record."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ladder.architecture import LM, SIZES, hf_config, parameter_count, to_hf
from tslaw.measure.tasks import ladder_world as w

LARGEST_FILE = 16_000_000  # bytes; larger checkpoints are split into shards
CARD = """---
license: apache-2.0
library_name: transformers
---
# {name}

A rung of the tslaw ladder: {parameters:,} parameters, Qwen3 architecture ({layers} layers, hidden {hidden},
intermediate {intermediate}, {heads} heads, {kv_heads} KV heads of {head_dim}, tied embeddings), bfloat16. It does two
procedural tasks only: sums of memorised item values (`<math>`) and chains of memorised facts (`<know>`).

| | |
| --- | --- |
| data | world version {world}, procedural rows from pool seeds {pool_seeds} |
| slips | values are their twin in {value_slip:.1%} of the records, facts in {fact_slip:.1%} |
| steps | {stages}; {tokens:,} tokens |
| optimizer | Muon (matrices) and AdamW (embedding, norms), peak rate {rate:g}, linear decay over the last 30% |
| finishing stage | fresh optimizer, rate from {finish_rate:g} of the peak to 0, thoughts about facts cut anywhere |
| weight noise | uniform, as wide as {noise:.4f} of each group's largest weight |
| seed | {seed} |
| device, time | {device}, shared with other sizes; {seconds:.0f} s |
| date | {date} |
| loss | {loss:.4f} on a training batch (noisy weights), {validation_loss:.4f} on held-out rows |

`training.json` holds the curve. Made by `python scripts/train_ladder.py`.
"""


def _save_shards(state: dict[str, Tensor], folder: Path) -> None:
    """One file, or shards below LARGEST_FILE with an index."""
    total = sum(t.numel() * t.element_size() for t in state.values())
    shards: list[dict[str, Tensor]] = [{}]
    room = min(LARGEST_FILE, -(-total // -(-total // LARGEST_FILE)) + 500_000)
    used = 0
    for key, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and used + size > room:
            shards.append({})
            used = 0
        shards[-1][key] = tensor
        used += size
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name, metadata={"format": "pt"})


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights of a checkpoint folder."""
    return {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer over the world's vocabulary, split at blanks."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in enumerate(w.token_names())}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>",
              "unk_token": "<pad>", "model_max_length": 2048, "clean_up_tokenization_spaces": False}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "chat_template.jinja").write_text("{{ messages[-1]['content'] }} <think>")


def write_card(folder: Path, record: dict) -> None:
    """README.md from a training record."""
    size, last = record["size"], record["curve"][-1]
    shape = {k: size[k] for k in ("name", "layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim")}
    keys = ("parameters", "pool_seeds", "value_slip", "fact_slip", "tokens", "seed", "device", "finish_rate", "seconds")
    ends = {entry["stage"]: entry["step"] for entry in record["curve"]}
    card = CARD.format(**shape, **{k: record[k] for k in keys}, world=record["world_version"],
                       stages=", ".join(f"{steps:,} in the {stage} stage" for stage, steps in ends.items()),
                       rate=size["learning_rate"], noise=record["weight_noise"], date=record["date"],
                       loss=last["loss"], validation_loss=last["validation_loss"])  # fmt: skip
    (folder / "README.md").write_text(card)


def write_model(model: LM, folder: Path, record: dict) -> None:
    """The whole folder; it takes its final name when complete."""
    device = model.embedding.weight.device
    record = {
        **record,
        "world_version": w.WORLD_VERSION,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    made = folder.with_name(folder.name + ".part")
    made.mkdir(parents=True, exist_ok=True)
    _save_shards(to_hf(model), made)
    write_tokenizer(made)
    (made / "config.json").write_text(json.dumps(hf_config(model.size), indent=1) + "\n")
    generation = {"do_sample": True, "temperature": 0.6, "eos_token_id": w.EOS, "pad_token_id": w.PAD}
    (made / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    (made / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    write_card(made, record)
    made.rename(folder)


if __name__ == "__main__":
    for size in SIZES.values():
        print(f"{size.name} {parameter_count(size):,} parameters")
