"""The gallery ranked for each query: by global features, re-ranked, matched locally, fused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from exreid.calibration.fusion import FusedScores
from exreid.matching.cascade import SEARCH_STAGE
from exreid.matching.classifier import fit_classifier
from exreid.matching.cosine import cosine_of_pairs, rank_by_cosine
from exreid.matching.cosine_on_device import MANY
from exreid.matching.plausibility_gate import gated_last
from exreid.matching.rerank import Reranker
from exreid.matching.shortlist import in_turn, rerank_shortlist, shortlist_pairs
from exreid.metrics.ranking import (
    Exclude,
    blocks,
    concatenate_rankings,
    index_gallery,
    rank_block,
)
from exreid.pipeline.calibrate import FittedFusion
from exreid.pipeline.embed import works_alone
from exreid.pipeline.local_index import LocalIndex
from exreid.pipeline.match import full_scores, score_by_cascade
from exreid.pipeline.match_within_budget import BudgetSpent, match_within_budget
from exreid.pipeline.methods import GallerySearch, score_all_methods, side_of_all
from exreid.pipeline.prepare_scoring import Scoring
from exreid.records import Ranking, RetrievalSide

GPU_WORK_FLOP = 1e12
"""From this much arithmetic on GPUs rank, where the run has any: some minutes of two CPUs. Below it
their start takes longer."""


@dataclass(frozen=True)
class FusedPairs:
    """The pairs of all shortlists, and the parts of their fused scores."""

    query_P: np.ndarray
    gallery_P: np.ndarray
    score_PM: np.ndarray
    """float64: raw scores by each method; NaN where it did not score the pair."""
    fused: FusedScores
    budget: BudgetSpent | None
    """The pairs matched for each query; None without benchmark.adaptive."""


def search_of(scoring: Scoring, gallery: RetrievalSide) -> GallerySearch:
    """The second ranking of this gallery and its index, where the config asks for them."""
    benchmark, features = scoring.config.benchmark, scoring.features
    images = side_of_all(features.table)
    reranker = index = classifier = None
    if benchmark.method == "classifier":
        with scoring.log.timed("fitting"):
            vectors_GD = features.vectors[0][gallery.position_N]
            classifier = fit_classifier(vectors_GD, gallery.identity_N)
    if benchmark.rerank.method != "none":
        reranker = Reranker(benchmark.rerank, features.vectors[0], images, gallery)
    if benchmark.has_index:
        neighbours = benchmark.index_neighbours
        index = LocalIndex(scoring.local[0], images, gallery, neighbours=neighbours)
    return GallerySearch(reranker, index, classifier)


def rank(
    scoring: Scoring,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    *,
    exclude: Exclude,
    search: GallerySearch,
    fusion: FittedFusion | None,
) -> tuple[Ranking, FusedPairs | None]:
    """The gallery ranked for these queries by the benchmark's method, and the parts of fused
    scores. The ranks of all positives are exact, also of those on no shortlist."""
    benchmark, log = scoring.config.benchmark, scoring.log
    with log.timed("ranking"):
        deep = len(gallery) if benchmark.method == "wildfusion" else 1
        keep = max(benchmark.keep_candidates, benchmark.candidate_k or deep)
        ranking = first_ranking(scoring, search, queries, gallery, exclude=exclude, keep=keep)
    if not benchmark.matches_pairs:
        return ranking, None
    shortlist = benchmark.candidate_k or len(gallery)
    query_P, gallery_P = shortlist_pairs(ranking, shortlist)
    sides = {"queries": queries, "gallery": gallery}
    with log.timed("matching"):
        if fusion is None:
            first_P, second_P = queries.position_N[query_P], gallery.position_N[gallery_P]
            stage_P, score_P = score_by_cascade(scoring.local[0], first_P, second_P)
            return rerank_shortlist(ranking, gallery, shortlist, stage_P, score_P), None
        pairs = _fused(scoring, fusion, query_P, gallery_P, **sides, exclude=exclude)
    # A pair that lacks a local score ranks below all that have theirs.
    keys_P = pairs.fused.methods_P, pairs.fused.score_P
    return rerank_shortlist(ranking, gallery, shortlist, *keys_P), pairs


def first_ranking(
    scoring: Scoring,
    search: GallerySearch,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    *,
    exclude: Exclude,
    keep: int,
) -> Ranking:
    """The ranking of a method that matches no pairs, or the one that shortlists are cut from;
    ``gallery`` is that of ``search``, or a part of it. Implausible candidates are below all others,
    and no candidates."""
    gate, benchmark = scoring.gate, scoring.config.benchmark
    if gate is None:
        return ungated_ranking(scoring, search, queries, gallery, exclude=exclude, keep=keep)
    if benchmark.matches_pairs and benchmark.candidate_k is None:
        keep = len(gallery)
    parts = []
    for block in blocks(queries):
        whole = ungated_ranking(scoring, search, block, gallery, exclude=exclude, keep=len(gallery))
        marks_BG = gate.marks(block.position_N, gallery.position_N)
        parts.append(gated_last(whole, marks_BG > 0, gallery.identity_N, keep=keep))
    return concatenate_rankings(parts)


def ungated_ranking(
    scoring: Scoring,
    search: GallerySearch,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    *,
    exclude: Exclude,
    keep: int,
    counted: bool = True,
) -> Ranking:
    """`first_ranking` as if every candidate were plausible; a search of the index is ``counted`` in
    the run's tally."""
    benchmark, index, log = scoring.config.benchmark, search.index, scoring.log
    if search.classifier is not None:
        vectors_QD = scoring.features.vectors[0][queries.position_N]
        return search.classifier.rank(vectors_QD, queries, gallery, exclude=exclude, keep=keep)
    local = benchmark.method == "local_index" or benchmark.shortlist == "local"
    if index is not None and local:
        advance = log.progress(SEARCH_STAGE, len(queries))
        by_index = partial(index.rank, exclude=exclude, keep=keep, on_progress=advance)
        return by_index(queries, gallery, counted=counted)
    if not scoring.features.vectors:
        return _in_table_order(queries, gallery, exclude)
    if index is not None and benchmark.shortlist == "both":
        known, parts = index_gallery(gallery, exclude=exclude), []
        by_model = partial(_by_global_features, scoring, search.reranker)
        for block in blocks(queries):
            ranked = [
                ranks(block, gallery, exclude=exclude, keep=len(gallery)).candidate_index_QK
                for ranks in (by_model, partial(index.rank, counted=counted))
            ]
            scores_QG = in_turn(ranked, len(gallery))
            parts.append(rank_block(scores_QG, block, known, keep=keep))
        return concatenate_rankings(parts)
    return _by_global_features(
        scoring, search.reranker, queries, gallery, exclude=exclude, keep=keep
    )


