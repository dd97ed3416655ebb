"""Reading and packing GPTQ words one weight at a time. Slow and obvious."""

from __future__ import annotations

import numpy as np


def pack_rows(levels: np.ndarray, bits: int) -> np.ndarray:
    """(I, O) unsigned levels -> (I * bits / 32, O) int32, consecutive inputs in one word, lowest bits first."""
    per_word = 32 // bits
    words = np.zeros((levels.shape[0] // per_word, levels.shape[1]), dtype=np.uint32)
    for i in range(levels.shape[0]):
        for o in range(levels.shape[1]):
            words[i // per_word, o] |= np.uint32(int(levels[i, o]) << (bits * (i % per_word)))
    return words.view(np.int32)


def weight(levels: np.ndarray, zeros: np.ndarray, scales: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(O, I): scale of the group times (level - zero point of the group)."""
    n_in, n_out = levels.shape
    out = np.zeros((n_out, n_in), dtype=np.float32)
    for i in range(n_in):
        for o in range(n_out):
            out[o, i] = np.float32(scales[groups[i], o]) * np.float32(int(levels[i, o]) - int(zeros[groups[i], o]))
    return out
