"""The matches of a pair as the pages draw them: points, words, and the layers of the heat map."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from exreid.explain.heatmap import evidence_density, heat_layer
from exreid.explain.overlay import (
    MOST_LINES,
    MatchedKeypoints,
    match_counts_in_words,
    outside_masks,
    scale_matches,
    thin_evenly,
)
from exreid.explain.pair_layout import WH
from exreid.report.pictures import MASK_PX, Picture

if TYPE_CHECKING:  # what the processes for pictures import stays small
    from exreid.report.read import MatchedRows, RunData

GRID = 2000
"""Points are whole numbers of this share of an image's width and height."""


@dataclass(frozen=True)
class PairTask:
    """One pair's matches, in pixels of the extractor's input images."""

    matches: MatchedKeypoints
    looked_wh_px: tuple[WH, WH]
    query: Picture
    gallery: Picture
    threshold: float
    """Confidence over which a match counts."""
    on_animal: bool = False
    """Keypoints were looked for on the animal alone, so that no match has an end off it."""


@dataclass(frozen=True)
class PairEntry:
    """A pair as the pages draw it."""

    words: str
    """The counts."""
    count: int
    """Matches that count; ``shown`` of them are drawn, ``weaker`` ones do not count."""
    shown: int
    weaker: int
    verified: bool
    points: list[int]
    """For each drawn match, one after the other: query x, y, gallery x, y in `GRID`, confidence in
    percent, 1 for an inlier or where none were asked for, 1 for an end off the animal."""
    heat: tuple[str, str] | None
    """A layer for each image, as a data address; None without a match."""


def matched_rows(data: RunData) -> list[MatchedRows]:
    """The matched pairs of each query, in order."""
    rows: list[MatchedRows] = [[] for _ in range(len(data.queries))]
    if data.matches is None:
        return rows
    query_of = {name: q for q, name in enumerate(data.queries["query_id"])}
    place_of = data.images.place_of
    names = (data.matches.column(name).to_pylist() for name in ("query_id", "gallery_id"))
    for row, (query, gallery) in enumerate(zip(*names, strict=True)):
        if query in query_of and gallery in place_of:
            rows[query_of[query]].append((row, place_of[gallery]))
    return rows


def kept_matches(data: RunData, row: int) -> MatchedKeypoints:
    """The matches of a row of ``matches.parquet``."""
    query_xy, gallery_xy, confidence, inlier = (
        _values(data, name, row) for name in ("query_xy", "gallery_xy", "confidence", "inlier")
    )
    verified = data.config is not None and data.config.benchmark.geometry != "none"
    asked = inlier if verified or inlier.any() else None
    return MatchedKeypoints.from_lists(query_xy, gallery_xy, confidence, asked)


def pair_task(data: RunData, row: int, query: Picture, gallery: Picture) -> PairTask:
    """The input for drawing a row of ``matches.parquet``."""
    threshold = data.config.benchmark.counted_from if data.config else 0.0
    query_wh, gallery_wh = (
        tuple(_values(data, name, row).tolist()) for name in ("query_wh_px", "gallery_wh_px")
    )
    matches = kept_matches(data, row)
    on_animal = data.config is not None and data.config.benchmark.local_masks == "filter"
    return PairTask(matches, (query_wh, gallery_wh), query, gallery, threshold, on_animal)


def _values(data: RunData, name: str, row: int) -> np.ndarray:
    assert data.matches is not None
    return np.asarray(data.matches.column(name)[row].values.to_numpy(False))


def encode_pairs(tasks: list[PairTask]) -> list[PairEntry]:
    """The drawing of each pair."""
    return [encode_pair(task) for task in tasks]


def encode_pair(task: PairTask) -> PairEntry:
    """The drawing of a pair."""
    sizes = _small_wh(task.query), _small_wh(task.gallery)
    boxes = _box(task.query, sizes[0]), _box(task.gallery, sizes[1])
    turned = task.query.theta_rad, task.gallery.theta_rad
    whole = scale_matches(task.matches, task.looked_wh_px, sizes, boxes_px=boxes, theta_rad=turned)
    counted = whole.take(whole.confidence_X > task.threshold)
    masks = task.query.unpacked_mask(), task.gallery.unpacked_mask()
    # The small masks are too coarse to check keypoints that were filtered with the whole ones.
    checked = (None, None) if task.on_animal else masks
    off_X = outside_masks(counted, *checked)
    masked = checked != (None, None)
    shown = thin_evenly(counted, MOST_LINES)
    columns = [
        *_shares(shown.query_xy_X2, sizes[0]),
        *_shares(shown.gallery_xy_X2, sizes[1]),
        np.round(100 * shown.confidence_X),
        np.ones(len(shown)) if shown.inlier_X is None else shown.inlier_X,
        outside_masks(shown, *checked),
    ]
    heat = None
    if len(counted):
        weight_X = counted.confidence_X
        heat = (
            _layer(counted.query_xy_X2, weight_X, sizes[0], masks[0]),
            _layer(counted.gallery_xy_X2, weight_X, sizes[1], masks[1]),
        )
    return PairEntry(
        words=match_counts_in_words(counted, off_X if masked else None),
        count=len(counted),
        shown=len(shown),
        weaker=len(whole) - len(counted),
        verified=whole.inlier_X is not None,
        points=np.stack(columns, axis=1).astype(int).ravel().tolist() if len(shown) else [],
        heat=heat,
    )


def _small_wh(picture: Picture) -> WH:
    if picture.mask:
        return picture.mask_wh_px
    width, height = picture.wh_px
    scale = min(1.0, MASK_PX / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _box(picture: Picture, wh_px: WH) -> tuple[float, float, float, float]:
    left, top, right, bottom = picture.box
    return left * wh_px[0], top * wh_px[1], right * wh_px[0], bottom * wh_px[1]


def _shares(xy_X2: np.ndarray, wh_px: WH) -> tuple[np.ndarray, np.ndarray]:
    share_X2 = np.clip((xy_X2 + 0.5) / np.array(wh_px), 0.0, 1.0)
    return np.round(GRID * share_X2[:, 0]), np.round(GRID * share_X2[:, 1])


def _layer(xy_X2: np.ndarray, weight_X: np.ndarray, wh_px: WH, mask_HW: np.ndarray | None) -> str:
    """The heat map as an image in a data address: it belongs to one pair alone."""
    layer = heat_layer(evidence_density(xy_X2, weight_X, wh_px, mask_HW=mask_HW))
    stream = io.BytesIO()
    Image.fromarray(layer).save(stream, "WEBP", quality=55, method=2, alpha_quality=70)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
