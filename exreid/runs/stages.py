"""The stages of a probe between its table and its ranking, as the method asks for them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exreid.config import ProbeConfig
from exreid.config_benchmark import ModelConfig
from exreid.data.metadata import retrieval_sides, select_split
from exreid.distributed.session import Placement
from exreid.matching.cosine import cosine_of_pairs, rank_by_cosine
from exreid.metrics.ranking import Exclude
from exreid.models.backbones import build_backbone
from exreid.records import Embeddings, ImageTable, Ranking, Rejected, RetrievalSide
from exreid.runs.artifacts import write_table
from exreid.runs.fusion import FusionStage, Method
from exreid.runs.inputs import embed_images
from exreid.runs.local import (
    FIRST_LOOK,
    FULL_LOOK,
    LAST_LOOK,
    LocalImages,
    Looks,
    PairMatching,
    extract_local_images,
    placement_for,
    unordered,
)
from exreid.runs.openset import Practice, practice_queries
from exreid.runs.progress import Progress, timed


@dataclass(frozen=True)
class Ranked:
    """The ranking of a probe, and what it is of."""

    queries: RetrievalSide
    gallery: RetrievalSide
    ranking: Ranking
    table: ImageTable
    """The images that both sides' positions are places of."""
    practice: Practice | None
    """Database images that were answered as queries, where decisions are to be fitted."""


