"""Identifying new photographs by a gallery, told from top to bottom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.config.probe import ProbeConfig
from exreid.data.metadata import codes
from exreid.gallery.answer_tables import photo_answer_tables, picture_table, without_truth
from exreid.gallery.edits import now
from exreid.gallery.folder import StoredGallery
from exreid.gallery.images_table import join_tables
from exreid.gallery.photo_answers import Identification, identification
from exreid.gallery.photo_table import PhotoOptions, Photos, read_photos
from exreid.gallery.stored import stored_fit
from exreid.models.published import downloads
from exreid.openset.group import new_pairs_table
from exreid.pipeline.answers import AnswerTables, write_evidence, write_tables
from exreid.pipeline.ending import recording_failure
from exreid.pipeline.fit_and_retrieve import Retrieval, matches_of_best, photograph_codes, retrieve
from exreid.pipeline.inputs import output_root
from exreid.pipeline.prepare_scoring import images_scored
from exreid.pipeline.rank import search_of
from exreid.progress import Progress, RunLog, no_progress
from exreid.records import ImageTable, Result, RetrievalSide
from exreid.report.reviewed_identification import NEW_PAIRS, SOURCE, write_questions
from exreid.storage.run_folder import RunFolder, new_run_id, write_rejected, write_table, write_text
from exreid.storage.run_tables import best_candidates, query_table, ranking_table
from exreid.storage.spreadsheets import csv_text

IDENTIFY_KEYS = ("output.", "ray.", "benchmark.cache", "benchmark.keep_matches")
"""What may be said anew; all else is the gallery's, or its answers would not be comparable."""


def run_identify(
    given: Sequence[Path],
    gallery: StoredGallery,
    config: ProbeConfig,
    options: PhotoOptions,
    *,
    pictures: Path | None = None,
    download: bool = False,
    progress: Progress = no_progress,
    verbose: bool = False,
) -> tuple[Path, Identification]:
    """Answer the photographs, and write the folder of the run: as a probe's, without truth.

    ``config`` is the gallery's own, with the places of this machine. ``pictures`` is where the
    gallery's own photographs are, for figures; without it they are its thumbnails. With
    ``download`` its models may come from their servers. A failed run keeps its folder, with the
    error.
    """
    method = config.benchmark.method
    run_id = config.output.run_id or new_run_id("identify", method)
    folder = RunFolder(
        output_root(config) / "identifications",
        run_id,
        config,
        method,
        results_table="identifications.csv",
        kind="identify",
    )
    log = RunLog(progress, verbose)
    with recording_failure(folder), downloads(allowed=download):
        with log.timed("photographs"):
            photos = read_photos(given, gallery, config, options, progress=progress)
        identified = _identify(photos, gallery, config, folder.path, log, pictures=pictures)
        if identified.counts["answered"]:
            write_questions(folder.path, now())
        counts, quality = identified.counts, gallery.quality
        folder.finish(Result(method, {}, {}, counts, log.timings_s, quality=quality))
    return folder.path, identified


def _identify(
    photos: Photos,
    gallery: StoredGallery,
    config: ProbeConfig,
    folder: Path,
    log: RunLog,
    *,
    pictures: Path | None,
) -> Identification:
    """Answer the photographs; all files but ``result.json``."""
    rejected, counts = list(photos.rejected), {}
    retrieval = answers = None
    if len(photos.table):
        joined = join_tables(gallery.table, photos.table)
        with ExitStack() as stack:
            scoring = images_scored(joined, config, stack, folder=folder, log=log, stored=gallery)
            features = scoring.features
            rejected += features.rejected
            queries, known = _sides(features.table, len(gallery))
            search = search_of(scoring, known)
            fitted = stored_fit(gallery, scoring, search, folder)
            photo_N = photograph_codes(features.table.take(queries.position_N))
            retrieval = retrieve(scoring, queries, known, fitted, search, apart_Q=photo_N)
            if features.local and config.benchmark.keep_matches:
                matches = matches_of_best(scoring, retrieval, config.benchmark.keep_matches)
                write_table(folder / "matches.parquet", matches)
        with log.timed("answers"):
            answers = photo_answer_tables(retrieval, gallery, config)
            _write_answers(folder, retrieval, answers, gallery, config.benchmark.keep_candidates)
        undecided = replace(retrieval, decisions=None)  # decisions are counted as they are told
        counts = {
            **features.counts,
            **undecided.counts(config.benchmark.adaptive.risk),
            **(scoring.matching.counts() if features.local else {}),
        }
    source = {
        "gallery": str(gallery.folder),
        "fingerprint": gallery.fingerprint,
        "animals": sorted(set(gallery.table.rows["identity"])),
    }
    write_text(folder / SOURCE, json.dumps(source, indent=1) + "\n")
    if retrieval is not None or len(photos.known):
        places = picture_table(retrieval, photos.known, gallery, config, pictures)
        write_table(folder / "photos.parquet", places)
    write_rejected(folder / "rejected.csv", rejected)
    identified = identification(gallery, photos, rejected, retrieval, answers)
    identified.counts.update(counts)
    frame = pd.DataFrame([photo.row() for photo in identified.photos])
    write_text(folder / "identifications.csv", csv_text(frame))
    return identified


def _sides(table: ImageTable, known: int) -> tuple[RetrievalSide, RetrievalSide]:
    """The photographs after the ``known`` ones of the gallery, each as if of an identity of its
    own; and the gallery."""
    gallery_G, query_Q = np.arange(known), np.arange(known, len(table))
    identity_G, _ = codes(table.rows["identity"].iloc[gallery_G].tolist(), [])
    encounter = table.rows["encounter"].to_numpy(dtype=object)
    encounter_Q, encounter_G = codes(encounter[query_Q], encounter[gallery_G])
    ids = table.rows["image_id"].to_numpy(dtype=object)
    unknown_Q = (identity_G.max() + 1 + np.arange(len(query_Q))).astype(np.int32)
    return (
        RetrievalSide(tuple(ids[query_Q]), query_Q, unknown_Q, encounter_Q),
        RetrievalSide(tuple(ids[gallery_G]), gallery_G, identity_G, encounter_G),
    )


def _write_answers(
    folder: Path, retrieval: Retrieval, answers: AnswerTables, gallery: StoredGallery, keep: int
) -> None:
    """The rankings and the answers, as a probe's without its truth."""
    queries, ranking = retrieval.queries, best_candidates(retrieval.ranking, keep)
    rankings = without_truth(ranking_table(ranking, queries, retrieval.gallery))
    write_table(folder / "rankings.parquet", rankings)
    none = [None] * len(queries)
    write_table(folder / "queries.parquet", query_table(ranking, queries, none))
    write_tables(folder, answers)
    write_evidence(folder, retrieval)
    new = None if retrieval.decisions is None else retrieval.decisions.new_animals
    if new is not None:
        write_table(folder / NEW_PAIRS, new_pairs_table(new, queries))
    if gallery.decides:
        write_text(folder / "open_set.json", json.dumps(gallery.decision, indent=1) + "\n")
