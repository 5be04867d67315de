"""The page of each query: its nearest identities, its decision card.

Letters: R rows of a ranking, F rows of ``fusion.parquet`` and M its columns of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from exreid.explain.decision import Contribution, DecisionCard, ProbabilityOf, Reach, card_warnings
from exreid.explain.words import fused_words
from exreid.report.outcomes import decisions_by_query, probability_of
from exreid.report.read import RunData

IDENTITIES, IMAGES_OF_EACH = 6, 3
"""Identities shown of each query, and images of each identity."""
CANDIDATES = 100
"""Best candidates of each query that are searched for them."""


@dataclass(frozen=True)
class QueryNeighbour:
    """An identity among a query's candidates; None is "not known"."""

    identity: str | None
    images: list[int]
    """Its images, the best first: rows of `RunImages`."""
    score: float
    """Of the best image; NaN where it was not scored."""
    is_match: bool | None
    """Whether it is the query's identity."""
    probability: float | None
    """The stated probability that the query shows it, if any."""


@dataclass(frozen=True)
class Implausible:
    """An identity whose images look alike, and are ranked below all others."""

    neighbour: QueryNeighbour
    reason: str
    would_be: dict[int, int | None]
    """The rank of each of its images without that; None where all candidates are matched."""


@dataclass(frozen=True)
class QueryPage:
    """A query as its page shows it; images are rows of `RunImages`."""

    query: int
    image: int
    first_rank: int
    """The rank of the query's own identity, by its best image; 0 without an image."""
    neighbours: list[QueryNeighbour]
    card: DecisionCard
    ranks: dict[int, tuple[int, float, float | None]]
    """The rank, score and stated probability, if any, of each shown image."""
    implausible: list[Implausible]
    """Identities among the candidates that a gate has ranked below all others."""


@dataclass(frozen=True)
class _FusionRows:
    """``fusion.parquet`` by query."""

    start_Q1: np.ndarray
    image_F: np.ndarray
    names: list[str]
    """``probability``, and ``raw:``, ``probability:`` and ``contribution:`` of each method."""
    value_FM: np.ndarray

    def of(self, query: int) -> dict[int, dict[str, float]]:
        """The values of each image that was fused for a query."""
        return {
            int(self.image_F[i]): dict(zip(self.names, self.value_FM[i].tolist(), strict=True))
            for i in range(self.start_Q1[query], self.start_Q1[query + 1])
        }


@dataclass(frozen=True)
class _Tables:
    """The tables behind the pages of all queries."""

    data: RunData
    outcomes: pd.DataFrame
    """See `query_outcomes`."""
    fusion: _FusionRows | None
    decisions: pd.DataFrame | None
    """See `decisions_by_query`."""
    probability_of: ProbabilityOf
    probability: dict[tuple[str, str], float]
    """By query and identity, where the answers state one."""
    groups: dict[str, tuple[int, int]]
    """By query that was called new: its group, and the number of the group's images."""
    gated: dict[str, pd.DataFrame]
    """The implausible candidates by query."""


def query_pages(data: RunData, outcomes: pd.DataFrame) -> Iterator[QueryPage]:
    """The page of each query, in order; ``outcomes`` is `query_outcomes`."""
    tables = _Tables(
        data,
        outcomes,
        None if data.fusion is None else _fusion_rows(data, data.fusion),
        decisions_by_query(data),
        probability_of(data) or "identity",
        _stated_probabilities(data.answers),
        _groups(data.new_animals),
        {}
        if data.gated is None
        else {str(name): rows for name, rows in data.gated.groupby("query_id", sort=False)},
    )
    for q in range(len(data.queries)):
        yield _query_page(tables, q)


