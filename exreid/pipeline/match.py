"""The local part of a probe: keypoints, pairs, and the ranking that they give."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from exreid.config.probe import ProbeConfig
from exreid.distributed.session import Placement
from exreid.errors import ConfigError, MatchingError
from exreid.features.decoding import decode_in_process, decode_table
from exreid.features.embedding import describe_fingerprint, stage_folder
from exreid.features.extraction import ExtractionReport
from exreid.features.local import EXTRACTORS, LocalExtractor
from exreid.features.local_extraction import (
    ExtractLocal,
    LocalFeatureStore,
    LocalPreprocessing,
    local_description,
)
from exreid.matching.cascade import LAST_LOOK, Look, MakeMatcher, go_through, looks_of
from exreid.matching.lightglue import MatchSettings
from exreid.matching.nearest import NearestSettings
from exreid.matching.pairs import score_pairs
from exreid.matching.shortlist import rerank_shortlist, shortlist_pairs
from exreid.matching.tiles import Tile, match_in_process, plan_tiles
from exreid.metrics.ranking import (
    Exclude,
    concatenate_rankings,
    index_gallery,
    rank_block,
    side_slice,
)
from exreid.models.lightglue import lightglue_fingerprint, lightglue_weights
from exreid.pipeline.inputs import cache_folder, works_alone
from exreid.progress import Progress
from exreid.records import ImageTable, PairEvidence, PairMatches, Ranking, RetrievalSide
from exreid.storage.feature_store import SignatureMemo
from exreid.storage.pair_store import PairStore
from exreid.storage.run_folder import matches_table, write_text
from exreid.storage.spreadsheets import safe_cell
from exreid.storage.urls import is_remote

PAIRS_PER_TILE = {"cpu": 64, "cuda": 4096}
"""A few seconds of work, or one of a data-centre GPU: what a lost actor costs. First looks are
cheap, and take 8 times as many: the work for each image, which is not repeated within a tile, is a
large part of theirs."""
QUERY_BLOCK = 256
FAILED_FILE = "failed_pairs.csv"
STAGE_VERSION = 1
FEW_IMAGES = 16
"""To match among each other; see `works_alone`."""
"""Raise it when the code of the matching changes its evidence."""


def matcher_of(config: ProbeConfig) -> str:
    """The features that the config's LightGlue is trained for."""
    name = config.benchmark.local_features
    matcher = EXTRACTORS[name].matcher
    if matcher is None:
        raise ConfigError(f"benchmark.local_features: no LightGlue is trained for {name}.")
    return matcher


@dataclass(frozen=True)
class LocalImages:
    """Images whose local features lie in the cache."""

    positions: np.ndarray
    """Of the table that was given: the images that could be read."""
    keys: list[str]
    store: LocalFeatureStore
    description: dict[str, Any]
    """What the features depend on besides the images."""
    report: ExtractionReport


@dataclass
class Looks:
    """How the matching went, over all its looks."""

    open_pairs: Callable[[Path], PairStore] = PairStore
    """Opens the store of a look's folder."""
    pairs: dict[str, int] = field(default_factory=dict)
    pairs_known: int = 0
    actors_lost: int = 0
    wait_share: float | None = None


def preprocessing_of(config: ProbeConfig) -> LocalPreprocessing:
    """What the extractor is given, by the config."""
    dataset, benchmark = config.dataset, config.benchmark
    return LocalPreprocessing(
        longer_side_px=benchmark.local_size,
        square=benchmark.local_square,
        mask_use=benchmark.local_masks if dataset.mask_col is not None else "none",
        crop_to_mask=dataset.crop_to_mask,
        crop_margin=dataset.crop_margin,
        reduced_decode=dataset.reduced_decode,
        no_mask="whole" if dataset.no_mask == "whole" else "raise",
    )


