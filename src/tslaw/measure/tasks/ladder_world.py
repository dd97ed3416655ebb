"""The ladder's world: its vocabulary, the values and facts to memorise, and the evaluation problems. Pure numpy.

math   the sum modulo 64 of k named items. The value of an item (two syllables) is memorised; thinking names the items
       one by one, recalls each value and keeps a running sum (5 tokens an item), then starts another pass.
know   a chain of h facts: entity --relation--> entity. Thinking recalls one fact after the other (3 tokens a hop), then
       starts another pass.

In both, a pass ends with its result (``=>``) and the plurality of the results so far (``~``); ``<wait>`` opens the
next one.
Items and entities have a popularity rank, and a problem is drawn below a rank bound R: that is its difficulty.
Facts about an entity lead to entities of about the same popularity, so that a chain stays below its bound.
Every value (and second syllable of an entity) has a *twin* with which the training records confuse it now and then: a
trained model slips to the twin from time to time, differently in each pass and each sample.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

WORLD_VERSION = 2

N_VALUES, N_SYLLABLES, N_RELATIONS, N_ENTITY_SYLLABLES, MAX_ITEMS = 64, 512, 16, 128, 48
N_ITEMS = N_SYLLABLES**2
N_ENTITIES = N_ENTITY_SYLLABLES**2
SPECIALS = (
    *("<pad>", "<eos>", "<math>", "<know>", "<think>", "</think>", "<wait>", "<ans>", "=>", "~"),
    *("<item>", "<fact>", "<chain>", "<unused>"),
)
PAD, EOS, MATH, KNOW, THINK, UNTHINK, WAIT, ANS, RESULT, MODE, ITEM, FACT, CHAIN = range(13)
VALUE_0 = len(SPECIALS)  # "#0" .. "#63"
INDEX_0 = VALUE_0 + N_VALUES  # ">1" .. ">48"
SYLLABLE_0 = INDEX_0 + MAX_ITEMS
RELATION_0 = SYLLABLE_0 + N_SYLLABLES
VOCAB_SIZE = 704  # a multiple of 64; the last 50 are never used

MATH_ITEMS = (3, 6, 12, 24, 48)
KNOW_HOPS = (1, 2, 4, 8)
MATH_LOWEST_BOUND, KNOW_LOWEST_BOUND = 512, 128
MATH_OCTAVES, KNOW_OCTAVES = 9, 7
_CLOSED_FROM = 256  # facts of the most popular entities stay within the first 256

IntArray = NDArray[np.int64]
Problems = tuple[list[list[int]], list[list[int]], list[int]]


@cache
def token_names() -> tuple[str, ...]:
    """The vocabulary: one name per token id; a text is these names with blanks between them."""
    onsets = [*"bcdfghjklmnprstz", *(c + "r" for c in "bcdfgkptsv"), "bl", "cl", "fl", "gl", "kl", "pl"]
    nuclei = ["a", "e", "i", "o", "u", "ai", "au", "ou", "ei", "oi", "ia", "ie", "io", "ua", "ue", "eo"]
    names = [*SPECIALS, *(f"#{i}" for i in range(N_VALUES)), *(f">{i + 1}" for i in range(MAX_ITEMS))]
    names += [c + v for c in onsets for v in nuclei]
    names += [f"@rel{i}" for i in range(N_RELATIONS)]
    names += [f"<unused{i}>" for i in range(VOCAB_SIZE - len(names))]
    return tuple(names)


@cache
def item_order() -> IntArray:
    """Popularity rank -> item (``first syllable * 512 + second syllable``)."""
    return np.random.default_rng(5).permutation(N_ITEMS)


@cache
def item_values() -> IntArray:
    """Item -> its value, 0..63."""
    return np.random.default_rng(6).integers(0, N_VALUES, N_ITEMS)


@cache
def entity_order() -> IntArray:
    """Popularity rank -> entity (``first syllable * 128 + second syllable``)."""
    return np.random.default_rng(7).permutation(N_ENTITIES)


@cache
def facts() -> IntArray:
    """(relation, entity) -> entity: uniform among the entities below the next power of two of the subject's rank."""
    rng, order = np.random.default_rng(8), entity_order()
    rank = np.arange(N_ENTITIES)
    bound = np.maximum(_CLOSED_FROM, 2 ** (np.floor(np.log2(np.maximum(rank, 1))).astype(np.int64) + 1))
    table = np.empty((N_RELATIONS, N_ENTITIES), np.int64)
    table[:, order] = order[(rng.random((N_RELATIONS, N_ENTITIES)) * bound).astype(np.int64)]
    return table


def _matching(n: int, seed: int) -> IntArray:
    """A random pairing of 0..n-1 as an involution without fixed points."""
    shuffled, twin = np.random.default_rng(seed).permutation(n), np.empty(n, np.int64)
    twin[shuffled[::2]], twin[shuffled[1::2]] = shuffled[1::2], shuffled[::2]
    return twin