def neighbours(
    image_R: np.ndarray, score_R: np.ndarray, identity_N: np.ndarray, *, own: str | None, most: int
) -> list[QueryNeighbour]:
    """The first ``most`` identities among candidates, which are given best first.

    ``identity_N`` are those of all images, ``own`` is the query's; both None where not known. An
    image of unknown identity counts as an identity.
    """
    groups: dict[str | int, list[int]] = {}
    for r, image in enumerate(image_R.tolist()):
        identity = identity_N[image]
        groups.setdefault(image if identity is None else identity, []).append(r)
    return [
        QueryNeighbour(
            identity=key if isinstance(key, str) else None,
            images=image_R[rows].tolist(),
            score=float(score_R[rows[0]]),
            is_match=None if own is None or isinstance(key, int) else key == own,
            probability=None,
        )
        for key, rows in list(groups.items())[:most]
    ]


def _query_page(tables: _Tables, q: int) -> QueryPage:
    data, ranks, outcome = tables.data, tables.data.ranks, tables.outcomes.iloc[q]
    rows, own = ranks.of(q), outcome["truth"]
    image_R, score_R = ranks.image_R[rows], ranks.score_R[rows]
    identity_N = data.images.rows["identity"].to_numpy(dtype=object)
    near = neighbours(
        image_R[:CANDIDATES], score_R[:CANDIDATES], identity_N, own=own, most=IDENTITIES
    )
    if own is not None and own not in [neighbour.identity for neighbour in near]:
        hits = np.flatnonzero(identity_N[image_R] == own)
        near += neighbours(image_R[hits], score_R[hits], identity_N, own=own, most=1)
    near = [
        replace(
            neighbour,
            images=neighbour.images[:IMAGES_OF_EACH],
            probability=tables.probability.get((data.query_ids[q], neighbour.identity or "")),
        )
        for neighbour in near
    ]
    fused = {} if tables.fusion is None else tables.fusion.of(q)
    shown = {image for neighbour in near for image in neighbour.images}
    # Of one pair there is one probability: with decisions it is that of the answer alone.
    stated = fused if tables.probability_of == "pair" else {}
    return QueryPage(
        q,
        int(outcome["image"]),
        int(outcome["first_rank"]),
        near,
        _card(tables, q, near, fused),
        {
            int(image): (int(rank), float(score), stated.get(int(image), {}).get("probability"))
            for image, rank, score in zip(image_R, ranks.rank_R[rows], score_R, strict=True)
            if int(image) in shown
        },
        _implausible(tables, q, own),
    )


def _implausible(tables: _Tables, q: int, own: str | None) -> list[Implausible]:
    rows = tables.gated.get(tables.data.query_ids[q])
    if rows is None:
        return []
    images = tables.data.images
    image_R = np.array([images.place_of[image_id] for image_id in rows["gallery_id"]])
    identity_N = images.rows["identity"].to_numpy(dtype=object)
    reason_of = dict(zip(image_R.tolist(), rows["reason"], strict=True))
    ranks = (None if rank != rank else int(rank) for rank in rows["rank"])  # noqa: PLR0124 - NaN
    rank_of = dict(zip(image_R.tolist(), ranks, strict=True))
    near = neighbours(
        image_R, rows["score"].to_numpy(np.float64), identity_N, own=own, most=IDENTITIES
    )
    return [
        Implausible(
            replace(near_animal, images=near_animal.images[:IMAGES_OF_EACH]),
            reason_of[near_animal.images[0]],
            {image: rank_of[image] for image in near_animal.images},
        )
        for near_animal in near
    ]


def _card(
    tables: _Tables, q: int, near: list[QueryNeighbour], fused: dict[int, dict[str, float]]
) -> DecisionCard:
    data, outcome = tables.data, tables.outcomes.iloc[q]
    rule = data.rule
    first, second = (*near[:2], None, None)[:2]
    stated = _finite(outcome["probability"])
    score = None if first is None else _finite(first.score)
    margin = None
    if tables.decisions is not None:
        margin = _finite(tables.decisions["margin"].to_numpy()[q])
    elif score is not None and second is not None and _finite(second.score) is not None:
        margin = score - second.score
    card = DecisionCard(
        identity=outcome["top"],
        said=outcome["said"],
        decision=outcome["decision"],
        probability=stated,
        probability_of=tables.probability_of,
        threshold=rule.threshold if rule and tables.decisions is not None else None,
        false_match_rate=rule.false_match_rate if rule and tables.decisions is not None else None,
        score=score,
        margin=margin,
        runner_up=None if second is None else second.identity,
        group=tables.groups.get(data.query_ids[q]),
    )
    if first is None:
        return replace(card, warnings=tuple(card_warnings(card)))
    query, best, text = int(outcome["image"]), first.images[0], data.images.text
    card = replace(
        card,
        contributions=_contributions(fused.get(best, {})),
        reach=_reach(tables, q, first.identity or "", fused),
    )
    encounter = text(query, "encounter")
    warnings = card_warnings(
        card,
        same_encounter=encounter is not None and text(best, "encounter") == encounter,
        viewpoints=(text(query, "viewpoint"), text(best, "viewpoint")),
    )
    return replace(card, warnings=tuple(warnings))


