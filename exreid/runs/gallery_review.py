"""Scoring a gallery's own visits, so that a person can review its names."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.calibration.curves import Calibration
from exreid.data.metadata import codes
from exreid.data.metadata_rows import with_part
from exreid.errors import CalibrationError
from exreid.gallery.answer_tables import picture_row, thumbnail_picture
from exreid.gallery.edits import now
from exreid.gallery.folder import StoredGallery
from exreid.gallery.stored import stored_fusion
from exreid.openset.fit_grouping import fit_visit_grouping
from exreid.pipeline.calibrate import FittedFusion
from exreid.pipeline.discover import ScoredVisits, named_pairs, score_visits
from exreid.pipeline.methods import GallerySearch
from exreid.pipeline.prepare_scoring import images_scored
from exreid.progress import Progress, RunLog, no_progress
from exreid.records import ImageTable
from exreid.report.reviewed_gallery import SOURCE, review_folder
from exreid.storage.run_folder import write_table, write_text


def score_gallery(gallery: StoredGallery, *, progress: Progress = no_progress) -> Path:
    """The folder beside the gallery with what `exreid.report.reviewed_gallery` reads, made anew
    where the gallery has changed. Answers in it stay.

    The probabilities are measured on the gallery's own names. CalibrationError where they are too
    few.
    """
    folder = review_folder(gallery.folder)
    source = folder / SOURCE
    before = json.loads(source.read_text()) if source.is_file() else {}
    same = before.get("fingerprint") == gallery.fingerprint
    if same and before["gallery"] == str(gallery.folder):  # else it has moved
        return folder
    folder.mkdir(exist_ok=True)
    table = _apart_by_name(gallery.table)
    scored, curve = _scored(gallery, table, folder, RunLog(progress, False))
    ids, rows = table.rows["image_id"].tolist(), table.rows
    visits = rows["encounter"].where(rows["encounter"].notna(), rows["image_id"]).tolist()
    animals = {"image_id": ids, "encounter": visits, "identity": rows["identity"].tolist()}
    write_table(folder / "animals.parquet", pa.table(animals))
    names = [visits[i] for i in np.unique(scored.visit_N, return_index=True)[1]]
    pairs = scored.pairs
    columns = {
        "first_encounter": [names[v] for v in pairs.visit_P2[:, 0]],
        "second_encounter": [names[v] for v in pairs.visit_P2[:, 1]],
        "first_id": [ids[i] for i in pairs.image_P2[:, 0]],
        "second_id": [ids[i] for i in pairs.image_P2[:, 1]],
    }
    texts = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    chances = pa.array(curve.apply(pairs.score_P))
    write_table(folder / "pairs.parquet", pa.table({**texts, "probability": chances}))
    pictures = [
        picture_row(table, gallery.config, i, side="gallery", where=thumbnail_picture(gallery, i))
        for i in range(len(table))
    ]
    frame = pd.DataFrame(pictures).astype(object)
    frame = frame.where(frame.notna(), None)
    write_table(folder / "photos.parquet", pa.Table.from_pandas(frame, preserve_index=False))
    content = {"gallery": str(gallery.folder), "fingerprint": gallery.fingerprint}
    content["written"] = before["written"] if same else now()
    write_text(source, json.dumps(content, indent=1) + "\n")
    return folder


def _scored(
    gallery: StoredGallery, table: ImageTable, folder: Path, log: RunLog
) -> tuple[ScoredVisits, Calibration]:
    """The scored pairs of visits, by the gallery's own method, and the curve of its own names."""
    ray = gallery.config.ray.model_copy(update={"num_actors": 0})
    config = gallery.config.model_copy(update={"ray": ray})
    with ExitStack() as stack:
        scoring = images_scored(table, config, stack, folder=folder, log=log, stored=gallery)

        def fusion_of(search: GallerySearch) -> FittedFusion | None:
            fused = config.benchmark.method == "wildfusion"
            return stored_fusion(gallery, scoring, search, folder) if fused else None

        scored = score_visits(scoring, np.arange(len(table)), fusion_of)
    identity_N, _ = codes(table.rows["identity"].tolist(), [])
    pairs = named_pairs(scored, identity_N, gallery.folder.name)
    try:
        return scored, fit_visit_grouping([pairs], config.seed).curve
    except CalibrationError as error:
        raise CalibrationError(
            f"{gallery.folder}: its animals give no probabilities, so there is nothing to ask by: "
            f"{error}"
        ) from error


def _apart_by_name(table: ImageTable) -> ImageTable:
    """The table with an encounter of several animals as one for each of them."""
    rows = table.rows
    several = rows.groupby("encounter")["identity"].transform("nunique") > 1
    names = [
        with_part(encounter, identity) if apart else encounter
        for encounter, identity, apart in zip(
            rows["encounter"], rows["identity"], several, strict=True
        )
    ]
    encounters = pd.Series(names, index=rows.index, dtype=object)
    return replace(table, rows=rows.assign(encounter=encounters))
