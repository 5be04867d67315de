"""Which points of two images were matched, drawn so that a person can check them.

Letters: X matches. Points are (x, y) in pixels, pixel centres at whole numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from exreid.explain.canvas import Overlay, as_colour, colours_of
from exreid.explain.pair_layout import (
    WH,
    ImagePair,
    PairLayout,
    draw_cross,
    draw_dot,
    draw_line,
    quiet,
)
from exreid.progress import counted

MOST_LINES = 60
"""More lines hide the coats that they should explain."""
Edges = tuple[float, float, float, float]
"""Left, top, right and bottom of a rectangle, in pixels."""


@dataclass(frozen=True)
class MatchedKeypoints:
    """The matches of one pair of images."""

    query_xy_X2: np.ndarray
    gallery_xy_X2: np.ndarray
    confidence_X: np.ndarray
    """0 to 1."""
    inlier_X: np.ndarray | None = None
    """bool: whether it agrees with the others on one geometry; None where none was asked for."""

    def __post_init__(self) -> None:
        count = len(self.confidence_X)
        points = self.query_xy_X2.shape, self.gallery_xy_X2.shape
        inliers = (count,) if self.inlier_X is None else self.inlier_X.shape
        if points != ((count, 2), (count, 2)) or inliers != (count,):
            raise ValueError(
                f"{count} confidences, points of shapes {points[0]} and {points[1]} and inliers of "
                f"shape {inliers} are not the same matches."
            )

    def __len__(self) -> int:
        return len(self.confidence_X)

    def take(self, index_M: np.ndarray) -> MatchedKeypoints:
        """The matches at these places, or where a boolean is true."""
        inlier = None if self.inlier_X is None else self.inlier_X[index_M]
        return MatchedKeypoints(
            self.query_xy_X2[index_M],
            self.gallery_xy_X2[index_M],
            self.confidence_X[index_M],
            inlier,
        )

    @classmethod
    def from_lists(
        cls,
        query_xy: np.ndarray,
        gallery_xy: np.ndarray,
        confidence: np.ndarray,
        inlier: np.ndarray | None = None,
    ) -> MatchedKeypoints:
        """From a row of ``matches.parquet``, whose points are x, y, x, y, ...; leave ``inlier``
        out where the run asked for no geometry (all are False there).

        >>> MatchedKeypoints.from_lists([1, 2, 3, 4], [5, 6, 7, 8], [0.9, 0.8]).query_xy_X2.tolist()
        [[1.0, 2.0], [3.0, 4.0]]
        """
        return cls(
            np.asarray(query_xy, np.float32).reshape(-1, 2),
            np.asarray(gallery_xy, np.float32).reshape(-1, 2),
            np.asarray(confidence, np.float32),
            None if inlier is None else np.asarray(inlier, bool),
        )


def scale_matches(
    matches: MatchedKeypoints,
    from_wh_px: tuple[WH, WH],
    to_wh_px: tuple[WH, WH],
    *,
    boxes_px: tuple[Edges | None, Edges | None] = (None, None),
    theta_rad: tuple[float, float] = (0.0, 0.0),
) -> MatchedKeypoints:
    """The matches on images of another size than the extractor saw.

    ``from_wh_px`` and ``to_wh_px`` are (query's, gallery image's). Where the extractor saw only a
    part of an image, ``boxes_px`` says which (left, top, right, bottom, in the pixels of
    ``to_wh_px``), and ``theta_rad`` how far that is turned about its centre, clockwise.

    >>> matches = MatchedKeypoints.from_lists([0, 0], [3, 1], [1.0])
    >>> scale_matches(matches, ((4, 2), (4, 2)), ((8, 4), (4, 2))).query_xy_X2.tolist()
    [[0.5, 0.5]]
    """

    def scaled(xy_X2: np.ndarray, side: int) -> np.ndarray:
        left, top, right, bottom = boxes_px[side] or (0.0, 0.0, *to_wh_px[side])
        size = np.array([right - left, bottom - top]) / np.array(from_wh_px[side], np.float64)
        scaled_X2 = (xy_X2 + 0.5) * size + (left, top) - 0.5
        if theta_rad[side]:
            centre = np.array([left + right - 1, top + bottom - 1]) / 2
            cos, sin = math.cos(theta_rad[side]), math.sin(theta_rad[side])
            scaled_X2 = (scaled_X2 - centre) @ np.array([[cos, sin], [-sin, cos]]) + centre
        return np.asarray(scaled_X2, np.float32)

    return replace(
        matches,
        query_xy_X2=scaled(matches.query_xy_X2, 0),
        gallery_xy_X2=scaled(matches.gallery_xy_X2, 1),
    )


def thin_evenly(matches: MatchedKeypoints, most: int) -> MatchedKeypoints:
    """At most ``most`` matches: every n-th along a curve through the query's points, inliers first.

    So the kept ones are spread as widely as all, with as large a share of inliers.
    """
    if most < 1:
        raise ValueError(f"a picture needs one line at least, not {most}.")
    if len(matches) <= most:
        return matches
    low_2, high_2 = matches.query_xy_X2.min(axis=0), matches.query_xy_X2.max(axis=0)
    cell_X2 = (255 * (matches.query_xy_X2 - low_2) / np.maximum(high_2 - low_2, 1e-6)).astype(int)
    keys = [_along_curve(cell_X2)]
    if matches.inlier_X is not None:
        keys.append(~matches.inlier_X)
    order_X = np.lexsort(keys)
    kept = order_X[(np.arange(most) * len(matches)) // most]
    return matches.take(np.sort(kept))


def outside_masks(
    matches: MatchedKeypoints, query_mask: np.ndarray | None, gallery_mask: np.ndarray | None
) -> np.ndarray:
    """bool (X,): matches with an end off the animal, where a mask (bool, H, W) says what it is."""
    return _off(matches.query_xy_X2, query_mask) | _off(matches.gallery_xy_X2, gallery_mask)


def match_counts_in_words(
    matches: MatchedKeypoints, outside_X: np.ndarray | None, threshold: float | None = None
) -> str:
    """For example "47 matches, 31 inliers, 2 outside the mask"; ``outside_X`` is None without a
    mask.

    >>> matches = MatchedKeypoints.from_lists([1, 2], [1, 2], [0.9], [True])
    >>> match_counts_in_words(matches, None, 0.5)
    '1 match with a confidence over 0.5, 1 inlier'
    """
    over = "" if threshold is None else f" with a confidence over {threshold:g}"
    parts = [f"{counted(len(matches), 'match', 'matches')}{over}"]
    if matches.inlier_X is not None:
        parts.append(counted(int(matches.inlier_X.sum()), "inlier"))
    if outside_X is not None and len(matches):
        parts.append(f"{int(outside_X.sum()) or 'none'} outside the mask")
    return ", ".join(parts)


def draw_matches(
    pair: ImagePair,
    matches: MatchedKeypoints,
    *,
    width_px: int = 1200,
    most_lines: int = MOST_LINES,
    threshold: float | None = None,
    on_animal: bool = False,
    with_caption: bool = False,
) -> Overlay:
    """The two images side by side: untouched above, with their matches below.

    Points are in pixels of the two images; the edges of masks are drawn. Lines are coloured by
    confidence; with ``threshold``, only matches over it are drawn, as only those count towards a
    score. Inliers are solid, outliers faint, and ends off the mask are marked by a cross, unless
    keypoints were looked for ``on_animal`` alone. Of more
    than ``most_lines`` an even share is drawn, and the caption says so; ``with_caption`` writes it
    under the picture too.
    """
    weak = 0
    if threshold is not None:
        counted = matches.take(matches.confidence_X > threshold)
        weak, matches = len(matches) - len(counted), counted
    masks = (None, None) if on_animal else pair.masks
    masked = any(mask is not None for mask in masks)
    outside_X = outside_masks(matches, *masks)
    words = match_counts_in_words(matches, outside_X if masked else None, threshold)
    shown, low = thin_evenly(matches, most_lines), threshold or 0.0
    layout = PairLayout.of(pair, width_px)
    marked = layout.place(*(quiet(image) for image in pair.images))
    layout.outline(marked)
    _draw_lines(marked, layout, shown, masks, low)
    verified = matches.inlier_X is not None
    caption = _caption(words, len(shown), len(matches), weak, verified)
    legend = layout.legend(low, verified, bool(outside_X.any()))
    return layout.picture([marked, legend], caption, written=with_caption)


def _draw_lines(
    panel: np.ndarray,
    layout: PairLayout,
    matches: MatchedKeypoints,
    masks: tuple[np.ndarray | None, np.ndarray | None],
    low: float,
) -> None:
    points = (matches.query_xy_X2, matches.gallery_xy_X2)
    off_2X = [_off(xy_X2, mask) for xy_X2, mask in zip(points, masks, strict=True)]
    start_X2, end_X2 = layout.points(points[0], 0), layout.points(points[1], 1)
    colour_X3 = colours_of((matches.confidence_X - low) / max(1.0 - low, 1e-6))
    inlier_X = np.ones(len(matches), bool) if matches.inlier_X is None else matches.inlier_X
    radius = layout.width_px / 400
    # The surest are drawn last, over the others; outliers first of all.
    for x in np.lexsort((matches.confidence_X, inlier_X)).tolist():
        colour, solid = as_colour(colour_X3[x]), bool(inlier_X[x])
        width = layout.width_px / 620
        draw_line(panel, start_X2[x], end_X2[x], colour=colour, width_px=width, solid=solid)
        for point_2, off_X in zip((start_X2[x], end_X2[x]), off_2X, strict=True):
            if off_X[x]:
                draw_cross(panel, point_2, 2.2 * radius)
            else:
                draw_dot(panel, point_2, colour, radius)


def _off(xy_X2: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    if mask is None:
        return np.zeros(len(xy_X2), bool)
    height, width = mask.shape
    x, y = np.round(xy_X2).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    off = np.ones(len(xy_X2), bool)
    off[inside] = ~np.asarray(mask, bool)[y[inside], x[inside]]
    return off


def _along_curve(cell_X2: np.ndarray) -> np.ndarray:
    """Place along the Z-order curve: near cells of 256 x 256 have near numbers."""
    place = np.zeros(len(cell_X2), np.int64)
    for bit in range(8):
        for axis in (0, 1):
            place |= ((cell_X2[:, axis] >> bit) & 1) << (2 * bit + axis)
    return place


def _caption(words: str, shown: int, count: int, weak: int, verified: bool) -> str:
    sentences = [f"{words[:1].upper()}{words[1:]}."]
    if weak:
        sentences.append(f"{counted(weak, 'weaker one')} not drawn.")
    if shown < count:
        sentences.append(f"{shown} of the {count} are drawn, thinned evenly.")
    if verified and count:
        sentences.append("Inliers agree on one geometry; outliers are faint.")
    return " ".join(sentences)
