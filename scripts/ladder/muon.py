"""Muon (Jordan et al. 2024) for the matrices of a model, its updates scaled like AdamW's (Liu et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Slice = tuple[Tensor, int, int]  # a parameter and the rows of it that make one matrix


def newton_schulz(x: Tensor) -> Tensor:
    """Five steps towards the nearest orthogonal matrices of a batch [n, rows, columns], rows <= columns."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon:
    """Matrices of one shape (or its transpose) are updated together."""

    def __init__(self, slices: list[Slice], weight_decay: float = 0.05, momentum: float = 0.95,
                 transform: Callable[[Callable], Callable] = lambda f: f) -> None:  # fmt: skip
        self.slices, self.weight_decay, self.momentum = slices, weight_decay, momentum
        self.groups: dict[tuple[int, int], list[tuple[int, bool]]] = {}
        for i, (p, start, stop) in enumerate(slices):
            rows, columns = stop - start, p.shape[1]
            self.groups.setdefault((min(rows, columns), max(rows, columns)), []).append((i, rows > columns))
        self.buffers: dict[tuple[int, int], Tensor] = {}
        self.orthogonalise = transform(newton_schulz)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update from the parameters' gradients."""
        for p in {id(p): p for p, _, _ in self.slices}.values():
            p.mul_(1 - lr * self.weight_decay)
        for shape, members in self.groups.items():
            grads = torch.stack([self._view(i, turned, grad=True) for i, turned in members])
            if shape not in self.buffers:
                self.buffers[shape] = torch.zeros_like(grads)
            buffer = self.buffers[shape]
            buffer.lerp_(grads, 1 - self.momentum)
            update = self.orthogonalise(grads.lerp(buffer, self.momentum)).float() * (0.2 * shape[1] ** 0.5 * lr)
            for (i, turned), u in zip(members, update.unbind(0), strict=True):
                self._view(i, turned).sub_(u)

    def _view(self, i: int, turned: bool, grad: bool = False) -> Tensor:
        p, start, stop = self.slices[i]
        x = (p.grad if grad else p)[start:stop]
        return x.mT if turned else x
