"""Two methods on the same queries: is the difference more than the choice of animals?

Letters: Q queries, I identities, R resamples, M metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from exreid.metrics.retrieval import QueryValues, average_values, identity_sums
from exreid.metrics.uncertainty import bootstrap_intervals


@dataclass(frozen=True)
class Difference:
    """A run's metric less another run's."""

    value: float
    interval: tuple[float, float] | None
    """95%, from a bootstrap over identities; None where fewer than two identities count."""
    p_value: float
    """Two-sided, of a paired sign-flip test over identities."""


def paired_differences(
    base: Mapping[str, QueryValues],
    other: Mapping[str, QueryValues],
    identity_Q: np.ndarray,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Difference]:
    r"""``other`` minus ``base`` for each metric that both have on the same queries.

    The difference of a metric is the metric of the differences, so its interval is that of
    `bootstrap_intervals` on them: each resample draws animals, with all their queries, for both
    methods at once. The p-value asks how often a difference as large comes about when it does not
    matter which method is which: the sign of each animal's differences is flipped at random, all
    its queries together, since they are not independent (the randomisation test of Fisher 1935 on
    clusters). It is :math:`(1 + c) / (1 + R)` for c of R flips, never 0 (Phipson & Smyth 2010).

    >>> better, worse = (QueryValues(np.full(4, v), np.ones(4, bool)) for v in (1.0, 0.0))
    >>> table = paired_differences({"top_1": worse}, {"top_1": better}, np.array([0, 0, 1, 1]))
    >>> table["top_1"].value, table["top_1"].interval
    (1.0, (1.0, 1.0))
    """
    changes = _changes(base, other)
    intervals = bootstrap_intervals(changes, identity_Q, resamples=resamples, seed=seed)
    return {
        name: Difference(
            value,
            intervals.get(name),
            _sign_flip(changes[name], identity_Q, resamples=resamples, seed=seed),
        )
        for name, value in average_values(changes, identity_Q).items()
    }


def difference_intervals(
    base: Mapping[str, QueryValues],
    other: Mapping[str, QueryValues],
    identity_Q: np.ndarray,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """The intervals of `paired_differences` alone, which are quick."""
    changes = _changes(base, other)
    return bootstrap_intervals(changes, identity_Q, resamples=resamples, seed=seed)


def _changes(
    base: Mapping[str, QueryValues], other: Mapping[str, QueryValues]
) -> dict[str, QueryValues]:
    """Each query's ``other`` minus ``base``, of the metrics that count the same queries."""
    changes = {}
    for name in base:
        if name not in other or not np.array_equal(base[name].counted_Q, other[name].counted_Q):
            continue
        change_Q = other[name].value_Q - base[name].value_Q
        changes[name] = QueryValues(change_Q, base[name].counted_Q, base[name].average)
    return changes


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    count, adjusted, highest = len(p_values), [1.0] * len(p_values), 0.0
    for place, index in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (count - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def group_averages(
    values: QueryValues,
    identity_Q: np.ndarray,
    group_Q: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[int, int, float, tuple[float, float] | None]]:
    """For each group of queries, by sorted name: queries, identities, value and 95% interval."""
    names = np.asarray(group_Q, dtype=object)
    groups = {}
    for name in sorted(set(group_Q)):
        inside_Q = (names == name) & values.counted_Q
        if not inside_Q.any():
            continue
        part = {"value": QueryValues(values.value_Q[inside_Q], np.ones(int(inside_Q.sum()), bool))}
        identities = identity_Q[inside_Q]
        interval = bootstrap_intervals(part, identities, resamples=resamples, seed=seed)
        value = average_values(part, identities)["value"]
        groups[name] = (
            int(inside_Q.sum()),
            len(np.unique(identities)),
            value,
            interval.get("value"),
        )
    return groups


def _sign_flip(change: QueryValues, identity_Q: np.ndarray, *, resamples: int, seed: int) -> float:
    _, sum_I, count_I = identity_sums(change, identity_Q)
    part_I = sum_I / count_I if change.average == "identities" else sum_I
    part_I = part_I[part_I != 0]
    if len(part_I) == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    most = 0
    for _ in range(resamples):
        sign_I = rng.integers(0, 2, len(part_I)) * 2 - 1
        # Sums in another order differ in the last bits, and those must not decide.
        most += abs(sign_I @ part_I) >= abs(part_I.sum()) * (1 - 1e-12)
    return float((1 + most) / (1 + resamples))
