"""Which visits show one animal: the partition with the most evidence within its groups.

The logarithm of a partition's posterior probability is, up to a constant, the evidence of all pairs
within groups plus the prior log-odds for each of the V - K links that join V visits into K groups.
With the prior in the evidence of each pair it is correlation clustering (Bansal, Blum & Chawla
2004), which is NP-hard. Here: local search by joining two groups, moving one visit, and splitting a
group along a link of its maximum spanning tree, until none of them gains. Where scores are tempered
(`PairGraph`), a change's gain is the log-odds of its two sides, and no more a difference of sums.

Letters: V visits, G groups, M pairs of groups, C cuts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from exreid.review.belief import PairGraph, pairs_inside, pairs_of

LEAST_GAIN = 1e-9
"""A smaller gain is a rounding error."""
REMEMBERED = 2048
"""Groups whose cuts are remembered."""


@dataclass(frozen=True, eq=False)
class Joins:
    """Pairs of groups with a listed pair of visits between them."""

    group_M2: np.ndarray
    """int64 (M, 2), the smaller label first."""
    gain_M: np.ndarray
    """float64: the log-odds that the two groups show one animal, the rest being as it is."""


@dataclass(frozen=True, eq=False)
class Cuts:
    """Ways to split groups in two, one for each link of a maximum spanning tree."""

    link_C2: np.ndarray
    """int64 (C, 2): the two visits whose link is cut."""
    gain_C: np.ndarray
    """float64: the log-odds that the two sides show two animals, the rest being as it is."""
    sides: list[np.ndarray]
    """Of each cut the visits of the smaller side, rising."""


def objective(graph: PairGraph, group_V: np.ndarray) -> float:
    """Evidence within groups plus the prior of V - K links."""
    first, second = graph.pair_P2.T
    within_P = group_V[first] == group_V[second]
    size_G3 = graph.sizes(group_V)
    pairs = float(pairs_inside(size_G3).sum())
    surplus = float((graph.evidence_P - graph.unlisted_evidence(graph.pair_P2))[within_P].sum())
    links = graph.visits - np.count_nonzero(size_G3[:, 0])
    return surplus + pairs * graph.unlisted + links * graph.prior


def find_partition(graph: PairGraph, start_V: np.ndarray | None = None) -> np.ndarray:
    """int64 (V,): a group for each visit, from 0 by first appearance. No single join, move or split
    betters it. ``start_V``: a partition to begin with, else each visit is alone. The same input
    gives the same partition; equal gains go to the smaller labels. Tempered scores have no
    objective that each step raises: where a partition comes back, joins alone end the search."""
    group_V = by_first_appearance(np.arange(graph.visits) if start_V is None else start_V)
    steps, seen = [_join, _move, _split], set[bytes]()
    while True:
        changed = False
        for step in steps:
            better_V = step(graph, group_V)
            if better_V is not None:
                group_V, changed = by_first_appearance(better_V), True
        if not changed:
            return group_V
        if group_V.tobytes() in seen:
            steps = [_join]
        seen.add(group_V.tobytes())


def by_first_appearance(label_V: np.ndarray) -> np.ndarray:
    """The same groups, numbered from 0 in the order of their first visits.

    >>> by_first_appearance(np.array([7, 3, 7, 1])).tolist()
    [0, 1, 0, 2]
    """
    _, first_G, place_V = np.unique(label_V, return_index=True, return_inverse=True)
    rank_G = np.empty(len(first_G), np.int64)
    rank_G[np.argsort(first_G)] = np.arange(len(first_G))
    return rank_G[place_V]


def joins_of(graph: PairGraph, group_V: np.ndarray) -> Joins:
    """The gain of each join of two groups that have a listed pair between them."""
    groups = int(group_V.max(initial=0)) + 1
    group_P2 = np.sort(group_V[graph.pair_P2], axis=1)
    between_P = group_P2[:, 0] != group_P2[:, 1]
    key_M, surplus_M, said_M = _summed(
        group_P2[between_P] @ np.array([groups, 1]),
        graph.surplus_P[between_P],
        graph.told_P[between_P],
    )
    group_M2 = np.stack([key_M // groups, key_M % groups], axis=1)
    size_G3 = graph.sizes(group_V)
    pairs_M = pairs_of(size_G3[group_M2[:, 0]], size_G3[group_M2[:, 1]])
    scores_M = graph.tempered(surplus_M + pairs_M * graph.unlisted, pairs_M)
    return Joins(group_M2, scores_M + said_M + graph.prior)


def _summed(
    key_N: np.ndarray, one_N: np.ndarray, other_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different keys, rising, and the sums of each one's two weights."""
    if len(key_N) and key_N.max() <= 4 * len(key_N):
        key_M = np.flatnonzero(np.bincount(key_N))
        return key_M, np.bincount(key_N, one_N)[key_M], np.bincount(key_N, other_N)[key_M]
    key_M, place_N = np.unique(key_N, return_inverse=True)
    one_M, other_M = (np.bincount(place_N, each_N, len(key_M)) for each_N in (one_N, other_N))
    return key_M, one_M, other_M


