"""Train one size: Muon for the matrices, AdamW for the rest, warm-up, plateau and linear decay.

Uniform noise as wide as the rounding step of four bits (a seventh of a group's largest weight) is added to the matrices
in every step, so that a model learns to live with rounding; how well it can depends on what it has to spare.

Two stages: the main one, and a short finishing one at a low, falling rate on rows whose thinking about facts is cut at
any place (in the main stage nearly all such rows are cut at the same place of a pass, and a model so trained may
stumble when its thinking is stopped elsewhere).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ladder import export, pool, probes, rows
from ladder.architecture import GROUP, LM, Segments, Size, from_hf, parameter_count, rope
from ladder.muon import Muon

FINISH_STEPS, FINISH_RATE = 2000, 0.15  # of a size's peak learning rate
WARM_UP, DECAY, NOISE, NOISE_FROM, VALIDATE_EVERY = 200, 0.3, 1 / 7, 0.1, 500
Batch = tuple[Tensor, Tensor, Tensor]


@dataclass
class Run:
    """One training run: the size, where it runs and how far it is."""

    size: Size
    device: torch.device
    steps: int
    until: float  # unix time by which the stage must be over; 0: no such time
    finishing: bool = False
    seed: int = 0
    compiled: bool = True
    began: float = 0.0
    progress: float = 0.0

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def transform(self, f: Callable) -> Callable:
        return torch.compile(f, dynamic=False) if self.compiled else f

    def advance(self, step: int) -> float:
        """Progress 0..1: by steps, or by the clock where that would run out first."""
        clock = (time.time() - self.began) / max(1.0, self.until - self.began) if self.until else 0.0
        self.progress = max(self.progress, step / self.steps, clock)
        return self.progress

    def learning_rate(self, step: int) -> float:
        if self.finishing:
            return self.size.learning_rate * FINISH_RATE * min(1.0, (step + 1) / WARM_UP) * (1 - self.progress)
        decay = 1.0 if self.progress < 1 - DECAY else max(0.0, (1 - self.progress) / DECAY)
        return self.size.learning_rate * min(1.0, (step + 1) / WARM_UP) * decay


def segments_of(counts: tuple[int, ...]) -> Segments:
    """(rows, length) of the three kinds of rows."""
    return list(zip(counts, pool.LENGTHS, strict=True))


def positions(segments: Segments, device: torch.device) -> Tensor:
    """The position of every token of a flat batch in its row."""
    return torch.cat([torch.arange(length).repeat(n) for n, length in segments]).to(device)


def to_batch(pieces: list[Tensor]) -> Batch:
    """Rows (int16) -> flat ids, targets and weights: each token's target is its successor, where that is trained."""
    ids, targets, weights = [], [], []
    for piece in pieces:
        x = piece.to(torch.int32)
        token, following = x & 0x7FFF, torch.cat([x[:, 1:], torch.full_like(x[:, :1], -1)], 1)
        ids.append(token.flatten())
        targets.append((following & 0x7FFF).where(following >= 0, 0).flatten())
        weights.append((following >= 0).flatten())
    return torch.cat(ids).long(), torch.cat(targets).long(), torch.cat(weights).float()


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array).view(np.int16)).to(device)


def matrices(model: LM) -> list[Tensor]:
    """The weights that quantization touches."""
    return [w for b in model.blocks for w in (b.qkv.weight, b.o.weight, b.gate_up.weight, b.down.weight)]


def muon_slices(model: LM) -> list[tuple[Tensor, int, int]]:
    """Each projection of a fused matrix is orthogonalised by itself."""
    found = []
    for b in model.blocks:
        edges = np.cumsum([0, *model.size.widths])
        found += [(b.qkv.weight, int(a), int(z)) for a, z in pairwise(edges)]
        n = model.size.intermediate
        found += [(b.gate_up.weight, 0, n), (b.gate_up.weight, n, 2 * n)]
        found += [(b.o.weight, 0, b.o.weight.shape[0]), (b.down.weight, 0, b.down.weight.shape[0])]
    return found


def noisy(weights: list[Tensor]) -> list[Tensor]:
    """The weights plus uniform noise, scaled by the largest weight of each group of 128."""
    out = []
    for w in weights:
        x = w.reshape(-1, GROUP)
        width = x.abs().amax(-1, keepdim=True) * NOISE
        out.append((x + (torch.rand_like(x) - 0.5) * width).view_as(w))
    return out


