"""R-KV: important tokens that say nothing twice (Cai et al. 2025, arXiv 2505.24133)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tslaw.errors import TslawError
from tslaw.measure.kv.evictors import Held, check_room, keep_best

PAIRS_AT_ONCE = 2**28
"""Pairs of keys that are compared together: it bounds the working memory."""


@dataclass(frozen=True)
class RKV:
    """Keeps the tokens with the highest mix * importance - (1 - mix) * redundancy, per layer and KV head.

    Importance of a token: the attention that the last `window` queries pay it. Query-key products are maximized over
    the query heads of the KV head's group, made a softmax over all tokens but the window's, averaged over the window,
    and maximized over `kernel` neighbours in the cache. Redundancy: the softmax over tokens of the mean cosine of a
    token's key with all held keys, where for each of those the most recent one that is closer than `threshold` does
    not count (so of several alike the latest is spared). Both as in the authors' code, which differs in places from
    the paper's text: the maximum over the group comes before the softmax, and where no key is close it is the first
    token that is spared.

    Departures from that code: an eviction is due when `retain` + `buffer` tokens are held, prompt included, rather
    than at every `buffer`-th decoded token; tokens of a prompt longer than that see the compressed cache too; kept
    tokens stay in their order; `pin` does not exist there (its prompts may be evicted like anything else).

    Parameters
    ----------
    mix : the paper's lambda, 0 to 1.
    pin : first tokens that are never evicted, such as the length of the longest prompt.
    window : last tokens, which are kept in any case and whose queries vote.
    """

    retain: int
    mix: float = 0.1
    pin: int = 0
    window: int = 8
    kernel: int = 7
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_room("rkv", self.retain, self.pin, self.window)
        if self.window < 1 or self.kernel < 1 or self.kernel % 2 == 0 or not 0 <= self.mix <= 1:
            raise TslawError(
                f"R-KV cannot run with window {self.window}, kernel {self.kernel} and mix {self.mix}.",
                where="KV options",
                expected="a window of at least 1, an odd kernel, a mix of 0 to 1",
            )

    @property
    def n_queries(self) -> int:
        return self.window

    @property
    def reads_tokens(self) -> bool:
        return False

    def keep(self, held: Held) -> Any:
        past = held.keys.shape[2] - self.window
        importance = self._importance(held.queries, held.keys[:, :, :past], held.scale)
        redundancy = self._redundancy(held.keys)[..., :past]
        scores = self.mix * importance - (1 - self.mix) * redundancy
        return keep_best(_with_window(scores, self.window), self.retain, self.pin, self.window)

    def _importance(self, queries: Any, keys: Any, scale: float) -> Any:
        """(sequences, kv_heads, past) from queries (sequences, window, heads, head_dim) and the keys of the past."""
        from torch.nn.functional import max_pool1d

        by_head = queries.unflatten(2, (keys.shape[1], -1)).permute(0, 2, 3, 1, 4)  # (.., kv_heads, group, window, ..)
        products = (by_head.flatten(2, 3) @ keys.mT).unflatten(2, (-1, self.window)).amax(dim=2) * scale
        attention = products.softmax(dim=-1).mean(dim=2)
        return max_pool1d(attention, self.kernel, stride=1, padding=self.kernel // 2)

    def _redundancy(self, keys: Any) -> Any:
        """(sequences, kv_heads, held) from keys (sequences, kv_heads, held, head_dim)."""
        import torch

        heads, n = keys.shape[1:3]
        return torch.cat(
            [_redundant(some, self.threshold) for some in keys.split(max(PAIRS_AT_ONCE // (heads * n * n), 1))]
        )


def _redundant(keys: Any, threshold: float) -> Any:
    import torch

    unit = keys / (keys.norm(dim=-1, keepdim=True) + 1e-8)
    cosines = unit @ unit.mT
    cosines.diagonal(dim1=2, dim2=3).zero_()
    numbers = torch.arange(keys.shape[2], device=keys.device, dtype=torch.int32)
    latest_alike = torch.where(cosines > threshold, numbers, 0).amax(dim=-1, keepdim=True)
    return cosines.scatter_(3, latest_alike.long(), 0.0).mean(dim=2).softmax(dim=-1)


def _with_window(scores: Any, window: int) -> Any:
    from torch.nn.functional import pad

    return pad(scores, (0, window))


POLICY = RKV
