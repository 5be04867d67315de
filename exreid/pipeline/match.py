"""Pairs of images to scores, by one kind of local features: the cascade, its matchers, its cache.

All indices are positions of the table, for the first image of a pair and for the second.

Letters: P pairs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from exreid.config.probe import ProbeConfig
from exreid.errors import MatchingError
from exreid.features.keys import describe_fingerprint
from exreid.matching.cascade import (
    MakeMatcher,
    Stage,
    cascade_of,
    choosing_stages,
    details_of,
    run_cascade,
)
from exreid.matching.nearest import NearestSettings
from exreid.matching.pairs import score_pairs, words_at
from exreid.matching.tiles import FeaturesOf, Tile, plan_tiles, score_tile
from exreid.pipeline.embed import Features
from exreid.pipeline.inputs import cache_folder, with_local
from exreid.pipeline.keypoints import EVIDENCE_VERSION, LocalImages, lightglue_name
from exreid.pipeline.matchers import Matchers, MatchingTally
from exreid.progress import Progress, counted
from exreid.records import PairEvidence, PairMatches
from exreid.storage.pair_store import PairStore, pair_words
from exreid.storage.run_folder import write_text
from exreid.storage.run_tables import matches_table
from exreid.storage.spreadsheets import safe_cell

PAIRS_PER_TILE = {"cpu": 64, "cuda": 4096}
"""A few seconds of work, or one second of a data-centre GPU, which is what a lost actor costs.
Cheap stages take 8 times as many: the work for each image, which is not repeated within a tile, is
a large part of theirs."""
FAILED_FILE = "failed_pairs.csv"


@dataclass(frozen=True)
class LocalMethod:
    """One kind of local features of a table's images, and how pairs of them are matched."""

    config: ProbeConfig
    """With ``benchmark.local_features`` of this method."""
    images: LocalImages
    features_of: FeaturesOf
    """Of the images at these positions."""
    image_ids: Sequence[str]
    matchers: Matchers
    open_store: Callable[[str], PairStore]
    """Opens the store of known evidence, which new evidence is added to, by its folder's name."""
    folder: Path
    """Of the run."""
    progress: Progress
    tally: MatchingTally


def local_methods(
    features: Features,
    config: ProbeConfig,
    matchers: Matchers,
    *,
    folder: Path,
    progress: Progress,
    tally: MatchingTally,
    known_pairs: Path | None = None,
) -> tuple[LocalMethod, ...]:
    """Each kind of local features as a method; ``known_pairs``: a folder of further known
    evidence."""
    stores: dict[str, PairStore] = {}
    pairs = cache_folder(config) / "pairs"

    def open_store(name: str) -> PairStore:
        if name not in stores:
            also = () if known_pairs is None else (known_pairs / name,)
            stores[name] = PairStore(pairs / name, *also)
        return stores[name]

    return tuple(
        LocalMethod(
            with_local(config, images.name),
            images,
            partial(images.store.gather_places, images.keys),
            features.table.rows["image_id"].tolist(),
            matchers,
            open_store,
            folder,
            progress,
            tally,
        )
        for images in features.local
    )


