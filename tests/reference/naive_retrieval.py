"""Retrieval as a newcomer would write it: sort everything, look at everything, one by one.

Written from the definitions alone, in plain Python. Slow on purpose; the package must agree.
"""

from __future__ import annotations

from typing import Any


def naive_row(scores, query, gallery_sides, exclude: str) -> dict[str, Any]:
    """One query: ``query`` is (position, identity, encounter); ``gallery_sides`` a list of such."""
    position, identity, encounter = query
    candidates = []
    for index, (its_position, _, its_encounter) in enumerate(gallery_sides):
        same_encounter = encounter >= 0 and encounter == its_encounter
        if its_position == position or (exclude == "encounter" and same_encounter):
            continue
        candidates.append(index)
    candidates.sort(key=lambda index: (-scores[index], index))
    positives = []
    identities_in_order: list[int] = []
    for rank, index in enumerate(candidates, start=1):
        its_identity = gallery_sides[index][1]
        if its_identity == identity:
            positives.append((index, rank, scores[index]))
        if its_identity not in identities_in_order:
            identities_in_order.append(its_identity)
    return {
        "candidates": candidates,
        "positives": positives,
        "identity_rank": identities_in_order.index(identity) + 1 if positives else 0,
    }


def naive_ranking(scores_QG, queries, gallery, exclude: str = "image") -> list[dict[str, Any]]:
    """A dictionary per query; ``queries`` and ``gallery`` are retrieval sides."""
    gallery_sides = _rows(gallery)
    return [
        naive_row(scores, query, gallery_sides, exclude)
        for scores, query in zip(scores_QG.tolist(), _rows(queries), strict=True)
    ]


def naive_metrics(rows: list[dict[str, Any]], identities, top_k=(1, 5, 10)) -> dict[str, float]:
    """Every metric by its definition, with its own denominator."""
    firsts = [row["positives"][0][1] if row["positives"] else 0 for row in rows]
    precisions, penalties = [], []
    for row in rows:
        ranks = [rank for _, rank, _ in row["positives"]]
        precisions.append(_mean([i / rank for i, rank in enumerate(ranks, start=1)]))
        penalties.append(len(ranks) / ranks[-1] if ranks else 0.0)
    having = [q for q, first in enumerate(firsts) if first]
    metrics = {
        "mAP": _mean(precisions),
        "mINP": _mean(penalties),
        "balanced_top_1": _mean(
            [
                _mean(
                    [
                        first == 1
                        for first, its in zip(firsts, identities, strict=True)
                        if its == one
                    ]
                )
                for one in sorted(set(identities))
            ]
        ),
    }
    if having:
        metrics["mAP_with_positive"] = _mean([precisions[q] for q in having])
        metrics["mINP_with_positive"] = _mean([penalties[q] for q in having])
    for k in top_k:
        metrics[f"top_{k}"] = _mean([0 < first <= k for first in firsts])
        metrics[f"identity_top_{k}"] = _mean([0 < row["identity_rank"] <= k for row in rows])
    return metrics


def _rows(side) -> list[tuple[int, int, int]]:
    return list(
        zip(
            side.position_N.tolist(),
            side.identity_N.tolist(),
            side.encounter_N.tolist(),
            strict=True,
        )
    )


def _mean(values) -> float:
    return sum(values) / len(values) if values else 0.0
