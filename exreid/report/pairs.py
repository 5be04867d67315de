"""The matches of a pair as the pages draw them: points, words, and the layers of the heat map."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

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

GRID = 2000
"""Points are whole numbers of this share of a photograph's width and height."""


@dataclass(frozen=True)
class PairTask:
    """One pair's matches, in pixels of what keypoints were looked for in."""

    found: MatchedKeypoints
    looked_wh_px: tuple[WH, WH]
    query: Picture
    gallery: Picture
    threshold: float
    """Confidence over which a match counts."""


def encode_pairs(tasks: list[PairTask]) -> list[dict[str, Any]]:
    """What the pages draw of each pair."""
    return [encode_pair(task) for task in tasks]


def encode_pair(task: PairTask) -> dict[str, Any]:
    """``words``: the counts; ``points``: query x, y, gallery x, y in `GRID`, confidence in percent,
    1 for an inlier or where none were asked for, 1 for an end off the animal; ``heat``: a layer
    for each photograph."""
    sizes = _small_wh(task.query), _small_wh(task.gallery)
    boxes = _box(task.query, sizes[0]), _box(task.gallery, sizes[1])
    whole = scale_matches(task.found, task.looked_wh_px, sizes, boxes_px=boxes)
    counted = whole.take(whole.confidence_X > task.threshold)
    masks = task.query.unpacked_mask(), task.gallery.unpacked_mask()
    off_X = outside_masks(counted, *masks)
    masked = masks[0] is not None or masks[1] is not None
    words = match_counts_in_words(counted, off_X if masked else None)
    shown = thin_evenly(counted, MOST_LINES)
    columns = [
        *_shares(shown.query_xy_X2, sizes[0]),
        *_shares(shown.gallery_xy_X2, sizes[1]),
        np.round(100 * shown.confidence_X),
        np.ones(len(shown)) if shown.inlier_X is None else shown.inlier_X,
        outside_masks(shown, *masks),
    ]
    entry: dict[str, Any] = {
        "words": words,
        "count": len(counted),
        "shown": len(shown),
        "weaker": len(whole) - len(counted),
        "verified": whole.inlier_X is not None,
        "points": np.stack(columns, axis=1).astype(int).ravel().tolist() if len(shown) else [],
    }
    if len(counted):
        ends = counted.query_xy_X2, counted.gallery_xy_X2
        entry["heat"] = [
            _layer(xy_X2, counted.confidence_X, size, mask_HW)
            for xy_X2, size, mask_HW in zip(ends, sizes, masks, strict=True)
        ]
    return entry


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