def extract_local_images(
    table: ImageTable,
    config: ProbeConfig,
    placement: Placement | None,
    on_progress: Callable[[int], Any],
) -> LocalImages:
    """The local features of the table's images, from the cache or extracted."""
    # Weights that cannot be had are better missed now than when all keypoints are found.
    lightglue_weights(matcher_of(config))
    benchmark, preprocessing = config.benchmark, preprocessing_of(config)
    device = placement.device if placement else "cpu"
    extractor = LocalExtractor(benchmark.local_features, keypoints=benchmark.local_top_k)
    description = local_description(extractor, preprocessing, device)
    cache = cache_folder(config)
    folder = stage_folder(cache, "local", description)
    root = table.root if is_remote(table.root) else os.path.abspath(table.root)  # noqa: PTH100
    arguments: dict[str, Any] = {
        "root": root,
        "preprocessing": preprocessing,
        "folder": folder,
        "extractor": benchmark.local_features,
        "keypoints": benchmark.local_top_k,
    }

    def over_actors(table: ImageTable, positions: np.ndarray) -> Any:
        from exreid.distributed.extract_local import extract_local_over_actors

        assert placement is not None
        return extract_local_over_actors(table, positions, arguments=arguments, placement=placement)

    def here(table: ImageTable, positions: np.ndarray) -> Any:
        return decode_in_process(table, positions, keep=ExtractLocal(**arguments))

    positions, keys, report = decode_table(
        table,
        over_actors if placement else here,
        folder=folder,
        memo=SignatureMemo(cache / "signatures"),
        on_error=config.dataset.on_error,
        on_progress=on_progress,
    )
    store = LocalFeatureStore(folder, benchmark.local_features, benchmark.local_top_k)
    return LocalImages(positions, keys, store, description, report)


def unordered(queries: RetrievalSide, gallery: RetrievalSide, exclude: Exclude) -> Ranking:
    """All candidates of each query in the table's order: what all pairs are matched from."""
    index = index_gallery(gallery, exclude=exclude)
    parts = []
    for start in range(0, len(queries), QUERY_BLOCK):
        block = side_slice(queries, start, min(start + QUERY_BLOCK, len(queries)))
        scores = np.zeros((len(block), len(gallery)), np.float32)
        parts.append(rank_block(scores, block, index, keep=len(gallery)))
    return concatenate_rankings(parts)


