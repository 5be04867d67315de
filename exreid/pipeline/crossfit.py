"""Cross-fitting where the queries are the database: each query's fit leaves out its identity.

A calibration or a decision that is fitted on the whole database would have seen the queries'
answers. So the identities are dealt to folds, and the queries of a fold are answered with a fit on
the identities of the other folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from exreid.config.probe import ProbeConfig
from exreid.data.metadata_rows import split_value
from exreid.errors import CalibrationError
from exreid.metrics.identities import TopIdentities
from exreid.metrics.openset import Answers
from exreid.metrics.ranking import concatenate_rankings
from exreid.openset.decide import Decisions
from exreid.openset.quality import mean_quality
from exreid.pipeline.fit_and_retrieve import Retrieval, fit_decisions, fit_methods, retrieve
from exreid.pipeline.methods import GallerySearch
from exreid.pipeline.prepare_scoring import Scoring
from exreid.pipeline.rank import search_of
from exreid.progress import counted
from exreid.records import GalleryQuality, Ranking, RetrievalSide
from exreid.storage.run_folder import write_table

QUERY_FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """The queries of some identities, and the database without these."""

    number: int
    members: np.ndarray
    """Indices of the queries, rising."""
    left_out: np.ndarray
    """The codes of their identities, which are left out of the fit."""

    def others(self, gallery: RetrievalSide) -> RetrievalSide:
        """The gallery images that may be fitted on."""
        return gallery.take(np.flatnonzero(~np.isin(gallery.identity_N, self.left_out)))


def fits_on_queries(config: ProbeConfig) -> bool:
    """Whether a fit on the database would be a fit on the queries."""
    dataset, benchmark = config.dataset, config.benchmark
    fits = benchmark.method == "wildfusion" and benchmark.calibration.load is None
    same = split_value(dataset.query_split_value) == split_value(dataset.database_split_value)
    return same and (fits or benchmark.open_set.enabled)


def cross_fitted(
    scoring: Scoring,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    search: GallerySearch,
    folder: Path,
) -> tuple[Retrieval, GalleryQuality | None]:
    """Each query answered with a fit that left out its identity and, where decisions are fitted,
    how well the gallery tells its animals apart; each fold's fit is written below ``folder``. New
    animals are not grouped: one cut for all queries would be fitted on the queries."""
    folds = identity_folds(queries, scoring.config.seed)
    members = [fold.members for fold in folds]
    parts: list[Retrieval] = []
    qualities: list[GalleryQuality] = []
    for fold in folds:
        fold_folder = folder / "folds" / str(fold.number)
        if scoring.config.benchmark.method == "wildfusion":
            fold_folder.mkdir(parents=True, exist_ok=True)
        others, asked = fold.others(gallery), queries.take(fold.members)
        fitted = fit_methods(scoring, gallery, search, fold_folder, left_out=fold.left_out)
        fitted = fit_decisions(scoring, fitted, others, search_of(scoring, others), grouped=False)
        part = retrieve(scoring, asked, gallery, fitted, search)
        if part.fused is not None and part.fused.budget is not None:
            budget = part.fused.budget.table(asked, part.fused.query_P)
            write_table(fold_folder / "budget.parquet", budget)
        parts.append(part)
        if fitted.quality is not None:
            qualities.append(fitted.quality)
    ranking = joined_rankings([part.ranking for part in parts], members)
    decisions = [part.decisions for part in parts if part.decisions is not None]
    evidence = [part.evidence for part in parts if part.evidence is not None]
    gated = [part.gated for part in parts if part.gated is not None]
    joined = Retrieval(
        queries,
        gallery,
        ranking,
        scoring.features.table,
        joined_decisions(decisions, members) if decisions else None,
        _joined_evidence(evidence, queries) if evidence else None,
        gated=pa.concat_tables(gated) if gated else None,
        gate_figures=parts[0].gate_figures,
    )
    return joined, mean_quality(qualities) if qualities else None


def identity_folds(queries: RetrievalSide, seed: int) -> list[Fold]:
    """The identities dealt at random, by the seed, to up to `QUERY_FOLDS` folds; CalibrationError
    for fewer than four, whose folds would leave one to fit on."""
    identities = np.unique(queries.identity_N)
    if len(identities) < 4:
        raise CalibrationError(
            f"the queries are the database, and it has {counted(len(identities), 'animal')}: too "
            "few to fit on some and answer for others. Use two splits (dataset.make_split makes "
            "them)."
        )
    count = min(QUERY_FOLDS, len(identities) // 2)
    dealt = np.random.default_rng(seed).permutation(len(identities)) % count
    folds = []
    for number in range(count):
        left_out = identities[dealt == number]
        members = np.flatnonzero(np.isin(queries.identity_N, left_out))
        folds.append(Fold(number + 1, members, left_out))
    return folds


def joined_rankings(parts: Sequence[Ranking], members: Sequence[np.ndarray]) -> Ranking:
    """One ranking in the order of the queries; ``members`` are the queries of each part."""
    whole = concatenate_rankings(parts)
    order_Q = np.argsort(np.concatenate(members))
    count_Q = np.diff(whole.positive_offset_Q1)[order_Q]
    start_Q = whole.positive_offset_Q1[:-1][order_Q]
    offset_Q1 = np.concatenate([[0], np.cumsum(count_Q)]).astype(np.int64)
    place_P = np.repeat(start_Q - offset_Q1[:-1], count_Q) + np.arange(offset_Q1[-1])
    return Ranking(
        positive_offset_Q1=offset_Q1,
        **{
            name: getattr(whole, name)[place_P if name.endswith("_P") else order_Q]
            for name in Ranking.__dataclass_fields__
            if name != "positive_offset_Q1"
        },
    )


def joined_decisions(parts: Sequence[Decisions], members: Sequence[np.ndarray]) -> Decisions:
    """The decisions in the order of the queries."""
    order_Q = np.argsort(np.concatenate(members))

    def in_order(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(values)[order_Q]

    top = TopIdentities(
        *(
            in_order([getattr(part.top, name) for part in parts])
            for name in TopIdentities.__dataclass_fields__
        )
    )
    calibration = Answers(
        *(
            np.concatenate([getattr(part.calibration, name) for part in parts])
            for name in Answers.__dataclass_fields__
        )
    )
    return Decisions(
        tuple(decider for part in parts for decider in part.deciders),
        calibration,
        top,
        in_order([part.probability_Q for part in parts]),
        in_order([part.known_Q for part in parts]),
    )


def _joined_evidence(parts: Sequence[pa.Table], queries: RetrievalSide) -> pa.Table:
    """``fusion.parquet`` in the order of the queries."""
    whole = pa.concat_tables(parts)
    place = {image_id: q for q, image_id in enumerate(queries.image_ids)}
    place_R = np.array([place[image_id] for image_id in whole["query_id"].to_pylist()])
    return whole.take(np.lexsort((whole["rank"].to_numpy(), place_R)))
