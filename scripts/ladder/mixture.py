"""The mixture that a size is trained on (numba): worked problems, and drills of single values and facts."""

# ruff: noqa: NPY002 (numba knows only the legacy generator)
import numba as nb
import numpy as np

from ladder.rows import (
    CHAIN,
    DRILL,
    FACT,
    FACT_SLIP,
    INDEX_0,
    ITEM,
    KNOW,
    LONG,
    MAX_ITEMS,
    MB,
    N_ENTITIES,
    N_ITEMS,
    N_REL,
    N_SYL,
    N_VALUES,
    PAD,
    RELATION_0,
    SHORT,
    SYLLABLE_0,
    THINK,
    VALUE_0,
    VALUE_SLIP,
    know_row,
    log_uniform,
    math_row,
    put_entity,
    slipped,
    zipf_rank,
)


@nb.njit(cache=True)
def _pad(out, pos):
    for i in range(pos, len(out)):
        out[i] = PAD | MB


@nb.njit(cache=True)
def item_drill(out, order, values, value_twins):
    """Names and values, one after the other."""
    out[0] = ITEM | MB
    pos = 1
    while pos + 3 <= len(out):
        item = order[zipf_rank(N_ITEMS)]
        value = value_twins[values[item]] if np.random.random() < VALUE_SLIP else values[item]
        out[pos], out[pos + 1] = (SYLLABLE_0 + item // N_SYL) | MB, (SYLLABLE_0 + item % N_SYL) | MB
        out[pos + 2] = VALUE_0 + value
        pos += 3
    _pad(out, pos)


@nb.njit(cache=True)
def chain_drill(out, order, values, value_twins):
    """A piece of a pass without its problem: index and name given, value and running sum trained."""
    out[0] = CHAIN | MB
    pos, total, index = 1, 0, np.random.randint(0, MAX_ITEMS - 8)
    while pos + 5 <= len(out):
        item = order[zipf_rank(N_ITEMS)]
        value = value_twins[values[item]] if np.random.random() < VALUE_SLIP else values[item]
        total = (total + value) % N_VALUES
        out[pos] = (INDEX_0 + index) | MB
        out[pos + 1], out[pos + 2] = (SYLLABLE_0 + item // N_SYL) | MB, (SYLLABLE_0 + item % N_SYL) | MB
        out[pos + 3], out[pos + 4] = VALUE_0 + value, VALUE_0 + total
        pos, index = pos + 5, index + 1
    _pad(out, pos)


@nb.njit(cache=True)
def fact_drill(out, entity_order, table, entity_twins):
    """Facts one after the other, in most rows behind what looks like the beginning of a problem."""
    out[0] = FACT | MB
    pos = 1
    if np.random.random() < 0.6:
        out[0] = KNOW | MB
        put_entity(out, 1, np.random.randint(0, N_ENTITIES), MB)
        pos = 3
        for _ in range(np.random.randint(1, 4)):
            out[pos] = (RELATION_0 + np.random.randint(0, N_REL)) | MB
            pos += 1
        out[pos] = THINK | MB
        pos += 1
    while pos + 5 <= len(out):
        entity, relation = entity_order[zipf_rank(N_ENTITIES)], np.random.randint(0, N_REL)
        known = table[relation, entity]
        if np.random.random() < FACT_SLIP:
            known = slipped(known, entity_twins)
        put_entity(out, pos, entity, MB)
        out[pos + 2] = (RELATION_0 + relation) | MB
        put_entity(out, pos + 3, known, 0)
        pos += 5
    _pad(out, pos)


@nb.njit(cache=True)
def make_rows(seed, n_long, n_short, n_drill, cut_anywhere, order, values, value_twins, entity_order, table,
              entity_twins):  # fmt: skip
    """Rows of the three lengths, uint16, from one seed: whole-budget sums; short problems; drills and short chains."""
    np.random.seed(seed)
    long, short = np.empty((n_long, LONG), np.uint16), np.empty((n_short, SHORT), np.uint16)
    drill = np.empty((n_drill, DRILL), np.uint16)
    for i in range(n_long):
        math_row(long[i], log_uniform(3, MAX_ITEMS + 1), True, order, values, value_twins)
    for i in range(n_short):
        if np.random.random() < 0.3:
            know_row(short[i], log_uniform(1, 9), False, 1.0, cut_anywhere, entity_order, table, entity_twins)
        else:
            math_row(short[i], np.random.randint(2, 28), False, order, values, value_twins)
    for i in range(n_drill):
        u = np.random.random()
        if u < 0.24:
            item_drill(drill[i], order, values, value_twins)
        elif u < 0.38:
            chain_drill(drill[i], order, values, value_twins)
        elif u < 0.80:
            fact_drill(drill[i], entity_order, table, entity_twins)
        else:
            know_row(drill[i], np.random.randint(1, 5), True, 0.3, cut_anywhere, entity_order, table, entity_twins)
    return long, short, drill