def score_by_cascade(
    method: LocalMethod,
    first_P: np.ndarray,
    second_P: np.ndarray,
    stages: Sequence[Stage] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """For each pair the number of the last stage that matched it, and its score in it, float64."""
    return run_cascade(
        cascade_of(method.config) if stages is None else stages,
        first_P,
        second_P,
        evidence_of=partial(_match_stage, method),
        local_score=method.config.benchmark.local_score,
    )


def full_scores(
    method: LocalMethod, first_P: np.ndarray, second_P: np.ndarray, *, all_pairs: bool
) -> np.ndarray:
    """The scores of one and the same full stage, float64; NaN for a pair that an earlier stage
    (left out for ``all_pairs``) kept from it."""
    stages = choosing_stages(method.config)
    stages = stages[-1:] if all_pairs else stages
    stage_P, score_P = score_by_cascade(method, first_P, second_P, stages)
    return np.where(stage_P == len(stages) - 1, score_P, np.nan)


def _match_stage(
    method: LocalMethod, stage: Stage, first_P: np.ndarray, second_P: np.ndarray
) -> PairEvidence:
    """The evidence of each pair, matched at most once; MatchingError where some cannot be."""
    make, name = _make_matcher(method, stage), _evidence_name(method, stage)
    tally, failed = method.tally, list[tuple[Tile, str]]()
    scored = score_pairs(
        first_P,
        second_P,
        query_keys=method.images.keys,
        gallery_keys=method.images.keys,
        store=method.open_store(name),
        run=lambda tiles: method.matchers.run(
            tiles, make, score_tile, method.features_of, failed=failed
        ),
        pairs_per_tile=PAIRS_PER_TILE[make.device] * stage.tile_factor,
        on_progress=method.progress(stage.name, len(first_P)),
    )
    tally.pairs[stage.name] = tally.pairs.get(stage.name, 0) + len(first_P)
    tally.pairs_known += scored.known
    if tally.asked is not None:
        tally.asked.setdefault(name, []).append(scored.words_P2)
    if failed:
        raise _failure(method, failed, first_P[scored.missing_P], second_P[scored.missing_P])
    return scored.evidence


def _evidence_name(method: LocalMethod, stage: Stage) -> str:
    """The name of a stage's store: a fingerprint of what its evidence depends on besides the
    images."""
    description = {
        "stage": "pairs",
        "stage_version": EVIDENCE_VERSION,
        "local": method.images.description,
        "weights": None if isinstance(stage.settings, NearestSettings) else method.images.weights,
        "settings": stage.settings.describe(),
        "device": method.matchers.device,
    }
    return describe_fingerprint(description)


def match_details(
    method: LocalMethod, first_P: np.ndarray, second_P: np.ndarray, stages: Sequence[Stage]
) -> pa.Table:
    """``matches.parquet``: the matched keypoints of each pair, by the last of the stages that
    matched it, as many of them over the threshold as its score counts."""
    stage_P, count_P = _last_stages(method, stages, first_P, second_P)
    failed: list[tuple[Tile, str]] = []
    details: dict[int, PairMatches] = {}
    advance = method.progress("Writing matches", len(first_P))
    for number in np.unique(stage_P).tolist():
        place_M, make = np.flatnonzero(stage_P == number), _make_matcher(method, stages[number])
        tiles = plan_tiles(
            first_P[place_M], second_P[place_M], pairs_per_tile=PAIRS_PER_TILE[make.device]
        )
        for tile, matches in method.matchers.run(
            tiles, make, details_of, method.features_of, failed=failed
        ):
            for pair, of_pair in zip(place_M[tile.place_P].tolist(), matches, strict=True):
                details[pair] = _as_counted(of_pair, int(count_P[pair]), method.config)
            advance(len(matches))
    if failed:
        missing_P = np.array([pair not in details for pair in range(len(first_P))])
        raise _failure(method, failed, first_P[missing_P], second_P[missing_P])
    ids = method.image_ids
    return matches_table(
        [(ids[i], ids[j]) for i, j in zip(first_P, second_P, strict=True)],
        [details[pair] for pair in range(len(first_P))],
        method.features_of(first_P),
        method.features_of(second_P),
    )


def _last_stages(
    method: LocalMethod, stages: Sequence[Stage], first_P: np.ndarray, second_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each pair the last stage, stages by confidence aside, that matched it, and its number of
    matches; the last of all stages and -1 for a pair that none of them matched."""
    keys = method.images.keys
    words_P2 = pair_words(words_at(keys, first_P), words_at(keys, second_P))
    stage_P, count_P = np.full(len(first_P), len(stages) - 1), np.full(len(first_P), -1)
    for number in reversed(range(len(stages))):
        if stages[number].by_confidence:
            continue
        known_P, evidence = method.open_store(_evidence_name(method, stages[number])).find(words_P2)
        fresh_P = known_P & (count_P < 0)
        stage_P[fresh_P], count_P[fresh_P] = number, evidence.match_count_P[fresh_P]
    return stage_P, count_P


def _as_counted(matches: PairMatches, count: int, config: ProbeConfig) -> PairMatches:
    """The matches with exactly ``count`` over the threshold: in another batch confidences differ in
    their last digits, and one at the threshold could change sides."""
    if count < 0:
        return matches
    low = np.float32(config.benchmark.match_threshold)
    confidence_X = matches.confidence_X.copy()
    confidence_X[:count] = np.maximum(confidence_X[:count], np.nextafter(low, np.float32(1)))
    confidence_X[count:] = np.minimum(confidence_X[count:], low)
    return replace(matches, confidence_X=confidence_X)


def _make_matcher(method: LocalMethod, stage: Stage) -> MakeMatcher:
    nearest = isinstance(stage.settings, NearestSettings)
    name, device = "" if nearest else lightglue_name(method.config), method.matchers.device
    return MakeMatcher(name, stage.settings, device, method.images.adapted)


def _failure(
    method: LocalMethod,
    failed: list[tuple[Tile, str]],
    first_P: np.ndarray,
    second_P: np.ndarray,
) -> MatchingError:
    """The error of pairs that were given up, which are listed in the run's folder."""
    text, file = io.StringIO(), method.folder / FAILED_FILE
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query_id", "gallery_id"])
    for pair in zip(first_P.tolist(), second_P.tolist(), strict=True):
        writer.writerow([safe_cell(method.image_ids[position]) for position in pair])
    write_text(file, text.getvalue())
    return MatchingError(
        f"{counted(len(first_P), 'pair')} could not be matched, in {counted(len(failed), 'tile')} "
        f"({failed[0][1]}). They are listed in {file}; all others are kept, and the same "
        "command tries these again."
    )
