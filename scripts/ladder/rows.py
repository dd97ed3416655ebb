"""Training rows (numba): worked problems as token rows, with a bit that marks what is not trained.

A recalled token is trained in one pass of a row only; before that pass it is random in half of the rows and after it
untrained, so nothing rewards copying an earlier recall and every pass is a fresh draw. Where it is trained it is the
*twin* of the truth in a fraction ``slip`` of the cases. Untrained errors in later passes teach the plurality.
"""

# ruff: noqa: NPY002 (numba knows only the legacy generator)
import numba as nb
import numpy as np

from tslaw.measure.tasks import ladder_world as w

LONG, SHORT, DRILL = 1696, 288, 32  # row lengths: whole budgets, short problems, drills
UNTRAINED = 0x8000  # bit of a row's token: do not train on predicting it
VALUE_SLIP, FACT_SLIP = 0.065, 0.15
MB = UNTRAINED
PAD, EOS, MATH, KNOW, THINK, UNTHINK, WAIT, ANS = w.PAD, w.EOS, w.MATH, w.KNOW, w.THINK, w.UNTHINK, w.WAIT, w.ANS
RESULT, MODE, ITEM, FACT, CHAIN = w.RESULT, w.MODE, w.ITEM, w.FACT, w.CHAIN
VALUE_0, INDEX_0, SYLLABLE_0, RELATION_0 = w.VALUE_0, w.INDEX_0, w.SYLLABLE_0, w.RELATION_0
N_VALUES, N_SYL, N_REL, N_ES = w.N_VALUES, w.N_SYLLABLES, w.N_RELATIONS, w.N_ENTITY_SYLLABLES
N_ITEMS, N_ENTITIES, MAX_ITEMS = w.N_ITEMS, w.N_ENTITIES, w.MAX_ITEMS
_RANK_POWER = 4.0  # a rank drawn as n * u**4 has density r**-0.75


def tables():
    """The arrays of the world that the generators read, in the order they take them."""
    return w.item_order(), w.item_values(), w.value_twins(), w.entity_order(), w.facts(), w.entity_twins()


@nb.njit(cache=True)
def zipf_rank(n):
    return int(n * np.random.random() ** _RANK_POWER)


@nb.njit(cache=True)
def log_uniform(low, high):
    return int(low * np.exp(np.random.random() * np.log(high / low)))


@nb.njit(cache=True)
def _error_rate():
    """How often an untrained pass of a row goes wrong."""
    u = np.random.random()
    if u < 0.25:
        return 0.0
    if u < 0.5:
        return 0.25
    return 0.5 if u < 0.75 else 0.8


@nb.njit(cache=True)
def _put(out, pos, end, buf, n):
    """Append buf[:n] to out as far as ``end`` allows; returns the new position."""
    n = min(n, end - pos)
    for i in range(n):
        out[pos + i] = buf[i]
    return pos + n


@nb.njit(cache=True)
def _plurality(results, n, current):
    """Plurality with hysteresis: keep ``current`` unless the latest result has strictly more votes."""
    if current < 0:
        return results[0]
    votes, held, last = 0, 0, results[n - 1]
    for i in range(n):
        held += results[i] == current
        votes += results[i] == last
    return last if votes > held else current


@nb.njit(cache=True)
def _finish(out, pos, forced, answer, n_answer, known):
    """End of thinking, answer, padding."""
    out[pos] = UNTHINK | (MB if forced else 0)
    out[pos + 1] = ANS
    for i in range(n_answer):
        out[pos + 2 + i] = answer[i] | (0 if known else MB)
    out[pos + 2 + n_answer] = EOS
    for i in range(pos + 3 + n_answer, len(out)):
        out[i] = PAD | MB


@nb.njit(cache=True)
def _math_pass(buf, items, truth, trained, npass, first, error_rate, value_twins):
    """One pass over the items from the place ``first``; returns (tokens written, sum)."""
    k, pos, total = len(items), 0, 0
    wrong = np.random.randint(0, k) if np.random.random() < error_rate else -1
    for j in range(k):
        i = (first + j) % k
        value, mask = truth[i], MB
        if npass == trained[i]:
            mask = 0
            if np.random.random() < VALUE_SLIP:
                value = value_twins[value]
        elif npass < trained[i] or j == wrong:
            value = np.random.randint(0, N_VALUES)
        total = (total + value) % N_VALUES
        buf[pos] = INDEX_0 + i
        buf[pos + 1], buf[pos + 2] = SYLLABLE_0 + items[i] // N_SYL, SYLLABLE_0 + items[i] % N_SYL
        buf[pos + 3], buf[pos + 4] = (VALUE_0 + value) | mask, VALUE_0 + total
        pos += 5
    return pos, total