class Trainer:
    """The model, its optimizers and its compiled functions."""

    def __init__(self, run: Run, start: dict[str, Tensor] | None = None) -> None:
        torch.manual_seed(run.seed + run.finishing)
        torch.set_float32_matmul_precision("high")
        model = LM(run.size) if start is None else from_hf(run.size, start)
        self.run, self.model = run, model.to(run.device)
        self.segments = segments_of(pool.PER_STEP)
        self.cos, self.sin = rope(positions(self.segments, run.device), run.size)
        self.loss, self.noisy = run.transform(self.model.loss), run.transform(noisy)
        self.muon = Muon(muon_slices(self.model), transform=run.transform)
        held = {id(w) for w in matrices(self.model)}
        rest = [p for p in self.model.parameters() if id(p) not in held]
        self.adam = torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0,
                                      fused=run.device.type == "cuda")  # fmt: skip

    def compile(self) -> None:
        """Compile everything on made-up tokens before the pool is there; leaves the weights as they are."""
        n = sum(r * length for r, length in self.segments)
        ids = torch.randint(0, 600, (n,), device=self.run.device)
        for _ in range(2):
            self.backward((ids, ids, torch.ones(n, device=self.run.device)), noise=True)
            self.muon.step(0.0)
            self.model.zero_grad(set_to_none=True)
        self.muon.buffers.clear()

    def backward(self, batch: Batch, noise: bool) -> Tensor:
        """Gradients of one batch, at noisy weights if asked; returns the loss."""
        weights = [w.detach() for w in matrices(self.model)]
        saved = [w.clone() for w in weights] if noise else []
        if noise:
            with torch.no_grad():
                torch._foreach_copy_(weights, self.noisy(weights))
        with self.run.autocast():
            loss = self.loss(*batch, self.cos, self.sin, self.segments, self.run.dtype)
        loss.backward()
        if noise:
            torch._foreach_copy_(weights, saved)
        return loss.detach()

    def step(self, batch: Batch, lr: float) -> Tensor:
        """One optimizer step."""
        loss = self.backward(batch, noise=self.run.finishing or self.run.progress > NOISE_FROM)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.muon.step(lr)
        self.model.zero_grad(set_to_none=True)
        return loss

    @torch.no_grad()
    def validate(self, batch: Batch, labels: probes.Labels, segments: Segments) -> dict[str, object]:
        """Loss and share of right arg-max predictions by kind of token, on rows that are not trained on."""
        cos, sin = rope(positions(segments, self.run.device), self.run.size)
        with self.run.autocast():
            logits = self.model(batch[0], cos, sin, segments, self.run.dtype).float()
        loss = F.cross_entropy(logits, batch[1], reduction="none")
        right = (logits.argmax(-1) == batch[1]).float()
        return {"validation_loss": round(float((loss * batch[2]).sum() / batch[2].sum()), 4),
                **probes.shares(right, batch[2], labels)}  # fmt: skip


def _loop(trainer: Trainer, pool_folder: Path) -> list[dict[str, object]]:
    """All steps of a stage; returns its curve, the last entry being the end."""
    run, curve, step, loss = trainer.run, [], 0, torch.zeros(())
    pool.wait_for_pool(pool_folder)
    data = [on_device(x, run.device) for x in pool.open_pool(pool_folder)]
    held_out = [on_device(x, run.device) for x in pool.validation_rows()]
    checks = (to_batch(held_out), probes.label(held_out), segments_of(pool.VALIDATION_ROWS))
    run.began = time.time()

    def look() -> None:
        curve.append({"stage": "finish" if run.finishing else "main", "step": step, "loss": round(float(loss), 4),
                      "seconds": round(time.time() - run.began, 1), **trainer.validate(*checks)})  # fmt: skip
        print(f"{run.size.name} {json.dumps(curve[-1])}", flush=True)

    while step % 10 or run.advance(step) < 1:
        batch = to_batch([d[step * n : (step + 1) * n] for d, n in zip(data, pool.PER_STEP, strict=True)])
        loss = trainer.step(batch, run.learning_rate(step))
        step += 1
        if step % 50 == 0 and run.device.type == "cuda":
            torch.cuda.synchronize()
        if step % VALIDATE_EVERY == 0:
            look()
    if not curve or curve[-1]["step"] != step:
        look()
    return curve


def train(run: Run, pool_folder: Path, folder: Path, start: Path | None = None) -> None:
    """Run one stage and write checkpoint, model card and curve to ``folder``; ``start`` is the stage before."""
    trainer = Trainer(run, export.read_weights(start) if start else None)
    if run.compiled:
        trainer.compile()
    print(f"{run.size.name}: compiled", flush=True)
    earlier = json.loads((start / "training.json").read_text())["curve"] if start else []
    curve = _loop(trainer, pool_folder)
    for entry in earlier:
        entry.setdefault("stage", "main")
    record = {
        "size": asdict(run.size),
        "parameters": parameter_count(run.size),
        "steps": sum(c[-1]["step"] for c in (earlier, curve) if c),
        "seed": run.seed,
        "pool_seeds": [pool.SEED, pool.FINISH_SEED],
        "value_slip": rows.VALUE_SLIP,
        "fact_slip": rows.FACT_SLIP,
        "weight_noise": NOISE,
        "finish_rate": FINISH_RATE,
        "curve": [*earlier, *curve],
    }
    record["tokens"] = record["steps"] * sum(n * length for n, length in trainer.segments)
    record["seconds"] = sum(c[-1]["seconds"] for c in (earlier, curve) if c)
    export.write_model(trainer.model, folder, record)
