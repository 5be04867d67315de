"""Identifying new photographs by a gallery, told from top to bottom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.calibration.identity_curve import shared_out
from exreid.config.probe import ProbeConfig
from exreid.gallery.folder import Gallery
from exreid.gallery.photo_answers import Identification, identification, visit_name, visit_table
from exreid.gallery.photo_table import PhotoOptions, Photos, read_photos
from exreid.gallery.stages import IdentifyStages
from exreid.models.published import downloads
from exreid.openset.group import new_animals_table
from exreid.pipeline.answers import (
    ENCOUNTER_FILE,
    NEW_ANIMALS_FILE,
    OPEN_SET_FILE,
    answer_table,
    names_of,
)
from exreid.pipeline.ending import noted_in
from exreid.pipeline.inputs import cache_folder, output_root
from exreid.pipeline.stages import Ranked
from exreid.progress import Progress, no_progress, timed
from exreid.records import Rejected, Result
from exreid.runs.gallery_build import join_tables
from exreid.storage.feature_store import SignatureMemo
from exreid.storage.run_folder import (
    RunFolder,
    new_run_id,
    query_table,
    ranking_table,
    write_rejected,
    write_table,
    write_text,
)
from exreid.storage.spreadsheets import csv_text

IDENTIFY_KEYS = ("output.", "ray.", "benchmark.cache", "benchmark.keep_matches")
"""What may be said anew; all else is the gallery's, or its answers would not be comparable."""


