"""`tslaw quantize`: weights made ahead are the ones that a sweep on the other machine looks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tslaw.cli.app import main
from tslaw.family import load_family
from tslaw.measure.plan import load_plan
from tslaw.measure.quantize import RECORD, ensure_quantized
from tslaw.measure.units import model_digest, quantization_recipes

NAME = load_family("ladder").models[0].name


def status_of(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments])
    return int(exit_.value.code or 0)


def write_plan(folder: Path, weight_bits: list[int]) -> Path:
    plan = {
        "name": "small",
        "family": "ladder",
        "models": [NAME],
        "tasks": [{"name": "ladder-math", "problems": 2, "seed": 1, "budgets": [16]}],
        "weight_bits": weight_bits,
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


@pytest.mark.slow
@pytest.mark.vllm
def test_weights_for_cuda_are_native_and_found_again(tmp_path, capsys) -> None:
    path, cache = write_plan(tmp_path, [16, 8, 4]), tmp_path / "cache"
    assert status_of("quantize", path, "--cache", cache, "--platform", "cuda") == 0
    folders = [Path(line.split("\t")[1]) for line in capsys.readouterr().out.splitlines()]
    records = [json.loads((folder / RECORD).read_text()) for folder in folders]
    assert [(r["recipe"]["bits"], r["weights_simulated"]) for r in records] == [(8, 0), (4, 0)]
    plan = load_plan(str(path))
    (ref,), started = plan.model_refs, []
    for bits, folder in zip((8, 4), folders, strict=True):
        found, _ = ensure_quantized(
            ref.source,
            ref.thinking_format,
            bits,
            quantization_recipes(plan),
            model_digest(ref.source),
            str(cache / "weights"),
            lambda: started.append("again"),
            "cuda",
        )
        assert Path(found) == folder.resolve()
    assert not started


@pytest.mark.parametrize(("bits", "platform", "words"), [([4], "tpu", "cpu or cuda"), ([16], "cuda", "all native")])
def test_what_cannot_be_made_is_said(tmp_path, capsys, bits, platform, words) -> None:
    assert status_of("quantize", write_plan(tmp_path, bits), "--cache", tmp_path / "c", "--platform", platform) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
