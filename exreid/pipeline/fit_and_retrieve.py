"""Fitting on the gallery, and answering queries with the fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.matching.cascade import cascade_of, choosing_stages
from exreid.matching.plausibility_gate import gate_figures
from exreid.matching.shortlist import shortlist_pairs
from exreid.metrics.identities import told_apart
from exreid.metrics.openset import Answers
from exreid.openset.decide import (
    CalibrationQueries,
    Decider,
    Decisions,
    calibration_queries,
    decide,
    fit_decider,
)
from exreid.openset.group import Grouper, Grouping
from exreid.openset.quality import gallery_quality
from exreid.pipeline.calibrate import FittedFusion, calibrated
from exreid.pipeline.match import match_details
from exreid.pipeline.methods import GallerySearch, fused_methods
from exreid.pipeline.plausibility_gate import gated_candidates, naming_gate
from exreid.pipeline.prepare_scoring import Scoring
from exreid.pipeline.rank import (
    FusedPairs,
    evidence_table,
    first_ranking,
    pair_scorer,
    rank,
    search_of,
    ungated_ranking,
)
from exreid.records import Counts, GalleryQuality, ImageTable, Ranking, RetrievalSide
from exreid.storage.run_tables import best_candidates


@dataclass(frozen=True)
class Fitted:
    """All fits on the gallery's own images."""

    fusion: FittedFusion | None = None
    decider: Decider | None = None
    calibration: Answers | None = None
    """The answers to the calibration queries, which the decider's threshold comes from."""
    grouping: Grouping | None = None
    quality: GalleryQuality | None = None
    """How well the gallery tells its animals apart, if measured."""
    counts: Counts = field(default_factory=dict)


@dataclass(frozen=True)
class Retrieval:
    """The gallery ranked for each query, and the decisions."""

    queries: RetrievalSide
    gallery: RetrievalSide
    ranking: Ranking
    table: ImageTable
    """The images; both sides' positions are its rows."""
    decisions: Decisions | None
    """None without benchmark.open_set."""
    evidence: pa.Table | None = None
    """``fusion.parquet``, where scores are fused."""
    fused: FusedPairs | None = None
    gated: pa.Table | None = None
    """``gated.parquet``, where candidates can be implausible."""
    gate_figures: Counts = field(default_factory=dict)
    """What the gate costs and spares on the gallery."""

    def counts(self, risk: float) -> Counts:
        """For the result; ``risk`` is benchmark.adaptive.risk."""
        counts: Counts = {**self.gate_figures}
        if self.fused is not None and self.fused.budget is not None:
            counts |= self.fused.budget.counts(self.fused.query_P, risk)
        return counts if self.decisions is None else counts | self.decisions.counts


def fit_methods(
    scoring: Scoring,
    gallery: RetrievalSide,
    search: GallerySearch,
    folder: Path,
    *,
    left_out: np.ndarray | None = None,
) -> Fitted:
    """The fusion, for the method wildfusion, fitted without the identities ``left_out``; its files
    are written to ``folder``."""
    config, features = scoring.config, scoring.features
    if config.benchmark.method != "wildfusion":
        return Fitted()
    methods = fused_methods(features, config, scoring.local, search)
    # Near pairs are those of a shortlist before it is ranked again.
    nearest = partial(first_ranking, scoring, replace(search, reranker=None))
    with scoring.log.timed("calibration"), naming_gate(scoring.gate, gallery):
        fusion, counts = calibrated(
            config, methods, gallery, nearest, folder=folder, left_out=left_out
        )
    return Fitted(fusion, counts=counts)


def answer_calibration_queries(
    scoring: Scoring,
    gallery: RetrievalSide,
    search: GallerySearch,
    fusion: FittedFusion | None,
) -> CalibrationQueries:
    """Images of the gallery, answered by the others, never of their own encounter."""
    options = scoring.config.benchmark.open_set
    queries = calibration_queries(gallery, options.queries, scoring.config.seed)
    ranking, _ = rank(scoring, queries, gallery, exclude="encounter", search=search, fusion=fusion)
    return CalibrationQueries(queries, ranking)