def run_identify(
    given: Sequence[Path],
    gallery: Gallery,
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
    with noted_in(folder), downloads(allowed=download):
        timings_s: dict[str, float] = {}
        memo = SignatureMemo(cache_folder(config) / "signatures")
        with timed(timings_s, "photographs"):
            photos = read_photos(given, gallery, config, options, memo=memo, progress=progress)
        answers = _Answers(gallery, config, folder.path, photos, pictures)
        found = answers.write(progress, verbose, timings_s)
        folder.finish(Result(method, {}, {}, found.counts, timings_s))
    return folder.path, found


@dataclass(frozen=True)
class _Answers:
    """The photographs of one run, and where their answers go."""

    gallery: Gallery
    config: ProbeConfig
    folder: Path
    photos: Photos
    pictures: Path | None

    def write(
        self, progress: Progress, verbose: bool, timings_s: dict[str, float]
    ) -> Identification:
        """All files but ``result.json``."""
        photos, gallery = self.photos, self.gallery
        rejected: list[Rejected] = list(photos.rejected)
        ranked, counts = None, {}
        if len(photos.table):
            joined = join_tables(gallery.table, photos.table)
            stages = IdentifyStages(
                self.config, self.folder, progress, verbose, timings_s, gallery=gallery
            )
            ranked = stages.run(joined)
            rejected += stages.rejected
            counts = stages.counts
            with timed(timings_s, "answers"):
                self._write_answers(ranked)
        write_rejected(self.folder / "rejected.csv", rejected)
        found = identification(self.folder, gallery, photos, rejected, ranked)
        found.counts.update(counts)
        frame = pd.DataFrame([photo.row() for photo in found.photos])
        write_text(self.folder / "identifications.csv", csv_text(frame))
        return found

    def _write_answers(self, ranked: Ranked) -> None:
        folder, queries, gallery = self.folder, ranked.queries, ranked.gallery
        names = names_of(ranked)
        none = [None] * len(queries)
        table = _without(ranking_table(ranked.ranking, queries, gallery), "is_match")
        write_table(folder / "rankings.parquet", table)
        write_table(folder / "queries.parquet", query_table(ranked.ranking, queries, none))
        answers = _without(answer_table(ranked, names, self.config), "is_match")
        chance_R = self._probabilities(ranked, answers, names)
        answers = answers.append_column("probability", pa.array(chance_R, from_pandas=True))
        write_table(folder / "answers.parquet", answers)
        decision_Q = self._decide(ranked, names)
        if np.any(queries.encounter_N >= 0):
            write_table(folder / ENCOUNTER_FILE, visit_table(ranked, names, decision_Q))
        write_table(folder / "photos.parquet", self._places(ranked))

    def _probabilities(
        self, ranked: Ranked, answers: pa.Table, names: dict[int, str]
    ) -> np.ndarray:
        """Of each row of the answers; NaN where the gallery states none."""
        curve, open_set = self.gallery.answer_curve(), ranked.open_set
        if curve is None or open_set is None:
            return np.full(len(answers), np.nan)
        chance_R = curve.apply(answers["score"].to_numpy())
        query_R = answers["query_id"].to_numpy(zero_copy_only=False)
        first_R = answers["identity"].to_numpy(zero_copy_only=False)
        start_R = np.flatnonzero(answers["rank"].to_numpy() == 1)
        place = {image_id: q for q, image_id in enumerate(ranked.queries.image_ids)}
        for start, end in zip(start_R, np.append(start_R[1:], len(chance_R)), strict=True):
            q = place[query_R[start]]
            # With identity_score=mean_top the first animal need not be the one that was decided on.
            if names.get(int(open_set.found.identity_Q[q])) == first_R[start]:
                leader = float(open_set.probability_Q[q])
                chance_R[start:end] = shared_out(leader, chance_R[start:end])
        return chance_R

    def _decide(self, ranked: Ranked, names: dict[int, str]) -> np.ndarray | None:
        """``open_set.parquet`` and ``.json`` and ``new_animals.parquet``, where the gallery decides
        known/new."""
        open_set, ids = ranked.open_set, ranked.queries.image_ids
        if open_set is None:
            return None
        found, probability_Q = open_set.found, open_set.probability_Q
        decision_Q = np.where(open_set.known_Q, "known", "new")
        none = pa.nulls(len(ids), pa.bool_())
        table = {
            "query_id": list(ids),
            "identity": pa.nulls(len(ids), pa.string()),
            "leader": [names.get(int(code)) for code in found.identity_Q],
            "score": found.score_Q,
            "margin": found.margin_Q,
            "known_probability": probability_Q,
            "decision": decision_Q,
            "is_known": none,
            "is_right": none,
        }
        write_table(self.folder / OPEN_SET_FILE, pa.table(table))
        if open_set.new_animals is not None:
            rows = new_animals_table(
                open_set.new_animals, ranked.queries, ranked.table, probability_Q
            )
            write_table(self.folder / NEW_ANIMALS_FILE, rows)
        content = self.gallery.manifest["open_set"]["content"]
        write_text(self.folder / "open_set.json", json.dumps(content, indent=1) + "\n")
        return decision_Q

    def _places(self, ranked: Ranked) -> pa.Table:
        """``photos.parquet``: where the pictures of queries and of their candidates are."""
        index_QK = ranked.ranking.candidate_index_QK[:, : self.config.benchmark.keep_candidates]
        shown_G = ranked.gallery.position_N[np.unique(index_QK[index_QK >= 0])]
        places = [*ranked.queries.position_N.tolist(), *shown_G.tolist()]
        frame = pd.DataFrame([self._place(ranked, place) for place in places]).astype(object)
        return pa.Table.from_pandas(frame.where(frame.notna(), None), preserve_index=False)

    def _place(self, ranked: Ranked, place: int) -> dict[str, Any]:
        table, is_query = ranked.table, place >= len(self.gallery)
        row = table.rows.iloc[place]
        more = table.original.iloc[place].drop(self.config.dataset.mask_col, errors="ignore")
        if is_query or self.pictures is not None:
            root = table.root if is_query else str(self.pictures)
            where = {"root": root, "path": row["path"], "mask": row["mask"]}
        else:
            where = self._thumbnail(place)
        named = {"image_id": row["image_id"], "side": "query" if is_query else "gallery"}
        known = {name: row[name] for name in ("identity", "encounter", "viewpoint")}
        known |= {"date": _told(row["date"]), "visit": visit_name(row["encounter"])}
        if not is_query:
            known["gallery_images"] = self._images[row["identity"]]
        used = named | where | known
        original = {
            f"{name} (metadata)" if name in {*used, "split"} else str(name): str(value)
            for name, value in more.items()
            if pd.notna(value)
        }
        return original | used

    @cached_property
    def _images(self) -> dict[str, int]:
        """How many photographs the gallery has of each animal."""
        counts = self.gallery.table.rows["identity"].value_counts()
        return {str(name): int(count) for name, count in counts.items()}

    def _thumbnail(self, place: int) -> dict[str, Any]:
        """The small picture of a gallery photograph; nothing where there is none."""
        gallery = self.gallery
        file = gallery.thumbnail(gallery.content_G[place])
        if file is None:
            return {"root": None, "path": None, "mask": None}
        path = file.relative_to(gallery.folder).as_posix()
        return {"root": str(gallery.folder), "path": path, "mask": gallery.small_masks[place]}


def _told(moment: Any) -> str | None:
    """A date as text, with its time where it has one."""
    if pd.isna(moment):
        return None
    return str(moment.date() if moment == moment.normalize() else moment)


def _without(table: pa.Table, name: str) -> pa.Table:
    """The table with nothing in one of its columns: a truth that nobody knows."""
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, pa.nulls(len(table), pa.bool_()))
