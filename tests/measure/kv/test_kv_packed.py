"""A quantized cache stored in its bits, without a GPU: its pages, its plan, its kernels in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
import torch

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[2] / "reference")]
from packed_cases import CASES, KERNELS

from tslaw.errors import TslawError
from tslaw.measure.kv.packed.layout import PageLayout, block_size_of, check_group
from tslaw.measure.kv.packed.plan import packed_groups, plan_of
from tslaw.measure.kv.quantized import Quantized
from tslaw.measure.kv.schedule import Schedule

QUICK = ("odd heads",)
LONG = tuple(name for name in CASES if name not in QUICK)
QWEN = PageLayout(bits=4, group=64, residual=128, kv_heads=8, head_dim=128, itemsize=2)


def test_a_page_holds_codes_and_scales_and_the_ring_as_many_tokens_as_are_exact():
    assert QWEN.page_bytes == 8 * 2 * (64 * 128 * 4 // 8 + 2 * 128)
    assert (QWEN.exact_per_page, QWEN.exact_pages) == (17, 12)  # 8,704 bytes a head, 512 a token; 192 tokens
    assert [QWEN.pages(n) for n in (1, 17, 18, 191, 192, 255, 256)] == [1, 1, 2, 12, 13, 13, 14]
    full = 16384 * 8 * 2 * 128 * 2
    shares = [
        PageLayout(bits, 64, 128, 8, 128, 2).pages(16384) * PageLayout(bits, 64, 128, 8, 128, 2).page_bytes / full
        for bits in (8, 4, 2)
    ]
    assert shares == pytest.approx([0.52, 0.28, 0.15], abs=0.01)


@pytest.mark.parametrize(("group", "size"), [(64, 64), (32, 32), (24, 48), (16, 32), (80, 80)])
def test_a_block_is_made_of_whole_pages_and_no_smaller_than_usual(group, size):
    assert block_size_of(group) == size


@pytest.mark.parametrize(("group", "head_dim"), [(1, 128), (64, 12)])
def test_pages_that_cannot_be_are_refused(group, head_dim):
    with pytest.raises(TslawError, match="make no page"):
        PageLayout(2, group, 128, 8, head_dim, 4)


@pytest.mark.parametrize(("residual", "group"), [(32, 32), (40, 24), (0, 16), (16, 64)])
def test_a_plan_packs_at_the_schedules_events_and_lets_each_query_see_them(residual, group):
    layout = PageLayout(4, group, residual, 1, 16, 2)
    schedule = Schedule(residual=residual, group=group)
    done, packed = [0, 0, 0], [0, 0, 0]
    r = np.random.default_rng(0)
    for _ in range(30):
        counts = [int(r.integers(0, 2)) if r.random() < 0.6 else int(r.integers(1, 150)) for _ in range(3)]
        stops, starts = [d + c for d, c in zip(done, counts, strict=True)], np.cumsum([0, *counts])
        plan = plan_of(layout, stops, starts, 20)
        tiles = [*plan.singles, *plan.tiles]
        assert all((tile[3] == 1) == (place < len(plan.singles)) for place, tile in enumerate(tiles))
        queries = [(request, position + i, row + i) for request, row, position, n, _ in tiles for i in range(n)]
        assert sorted(queries) == [(s, t, starts[s] + t - done[s]) for s in range(3) for t in range(done[s], stops[s])]
        for request, _, position, n, start in tiles:
            assert start == done[request]
            assert packed_groups(layout, position) == packed_groups(layout, position + n - 1)
        for request, row, number, start in plan.groups:
            assert (number, start, row) == (packed[request], done[request], starts[request])
            packed[request] += 1
        for s in range(3):
            rounded = [schedule.rounds_at(n) for n in range(stops[s] + 1)]
            assert packed[s] * group == max((stop for _, stop in rounded), default=0)
            exact = [t for t in range(stops[s]) if t >= packed[s] * group]
            stored = [(row, t) for request, row, t in plan.stores if request == s]
            assert stored == [(starts[s] + t - done[s], t) for t in exact if t >= done[s]]
            assert len(exact) < layout.window
        done = stops


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_stored_numbers_are_those_that_the_simulation_stores(bits):
    from packed_reference import pack_side, unpacked

    from tslaw.measure.kv.packed.pages import Pages

    layout = PageLayout(bits, 32, 32, 1, 16, 2)
    pages = Pages.of(torch.zeros(1, 1, layout.head_bytes, dtype=torch.uint8), torch.bfloat16)
    g = torch.Generator().manual_seed(bits)
    exact = [torch.randn(32, 16, generator=g).mul(10.0**power).bfloat16() for power in (0, -4)]
    exact[0][:, 3] = 0
    for side, x in enumerate(exact):
        pack_side(layout, pages, 0, side, x)
    for x, found in zip(exact, unpacked(layout, pages, 0, 0), strict=True):
        assert torch.equal(found, Quantized(bits, "channel", group=32).rounded(x))


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """What is seen of a case, from its name and the kernel's: quick ones are run together, and so are the others."""

    @cache
    def seen_of(names):
        out = tmp_path_factory.mktemp("packed") / "cases.json"
        command = [sys.executable, str(Path(__file__).parent / "packed_cases.py"), str(out), *names]
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment)
        return json.loads(out.read_text())

    return lambda name, kernel: seen_of(QUICK if name in QUICK else LONG)[f"{name}, {kernel}"]


@pytest.mark.xdist_group("kv-packed-cases")  # or both workers would run them all
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_the_kernels_do_what_is_written_down_slowly(interpreted, name, kernel):
    seen = interpreted(name, kernel)
    assert seen["error"] < 0.004
    assert (seen["bytes"], seen["apart"]) == (0, 0)
    assert seen["changed"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_long_sequences_decode_as_plain_attention_on_rounded_values_says(tmp_path, kernel):
    out = tmp_path / "long.json"
    command = [sys.executable, str(Path(__file__).parent / "packed_long.py"), str(out), kernel]
    subprocess.run(command, check=True, env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})
    seen = json.loads(out.read_text())
    assert max(seen["error"], seen["prefill_error"]) < 1e-4
    assert seen["splits"] > 1
    assert seen["least_share"] > 0.1  # a share that was forgotten would be seen


def test_groups_that_compiled_kernels_get_wrong_are_refused():
    with pytest.raises(TslawError, match="too small for the GPU's kernels"):
        check_group(PageLayout(2, 16, 16, 2, 64, 2))
    assert check_group(PageLayout(2, 32, 16, 2, 64, 2)).group == 32
