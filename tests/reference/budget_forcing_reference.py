"""Budget forcing as a plain transformers loop: greedy, one sequence and one token at a time. Slow and obvious."""

from __future__ import annotations

import torch


def greedy_token(network, ids: list[int], banned: tuple[int, ...]) -> int:
    """The most probable next token, the banned ones left out."""
    logits = network(torch.tensor([ids])).logits[0, -1].float()
    logits[list(banned)] = -torch.inf
    return int(logits.argmax())


def force_to_budget(network, prompt: list[int], budget: int, fmt) -> tuple[list[int], int]:
    """(exactly `budget` thinking tokens, thinking tokens before the first try to stop or -1)."""
    thinking: list[int] = []
    natural = -1
    while len(thinking) < budget:
        token = greedy_token(network, prompt + thinking, fmt.banned_ids)
        if token in fmt.end_ids:
            natural = len(thinking) if natural < 0 else natural
            thinking += fmt.wait_ids
        else:
            thinking.append(token)
    return thinking[:budget], natural


def answer_after(network, prompt: list[int], thinking: list[int], fmt) -> list[int]:
    """The tokens decoded after the final-answer text."""
    answer: list[int] = []
    while len(answer) < fmt.format.answer_max_tokens:
        answer.append(greedy_token(network, prompt + thinking + list(fmt.answer_text_ids) + answer, ()))
        if answer[-1] in fmt.answer_stop_ids:
            break
    return answer
