"""Families of models: which models, where their files are, what shape they have. Reads YAML, folders and the hub.

A family is a YAML file:

    name: qwen3
    thinking_format: qwen3            # how its models open, go on with and end their thinking
    models:
      - name: Qwen3-0.6B
        source: Qwen/Qwen3-0.6B       # hub id, or a folder (relative to the YAML file if it starts with ".")
        config: {model_type: qwen3, hidden_size: 1024, ...}   # optional: otherwise the source's config.json
        duplicated_tied_embedding: true                       # optional: the 16-bit file stores it twice
"""

from __future__ import annotations

import difflib
import json
import logging
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tslaw.errors import MissingExtraError, TslawError
from tslaw.shape import ModelShape, shape_from_config

FAMILY_FOLDER = Path(__file__).parent / "data" / "families"
DEFAULT_THINKING_FORMAT = "qwen3"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MODEL_KEYS = {"name", "source", "config", "duplicated_tied_embedding"}


@dataclass(frozen=True)
class ModelRef:
    """One model: its name, its shape, where its files are (a hub id or an absolute folder), how it thinks."""

    name: str
    shape: ModelShape
    source: str
    thinking_format: str


@dataclass(frozen=True)
class Family:
    """Models of one make in increasing size, measured and fitted together."""

    name: str
    models: tuple[ModelRef, ...]

    def model(self, name: str) -> ModelRef:
        """The member called `name`; TslawError names the members."""
        for ref in self.models:
            if ref.name == name:
                return ref
        members = ", ".join(ref.name for ref in self.models)
        raise TslawError(f"The family '{self.name}' has no model '{name}'.", expected=f"one of {members}")


def shipped_families() -> tuple[str, ...]:
    """Names of the families that come with tslaw."""
    return tuple(sorted(path.stem for path in FAMILY_FOLDER.glob("*.yaml")))


def load_family(name_or_path: str | Path) -> Family:
    """Read a family by its shipped name ("qwen3", "ladder") or from a YAML file.

    Raises TslawError when it does not exist or cannot be understood.
    """
    if str(name_or_path) in shipped_families():
        return _read_family(FAMILY_FOLDER / f"{name_or_path}.yaml")
    path = Path(name_or_path)
    if not path.is_file():
        raise TslawError(
            f"There is no family '{name_or_path}'.",
            expected=f"one of {', '.join(shipped_families())}, or a YAML file that lists a family's models",
        )
    return _read_family(path.resolve())


def resolve_model(text: str) -> ModelRef:
    """Find a model by its shipped name, as a folder with a config.json, or by its hub id (downloads config.json only).

    A hub id that tslaw ships needs no network. Raises TslawError when there is no such model or its config is not
    that of a dense decoder-only transformer.
    """
    shipped = [ref for family in shipped_families() for ref in load_family(family).models]
    for ref in shipped:
        if text in (ref.name, ref.source):
            return ref
    path = Path(text).expanduser()
    if path.is_dir():
        name = path.resolve().name
        return ModelRef(name, _shape_of_folder(path, name), str(path.resolve()), DEFAULT_THINKING_FORMAT)
    if path.exists():
        raise TslawError("A model is a folder with a config.json, not a file.", where=text, fix=f"give {path.parent}")
    if _HUB_ID.fullmatch(text):
        name = text.split("/")[1]
        return ModelRef(name, shape_from_config(_hub_config(text), name), text, DEFAULT_THINKING_FORMAT)
    names = [ref.name for ref in shipped]
    close = difflib.get_close_matches(text, names, n=1)
    raise TslawError(
        f"There is no model '{text}'.",
        expected=f"one of {', '.join(names)}, a hub id such as Qwen/Qwen3-8B, or a folder with a config.json",
        fix=f"did you mean {close[0]}?" if close else None,
    )


@lru_cache(maxsize=16)
def _read_family(path: Path) -> Family:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TslawError("This family file is not valid YAML.", where=f"{path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise _bad_family(path, "The family has no name.")
    entries = content.get("models")
    if not isinstance(entries, list) or not entries:
        raise _bad_family(path, "The family lists no models.")
    thinking_format = content.get("thinking_format")
    if not isinstance(thinking_format, str):
        raise _bad_family(path, "The family does not say its thinking_format.")
    models = tuple(_read_model(entry, path, thinking_format) for entry in entries)
    if len({ref.name for ref in models}) < len(models):
        raise _bad_family(path, "Two models of the family have the same name.")
    return Family(content["name"], models)


def _read_model(entry: Any, path: Path, thinking_format: str) -> ModelRef:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "source")):
        raise _bad_family(path, f"A model needs a name and a source, not {entry!r}.")
    if unknown := set(entry) - _MODEL_KEYS:
        raise _bad_family(path, f"The model {entry['name']} has unknown keys: {', '.join(sorted(map(str, unknown)))}.")
    name, source = entry["name"], entry["source"]
    if source.startswith("."):
        source = str((path.parent / source).resolve())
    if "config" in entry:
        shape = shape_from_config(entry["config"], name)
    elif Path(source).expanduser().is_dir():
        shape = _shape_of_folder(Path(source).expanduser(), name)
    elif _HUB_ID.fullmatch(source):
        shape = shape_from_config(_hub_config(source), name)
    else:
        raise _bad_family(path, f"The model {name} has no files at {source}.")
    if "duplicated_tied_embedding" in entry:
        shape = replace(shape, duplicated_tied_embedding=bool(entry["duplicated_tied_embedding"]))
    return ModelRef(name, shape, source, thinking_format)


def _bad_family(path: Path, what: str) -> TslawError:
    return TslawError(
        what,
        where=str(path),
        expected="name, thinking_format, and models: a list of {name, source, config (optional)}",
        fix=f"{FAMILY_FOLDER / 'qwen3.yaml'} is an example",
    )


def _shape_of_folder(folder: Path, name: str) -> ModelShape:
    shape = shape_from_config(_read_config(folder / "config.json"), name)
    twice = shape.tied_embeddings and "lm_head.weight" in _tensor_names(folder)
    return replace(shape, duplicated_tied_embedding=twice)


def _read_config(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise TslawError(
            "This folder has no config.json.", where=str(path.parent), expected="a Hugging Face model folder"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TslawError("This config.json is not valid JSON.", where=f"{path}: {error}") from error
    return config


def _tensor_names(folder: Path) -> set[str]:
    """Names of the tensors in a folder's safetensors files; empty when there are none that can be read."""
    try:
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        with open(folder / "model.safetensors", "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            return set(json.loads(file.read(min(length, 100_000_000))))
    except (OSError, ValueError, KeyError, struct.error):
        return set()


def _hub_config(hub_id: str) -> Mapping[str, Any]:
    """config.json of a hub repository, from the local cache or the network."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "vllm-cpu") from error
    chatter = logging.getLogger("huggingface_hub")
    level = chatter.level
    chatter.setLevel(logging.ERROR)  # its retries would bury the one message that says what is wrong
    try:
        path = hf_hub_download(hub_id, "config.json")
    except Exception as error:  # huggingface_hub and its HTTP client raise many kinds; all mean "not to be had"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TslawError(
            f"The config of '{hub_id}' could not be had from the Hugging Face hub: {reason}",
            expected="a repository that exists, that you may read, and a network (or a cached copy)",
            fix="check the id and the network, log in if it is gated, or give a folder with its config.json",
        ) from error
    finally:
        chatter.setLevel(level)
    return _read_config(Path(path))