def fit_decisions(
    scoring: Scoring,
    fitted: Fitted,
    gallery: RetrievalSide,
    search: GallerySearch,
    *,
    grouped: bool = True,
) -> Fitted:
    """``fitted`` with the decision known/new and the grouping of new animals, where the config sets
    them; ``gallery`` has the images that may be fitted on."""
    options, seed = scoring.config.benchmark.open_set, scoring.config.seed
    if not options.enabled:
        return fitted
    calibration = answer_calibration_queries(scoring, gallery, search, fitted.fusion)
    with naming_gate(scoring.gate, gallery):
        decider, answers = fit_decider(calibration, gallery, options, seed)
    grouping = None
    if grouped and options.group_nearest > 0:
        grouping = grouper_of(scoring, search, fitted.fusion).fit(gallery, seed)
    quality = gallery_quality(answers, decider, gallery, options)
    return replace(fitted, decider=decider, calibration=answers, grouping=grouping, quality=quality)


def grouper_of(scoring: Scoring, search: GallerySearch, fusion: FittedFusion | None) -> Grouper:
    """Groups images by the benchmark's scores of their pairs."""
    vectors = scoring.features.vectors
    options = scoring.config.benchmark.open_set
    photo_N = photograph_codes(scoring.features.table)
    return Grouper(
        pair_scorer(scoring, search, fusion), vectors[0] if vectors else None, options, photo_N
    )


def photograph_codes(table: ImageTable) -> np.ndarray | None:
    """Equal codes for images of one photograph; None where each has its own."""
    paths = table.rows["path"]
    return pd.factorize(paths)[0] if paths.duplicated().any() else None


def retrieve(
    scoring: Scoring,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    fitted: Fitted,
    search: GallerySearch,
    *,
    apart_Q: np.ndarray | None = None,
) -> Retrieval:
    """The queries answered, decided and grouped. Queries with equal codes ``apart_Q``, animals of
    one photograph, are answered with different animals."""
    benchmark, fusion = scoring.config.benchmark, fitted.fusion
    ranking, fused = rank(
        scoring, queries, gallery, exclude=benchmark.exclude, search=search, fusion=fusion
    )
    if apart_Q is not None:
        ranking = told_apart(ranking, gallery.identity_N, apart_Q)
    evidence = decisions = None
    if fusion is not None and fused is not None:
        names, keep = fusion.fusion.methods, benchmark.keep_candidates
        evidence = evidence_table(fused, names, ranking, queries, gallery, keep=keep)
    if fitted.decider is not None:
        answers = fitted.calibration or _no_answers()
        decisions = decide(ranking, gallery.identity_N, fitted.decider, answers)
        if fitted.grouping is not None:
            new_Q = np.flatnonzero(~decisions.known_Q)
            grouper = grouper_of(scoring, search, fusion)
            new_animals = grouper.group(new_Q, queries, fitted.grouping)
            decisions = replace(decisions, new_animals=new_animals)
    retrieval = Retrieval(
        queries, gallery, ranking, scoring.features.table, decisions, evidence, fused
    )
    if scoring.gate is None:
        return retrieval
    keep = min(benchmark.keep_candidates, len(gallery))

    def ranked(block: RetrievalSide) -> Ranking:
        whole = ungated_ranking(
            scoring,
            search,
            block,
            gallery,
            exclude=benchmark.exclude,
            keep=keep,
            counted=False,
        )
        return best_candidates(whole, keep)

    in_order = bool(scoring.features.vectors) or search.index is not None
    gated = gated_candidates(scoring.gate, queries, gallery, ranked, in_order=in_order)
    return replace(retrieval, gated=gated, gate_figures=gate_figures(scoring.gate, gallery))


def _no_answers() -> Answers:
    none = np.zeros(0)
    return Answers(none, none.astype(bool), none.astype(bool), none.astype(np.int32))


def matches_of_best(scoring: Scoring, retrieval: Retrieval, most: int) -> pa.Table:
    """``matches.parquet``: the matched keypoints of each query's ``most`` best candidates."""
    width = retrieval.ranking.candidate_index_QK.shape[1]
    query_P, gallery_P = shortlist_pairs(retrieval.ranking, min(most, width))
    benchmark = scoring.config.benchmark
    if benchmark.method == "local_index":
        index = search_of(scoring, retrieval.gallery).index
        assert index is not None, "the method has one"
        return index.matches(retrieval.queries, query_P, gallery_P, exclude=benchmark.exclude)
    first_P = retrieval.queries.position_N[query_P]
    second_P, method = retrieval.gallery.position_N[gallery_P], scoring.local[0]
    fuses = benchmark.method == "wildfusion"
    stages = choosing_stages(method.config) if fuses else cascade_of(method.config)
    return match_details(method, first_P, second_P, stages)
