"""A batched sampler with budget forcing, for a first look right after training (the measurements proper use vLLM)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ladder.architecture import LM, rope
from tslaw.measure.tasks import ladder_world as w

NEVER = -1
_NOT_WHILE_THINKING = [w.PAD, w.EOS, w.ANS, w.ITEM, w.FACT, w.CHAIN]


class Decoder:
    """One token for every row per step, from a static cache; CUDA graphs for caches of growing length.

    Rows are right-aligned, so that all of them start to think at the same step.
    """

    def __init__(self, model: LM, rows: int, length: int, chunk: int = 256) -> None:
        self.model, self.size, self.rows = model, model.size, rows
        self.device, self.dtype = model.embedding.weight.device, model.embedding.weight.dtype
        shape = (self.size.layers, rows, self.size.kv_heads, length, self.size.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        self.ids, self.start = (torch.zeros(rows, dtype=torch.long, device=self.device) for _ in range(2))
        self.step = torch.zeros(1, dtype=torch.long, device=self.device)
        self.places = torch.arange(length, device=self.device)
        self.lengths = [*range(chunk, length, chunk), length]
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        if self.device.type == "cuda":
            self._capture()

    def _capture(self) -> None:
        memory = None
        for length in self.lengths:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream), torch.no_grad():
                for _ in range(2):
                    self._forward(length)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.no_grad(), torch.cuda.graph(graph, pool=memory):
                out = self._forward(length)
            memory = graph.pool()
            self.graphs[length] = (graph, out)

    def _forward(self, length: int) -> Tensor:
        size, rows = self.size, self.rows
        x = F.embedding(self.ids, self.model.embedding.weight)
        cos, sin = rope((self.step - self.start).clamp_min(0), size)
        places = self.places[None, :length]
        seen = ((places <= self.step) & (places >= self.start[:, None])) | (places == self.step)
        bias = torch.zeros(rows, 1, 1, length, dtype=self.dtype, device=self.device)
        bias = bias.masked_fill(~seen[:, None, None, :], float("-inf"))
        for i, block in enumerate(self.model.blocks):
            q, k, v = block.heads(x, cos, sin)
            self.keys[i].index_copy_(2, self.step, k.to(self.dtype)[:, :, None, :])
            self.values[i].index_copy_(2, self.step, v[:, :, None, :])
            q = q.to(self.dtype).unflatten(1, (size.kv_heads, -1))
            scores = torch.matmul(q, self.keys[i][:, :, :length].transpose(-1, -2)) * size.head_dim**-0.5 + bias
            out = torch.matmul(torch.softmax(scores.float(), -1).to(self.dtype), self.values[i][:, :, :length])
            x = x + block.o(out.reshape(rows, -1))
            x = x + block.mlp(x)
        return F.linear(self.model.norm(x), self.model.embedding.weight).float()

    @torch.no_grad()
    def feed(self, ids: Tensor, step: int) -> Tensor:
        """Logits [rows, vocabulary] after the token ``ids`` at place ``step``."""
        self.ids.copy_(ids)
        self.step.fill_(step)
        length = next(n for n in self.lengths if step < n)
        if self.graphs:
            graph, out = self.graphs[length]
            graph.replay()
            return out
        return self._forward(length)


def draw(logits: Tensor, temperature: float, banned: list[int]) -> Tensor:
    """A sample per row (Gumbel trick)."""
    logits = logits.clone()
    logits[:, banned] = float("-inf")
    noise = -torch.log(-torch.log(torch.rand_like(logits).clamp_(1e-20, 1 - 1e-7)))
    return (logits / temperature + noise).argmax(-1)


def _prefill(decoder: Decoder, prompts: list[list[int]]) -> tuple[Tensor, int]:
    longest = max(map(len, prompts))
    ids, start = np.zeros((len(prompts), longest), np.int64), np.zeros(len(prompts), np.int64)
    for i, prompt in enumerate(prompts):
        start[i] = longest - len(prompt)
        ids[i, start[i] :] = prompt
    decoder.start.copy_(torch.from_numpy(start))
    tokens = torch.from_numpy(ids).to(decoder.device)
    logits = torch.empty(0)
    for place in range(longest):
        logits = decoder.feed(tokens[:, place], place)
    return logits, longest


@torch.no_grad()
def think(
    decoder: Decoder, prompts: list[list[int]], budgets: list[int], n_answer: int, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One trajectory a row up to the largest budget, with an answer forked off at every budget.

    Returns the answers' tokens [budget, row, n_answer]; the natural length [row] (thinking tokens before the model
    first wanted to stop, -1: never); the thoughts of the first 8 rows. An end of thinking becomes ``<wait>``.
    """
    rows, device = len(prompts), decoder.device
    logits, place = _prefill(decoder, prompts)
    answers = torch.zeros(len(budgets), rows, n_answer, dtype=torch.int16, device=device)
    natural = torch.full((rows,), NEVER, dtype=torch.int32, device=device)
    unthink, ans = (torch.full((rows,), t, device=device) for t in (w.UNTHINK, w.ANS))
    thoughts = torch.zeros(8, max(budgets), dtype=torch.int16, device=device)
    for spent in range(max(budgets) + 1):
        if spent in budgets:
            kept = logits.clone()
            decoder.feed(unthink, place)
            forked = decoder.feed(ans, place + 1)
            for j in range(n_answer):
                token = draw(forked, temperature, list(range(len(w.SPECIALS))))
                answers[budgets.index(spent), :, j] = token.to(torch.int16)
                if j < n_answer - 1:
                    forked = decoder.feed(token, place + 2 + j)
            logits = kept
        if spent == max(budgets):
            break
        token = draw(logits, temperature, _NOT_WHILE_THINKING)
        stops = token == w.UNTHINK
        natural = torch.where(stops & (natural == NEVER), spent, natural)
        token = torch.where(stops, w.WAIT, token)
        thoughts[: min(8, rows), spent] = token[:8].to(torch.int16)
        logits = decoder.feed(token, place)
        place += 1
    return answers.cpu().numpy(), natural.cpu().numpy(), thoughts.cpu().numpy()
