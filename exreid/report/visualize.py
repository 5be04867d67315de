"""Pictures of a finished run's answers, for a first look.

``visualizations/RUN_ID/`` under output.root has ``predictions_*.png``, ``matches_*.png`` where
keypoints were matched and ``evidence_*.png`` of where they lie, ``similarity_*.png`` where a
backbone took part, ``contact_sheet.png``, ``failures.png``, ``index.csv`` and, where a picture
could not be drawn, ``problems.csv``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.config.probe import ProbeConfig
from exreid.data.image_files import load_image
from exreid.data.images import prepare_image, prepare_matte
from exreid.errors import StorageError
from exreid.explain.canvas import save_png
from exreid.explain.heatmap import draw_evidence
from exreid.explain.overlay import MatchedKeypoints, draw_matches
from exreid.explain.pair_layout import ImagePair
from exreid.explain.prediction import CaptionedImage, draw_contact_sheet, draw_predictions
from exreid.explain.similarity import explain_similarity
from exreid.explain.similarity_picture import draw_similarity
from exreid.explain.words import verdict_sentence
from exreid.models.backbones import Backbone, build_backbone
from exreid.pipeline.embed import preprocessing_for
from exreid.pipeline.inputs import methods_of, output_root
from exreid.pipeline.keypoints import preprocessing_of
from exreid.progress import Progress, counted, no_progress
from exreid.records import ImageTable, region_parts, region_text
from exreid.report.matched_pairs import kept_matches, matched_rows
from exreid.report.outcomes import PicturedAnswer, pictured_answers
from exreid.report.read import RunData, read_run_data
from exreid.storage import mirror
from exreid.storage.run_folder import write_text
from exreid.storage.spreadsheets import csv_text
from exreid.storage.urls import read_bytes

log = logging.getLogger(__name__)
IMAGE_SIDE_PX = 480
IMAGES_KEPT = 64
FURTHER_PICTURES = ("match_pictures", "evidence_picture", "similarity_picture")
Seen = tuple[np.ndarray, np.ndarray | None]
"""A network's input image, and its mask of the animal; None where that is not known."""


@dataclass(frozen=True)
class _Run:
    """The data of the pictures; images are rows of `RunImages`."""

    data: RunData
    config: ProbeConfig
    answers: list[PicturedAnswer]
    score_name: str
    image_rgb: Callable[[int], np.ndarray]
    as_matched: Callable[[int], Seen]
    backbone: Callable[[], Backbone]
    """Built for the first picture."""


@dataclass(frozen=True)
class _Folder:
    """The pictures' folder, and the errors of those that could not be drawn."""

    path: Path
    problems: dict[str, str]

    def drawn(self, name: str, draw: Callable[[], np.ndarray]) -> str:
        """The picture's name; empty where it could not be drawn, and the error is kept."""
        try:
            save_png(self.path / name, draw())
        except Exception as error:  # noqa: BLE001 - whatever it raises, the numbers are on disk
            self.problems[name] = str(error) or type(error).__name__
            return ""
        return name


def draw_run(
    run_folder: Path,
    table: ImageTable,
    config: ProbeConfig,
    *,
    progress: Progress = no_progress,
) -> None:
    """Draw the pictures of a completed run from its files; a picture that fails is listed.

    ``table``: the run's images. Nothing is raised, so that a run never fails because of a picture.
    """
    folder = _Folder(output_root(config) / "visualizations" / run_folder.name, {})
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        _draw_all(run_folder, table, config, folder, progress)
    except Exception as error:  # noqa: BLE001 - as for a single picture
        folder.problems["all"] = str(error) or type(error).__name__
    if folder.problems:
        log.warning(
            "%d pictures could not be drawn (%s: %s); the numbers in %s are complete without them.",
            len(folder.problems),
            *next(iter(folder.problems.items())),
            run_folder,
        )
    try:
        mirror.publish_folder(folder.path)
    except StorageError as error:
        log.warning("The pictures are on this machine alone, in %s: %s", folder.path, error)