def _by_global_features(
    scoring: Scoring,
    reranker: Reranker | None,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    *,
    exclude: Exclude,
    keep: int,
) -> Ranking:
    if reranker is not None:
        keep = max(keep, reranker.needs)
    ranking = _by_cosine(scoring, queries, gallery, exclude=exclude, keep=keep)
    if reranker is None:
        return ranking
    advance = scoring.log.progress("Re-ranking", len(queries))
    return reranker.rerank(ranking, queries, exclude, advance)


def _by_cosine(
    scoring: Scoring, queries: RetrievalSide, gallery: RetrievalSide, *, exclude: Exclude, keep: int
) -> Ranking:
    """By the cosine of the vectors; over the GPUs of the run where there are any and it is much
    work."""
    config, vectors_ND = scoring.config, scoring.features.vectors[0]
    sides = vectors_ND[queries.position_N], vectors_ND[gallery.position_N], queries, gallery
    advance = scoring.log.progress("Ranking", len(queries))
    here = partial(rank_by_cosine, *sides, exclude=exclude, keep=keep, on_progress=advance)
    work_flop = 2.0 * len(queries) * len(gallery) * vectors_ND.shape[1]
    little = work_flop < GPU_WORK_FLOP or keep > MANY * len(gallery)
    if little or works_alone(config, len(queries), len(queries)):
        return here()
    from exreid.distributed.placement import place_actors
    from exreid.distributed.session import ray_session

    with ray_session(config.ray, verbose=scoring.log.verbose):
        placement = place_actors(config.ray)
        if not placement.gpus:
            return here()
        from exreid.distributed.rank import rank_over_gpus

        for method in scoring.local:
            method.matchers.close()
        return rank_over_gpus(
            *sides, placement=placement, exclude=exclude, keep=keep, on_progress=advance
        )


