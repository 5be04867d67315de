"""The stages of a probe between its table and its ranking, as the method asks for them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from exreid.config.probe import ProbeConfig
from exreid.data.metadata import retrieval_sides, select_split
from exreid.matching.cascade import LOOK_COUNTS
from exreid.matching.cosine import cosine_of_pairs, rank_by_cosine
from exreid.metrics.ranking import Exclude
from exreid.openset.decide import OpenSet, Practice, decide, practice_queries
from exreid.openset.group import Grouper
from exreid.pipeline.crossfit import (
    Fold,
    animal_folds,
    fits_on_queries,
    join_evidence,
    joined_decisions,
    joined_rankings,
)
from exreid.pipeline.embed import FeatureStages
from exreid.pipeline.fuse import FusionStage
from exreid.pipeline.match import Looks, PairMatching, unordered
from exreid.pipeline.methods import (
    Method,
    cosine_scores,
    local_scores,
    methods_of,
    reranked_scores,
    side_of_all,
    with_local,
)
from exreid.pipeline.reranking import Reranker
from exreid.progress import Progress, timed
from exreid.records import ImageTable, Ranking, RetrievalSide
from exreid.storage.run_folder import write_table


@dataclass(frozen=True)
class Ranked:
    """The ranking of a probe, and what it is of."""

    queries: RetrievalSide
    gallery: RetrievalSide
    ranking: Ranking
    table: ImageTable
    """The images that both sides' positions are places of."""
    open_set: OpenSet | None
    """What was decided, where decisions are asked for."""