def _contributions(values: Mapping[str, float]) -> tuple[Contribution, ...]:
    methods = [name.removeprefix("raw:") for name in values if name.startswith("raw:")]
    return tuple(
        Contribution(
            word,
            raw=_finite(values.get(f"raw:{method}")),
            contribution=_finite(values.get(f"contribution:{method}")),
        )
        for word, method in zip(fused_words(methods), methods, strict=True)
    )


def _reach(tables: _Tables, q: int, top: str, fused: dict[int, dict[str, float]]) -> Reach | None:
    """How many images of the top identity there are, and how many were matched locally."""
    data, config = tables.data, tables.data.config
    total = data.images.gallery_images.get(top)
    if total is None:
        return None
    by_encounter = config is not None and config.benchmark.exclude == "encounter"
    query_id = data.query_ids[q]
    encounter = data.images.text(data.images.place_of[query_id], "encounter")
    total -= data.images.excluded(top, query_id, encounter if by_encounter else None)
    identity = data.images.rows["identity"].to_numpy(dtype=object)
    if fused:
        local = [name for name in next(iter(fused.values())) if name.startswith("raw:")]
        local = [name for name in local if not name.startswith("raw:cosine")]
        if not local:
            return Reach(total)
        matched = [
            image
            for image, values in fused.items()
            if all(np.isfinite(values[name]) for name in local) and identity[image] == top
        ]
        return Reach(total, len(matched))
    if config is None or config.benchmark.method != "local_lightglue":
        return Reach(total)
    depth = config.benchmark.candidate_k
    if depth is None:
        return Reach(total, total)
    rows = data.ranks.of(q)
    listed_R = data.ranks.rank_R[rows] <= depth
    return Reach(total, int((identity[data.ranks.image_R[rows][listed_R]] == top).sum()))


def _fusion_rows(data: RunData, fusion: pd.DataFrame) -> _FusionRows:
    kinds = ("raw:", "probability:", "contrib")
    names = [name for name in fusion.columns if name == "probability" or name.startswith(kinds)]
    query_F = pd.Index(data.queries["query_id"]).get_indexer(pd.Index(fusion["query_id"]))
    order_F = np.lexsort((fusion["rank"], query_F))
    image_ids = pd.Index(data.images.rows["image_id"])
    return _FusionRows(
        np.searchsorted(query_F[order_F], np.arange(len(data.queries) + 1)),
        image_ids.get_indexer(pd.Index(fusion["gallery_id"]))[order_F],
        names,
        fusion[names].to_numpy(np.float64)[order_F],
    )


def _stated_probabilities(answers: pd.DataFrame | None) -> dict[tuple[str, str], float]:
    if answers is None or "probability" not in answers:
        return {}
    known = answers[answers["probability"].notna()]
    columns = known["query_id"], known["identity"], known["probability"]
    return {(query, identity): float(p) for query, identity, p in zip(*columns, strict=True)}


def _groups(new_animals: pd.DataFrame | None) -> dict[str, tuple[int, int]]:
    if new_animals is None:
        return {}
    columns = (new_animals[name] for name in ("query_id", "group", "group_photos"))
    return {
        query: (int(number), int(images)) for query, number, images in zip(*columns, strict=True)
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
