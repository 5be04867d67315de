"""Seed outputs: pictures of a finished run's answers, for a first look.

``visualizations/RUN_ID/`` under output.root holds ``predictions_*.png``, ``matches_*.png`` where
keypoints were matched and ``evidence_*.png`` of where they lie, ``similarity_*.png`` where a
backbone took part, ``contact_sheet.png``, ``failures.png``, ``index.csv`` and, where a picture
could not be drawn, ``problems.csv``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from exreid.config.probe import ProbeConfig
from exreid.data.images import load_image
from exreid.errors import StorageError
from exreid.explain.canvas import Overlay, save_png
from exreid.explain.heatmap import draw_evidence
from exreid.explain.overlay import MatchedKeypoints, draw_matches
from exreid.explain.prediction import Answered, Shown, draw_contact_sheet, draw_predictions
from exreid.explain.strip import strip_rows
from exreid.pipeline.inputs import output_root
from exreid.pipeline.match import preprocessing_of
from exreid.pipeline.methods import methods_of
from exreid.progress import Progress, no_progress
from exreid.records import ImageTable
from exreid.report.run_answers import ANSWER_COLUMNS, read_answers, read_candidates
from exreid.report.visualize_similarity import SimilarityPictures
from exreid.storage import mirror
from exreid.storage.run_folder import write_text
from exreid.storage.spreadsheets import csv_text
from exreid.storage.urls import read_bytes

log = logging.getLogger(__name__)
PHOTO_SIDE_PX = 480
PHOTOS_KEPT = 64
FURTHER_PICTURES = ("match_pictures", "evidence_picture", "similarity_picture")


@dataclass
class Drawn:
    """What was drawn, and what could not be."""

    folder: Path
    index: list[dict[str, Any]] = field(default_factory=list)
    problems: list[dict[str, str]] = field(default_factory=list)


def draw_run(
    run_folder: Path,
    table: ImageTable,
    config: ProbeConfig,
    *,
    progress: Progress = no_progress,
) -> Drawn:
    """Draw the pictures of a completed run from its files; a picture that fails is listed.

    ``table`` holds the run's images. Nothing is raised, so that a run never fails by a picture.
    """
    drawn = Drawn(output_root(config) / "visualizations" / run_folder.name)
    gallery = _Gallery(run_folder, table, config, drawn)
    _tried(drawn, "all", partial(gallery.draw, progress))
    if drawn.problems:
        log.warning(
            "%d pictures could not be drawn (%s: %s); the numbers in %s are complete without them.",
            len(drawn.problems),
            drawn.problems[0]["picture"],
            drawn.problems[0]["problem"],
            run_folder,
        )
    try:
        mirror.publish_folder(drawn.folder)
    except StorageError as error:
        log.warning("The pictures stand on this machine alone, in %s: %s", drawn.folder, error)
    return drawn


class _Gallery:
    """The pictures of one run."""

    def __init__(
        self, run_folder: Path, table: ImageTable, config: ProbeConfig, drawn: Drawn
    ) -> None:
        self.run_folder, self.table, self.config, self.drawn = run_folder, table, config, drawn
        self.photograph = lru_cache(PHOTOS_KEPT)(self._photograph)
        self.as_matched = lru_cache(PHOTOS_KEPT)(self._as_matched)
        self.similarity = SimilarityPictures(table, config) if methods_of(config)[0] else None

    def draw(self, progress: Progress) -> None:
        self.drawn.folder.mkdir(parents=True, exist_ok=True)
        self.rows: dict[Any, dict[Any, Any]] = strip_rows(self.table).to_dict("index")
        self.place = pd.Series(np.arange(len(self.table)), index=self.table.rows["image_id"])
        identity_of = {str(image): row["identity"] for image, row in self.rows.items()}
        self.score_name = _score_name(self.config)
        self.answers = read_answers(self.run_folder, identity_of, score_name=self.score_name)
        self.records = self.answers.to_dict("records")
        options = self.config.visualization
        chosen = evenly(len(self.answers), options.num_queries)
        wrong = self.answers[self.answers["verdict"] == "wrong"]
        wrong = wrong.sort_values("confidence", ascending=False, kind="stable")
        ids = self.answers["query_id"].iloc[chosen]
        self.ranked = read_candidates(self.run_folder, {*ids, *wrong["query_id"]}, options.top_k)
        self.matches = self._read_matches(ids)
        advance = progress("Drawing pictures", len(chosen) + 2)
        for number, place in enumerate(chosen.tolist(), start=1):
            self._draw_query(number, self.records[place])
            advance(1)
        shown = wrong.head(options.num_queries)
        sheets = {
            "contact_sheet.png": (
                f"The first candidate of {len(chosen)} of {len(self.answers)} queries",
                self.answers.iloc[chosen],
            ),
            "failures.png": (
                f"{len(shown)} of {len(wrong)} wrong answers, the most confident first",
                shown,
            ),
        }
        for name, (title, answers) in sheets.items():
            _tried(self.drawn, name, partial(self._draw_sheet, name, title, answers))
            advance(1)
        folder = self.drawn.folder
        columns = ["picture", *ANSWER_COLUMNS, *FURTHER_PICTURES]
        index = pd.DataFrame(self.drawn.index, columns=columns)
        write_text(folder / "index.csv", csv_text(index))
        if self.drawn.problems:
            problems = pd.DataFrame(self.drawn.problems)
            write_text(folder / "problems.csv", csv_text(problems))

    def _draw_query(self, number: int, answer: dict[Any, Any]) -> None:
        name = f"predictions_{number:04d}.png"
        if not _tried(self.drawn, name, partial(self._draw_prediction, name, answer)):
            return
        lines = partial(draw_matches, threshold=self.config.benchmark.match_threshold)
        overlays = []
        for rank, gallery_id in enumerate(self.ranked[answer["query_id"]].gallery_ids, start=1):
            pair = (answer["query_id"], gallery_id)
            found = self.matches.get(pair)
            overlay = f"matches_{number:04d}_{rank}.png"
            if found is not None and _tried(
                self.drawn, overlay, partial(self._draw_pair, overlay, pair, found, lines)
            ):
                overlays.append(overlay)
        values = {column: answer[column] for column in ANSWER_COLUMNS}
        self.drawn.index.append(
            {
                "picture": name,
                **values,
                "match_pictures": " ".join(overlays),
                "evidence_picture": self._draw_evidence(number, answer),
                "similarity_picture": self._draw_similarity(number, answer),
            }
        )

    def _draw_evidence(self, number: int, answer: dict[Any, Any]) -> str:
        """Where the matches of a query and its first candidate lie; the picture's name."""
        pair = self._with_first(answer)
        found = None if pair is None else self.matches.get(pair)
        if pair is None or found is None:
            return ""
        name = f"evidence_{number:04d}.png"
        counted = found.take(found.confidence_X > self.config.benchmark.match_threshold)
        draw = partial(self._draw_pair, name, pair, counted, draw_evidence)
        return name if _tried(self.drawn, name, draw) else ""

    def _draw_similarity(self, number: int, answer: dict[Any, Any]) -> str:
        """Why the embeddings of a query and its first candidate agree; the picture's name."""
        pair = self._with_first(answer)
        if self.similarity is None or pair is None:
            return ""
        name = f"similarity_{number:04d}.png"
        draw = partial(self.similarity.draw, self.drawn.folder / name, pair, self._titles(pair))
        return name if _tried(self.drawn, name, draw) else ""

    def _with_first(self, answer: dict[Any, Any]) -> tuple[str, str] | None:
        """A query and its first candidate; None where it has none."""
        candidates = self.ranked[answer["query_id"]].gallery_ids
        return (answer["query_id"], candidates[0]) if candidates else None

    def _titles(self, pair: tuple[str, str]) -> tuple[str, str]:
        first, second = (f"{self.rows[image]['identity']} · {image}" for image in pair)
        return first, second

    def _draw_prediction(self, name: str, answer: dict[Any, Any]) -> None:
        ranked = self.ranked[answer["query_id"]]
        candidates = [
            self._candidate(answer, rank, *one)
            for rank, one in enumerate(
                zip(ranked.gallery_ids, ranked.scores, ranked.is_match, strict=True), start=1
            )
        ]
        further = None
        if ranked.first_right is not None:
            rank, image, score = ranked.first_right
            further = self._candidate(answer, rank, image, score, True)
        picture = Answered(
            _heading(answer), self._query(answer["query_id"]), tuple(candidates), further
        )
        save_png(self.drawn.folder / name, draw_predictions(picture))

    def _draw_sheet(self, name: str, title: str, answers: pd.DataFrame) -> None:
        pairs = []
        for answer in answers.to_dict("records"):
            ranked = self.ranked[answer["query_id"]]
            if ranked.gallery_ids:
                one = (ranked.gallery_ids[0], ranked.scores[0], ranked.is_match[0])
                heading = f"{answer['confidence_name']} {answer['confidence']:.3g}"
                pairs.append(
                    (heading, self._query(answer["query_id"]), self._candidate(answer, 1, *one))
                )
        save_png(self.drawn.folder / name, draw_contact_sheet(title, pairs))

    def _draw_pair(
        self,
        name: str,
        pair: tuple[str, str],
        found: MatchedKeypoints,
        draw: Callable[..., Overlay],
    ) -> None:
        (query_rgb, query_mask), (gallery_rgb, gallery_mask) = map(self.as_matched, pair)
        overlay = draw(
            query_rgb,
            gallery_rgb,
            found,
            query_mask=query_mask,
            gallery_mask=gallery_mask,
            titles=self._titles(pair),
            with_caption=True,
        )
        save_png(self.drawn.folder / name, overlay.image_rgb)

    def _query(self, image_id: str) -> Shown:
        row = self.rows[image_id]
        title = row["identity"] or "animal not known"
        return Shown(self.photograph(image_id), title, _lines(image_id, row), is_query=True)

    def _candidate(
        self, answer: dict[Any, Any], rank: int, image_id: str, score: float, is_match: bool
    ) -> Shown:
        row, own = self.rows[image_id], self.rows[answer["query_id"]]
        same = row["encounter"] is not None and row["encounter"] == own["encounter"]
        scored = "not scored" if np.isnan(score) else f"{self.score_name} {score:.3g}"
        return Shown(
            self.photograph(image_id),
            f"{rank}. {row['identity']}",
            (scored, *_lines(image_id, row)),
            is_match=is_match,
            note="same visit" if same else None,
        )

    def _photograph(self, image_id: str) -> np.ndarray:
        path = self.table.rows["path"].iloc[self.place[image_id]]
        data = read_bytes(self.table.root, path)
        return np.asarray(load_image(data, min_side_px=PHOTO_SIDE_PX // 2).image)

    def _as_matched(self, image_id: str) -> tuple[np.ndarray, np.ndarray | None]:
        """The photograph and its mask as keypoints were looked for in them."""
        row = self.table.rows.iloc[self.place[image_id]]
        data = read_bytes(self.table.root, row["path"])
        return preprocessing_of(self.config).prepare(data, row["mask"] or None)

    def _read_matches(self, query_ids: pd.Series) -> dict[tuple[str, str], MatchedKeypoints]:
        file = self.run_folder / "matches.parquet"
        if not file.exists():
            return {}
        verified = self.config.benchmark.geometry != "none"
        rows = pq.read_table(file, filters=[("query_id", "in", list(query_ids))]).to_pylist()
        return {
            (row["query_id"], row["gallery_id"]): MatchedKeypoints.from_lists(
                row["query_xy"],
                row["gallery_xy"],
                row["confidence"],
                row["inlier"] if verified else None,
            )
            for row in rows
        }


def evenly(count: int, most: int) -> np.ndarray:
    """Up to ``most`` of 0..count-1, evenly spread.

    >>> evenly(10, 4).tolist(), evenly(2, 4).tolist()
    ([0, 2, 5, 7], [0, 1])
    """
    return np.arange(count) if count <= most else (np.arange(most) * count) // most


def _score_name(config: ProbeConfig) -> str:
    benchmark = config.benchmark
    names = {"cosine": "cosine", "local_lightglue": benchmark.local_score}
    return names.get(benchmark.method, "score")


def _heading(answer: dict[Any, Any]) -> str:
    rank = answer["first_right_rank"]
    verdicts = {
        "right": "Right: the first candidate is the same animal.",
        "wrong": "Wrong: the first candidate is another animal"
        + ("." if pd.isna(rank) else f"; the right one comes at rank {rank}."),
        "new": "A new animal: the gallery has no photograph of it.",
        "no candidate": "No candidate.",
    }
    if answer["verdict"] == "wrong" and pd.isna(rank):
        verdicts["wrong"] = "Wrong: a new animal was taken for a known one."
    parts = [verdicts[answer["verdict"]]]
    if not pd.isna(answer["confidence"]):
        parts.append(f"{answer['confidence_name'].capitalize()}: {answer['confidence']:.3g}.")
    if answer["decision"] is not None:
        parts.append(f"Decision: {answer['decision']}.")
    return " ".join(parts)


def _lines(image_id: str, row: dict[Any, Any]) -> tuple[str, ...]:
    def joined(*names: str) -> str:
        return " · ".join(str(row[name]) for name in names if row[name] is not None)

    return tuple(line for line in (joined("date", "viewpoint"), image_id) if line)


def _tried(drawn: Drawn, name: str, draw: Callable[[], Any]) -> bool:
    """Whether it could be drawn; what went wrong is kept."""
    try:
        draw()
    except Exception as error:  # noqa: BLE001 - whatever a picture raises, the numbers are on disk
        reason = str(error) or type(error).__name__
        drawn.problems.append({"picture": name, "problem": reason})
        return False
    return True