@cache
def value_twins() -> IntArray:
    """Value -> the value it is confused with."""
    return _matching(N_VALUES, 9)


@cache
def entity_twins() -> IntArray:
    """Second syllable of an entity (0..127) -> the syllable it is confused with."""
    return _matching(N_ENTITY_SYLLABLES, 10)


@cache
def syllables() -> tuple[str, ...]:
    """The words that names are made of, in the vocabulary's order."""
    return token_names()[SYLLABLE_0 : SYLLABLE_0 + N_SYLLABLES]


def item_name(item: int) -> str:
    """An item as the models write it: two syllables."""
    return render(item_tokens(item))


def entity_name(entity: int) -> str:
    """An entity as the models write it: two of the first N_ENTITY_SYLLABLES syllables."""
    return render(entity_tokens(entity))


def value_name(value: int) -> str:
    """A value or a running sum as the models write it."""
    return token_names()[VALUE_0 + value]


def item_tokens(item: int) -> list[int]:
    """The two syllables of an item's name."""
    return [SYLLABLE_0 + item // N_SYLLABLES, SYLLABLE_0 + item % N_SYLLABLES]


def entity_tokens(entity: int) -> list[int]:
    """The two syllables of an entity's name."""
    return [SYLLABLE_0 + entity // N_ENTITY_SYLLABLES, SYLLABLE_0 + entity % N_ENTITY_SYLLABLES]


def _bound(rng: np.random.Generator, octave: int, n_octaves: int, lowest: int, highest: int) -> int:
    """A rank bound, log-uniform inside one of ``n_octaves`` equal log intervals between lowest and highest."""
    return int(lowest * 2 ** ((octave + rng.random()) * np.log2(highest / lowest) / n_octaves))


def draw_items(rng: np.random.Generator, octave: int, k: int, n_oct: int = MATH_OCTAVES,
               lo: int = MATH_LOWEST_BOUND) -> IntArray:  # fmt: skip
    """``k`` items, uniform below a rank bound of this octave."""
    return item_order()[rng.integers(0, _bound(rng, octave, n_oct, lo, N_ITEMS), k)]


def draw_chain(rng: np.random.Generator, octave: int, hops: int, n_oct: int = KNOW_OCTAVES,
               lo: int = KNOW_LOWEST_BOUND) -> tuple[int, IntArray, int]:  # fmt: skip
    """A chain of facts: its first entity (uniform below a rank bound), its distinct relations, its last entity."""
    start = end = int(entity_order()[rng.integers(0, _bound(rng, octave, n_oct, lo, N_ENTITIES))])
    relations = rng.choice(N_RELATIONS, hops, replace=False)
    for relation in relations:
        end = int(facts()[relation, end])
    return start, relations, end


def math_problems(ks: tuple[int, ...] = MATH_ITEMS, n_oct: int = MATH_OCTAVES, n_per: int = 5, seed: int = 0,
                  lo: int = MATH_LOWEST_BOUND) -> Problems:  # fmt: skip
    """Stratified sums: ``n_per`` problems for each (octave of the rank bound, number of items).

    Returns (prompts, answers) as token ids and the stratum ``octave * 1000 + k`` of each problem.
    """
    rng = np.random.default_rng(seed)
    prompts, answers, strata = [], [], []
    for octave, k in ((o, k) for o in range(n_oct) for k in ks for _ in range(n_per)):
        items = draw_items(rng, octave, k, n_oct, lo)
        named = [t for i, item in enumerate(items) for t in (INDEX_0 + i, *item_tokens(int(item)))]
        prompts.append([MATH, *named, THINK])
        answers.append([VALUE_0 + int(item_values()[items].sum()) % N_VALUES])
        strata.append(octave * 1000 + k)
    return prompts, answers, strata


def know_problems(hs: tuple[int, ...] = KNOW_HOPS, n_oct: int = KNOW_OCTAVES, n_per: int = 8, seed: int = 0,
                  lo: int = KNOW_LOWEST_BOUND) -> Problems:  # fmt: skip
    """Stratified chains: ``n_per`` problems for each (octave of the rank bound, number of hops).

    Returns (prompts, answers) as token ids and the stratum ``octave * 1000 + hops`` of each problem.
    """
    rng = np.random.default_rng(seed)
    prompts, answers, strata = [], [], []
    for octave, hops in ((o, h) for o in range(n_oct) for h in hs for _ in range(n_per)):
        start, relations, end = draw_chain(rng, octave, hops, n_oct, lo)
        prompts.append([KNOW, *entity_tokens(start), *(RELATION_0 + int(r) for r in relations), THINK])
        answers.append(entity_tokens(end))
        strata.append(octave * 1000 + hops)
    return prompts, answers, strata


def render(tokens: list[int] | IntArray) -> str:
    """Token ids as text."""
    names = token_names()
    return " ".join(names[int(t)] for t in tokens)
