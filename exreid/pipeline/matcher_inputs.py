"""The inputs of a matcher's training: local features, mined pairs, the validation's shortlists."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from exreid.config.base import StrictModel
from exreid.config.dataset import DatasetConfig
from exreid.config.methods import ModelConfig
from exreid.config.probe import OutputConfig, ProbeConfig, RayConfig
from exreid.config.training import FinetuneConfig
from exreid.data.holdout import Holdout, check_holdout
from exreid.data.metadata import retrieval_sides
from exreid.errors import MetadataError
from exreid.features.local_extraction import LocalFeatureStore
from exreid.matching.cascade import cascade_of
from exreid.matching.lightglue import MatchSettings
from exreid.matching.mining import MinedPairs, unordered_pairs
from exreid.matching.shortlist import shortlist_pairs
from exreid.matching.tiles import FeaturesOf
from exreid.metrics.ranking import Exclude
from exreid.pipeline.embed import embed
from exreid.pipeline.keypoints import find_keypoints, lightglue_name, matching_placement
from exreid.pipeline.match import score_by_cascade
from exreid.pipeline.prepare_scoring import Scoring, scoring_of
from exreid.pipeline.rank import first_ranking, search_of
from exreid.pipeline.training_inputs import PlannedTraining, holdout_within
from exreid.progress import RunLog
from exreid.records import ImageTable, Ranking, RetrievalSide
from exreid.storage.run_folder import write_table
from exreid.training.history import HistoryRow
from exreid.training.matcher import MatcherTask, Mine, Shortlists, mined_file, read_mined_file
from exreid.training.state import Training

Part = TypeVar("Part", bound=StrictModel)


def plan_matcher(
    table: ImageTable,
    holdout: Holdout,
    config: FinetuneConfig,
    folder: Path,
    log: RunLog,
    *,
    stop_early: Callable[[list[HistoryRow]], bool] | None = None,
) -> PlannedTraining:
    """The training of a matcher on the table's readable images, with its pairs mined."""
    wanted, probe = holdout.all_positions, matching_config(config)
    with ExitStack() as stack:
        features = embed(table.take(wanted), probe, log)
        images = len(features.table)
        placement = matching_placement(probe, stack, images=images, verbose=log.verbose)
        features = find_keypoints(features, probe, placement, log)
        known = dict(zip(table.rows["image_id"].iloc[wanted].tolist(), wanted, strict=True))
        kept_N = np.array([known[name] for name in features.table.rows["image_id"]])
        part = holdout_within(holdout, kept_N)
        check_holdout(features.table, part, exclude=config.validation.exclude)
        scoring = scoring_of(features, probe, placement, folder=folder, log=log, stack=stack)
        local = features.local[0]
        with log.timed("mining"):
            mine, mined = _mined(scoring, part, config, folder)
        validation = _shortlists(scoring, part, config)
    settings = cascade_of(probe)[0].settings
    assert isinstance(settings, MatchSettings)
    names = features.table.rows["identity"].to_numpy(object)[mine.position_N][mined.anchor_A]
    labels = tuple(sorted(set(names)))
    task = MatcherTask(
        local.name,
        lightglue_name(probe),
        local.adapted,
        settings,
        # Opened anew in each worker: the cache's files are mapped, and must not travel.
        partial(
            _open_features,
            local.store.store.folder,
            local.name,
            local.keys,
            keypoints=probe.benchmark.local_top_k,
        ),
        mine,
        mined,
        validation,
    )
    training = Training(
        config=config,
        task=task,
        labels=labels,
        label_N=np.searchsorted(labels, names).astype(np.int64),
        image_ids=tuple(mine.image_ids[i] for i in mined.anchor_A),
        folder=folder,
        stop_early=stop_early,
    )
    counts = {
        **features.counts,
        "pairs_mined": len(mine.pair_P2),
        "validation_pairs": len(validation.query_P),
    }
    return PlannedTraining(training, features.table, part, features.rejected, counts)


def _open_features(
    folder: Path, extractor: str, keys: tuple[str, ...], *, keypoints: int
) -> FeaturesOf:
    """The features of the images at these positions, from the cache."""
    return partial(LocalFeatureStore(folder, extractor, keypoints).gather_places, keys)


