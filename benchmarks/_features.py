"""Local features of several images, put together and cut."""

from __future__ import annotations

import numpy as np

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
