"""Do matches agree on one geometry? MAGSAC++ through OpenCV, with a fixed seed.

Barath, Noskova, Ivashechkin & Matas 2020, "MAGSAC++, a fast, reliable and accurate robust
estimator".
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

Geometry = Literal["none", "fundamental", "homography"]

LEAST_MATCHES = {"fundamental": 8, "homography": 5}
"""Fewer matches agree on any geometry: one more than fix a homography, eight for a fundamental
matrix. Nothing is then an inlier."""
INLIER_PX = 3.0
RANSAC_CONFIDENCE = 0.999
ITERATIONS = 2000


def geometric_inliers(
    query_xy_M2: np.ndarray, gallery_xy_M2: np.ndarray, geometry: Geometry
) -> np.ndarray:
    """Which of M matched points (pixels) agree on one geometry: bool (M,).

    ``fundamental`` fits any two views of a rigid scene, ``homography`` a flat surface; an animal
    is neither, so that the tolerance is `INLIER_PX` pixels. Degenerate points have no inliers.
    """
    none = np.zeros(len(query_xy_M2), bool)
    if geometry == "none" or len(query_xy_M2) < LEAST_MATCHES[geometry]:
        return none
    find = cv2.findFundamentalMat if geometry == "fundamental" else cv2.findHomography
    cv2.setRNGSeed(0)
    try:
        # Either may be None, which the library's types do not say.
        fitted: tuple[np.ndarray | None, np.ndarray | None] = find(
            np.ascontiguousarray(query_xy_M2, np.float64),
            np.ascontiguousarray(gallery_xy_M2, np.float64),
            cv2.USAC_MAGSAC,
            INLIER_PX,
            confidence=RANSAC_CONFIDENCE,
            maxIters=ITERATIONS,
        )
    except cv2.error:
        return none
    model, inlier = fitted
    if model is None or inlier is None:
        return none
    return inlier.reshape(-1).astype(bool)