def _mined(
    scoring: Scoring, holdout: Holdout, config: FinetuneConfig, folder: Path
) -> tuple[Mine, MinedPairs]:
    """The candidates among the images trained on, and the pairs mined out of them; those of the
    run's file, where it has been written."""
    table = scoring.features.table
    has_points_N = _keypoint_counts(scoring) > 0
    train_N = holdout.train_N[has_points_N[holdout.train_N]]
    _, images = retrieval_sides(table, train_N, train_N)
    ranking, shortlist = _ranked(scoring, images, images, exclude="encounter")
    pairs = np.stack([*shortlist_pairs(ranking, shortlist)], axis=1)
    pair_P2 = unordered_pairs(
        np.concatenate([pairs, _own_pairs(ranking, shortlist)]), images.encounter_N
    )
    identity_N = images.identity_N
    mine = Mine(train_N, identity_N, images.encounter_N, images.image_ids, pair_P2)
    file = folder / mined_file(0)
    if file.is_file():
        return mine, read_mined_file(file, mine.image_ids)
    if not (identity_N[pair_P2[:, 0]] == identity_N[pair_P2[:, 1]]).any():
        raise MetadataError(
            f"{table.source}: none of the {len(train_N)} images to train on has another one of its "
            "animal in another encounter, so there is nothing to learn a match from."
        )
    first_P, second_P = train_N[pair_P2].T
    _, score_P = score_by_cascade(scoring.local[0], first_P, second_P)
    mined = mine.pairs(score_P, config)
    write_table(file, mined.table)
    return mine, mined


def _own_pairs(ranking: Ranking, most: int) -> np.ndarray:
    """Pairs (query, gallery index) of each query with its animal's images, the ``most`` that rank
    best."""
    count_Q = np.diff(ranking.positive_offset_Q1)
    query_P = np.repeat(np.arange(len(count_Q)), count_Q)
    place_P = np.arange(len(query_P)) - ranking.positive_offset_Q1[query_P]
    near_P = place_P < most
    return np.stack([query_P[near_P], ranking.positive_index_P[near_P]], axis=1)


def _keypoint_counts(scoring: Scoring) -> np.ndarray:
    method = scoring.local[0]
    places = np.arange(len(scoring.features.table))
    parts = [
        method.features_of(part).count_N for part in np.array_split(places, len(places) // 256 + 1)
    ]
    return np.concatenate(parts)


def _shortlists(scoring: Scoring, holdout: Holdout, config: FinetuneConfig) -> Shortlists:
    table, exclude = scoring.features.table, config.validation.exclude
    queries, gallery = retrieval_sides(table, holdout.query_N, holdout.gallery_N)
    ranking, shortlist = _ranked(scoring, queries, gallery, exclude=exclude)
    return Shortlists(queries, gallery, ranking, shortlist, *shortlist_pairs(ranking, shortlist))


def _ranked(
    scoring: Scoring,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    *,
    exclude: Exclude,
) -> tuple[Ranking, int]:
    """The ranking that shortlists are cut from, and their length."""
    shortlist = scoring.config.benchmark.candidate_k or len(gallery)
    search = search_of(scoring, gallery)
    ranking = first_ranking(
        scoring, search, queries, gallery, exclude=exclude, keep=max(shortlist, 1)
    )
    return ranking, shortlist


def matching_config(config: FinetuneConfig) -> ProbeConfig:
    """The probe that matches as the training's ``benchmark`` says."""
    workers = config.ray.num_workers
    ray = _part(RayConfig, config.ray, num_workers=None)
    if workers == 0:
        ray = ray.model_copy(update={"num_actors": 0})
    return ProbeConfig(
        dataset=_part(DatasetConfig, config.dataset),
        model=_part(ModelConfig, config.model),
        benchmark=config.benchmark,
        output=_part(OutputConfig, config.output),
        ray=ray,
        seed=config.seed,
        safety=config.safety,
    )


def _part(kind: type[Part], whole: StrictModel, **changes: object) -> Part:
    """The keys of ``kind`` out of a config that has more."""
    return kind(**{name: getattr(whole, name) for name in kind.model_fields} | changes)