class PairMatching:
    """Matches the pairs of a probe, look after look."""

    def __init__(
        self,
        config: ProbeConfig,
        images: LocalImages,
        *,
        queries: np.ndarray,
        gallery: np.ndarray,
        query_ids: Sequence[str],
        gallery_ids: Sequence[str],
        placement: Placement | None,
        folder: Path,
        progress: Progress,
        looks: Looks,
    ) -> None:
        """``queries`` and ``gallery`` are places among ``images``; ``looks`` is counted up."""
        self.config, self.images = config, images
        self.query_keys = [images.keys[i] for i in queries]
        self.gallery_keys = [images.keys[i] for i in gallery]
        self.placement, self.folder, self.progress = placement, folder, progress
        self.features = matcher_of(config)
        self.weights = lightglue_fingerprint(self.features)
        self.device = placement.device if placement else "cpu"
        self.looks, self.query_ids, self.gallery_ids = looks, query_ids, gallery_ids
        self._stores: dict[Path, PairStore] = {}
        self._kept: list[Any] | None = None

    @contextmanager
    def rounds(self) -> Iterator[None]:
        """Many small lists of pairs for the same look: while this is open, matchers stay up."""
        self._kept = []
        try:
            yield
        finally:
            for pool in self._kept if self.placement else ():
                pool.stop()
            self._kept, self._stores = None, {}

    def rerank(self, ranking: Ranking, gallery: RetrievalSide) -> Ranking:
        """The ranking with its shortlist (or all of it) in the order of the local scores."""
        shortlist = self.config.benchmark.candidate_k or len(gallery)
        pairs = shortlist_pairs(ranking, shortlist)
        return rerank_shortlist(ranking, gallery, shortlist, *self.score(*pairs))

    def full_scores(
        self, query_P: np.ndarray, gallery_P: np.ndarray, *, all_pairs: bool
    ) -> np.ndarray:
        """The scores of one and the same full look, float64; NaN for a pair that a first look
        (left out for ``all_pairs``) found not worth it."""
        looks = [look for look in looks_of(self.config) if look.stage != LAST_LOOK]
        looks = looks[-1:] if all_pairs else looks
        level_P, score_P = self.score(query_P, gallery_P, looks)
        return np.where(level_P == len(looks) - 1, score_P, np.nan)

    def score(
        self, query_P: np.ndarray, gallery_P: np.ndarray, looks: Sequence[Look] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of each pair, the number of the last look that it went on to, and its score there."""
        return go_through(
            looks_of(self.config) if looks is None else looks,
            query_P,
            gallery_P,
            evidence_of=self._look,
            local_score=self.config.benchmark.local_score,
        )

    def _look(self, look: Look, query_P: np.ndarray, gallery_P: np.ndarray) -> PairEvidence:
        stage, settings = look.stage, look.settings
        description = {
            "stage": "pairs",
            "stage_version": STAGE_VERSION,
            "local": self.images.description,
            "weights": None if isinstance(settings, NearestSettings) else self.weights,
            "settings": settings.describe(),
            "device": self.device,
        }
        cache = cache_folder(self.config) / "pairs" / describe_fingerprint(description)
        size = PAIRS_PER_TILE[self.device] * look.tile_factor
        failed: list[tuple[Tile, str]] = []
        scored = score_pairs(
            query_P,
            gallery_P,
            query_keys=self.query_keys,
            gallery_keys=self.gallery_keys,
            store=self._store(cache),
            run=partial(self._run, settings=settings, failed=failed),
            pairs_per_tile=size,
            on_progress=self.progress(stage, len(query_P)),
        )
        self.looks.pairs[stage] = self.looks.pairs.get(stage, 0) + len(query_P)
        self.looks.pairs_known += scored.known
        if failed:
            missing = scored.missing_P
            self._report(failed, query_P[missing], gallery_P[missing])
        return scored.evidence

    def _store(self, folder: Path) -> PairStore:
        if self._kept is None:
            return self.looks.open_pairs(folder)
        if folder not in self._stores:
            self._stores[folder] = self.looks.open_pairs(folder)
        return self._stores[folder]

    def matches(self, ranking: Ranking, most: int) -> pa.Table:
        """``matches.parquet``: the matched keypoints of each query's ``most`` best candidates."""
        query_P, gallery_P = shortlist_pairs(
            ranking, min(most, ranking.candidate_index_QK.shape[1])
        )
        failed: list[tuple[Tile, str]] = []
        found: dict[int, PairMatches] = {}
        tiles = plan_tiles(query_P, gallery_P, pairs_per_tile=PAIRS_PER_TILE[self.device])
        advance = self.progress("Writing matches", len(query_P))
        settings = looks_of(self.config)[-1].settings
        for tile, details in self._run(tiles, settings=settings, failed=failed, method="details"):
            found.update(zip(tile.place_P.tolist(), details, strict=True))
            advance(len(details))
        if failed:
            missing = np.array([pair not in found for pair in range(len(query_P))])
            self._report(failed, query_P[missing], gallery_P[missing])
        names = self.query_ids, self.gallery_ids
        return matches_table(
            [(names[0][q], names[1][g]) for q, g in zip(query_P, gallery_P, strict=True)],
            [found[pair] for pair in range(len(query_P))],
            self.images.store.gather_places(self.query_keys, query_P),
            self.images.store.gather_places(self.gallery_keys, gallery_P),
        )

    def _run(
        self,
        tiles: Iterator[Tile],
        *,
        settings: MatchSettings | NearestSettings,
        failed: list[tuple[Tile, str]],
        method: Literal["score", "details"] = "score",
    ) -> Iterator[tuple[Tile, Any]]:
        make = MakeMatcher(self.features, settings, self.device)
        features: dict[str, Any] = {
            "queries": partial(self.images.store.gather_places, self.query_keys),
            "gallery": partial(self.images.store.gather_places, self.gallery_keys),
            "method": method,
        }
        if self.placement is None:
            matcher = self._kept[0] if self._kept else make()
            if self._kept == []:
                self._kept.append(matcher)
            yield from match_in_process(tiles, matcher, **features)
            return
        from exreid.distributed.match import MatchReport, match_over_actors

        report = MatchReport()
        yield from match_over_actors(
            tiles, make, placement=self.placement, report=report, keep=self._kept, **features
        )
        failed.extend(report.failed)
        self.looks.actors_lost += report.actors_lost
        self.looks.wait_share = report.wait_share

    def _report(
        self, failed: list[tuple[Tile, str]], query_P: np.ndarray, gallery_P: np.ndarray
    ) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["query_id", "gallery_id"])
        for query, gallery in zip(query_P.tolist(), gallery_P.tolist(), strict=True):
            ids = (self.query_ids[query], self.gallery_ids[gallery])
            writer.writerow([safe_cell(name) for name in ids])
        write_text(self.folder / FAILED_FILE, text.getvalue())
        raise MatchingError(
            f"{len(query_P)} pairs could not be matched, in {len(failed)} tiles "
            f"({failed[0][1]}). They stand in {self.folder / FAILED_FILE}; all others are kept, "
            "and the same command tries these again."
        )


def placement_for(
    config: ProbeConfig, stack: ExitStack, *, images: int, verbose: bool
) -> Placement | None:
    """The actors of the local stages of so many images, Ray started for as long as ``stack`` is
    open; None for the work in this process."""
    if works_alone(config, images, FEW_IMAGES):
        return None
    from exreid.distributed.session import place_actors, ray_session

    stack.enter_context(ray_session(config.ray, verbose=verbose))
    return place_actors(config.ray)