def cuts_of(graph: PairGraph, group_V: np.ndarray) -> Cuts:
    """The cuts of all groups along the links of their maximum spanning trees."""
    first_P, second_P = graph.pair_P2.T
    rows_G = rows_by_group(graph, group_V)
    members_G = _parts(np.argsort(group_V, kind="stable"), np.bincount(group_V))
    local_V = np.empty(len(group_V), np.int64)
    local_V[np.concatenate(members_G)] = np.concatenate([np.arange(len(m)) for m in members_G])
    links, gains, sides = [], [], []
    for visits, rows in zip(members_G, rows_G, strict=True):
        if len(visits) < 2:
            continue
        count = len(visits)
        each_pair = np.stack([np.repeat(visits, count), np.tile(visits, count)], axis=1)
        comparable = graph.comparable(each_pair)
        scores = np.where(comparable, graph.unlisted, 0.0).reshape(count, count)
        said = np.zeros((count, count))
        one, other = local_V[first_P[rows]], local_V[second_P[rows]]
        scores[one, other] = scores[other, one] = (graph.evidence_P - graph.told_P)[rows]
        said[one, other] = said[other, one] = graph.told_P[rows]
        parts = scores.tobytes(), said.tobytes(), comparable.tobytes()
        parent_N, below_NN, (scores_N, said_N, pairs_N) = _tree_cuts(*parts, count)
        across_N = graph.tempered(scores_N, pairs_N) + said_N
        for child in range(1, len(visits)):
            links.append((visits[child], visits[parent_N[child]]))
            gains.append(-across_N[child] - graph.prior)
            inside = below_NN[child]
            smaller = inside if 2 * inside.sum() <= len(visits) else ~inside
            sides.append(visits[smaller])
    return Cuts(np.array(links, np.int64).reshape(-1, 2), np.array(gains, np.float64), sides)