class Stages(FeatureStages):
    """From the table to the ranking: global features, local ones, pairs, fusion."""

    def __init__(
        self,
        config: ProbeConfig,
        folder: Path,
        progress: Progress,
        verbose: bool,
        timings_s: dict[str, float],
    ) -> None:
        super().__init__(config, progress, verbose, timings_s)
        self.folder = folder
        self.looks = Looks()
        self.reranker: Reranker | None = None

    def run(self, table: ImageTable) -> Ranked:
        """The ranking, and what it is of."""
        with ExitStack() as stack:
            table = self.extract(table, stack)
            queries, gallery = self.sides(table)
            if self._queries_are_the_database():
                ranking, open_set = self._cross_fitted(queries, gallery, table)
            else:
                ranking, open_set = self._fitted(queries, gallery, table, None)
            if open_set is not None:
                self.counts |= open_set.counts
            if self.images:
                # Pictures show at least what the first answer of each query rests on.
                benchmark = self.config.benchmark
                keep = max(benchmark.keep_matches, int(self.config.visualization.enabled))
                if keep:
                    matching = self._matching(0, queries, gallery)
                    found = matching.matches(ranking, keep)
                    write_table(self.folder / "matches.parquet", found)
                self.count()
        return Ranked(queries, gallery, ranking, table, open_set)

    def _queries_are_the_database(self) -> bool:
        """So that nothing may be fitted on all of it at once."""
        return fits_on_queries(self.config)

    def _fitted(
        self,
        queries: RetrievalSide,
        gallery: RetrievalSide,
        table: ImageTable,
        fold: Fold | None,
    ) -> tuple[Ranking, OpenSet | None]:
        """Fit on the gallery (of a fold, on what it leaves), then answer and decide."""
        benchmark = self.config.benchmark
        fusion, practice = self.learn(gallery, table, fold)
        ranking = self._answer(queries, gallery, fusion, benchmark.exclude)
        if fusion is not None:
            fusion.write_evidence(ranking, queries, gallery)
            if fold is None:
                self.counts |= fusion.counts
        answered = Ranked(queries, gallery, ranking, table, None)
        return ranking, self._decide(answered, fusion, practice, fold)

    def _decide(
        self,
        answered: Ranked,
        fusion: FusionStage | None,
        practice: Practice | None,
        fold: Fold | None,
    ) -> OpenSet | None:
        """Known or new, by what was fitted on the practice; None where nothing was."""
        if practice is None:
            return None
        queries, gallery, options = answered.queries, answered.gallery, self.config.benchmark
        taught = gallery if fold is None else fold.taught(gallery)
        seed = self.config.seed
        decided = decide(practice, taught, answered.ranking, gallery, options.open_set, seed=seed)
        if fold is not None or options.open_set.group_nearest == 0:
            return decided
        grouper = self.grouper(answered.table, fusion)
        grouped = grouper.new_animals(decided.known_Q, queries, gallery, seed)
        return replace(decided, new_animals=grouped)

    def _cross_fitted(
        self, queries: RetrievalSide, gallery: RetrievalSide, table: ImageTable
    ) -> tuple[Ranking, OpenSet | None]:
        """Each query answered by what never saw its animal; see `exreid.pipeline.crossfit`."""
        folds = animal_folds(queries, self.config.seed)
        members = [fold.members for fold in folds]
        parts = [self._fitted(queries.take(fold.members), gallery, table, fold) for fold in folds]
        if self.config.benchmark.method == "wildfusion":
            join_evidence(self.folder, folds, queries)
        decided = [open_set for _, open_set in parts if open_set is not None]
        ranking = joined_rankings([ranking for ranking, _ in parts], members)
        return ranking, joined_decisions(decided, members) if decided else None

    def sides(self, table: ImageTable) -> tuple[RetrievalSide, RetrievalSide]:
        """Queries and gallery, by the split."""
        dataset = self.config.dataset
        query = select_split(table, dataset.query_split_value, self.rejected)
        database = select_split(table, dataset.database_split_value, self.rejected)
        return retrieval_sides(table, query, database)

    def learn(
        self, gallery: RetrievalSide, table: ImageTable, fold: Fold | None = None
    ) -> tuple[FusionStage | None, Practice | None]:
        """What the gallery's own images (of a fold, those that it leaves) teach: the fusion, and
        answers to fit decisions on."""
        self.prepare_reranking(gallery, table)
        benchmark = self.config.benchmark
        fusion = None
        if benchmark.method == "wildfusion":
            fusion = self._calibrated(gallery, table, fold)
        if not benchmark.open_set.enabled:
            return fusion, None
        taught, whole = gallery if fold is None else fold.taught(gallery), self.reranker
        if fold is not None:
            self.prepare_reranking(taught, table)
        chosen = practice_queries(taught, benchmark.open_set.queries, self.config.seed)
        answered = self._answer(chosen, taught, fusion, "encounter")
        self.reranker = whole
        return fusion, Practice(chosen, answered)

    def prepare_reranking(self, gallery: RetrievalSide, table: ImageTable) -> None:
        """The second ranking of this gallery, where the config asks for one."""
        options = self.config.benchmark.rerank
        if options.method != "none":
            every, vectors_ND = side_of_all(table), self.embeddings[0].vectors_ND
            self.reranker = Reranker(options, vectors_ND, every, gallery)

    def _answer(
        self,
        queries: RetrievalSide,
        gallery: RetrievalSide,
        fusion: FusionStage | None,
        exclude: Exclude,
    ) -> Ranking:
        """The gallery ranked for these queries by the benchmark's method."""
        with timed(self.timings_s, "ranking"):
            ranking = self._rank(queries, gallery, exclude)
        if self.config.benchmark.method == "cosine":
            return ranking
        with timed(self.timings_s, "matching"):
            if fusion is not None:
                return fusion.rerank(ranking, queries, gallery, exclude)
            return self._matching(0, queries, gallery).rerank(ranking, gallery)

    def _rank(self, queries: RetrievalSide, gallery: RetrievalSide, exclude: Exclude) -> Ranking:
        benchmark = self.config.benchmark
        if not self.embeddings:
            return unordered(queries, gallery, exclude)
        deep = len(gallery) if benchmark.method == "wildfusion" else 1
        keep = max(benchmark.keep_candidates, benchmark.candidate_k or deep)
        if self.reranker is not None:
            keep = max(keep, self.reranker.needs)
        vectors_ND = self.embeddings[0].vectors_ND
        ranking = rank_by_cosine(
            vectors_ND[queries.position_N],
            vectors_ND[gallery.position_N],
            queries,
            gallery,
            exclude=exclude,
            keep=keep,
            on_progress=self.progress("Ranking", len(queries)),
        )
        if self.reranker is None:
            return ranking
        bar = self.progress("Re-ranking", len(queries))
        return self.reranker.rerank(ranking, queries, exclude, bar)

    def _matching(
        self,
        number: int,
        first: RetrievalSide,
        second: RetrievalSide,
    ) -> PairMatching:
        name = methods_of(self.config)[1][number]
        return PairMatching(
            with_local(self.config, name),
            self.images[number],
            queries=first.position_N,
            gallery=second.position_N,
            query_ids=first.image_ids,
            gallery_ids=second.image_ids,
            placement=self.placement,
            folder=self.folder,
            progress=self.progress,
            looks=self.looks,
        )

    def grouper(self, table: ImageTable, fusion: FusionStage | None) -> Grouper:
        """Groups images by the scores that the benchmark's method gives their pairs."""
        vectors_ND = self.embeddings[0].vectors_ND if self.embeddings else None
        if fusion is not None:
            score = fusion.score_places
        elif vectors_ND is not None and self.config.benchmark.method == "cosine":
            score = partial(cosine_of_pairs, vectors_ND)
        else:
            every = side_of_all(table)
            score = partial(self._matching(0, every, every).full_scores, all_pairs=True)
        return Grouper(score, vectors_ND, self.config.benchmark.open_set)

    def _calibrated(
        self, gallery: RetrievalSide, table: ImageTable, fold: Fold | None = None
    ) -> FusionStage:
        stage = self.fusion_stage(table, self.folder if fold is None else fold.folder(self.folder))
        left_out = None if fold is None else fold.left_out
        with timed(self.timings_s, "calibration"):
            stage.calibrate(gallery, self.embeddings[0].vectors_ND, left_out)
        return stage

    def fusion_stage(self, table: ImageTable, folder: Path) -> FusionStage:
        """The fusion of the benchmark's methods, not fitted yet, which writes to ``folder``."""
        every = side_of_all(table)
        models, local_names = methods_of(self.config)
        methods = [
            Method(f"cosine:{model.type}", "global", cosine_scores(self.embeddings[m].vectors_ND))
            for m, model in enumerate(models)
        ]
        for number, name in enumerate(local_names):
            matching = self._matching(number, every, every)
            methods.append(Method(name, "local", local_scores(matching), matching.rounds))
        if self.reranker is not None:
            methods[0] = replace(methods[0], score=reranked_scores(self.reranker))
        return FusionStage(self.config, methods, folder)

    def count(self) -> None:
        """Add up how the matching went."""
        looks = self.looks
        self.counts |= {
            name: looks.pairs[stage] for name, stage in LOOK_COUNTS.items() if stage in looks.pairs
        }
        self.counts["pairs_known"] = looks.pairs_known
        if looks.actors_lost:
            self.counts["actors_lost"] = looks.actors_lost
        if looks.wait_share is not None:
            self.counts["actors_wait_share"] = round(looks.wait_share, 4)
