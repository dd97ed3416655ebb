"""Formats on a real tokenizer, and answers read out of text."""

from __future__ import annotations

import pytest

from tslaw.errors import TslawError
from tslaw.family import load_family
from tslaw.measure.tasks import load_task
from tslaw.measure.thinking import FORMATS, BoundFormat, bind, get_format, load_tokenizer, read_boxed

pytestmark = pytest.mark.vllm  # transformers comes with the engine


@pytest.fixture(scope="module")
def ladder() -> BoundFormat:
    return bind(get_format("ladder"), load_tokenizer(load_family("ladder").models[0].source))


@pytest.mark.parametrize(
    ("text", "answer"),
    [("42}", "42"), ("\\frac{1}{2}} and so on}", "\\frac{1}{2}"), (" x }$", "x"), ("42", ""), ("", ""), ("}", "")],
)
def test_the_box_ends_at_the_brace_that_closes_it(text, answer):
    assert read_boxed(text) == answer


def test_rendering_a_ladder_prompt_ends_where_thinking_begins(ladder):
    ids = ladder.render(load_task("ladder-math").problems(1, seed=0)[0].prompt)
    words = ladder.tokenizer.convert_ids_to_tokens(ids)
    assert words[0] == "<math>"
    assert words[-1] == "<think>"
    assert "<pad>" not in words  # every word of the world is in the vocabulary


def test_worked_solutions_are_in_the_vocabulary(ladder):
    for name in ("ladder-math", "ladder-knowledge"):
        task = load_task(name)
        text = task.reference_reasoning(task.problems(1, seed=0)[0])
        words = ladder.tokenizer.convert_ids_to_tokens(ladder.tokenizer.encode(text))
        assert " ".join(words) == text


def test_an_answer_is_read_up_to_the_stop_token(ladder):
    ids = ladder.tokenizer.encode("#12") + list(ladder.answer_stop_ids)
    assert ladder.read_answer(ids) == "#12"
    assert ladder.read_answer(list(ladder.answer_stop_ids)) == ""
    assert ladder.read_answer([]) == ""


def test_a_format_that_does_not_fit_the_tokenizer_is_refused(ladder):
    from dataclasses import replace

    other = replace(FORMATS["qwen3"], end_of_thinking=("</thought>",))
    with pytest.raises(TslawError, match="does not fit"):
        bind(other, ladder.tokenizer)


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(TslawError, match="tokenizer"):
        load_tokenizer(str(tmp_path))


def test_an_unknown_format_is_refused():
    with pytest.raises(TslawError, match="no thinking format"):
        get_format("llama")