class Stages:
    """From the table to the ranking: global features, local ones, pairs, fusion."""

    def __init__(
        self,
        config: ProbeConfig,
        folder: Path,
        progress: Progress,
        verbose: bool,
        timings_s: dict[str, float],
    ) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.verbose, self.timings_s = verbose, timings_s
        self.rejected: list[Rejected] = []
        self.counts: dict[str, Any] = {}
        self.looks = Looks()
        self.embeddings: list[Embeddings] = []
        self.images: list[LocalImages] = []

    def run(self, table: ImageTable) -> Ranked:
        """The ranking, and what it is of."""
        models, local_names = methods_of(self.config)
        for model in models:
            table = self._embed(table, model)
        with ExitStack() as stack:
            placement = None
            if local_names:
                placement = placement_for(self.config, stack, verbose=self.verbose)
                with timed(self.timings_s, "keypoints"):
                    for name in local_names:
                        table = self._find_keypoints(table, name, placement)
            dataset, benchmark = self.config.dataset, self.config.benchmark
            query = select_split(table, dataset.query_split_value)
            database = select_split(table, dataset.database_split_value)
            queries, gallery = retrieval_sides(table, query, database)
            fusion = None
            if benchmark.method == "wildfusion":
                fusion = self._calibrated(gallery, table, placement)
            ranking = self._answer(queries, gallery, fusion, placement, benchmark.exclude)
            if fusion is not None:
                fusion.write_evidence(ranking, queries, gallery)
            practice = None
            if benchmark.open_set.enabled:
                chosen = practice_queries(gallery, benchmark.open_set.queries, self.config.seed)
                answered = self._answer(chosen, gallery, fusion, placement, "encounter")
                practice = Practice(chosen, answered)
            if local_names:
                if benchmark.keep_matches:
                    matching = self._matching(0, queries, gallery, placement)
                    found = matching.matches(ranking, benchmark.keep_matches)
                    write_table(self.folder / "matches.parquet", found)
                self._count()
        return Ranked(queries, gallery, ranking, table, practice)

    def _answer(
        self,
        queries: RetrievalSide,
        gallery: RetrievalSide,
        fusion: FusionStage | None,
        placement: Placement | None,
        exclude: Exclude,
    ) -> Ranking:
        """The gallery ranked for these queries by the benchmark's method."""
        with timed(self.timings_s, "ranking"):
            ranking = self._rank(queries, gallery, exclude)
        if self.config.benchmark.method == "cosine":
            return ranking
        with timed(self.timings_s, "matching"):
            if fusion is not None:
                return fusion.rerank(ranking, queries, gallery)
            return self._matching(0, queries, gallery, placement).rerank(ranking, gallery)

    def _embed(self, table: ImageTable, model: ModelConfig) -> ImageTable:
        config = self.config.model_copy(update={"model": model})
        with timed(self.timings_s, "model"):
            backbone = build_backbone(
                model.type, checkpoint=model.checkpoint, image_size=config.dataset.image_size
            )
        with timed(self.timings_s, "embeddings"):
            embeddings, positions, report = embed_images(
                table,
                config,
                backbone,
                verbose=self.verbose,
                on_progress=self.progress("Extracting features", len(table)),
            )
        self._add({"images_cached": report.cached, "images_extracted": report.extracted})
        self.rejected.extend(report.rejected)
        self._keep(positions)
        self.embeddings.append(embeddings)
        return table.take(positions)

    def _find_keypoints(
        self, table: ImageTable, name: str, placement: Placement | None
    ) -> ImageTable:
        bar = self.progress("Finding keypoints", len(table))
        images = extract_local_images(table, with_local(self.config, name), placement, bar)
        report = images.report
        self._add({"keypoints_cached": report.cached, "keypoints_extracted": report.extracted})
        self.rejected.extend(report.rejected)
        self._keep(images.positions)
        self.images.append(images)
        return table.take(images.positions)

    def _keep(self, positions: np.ndarray) -> None:
        """Of what earlier stages made, only the images that this one could read as well."""
        self.embeddings = [
            Embeddings(tuple(one.image_ids[i] for i in positions), one.vectors_ND[positions])
            for one in self.embeddings
        ]
        self.images = [replace(one, keys=[one.keys[i] for i in positions]) for one in self.images]

    def _rank(self, queries: RetrievalSide, gallery: RetrievalSide, exclude: Exclude) -> Ranking:
        benchmark = self.config.benchmark
        if not self.embeddings:
            return unordered(queries, gallery, exclude)
        deep = len(gallery) if benchmark.method == "wildfusion" else 1
        vectors_ND = self.embeddings[0].vectors_ND
        return rank_by_cosine(
            vectors_ND[queries.position_N],
            vectors_ND[gallery.position_N],
            queries,
            gallery,
            exclude=exclude,
            keep=max(benchmark.keep_candidates, benchmark.candidate_k or deep),
            on_progress=self.progress("Ranking", len(queries)),
        )

    def _matching(
        self,
        number: int,
        first: RetrievalSide,
        second: RetrievalSide,
        placement: Placement | None,
    ) -> PairMatching:
        name = methods_of(self.config)[1][number]
        return PairMatching(
            with_local(self.config, name),
            self.images[number],
            queries=first.position_N,
            gallery=second.position_N,
            query_ids=first.image_ids,
            gallery_ids=second.image_ids,
            placement=placement,
            folder=self.folder,
            progress=self.progress,
            looks=self.looks,
        )

    def _calibrated(
        self, gallery: RetrievalSide, table: ImageTable, placement: Placement | None
    ) -> FusionStage:
        every = np.arange(len(table))
        whole, _ = retrieval_sides(table, every, every)
        models, local_names = methods_of(self.config)
        methods = [
            Method(f"cosine:{model.type}", "global", _cosine(self.embeddings[m].vectors_ND))
            for m, model in enumerate(models)
        ]
        for number, name in enumerate(local_names):
            matching = self._matching(number, whole, whole, placement)
            methods.append(Method(name, "local", matching.full_scores))
        stage = FusionStage(self.config, methods, self.folder)
        with timed(self.timings_s, "calibration"):
            stage.calibrate(gallery, self.embeddings[0].vectors_ND)
        self._add(stage.counts)
        return stage

    def _add(self, counts: dict[str, Any]) -> None:
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def _count(self) -> None:
        looks = self.looks
        names = {
            "pairs_looked_at": FIRST_LOOK,
            "pairs_matched": FULL_LOOK,
            "pairs_exact": LAST_LOOK,
        }
        self.counts |= {
            name: looks.pairs[stage] for name, stage in names.items() if stage in looks.pairs
        }
        self.counts["pairs_known"] = looks.pairs_known
        if looks.actors_lost:
            self.counts["actors_lost"] = looks.actors_lost
        if looks.wait_share is not None:
            self.counts["actors_wait_share"] = round(looks.wait_share, 4)


def methods_of(config: ProbeConfig) -> tuple[tuple[ModelConfig, ...], tuple[str, ...]]:
    """The backbones and the local features that the benchmark's method needs."""
    benchmark, fusion = config.benchmark, config.benchmark.fusion
    if benchmark.method == "wildfusion":
        names = fusion.local_features
        local = (benchmark.local_features,) if names is None else names
        return (config.model, *fusion.models), local
    local = () if benchmark.method == "cosine" else (benchmark.local_features,)
    needs_model = not local or benchmark.candidate_k is not None
    return (config.model,) if needs_model else (), local


def with_local(config: ProbeConfig, name: str) -> ProbeConfig:
    """The config of one local method."""
    benchmark = config.benchmark.model_copy(update={"local_features": name})
    return config.model_copy(update={"benchmark": benchmark})


def _cosine(vectors_ND: np.ndarray) -> Any:
    def score(first_P: np.ndarray, second_P: np.ndarray, *, all_pairs: bool) -> np.ndarray:
        del all_pairs
        return cosine_of_pairs(vectors_ND, first_P, second_P)

    return score