@lru_cache(REMEMBERED)
def _tree_cuts(
    scores: bytes, said: bytes, comparable: bytes, count: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """`spanning_tree` of the sum of two symmetric matrices, float64, and across the cut above each
    node the sums of either and the comparable pairs. From answer to answer most groups stay as they
    are, so they are remembered."""
    scores_NN, said_NN = (np.frombuffer(part).reshape(count, count) for part in (scores, said))
    pairs_NN = np.frombuffer(comparable, bool).reshape(count, count)
    parent_N, below_NN = spanning_tree(scores_NN + said_NN)
    sums = [
        ((below_NN @ each_NN) * ~below_NN).sum(axis=1)
        for each_NN in (scores_NN, said_NN, pairs_NN.astype(np.float64))
    ]
    return parent_N, below_NN, tuple(sums)


def rows_by_group(graph: PairGraph, group_V: np.ndarray) -> list[np.ndarray]:
    """For each group the rows of the listed pairs within it."""
    group_P2 = group_V[graph.pair_P2]
    rows = np.flatnonzero(group_P2[:, 0] == group_P2[:, 1])
    group = group_P2[rows, 0]
    sizes = np.bincount(group, minlength=int(group_V.max(initial=0)) + 1)
    return _parts(rows[np.argsort(group, kind="stable")], sizes)


def _parts(array: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """The array in pieces of these sizes."""
    ends = np.cumsum(sizes).tolist()
    return [array[start:end] for start, end in pairwise([0, *ends])]


def spanning_tree(weight_NN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The maximum spanning tree (Prim 1957) from node 0: each node's parent, int64 (N,), its own
    for node 0; and bool (N, N): row i has the nodes below i, with i."""
    count = len(weight_NN)
    parent_N = np.zeros(count, np.int64)
    best_N = weight_NN[0].copy()
    outside_N = np.ones(count, bool)
    outside_N[0] = False
    added = []
    for _ in range(count - 1):
        node = int(np.argmax(np.where(outside_N, best_N, -np.inf)))
        outside_N[node] = False
        added.append(node)
        nearer_N = weight_NN[node] > best_N
        parent_N[nearer_N & outside_N] = node
        best_N = np.maximum(best_N, weight_NN[node])
    below_NN = np.eye(count, dtype=bool)
    for node in reversed(added):
        below_NN[parent_N[node]] |= below_NN[node]
    return parent_N, below_NN


def _join(graph: PairGraph, group_V: np.ndarray) -> np.ndarray | None:
    """Join groups that are each other's best partner; these joins do not touch each other."""
    joins = joins_of(graph, group_V)
    good_M = joins.gain_M > LEAST_GAIN
    group_M2, gain_M = joins.group_M2[good_M], joins.gain_M[good_M]
    if len(gain_M) == 0:
        return None
    order_M = np.lexsort((group_M2[:, 1], group_M2[:, 0], -gain_M))
    rank_M = np.empty(len(order_M), np.int64)
    rank_M[order_M] = np.arange(len(order_M))
    best_G = np.full(group_V.max() + 1, len(gain_M))
    for side in (0, 1):
        np.minimum.at(best_G, group_M2[:, side], rank_M)
    mutual_M = (best_G[group_M2] == rank_M[:, None]).all(axis=1)
    owner_G = np.arange(len(best_G))
    owner_G[group_M2[mutual_M, 1]] = group_M2[mutual_M, 0]
    return owner_G[group_V]


def _move(graph: PairGraph, group_V: np.ndarray) -> np.ndarray | None:
    """Move single visits to another group, the best first, of each group one at most."""
    size_G3 = graph.sizes(group_V)
    size_G = size_G3[:, 0]
    first_P, second_P = graph.pair_P2.T
    visit_N = np.concatenate([first_P, second_P])
    near_N = group_V[np.concatenate([second_P, first_P])]
    key_M, surplus_M, said_M = _summed(
        visit_N * len(size_G) + near_N, np.tile(graph.surplus_P, 2), np.tile(graph.told_P, 2)
    )
    visit, group = key_M // len(size_G), key_M % len(size_G)
    alone_V3 = graph.sizes(np.arange(graph.visits))
    rest_V = pairs_of(alone_V3, size_G3[group_V]) - 1.0
    own = group == group_V[visit]
    scores_V, said_V = graph.unlisted * rest_V, np.zeros(graph.visits)
    scores_V[visit[own]] += surplus_M[own]
    said_V[visit[own]] = said_M[own]
    own_V = graph.tempered(scores_V, rest_V) + said_V
    other = ~own & (size_G[group_V[visit]] > 1)
    visit, group = visit[other], group[other]
    pairs = pairs_of(alone_V3[visit], size_G3[group])
    scores = graph.tempered(surplus_M[other] + graph.unlisted * pairs, pairs)
    gain = scores + said_M[other] - own_V[visit]
    good = gain > LEAST_GAIN
    visit, group, gain = visit[good], group[good], gain[good]
    if len(gain) == 0:
        return None
    moved_V = group_V.copy()
    touched: set[int] = set()
    for place in np.lexsort((group, visit, -gain)).tolist():
        pair = {int(group_V[visit[place]]), int(group[place])}
        if touched.isdisjoint(pair):
            touched |= pair
            moved_V[visit[place]] = group[place]
    return moved_V


def _split(graph: PairGraph, group_V: np.ndarray) -> np.ndarray | None:
    """Split each group along its best cut, where that gains."""
    cuts = cuts_of(graph, group_V)
    split_V, done = group_V.copy(), set()
    fresh = int(group_V.max()) + 1
    for place in np.argsort(-cuts.gain_C, kind="stable").tolist():
        group = int(group_V[cuts.link_C2[place, 0]])
        if cuts.gain_C[place] <= LEAST_GAIN:
            break
        if group not in done:
            done.add(group)
            split_V[cuts.sides[place]] = fresh
            fresh += 1
    return split_V if done else None