def _draw_all(
    run_folder: Path, table: ImageTable, config: ProbeConfig, folder: _Folder, progress: Progress
) -> None:
    data = read_run_data(run_folder, table=table)
    model, size = config.model, config.dataset.image_size
    own = {"cosine": "cosine", "classifier": "log probability"}
    score_name = {**own, "local_lightglue": config.benchmark.local_score}.get(
        config.benchmark.method, "score"
    )
    run = _Run(
        data,
        config,
        pictured_answers(data, score_name),
        score_name,
        lru_cache(IMAGES_KEPT)(partial(_image_rgb, data)),
        lru_cache(IMAGES_KEPT)(partial(_as_matched, data, config)),
        cache(partial(build_backbone, model.type, checkpoint=model.checkpoint, image_size=size)),
    )
    count, most = len(run.answers), config.visualization.num_queries
    chosen = evenly(count, most).tolist()
    wrong = [q for q, answer in enumerate(run.answers) if answer.verdict == "wrong"]
    wrong.sort(key=lambda q: -np.nan_to_num(run.answers[q].confidence, nan=-np.inf))
    advance = progress("Drawing pictures", len(chosen) + 2)
    rows = []
    matched = matched_rows(data)
    for number, q in enumerate(chosen, start=1):
        row_of = {image: row for row, image in matched[q]}
        rows += _draw_query(run, number, q, row_of, folder)
        advance(1)
    queries, mistakes = counted(count, "query", "queries"), counted(len(wrong), "wrong answer")
    failures = f"{len(wrong[:most])} of {mistakes}, the most confident first"
    sheets = {
        "contact_sheet.png": (f"The first candidate of {len(chosen)} of {queries}", chosen),
        "failures.png": (failures, wrong[:most]),
    }
    for name, (title, shown) in sheets.items():
        folder.drawn(name, partial(_contact_sheet, run, title, shown))
        advance(1)
    columns = ["picture", *(field.name for field in fields(PicturedAnswer)), *FURTHER_PICTURES]
    index = pd.DataFrame(rows, columns=columns)
    write_text(folder.path / "index.csv", csv_text(index))
    if folder.problems:
        problems = pd.DataFrame(folder.problems.items(), columns=["picture", "problem"])
        write_text(folder.path / "problems.csv", csv_text(problems))


def _draw_query(
    run: _Run, number: int, q: int, row_of: dict[int, int], folder: _Folder
) -> list[dict[str, object]]:
    """Draw the pictures of a query; its row of ``index.csv``, none where the first one failed.

    ``row_of``: the row of ``matches.parquet`` of each of its gallery images that has one.
    """
    name = folder.drawn(f"predictions_{number:04d}.png", partial(_predictions, run, q))
    if not name:
        return []
    query, candidates = run.data.images.place_of[run.data.query_ids[q]], _candidates(run, q)
    threshold = run.config.benchmark.counted_from
    lines, evidence, similarity = [], "", ""
    for rank, image in enumerate(candidates, start=1):
        if image not in row_of:
            continue
        matches = kept_matches(run.data, row_of[image])
        pair = query, image
        picture = partial(_matches, run, pair, matches, threshold)
        lines.append(folder.drawn(f"matches_{number:04d}_{rank}.png", picture))
        if rank == 1:
            counted = matches.take(matches.confidence_X > threshold)
            picture = partial(_evidence, run, pair, counted)
            evidence = folder.drawn(f"evidence_{number:04d}.png", picture)
    if candidates and methods_of(run.config)[0]:
        picture = partial(_similarity, run, (query, candidates[0]))
        similarity = folder.drawn(f"similarity_{number:04d}.png", picture)
    further = (" ".join(filter(None, lines)), evidence, similarity)
    answer = run.answers[q]
    return [
        {"picture": name, **asdict(answer), **dict(zip(FURTHER_PICTURES, further, strict=True))}
    ]


def _candidates(run: _Run, q: int) -> list[int]:
    rows = run.data.ranks.of(q)
    return run.data.ranks.image_R[rows][: run.config.visualization.top_k].tolist()


def _predictions(run: _Run, q: int) -> np.ndarray:
    """A query with its candidates, and the first right one where none of them is."""
    answer, ranks = run.answers[q], run.data.ranks
    rows, shown = ranks.of(q), len(_candidates(run, q))
    places = list(range(rows.start, rows.start + shown))
    hits = np.flatnonzero(ranks.match_R[rows] == 1)
    if len(hits) and hits[0] >= shown:
        places.append(rows.start + int(hits[0]))
    sentences = [f"{answer.answer}."]
    if answer.verdict != "no candidate":
        sentences.append(verdict_sentence(answer.verdict, answer.first_right_rank or 0))
    candidates = [_candidate(run, q, place) for place in places]
    return draw_predictions(" ".join(sentences), [_query(run, q), *candidates])