@nb.njit(cache=True)
def math_row(out, k, whole_budget, order, values, value_twins):
    """A worked sum of k items. ``whole_budget``: cut late and never stopped by itself; else it may stop when sure."""
    bound = log_uniform(256, N_ITEMS)
    items, trained = np.empty(k, np.int64), np.zeros(k, np.int64)
    for i in range(k):
        items[i] = order[np.random.randint(0, bound)]
    truth, error_rate = values[items], _error_rate()
    buf = np.empty(5 * MAX_ITEMS + 8, np.int64)
    pos = 1
    out[0] = MATH | MB
    for i in range(k):
        out[pos] = (INDEX_0 + i) | MB
        out[pos + 1] = (SYLLABLE_0 + items[i] // N_SYL) | MB
        out[pos + 2] = (SYLLABLE_0 + items[i] % N_SYL) | MB
        pos += 3
    out[pos] = THINK | MB
    pos += 1
    room = len(out) - pos - 4
    cut = room - np.random.randint(0, 8)
    if whole_budget:
        cut = np.random.randint(room * 3 // 4, room + 1)
    elif np.random.random() < 0.12:
        cut = np.random.randint(0, min(room, 5 * k + 8) + 1)
    end = pos + max(0, cut)
    if np.random.random() < 0.5:
        for i in range(k):
            trained[i] = np.random.randint(0, cut // (5 * k + 5) + 1)
    results, n, current, forced = np.empty(512, np.int64), 0, -1, True
    while True:
        first = 0 if n == 0 else np.random.randint(0, k)
        m, total = _math_pass(buf, items, truth, trained, n, first, error_rate, value_twins)
        results[n] = total
        ahead = _plurality(results, n + 1, current)
        buf[m], buf[m + 1], buf[m + 2], buf[m + 3] = RESULT, VALUE_0 + total, MODE, VALUE_0 + ahead
        start = pos
        pos = _put(out, pos, end, buf, m + 4)
        if pos - start < m + 4:
            break
        n, current, agreeing = n + 1, ahead, 0
        for i in range(n):
            agreeing += results[i] == current
        if not whole_budget and agreeing >= 2 and np.random.random() < 0.5:
            forced = False
            break
        if pos >= end:
            break
        out[pos] = WAIT
        pos += 1
    buf[0] = VALUE_0 + max(current, 0)
    _finish(out, pos, forced, buf, 1, current >= 0)


@nb.njit(cache=True)
def put_entity(buf, pos, entity, mask):
    buf[pos], buf[pos + 1] = (SYLLABLE_0 + entity // N_ES) | mask, (SYLLABLE_0 + entity % N_ES) | mask


@nb.njit(cache=True)
def slipped(entity, entity_twins):
    return entity // N_ES * N_ES + entity_twins[entity % N_ES]


@nb.njit(cache=True)
def _know_pass(buf, start, relations, state, error_rate, table, entity_twins):
    """One pass along the chain; state: -1 before the trained pass, 0 in it, 1 after it. Returns (written, end)."""
    put_entity(buf, 0, start, 0)
    pos, entity, mask = 2, start, 0 if state == 0 else MB
    wrong = np.random.randint(0, len(relations)) if state != 0 and np.random.random() < error_rate else -1
    for i in range(len(relations)):
        entity = table[relations[i], entity]
        if state == 0 and np.random.random() < FACT_SLIP:
            entity = slipped(entity, entity_twins)
        if state < 0 or i == wrong:
            entity = np.random.randint(0, N_ENTITIES)
        buf[pos] = RELATION_0 + relations[i]
        put_entity(buf, pos + 1, entity, mask)
        pos += 3
    return pos, entity


@nb.njit(cache=True)
def know_row(out, hops, natural, error_scale, cut_anywhere, entity_order, table, entity_twins):
    """A worked chain of facts; ``natural``: it may stop by itself after any pass.

    A forced end comes where the row is full, or anywhere in the last pass before that (``cut_anywhere``).
    """
    entity = entity_order[zipf_rank(N_ENTITIES)]
    relations = np.random.permutation(N_REL)[:hops]
    error_rate = _error_rate() * error_scale
    buf, results = np.empty(3 * N_REL + 16, np.int64), np.empty(512, np.int64)
    out[0] = KNOW | MB
    out[1], out[2] = (SYLLABLE_0 + entity // N_ES) | MB, (SYLLABLE_0 + entity % N_ES) | MB
    for i in range(hops):
        out[3 + i] = (RELATION_0 + relations[i]) | MB
    out[3 + hops] = THINK | MB
    pos = 4 + hops
    room = len(out) - pos - 5
    cut = np.random.randint(0, min(room, 3 * hops + 8) + 1) if np.random.random() < 0.1 else room
    if cut == room and cut_anywhere:
        cut = max(0, room - np.random.randint(0, 3 * hops + 9))
    end = pos + cut
    trained = np.random.randint(0, room // (3 * hops + 9) + 1) if np.random.random() < 0.5 else 0
    n, current, forced = 0, -1, True
    while True:
        m, last = _know_pass(buf, entity, relations, np.sign(n - trained), error_rate, table, entity_twins)
        results[n] = last
        ahead = _plurality(results, n + 1, current)
        buf[m] = RESULT
        put_entity(buf, m + 1, last, 0)
        buf[m + 3] = MODE
        put_entity(buf, m + 4, ahead, 0)
        start = pos
        pos = _put(out, pos, end, buf, m + 6)
        if pos - start < m + 6:
            break
        n, current = n + 1, ahead
        if natural and np.random.random() < 0.5:
            forced = False
            break
        if pos >= end:
            break
        out[pos] = WAIT
        pos += 1
    put_entity(buf, 0, max(current, 0), 0)
    _finish(out, pos, forced, buf, 2, current >= 0)
