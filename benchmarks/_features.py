"""Local features of several images, put together and cut; how images are decoded for a square."""

from __future__ import annotations

import numpy as np

from exreid.data.images import Preprocessing
from exreid.records import LocalFeatures


def joined(parts: list[LocalFeatures]) -> LocalFeatures:
    """Images one after the other."""
    names = LocalFeatures.__dataclass_fields__
    return LocalFeatures(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in names)
    )


def best(features: LocalFeatures, keypoints: int) -> LocalFeatures:
    """Each image's best keypoints, which stand first."""
    return LocalFeatures(
        np.ascontiguousarray(features.keypoints_NK2[:, :keypoints]),
        np.ascontiguousarray(features.descriptors_NKL[:, :keypoints]),
        np.minimum(features.count_N, keypoints),
        features.image_wh_px_N2,
    )


def stretched(side_px: int) -> Preprocessing:
    """The whole image, stretched to a square, as trainings without masks decode it."""
    return Preprocessing(
        image_wh_px=(side_px, side_px),
        resize="stretch",
        crop_pct=1.0,
        interpolation="bicubic",
        no_background=False,
        crop="none",
        crop_margin=0.0,
        fill_rgb=(0, 0, 0),
    )
