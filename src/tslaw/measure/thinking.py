"""How a model family opens, ends and continues its thinking, and how a final answer is drawn from it.

Budget forcing (Muennighoff et al. 2025, s1; as used for Qwen3 in the paper): an end of thinking before the budget is
replaced by a text that makes the model go on ("Wait"); at the budget a final-answer text is appended and the answer
is decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tslaw.errors import TslawError


@dataclass(frozen=True)
class ThinkingFormat:
    """The texts of one family. `end_of_thinking`, `answer_stop` and `banned` name single tokens of the vocabulary.

    Attributes
    ----------
    opener : appended to the rendered chat prompt; part of the prompt, not of the thinking.
    end_of_thinking : tokens by which the model stops thinking of its own accord; each is replaced by `wait`.
    wait : text that continues the thinking; its tokens count as thinking tokens.
    answer_text : appended at the budget; its tokens count as probe tokens.
    answer_max_tokens : most tokens decoded as the answer.
    banned : tokens never sampled while thinking.
    read_answer : takes the answer out of the decoded text.
    """

    name: str
    opener: str
    end_of_thinking: tuple[str, ...]
    wait: str
    answer_text: str
    answer_max_tokens: int
    answer_stop: tuple[str, ...]
    banned: tuple[str, ...]
    read_answer: Callable[[str], str]


def read_boxed(text: str) -> str:
    r"""What stands before the brace that closes `\boxed{`; an unclosed box holds no answer and gives ''."""
    depth = 0
    for i, char in enumerate(text):
        if char == "}" and depth == 0:
            return text[:i].strip()
        depth += {"{": 1, "}": -1}.get(char, 0)
    return ""


FORMATS: dict[str, ThinkingFormat] = {
    "qwen3": ThinkingFormat(
        name="qwen3",
        opener="<think>\n",
        end_of_thinking=("</think>", "<|im_end|>", "<|endoftext|>"),
        wait="Wait",
        answer_text="\n\n**Final Answer**\n\\boxed{",
        answer_max_tokens=32,
        answer_stop=("<|im_end|>", "<|endoftext|>"),
        banned=(),
        read_answer=read_boxed,
    ),
    "ladder": ThinkingFormat(
        name="ladder",
        opener="",  # its chat template ends with <think>
        end_of_thinking=("</think>",),
        wait="<wait>",
        answer_text="</think> <ans>",
        answer_max_tokens=3,
        answer_stop=("<eos>",),
        banned=("<pad>", "<eos>", "<ans>", "<item>", "<fact>", "<chain>"),
        read_answer=str.strip,
    ),
}


@dataclass(frozen=True)
class BoundFormat:
    """A ThinkingFormat in the token ids of one tokenizer."""

    format: ThinkingFormat
    tokenizer: Any
    end_ids: tuple[int, ...]
    wait_ids: tuple[int, ...]
    answer_text_ids: tuple[int, ...]
    answer_stop_ids: tuple[int, ...]
    banned_ids: tuple[int, ...]

    def render(self, prompt: str) -> list[int]:
        """Token ids of a user's message, chat template and opener included, up to the first thinking token."""
        message = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer.encode(text + self.format.opener, add_special_tokens=False))

    def read_answer(self, ids: list[int]) -> str:
        """The answer in the tokens that a probe decoded, as text; '' where there is none."""
        if ids and ids[-1] in self.answer_stop_ids:
            ids = ids[:-1]
        return self.format.read_answer(self.tokenizer.decode(ids, skip_special_tokens=True))


def get_format(name: str) -> ThinkingFormat:
    """The format called `name`; TslawError lists the names."""
    if name not in FORMATS:
        raise TslawError(f"There is no thinking format '{name}'.", expected="one of " + ", ".join(FORMATS))
    return FORMATS[name]


def bind(thinking_format: ThinkingFormat, tokenizer: Any) -> BoundFormat:
    """Look the format's texts up in a Hugging Face tokenizer.

    Raises
    ------
    TslawError : an end-of-thinking token is not in the vocabulary, or the tokenizer has no chat template.
    """
    vocabulary = tokenizer.get_vocab()
    name, end = thinking_format.name, thinking_format.end_of_thinking[0]
    if end not in vocabulary:
        raise TslawError(
            f"The thinking format '{name}' does not fit this model: its tokenizer has no '{end}'.",
            where=getattr(tokenizer, "name_or_path", None),
            expected="a model that thinks in the format's own tokens",
        )
    if not tokenizer.chat_template:
        raise TslawError(
            "The model's tokenizer has no chat template.",
            where=getattr(tokenizer, "name_or_path", None),
            expected="a chat model, or a chat_template.jinja beside tokenizer.json",
        )

    def known(tokens: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(vocabulary[t] for t in tokens if t in vocabulary)

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    return BoundFormat(
        format=thinking_format,
        tokenizer=tokenizer,
        end_ids=known(thinking_format.end_of_thinking),
        wait_ids=encode(thinking_format.wait),
        answer_text_ids=encode(thinking_format.answer_text),
        answer_stop_ids=known(thinking_format.answer_stop),
        banned_ids=known(thinking_format.banned),
    )


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a hub id or folder; TslawError where there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise TslawError(
            f"The tokenizer of '{source}' cannot be loaded: {str(error).splitlines()[0]}",
            where=source,
            expected="a folder with tokenizer.json, or a hub id that can be reached",
        ) from error