def _contact_sheet(run: _Run, title: str, queries: Sequence[int]) -> np.ndarray:
    pairs = []
    for q in queries:
        answer, rows = run.answers[q], run.data.ranks.of(q)
        if rows.start < rows.stop:
            heading = answer.answer
            if math.isclose(answer.confidence, answer.score):
                heading = f"{heading} · {run.score_name} {answer.score:.3g}"
            pairs.append((heading, _query(run, q), _candidate(run, q, rows.start)))
    return draw_contact_sheet(title, pairs)


def _query(run: _Run, q: int) -> CaptionedImage:
    image = run.data.images.place_of[run.data.query_ids[q]]
    title = run.data.images.text(image, "identity") or "animal not known"
    return CaptionedImage(run.image_rgb(image), title, _lines(run.data, image), is_query=True)


def _candidate(run: _Run, q: int, place: int) -> CaptionedImage:
    """The candidate at a row of the ranking."""
    ranks, images = run.data.ranks, run.data.images
    image, score = int(ranks.image_R[place]), float(ranks.score_R[place])
    encounter = images.text(image, "encounter")
    own = images.text(images.place_of[run.data.query_ids[q]], "encounter")
    scored = "not scored" if math.isnan(score) else f"{run.score_name} {score:.3g}"
    return CaptionedImage(
        run.image_rgb(image),
        f"{ranks.rank_R[place]}. {images.text(image, 'identity')}",
        (scored, *_lines(run.data, image)),
        is_match=bool(ranks.match_R[place] == 1),
        note="same encounter" if encounter is not None and encounter == own else None,
    )


def _lines(data: RunData, image: int) -> tuple[str, ...]:
    texts = [data.images.text(image, name) for name in ("date", "viewpoint")]
    known = " · ".join(text for text in texts if text)
    return tuple(line for line in (known, data.images.text(image, "image_id")) if line)


def _matches(
    run: _Run, pair: tuple[int, int], matches: MatchedKeypoints, threshold: float
) -> np.ndarray:
    images = _image_pair(run, pair, run.as_matched)
    on_animal = run.config.benchmark.local_masks == "filter"
    return draw_matches(
        images, matches, threshold=threshold, on_animal=on_animal, with_caption=True
    ).image_rgb


def _evidence(run: _Run, pair: tuple[int, int], matches: MatchedKeypoints) -> np.ndarray:
    images = _image_pair(run, pair, run.as_matched)
    return draw_evidence(images, matches, with_caption=True).image_rgb


def _similarity(run: _Run, pair: tuple[int, int]) -> np.ndarray:
    images = _image_pair(run, pair, partial(_as_embedded, run))
    similarity = explain_similarity(run.backbone(), *images.images)
    return draw_similarity(images, similarity, with_caption=True).image_rgb


def _image_pair(run: _Run, pair: tuple[int, int], seen: Callable[[int], Seen]) -> ImagePair:
    text = run.data.images.text
    query, candidate = (f"{text(i, 'identity')} · {text(i, 'image_id')}" for i in pair)
    (query_rgb, query_mask), (gallery_rgb, gallery_mask) = map(seen, pair)
    return ImagePair(query_rgb, gallery_rgb, query_mask, gallery_mask, (query, candidate))


def _image_rgb(data: RunData, image: int) -> np.ndarray:
    content, _ = _read(data, image)
    return np.asarray(load_image(content, min_side_px=IMAGE_SIDE_PX // 2).image)


def _as_matched(data: RunData, config: ProbeConfig, image: int) -> Seen:
    """The extractor's input of this image."""
    content, region = _read(data, image)
    boxed = region_parts(region)[1] is not None
    return preprocessing_of(config, boxed=boxed).prepare(content, region)


def _as_embedded(run: _Run, image: int) -> Seen:
    """The backbone's input of this image."""
    content, region = _read(run.data, image)
    preprocessing = preprocessing_for(run.config, run.backbone())
    image_rgb = prepare_image(content, region, preprocessing)
    matte = None if region is None else prepare_matte(content, region, preprocessing) >= 128
    return image_rgb, matte


def _read(data: RunData, image: int) -> tuple[bytes, str | None]:
    row = data.images.rows.iloc[image]
    return read_bytes(row["root"], row["path"]), region_text(row["mask"], row["bbox"])


def evenly(count: int, most: int) -> np.ndarray:
    """Up to ``most`` of 0..count-1, evenly spread.

    >>> evenly(10, 4).tolist(), evenly(2, 4).tolist()
    ([0, 2, 5, 7], [0, 1])
    """
    return np.arange(count) if count <= most else (np.arange(most) * count) // most