def _in_table_order(queries: RetrievalSide, gallery: RetrievalSide, exclude: Exclude) -> Ranking:
    """All candidates of each query in the table's order, where all pairs are matched."""
    index = index_gallery(gallery, exclude=exclude)
    parts = []
    for block in blocks(queries):
        scores = np.zeros((len(block), len(gallery)), np.float32)
        parts.append(rank_block(scores, block, index, keep=len(gallery)))
    return concatenate_rankings(parts)


def _fused(
    scoring: Scoring,
    fusion: FittedFusion,
    query_P: np.ndarray,
    gallery_P: np.ndarray,
    *,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    exclude: Exclude,
) -> FusedPairs:
    adaptive, spent = scoring.config.benchmark.adaptive, None
    if adaptive.enabled:
        spent = match_within_budget(
            fusion,
            query_P,
            gallery_P,
            options=adaptive,
            queries=queries,
            gallery=gallery,
            exclude=exclude,
        )
        score_PM = spent.score_PM
    else:
        first_P, second_P = queries.position_N[query_P], gallery.position_N[gallery_P]
        score_PM = score_all_methods(
            fusion.methods, first_P, second_P, all_pairs=False, exclude=exclude
        )
    return FusedPairs(query_P, gallery_P, score_PM, fusion.fusion.apply(score_PM), spent)


def pair_scorer(
    scoring: Scoring, search: GallerySearch, fusion: FittedFusion | None
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function from pairs of table positions to the benchmark's scores, float64, of all of
    them."""
    if fusion is not None:
        return partial(_fused_scores, fusion)
    if search.index is not None and scoring.config.benchmark.method == "local_index":
        return partial(_both_ways, search.index)
    if scoring.config.benchmark.method == "cosine":
        return partial(cosine_of_pairs, scoring.features.vectors[0])
    return partial(full_scores, scoring.local[0], all_pairs=True)


def _fused_scores(fusion: FittedFusion, first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
    score_PM = score_all_methods(
        fusion.methods, first_P, second_P, all_pairs=True, exclude="identity"
    )
    return fusion.fusion.apply(score_PM).score_P


def _both_ways(index: LocalIndex, first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
    """The mean of what each image's keypoints say of the other, as if their animals were new."""
    ways = (first_P, second_P), (second_P, first_P)
    return np.mean([index.pair_scores(*way, exclude="identity") for way in ways], axis=0)


def evidence_table(
    pairs: FusedPairs,
    names: tuple[str, ...],
    ranking: Ranking,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    *,
    keep: int,
) -> pa.Table:
    """``fusion.parquet``: the parts, by the methods of these names, of the scores of each query's
    ``keep`` best candidates."""
    kept_QK = ranking.candidate_index_QK[:, :keep]
    query, place = np.nonzero(kept_QK >= 0)
    index = kept_QK[query, place]
    # The row of each (query, gallery index) in the list of pairs.
    key_P = pairs.query_P.astype(np.int64) * len(gallery) + pairs.gallery_P
    order_P = np.argsort(key_P)
    wanted = query.astype(np.int64) * len(gallery) + index
    row = order_P[np.searchsorted(key_P[order_P], wanted)]
    fused = pairs.fused
    columns = {
        "query_id": [queries.image_ids[i] for i in query],
        "gallery_id": [gallery.image_ids[i] for i in index],
        "rank": place + 1,
        "score": fused.score_P[row],
        "probability": fused.probability_P[row],
    }
    for m, name in enumerate(names):
        columns[f"raw:{name}"] = pairs.score_PM[row, m]
        columns[f"probability:{name}"] = fused.probability_PM[row, m]
        columns[f"contribution:{name}"] = fused.contribution_PM[row, m]
    return pa.table(columns)
