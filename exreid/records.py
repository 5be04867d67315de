"""The contracts between stages: what one stage hands to the next.

Letters in array names: Q queries, G gallery images, N images, D embedding length,
K candidates kept for each query, P positives of all queries together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from exreid.errors import MetadataError

if TYPE_CHECKING:
    # Processes that decode images have no tables: its import takes longer than all else here.
    import pandas as pd

TABLE_COLUMNS = (
    "image_id",
    "path",
    "identity",
    "split",
    "mask",
    "bbox",
    "encounter",
    "date",
    "viewpoint",
    "row",
)


def region_text(mask: str | None, bbox: str | None) -> str | None:
    """Where an animal is in its photograph: its mask, its box, or both, as one text, which is part
    of an image's key in caches. A mask alone is that text itself; None: nobody says.

    >>> region_parts(region_text(None, "[1, 2, 30, 40]")), region_text("a mask", None)
    ((None, '[1, 2, 30, 40]'), 'a mask')
    """
    return f"{bbox}\0{mask or ''}" if bbox else mask or None


def region_parts(region: str | None) -> tuple[str | None, str | None]:
    """The mask and the box of a `region_text`."""
    bbox, between, mask = (region or "").partition("\0")
    return (mask or None, bbox) if between else (region or None, None)


@dataclass(frozen=True)
class ImageTable:
    """One row per image, which is an animal in a photograph, in the order of the metadata file.

    ``rows`` has a fresh 0..N-1 index and the columns of `TABLE_COLUMNS`: ``image_id`` (text,
    unique), ``path`` (posix, relative to ``root``), ``identity``, ``split``, ``mask``, ``bbox`` (of
    `exreid.data.boxes.box_text`), ``encounter``, ``viewpoint`` (text, or None where unknown),
    ``date`` (datetime64, NaT where unknown) and ``row`` (the line of the metadata file that holds
    it, the header being line 1). Rows without ``bbox``, of older files, have no boxes. Several
    images may have one ``path``: then each has a box or a mask.
    ``original`` holds every column of the file as it was read, row for row.
    """

    rows: pd.DataFrame
    original: pd.DataFrame
    root: str
    source: str
    """The metadata file, for messages."""

    def __post_init__(self) -> None:
        if "bbox" not in self.rows.columns:
            object.__setattr__(self, "rows", self.rows.assign(bbox=None))
        missing = [name for name in TABLE_COLUMNS if name not in self.rows.columns]
        if missing:
            raise MetadataError(f"{self.source}: an image table needs the columns {missing}.")
        if len(self.rows) != len(self.original):
            raise MetadataError(
                f"{self.source}: {len(self.rows)} rows, {len(self.original)} original rows."
            )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def regions(self) -> list[str | None]:
        """Where the animal of each image is, as `region_text` has it."""
        pairs = zip(self.rows["mask"], self.rows["bbox"], strict=True)
        return [
            region_text(*(cell if isinstance(cell, str) else None for cell in p)) for p in pairs
        ]

    def take(self, positions: Sequence[int] | np.ndarray) -> ImageTable:
        """The rows at these positions (or where a boolean mask is true), in that order."""
        index = np.asarray(positions)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        return ImageTable(
            rows=self.rows.iloc[index].reset_index(drop=True),
            original=self.original.iloc[index].reset_index(drop=True),
            root=self.root,
            source=self.source,
        )


@dataclass(frozen=True)
class Rejected:
    """An image that was left out, and why: one line of ``rejected.csv``."""

    image_id: str
    path: str
    row: int
    stage: str
    """``metadata``, ``image`` or ``mask``."""
    reason: str


@dataclass(frozen=True)
class Embeddings:
    """One vector per image, in the table's order: ``vectors_ND`` is float32, not normalised."""

    image_ids: tuple[str, ...]
    vectors_ND: np.ndarray

    def __post_init__(self) -> None:
        if self.vectors_ND.ndim != 2 or self.vectors_ND.dtype != np.float32:
            raise ValueError(
                f"vectors_ND must be a float32 matrix, not {self.vectors_ND.dtype} "
                f"of shape {self.vectors_ND.shape}."
            )
        if len(self.image_ids) != len(self.vectors_ND):
            raise ValueError(f"{len(self.image_ids)} ids for {len(self.vectors_ND)} vectors.")


@dataclass(frozen=True)
class LocalFeatures:
    """Keypoints and descriptors of N images, padded to K keypoints each; L numbers a descriptor.

    The first ``count_N[i]`` rows of an image are real, by falling detection score, so that the
    first k are its best k; the rows after them are zeros.
    """

    keypoints_NK2: np.ndarray
    """float32, pixels (x, y) of the image that was given to the extractor, pixel centres at
    whole numbers."""
    descriptors_NKL: np.ndarray
    """float16."""
    count_N: np.ndarray
    """int32."""
    image_wh_px_N2: np.ndarray
    """int32 (width, height) of the image that was given to the extractor."""
    frame_NKF: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    """float32, what else is known of each keypoint: its size in pixels and its angle in radians
    (F = 2) where the extractor measures them, nothing (F = 0) where it does not."""

    def __post_init__(self) -> None:
        count, padded = self.descriptors_NKL.shape[:2]
        if self.frame_NKF.shape == (0, 0, 0):
            object.__setattr__(self, "frame_NKF", np.zeros((count, padded, 0), np.float32))
        shapes = (self.keypoints_NK2.shape, self.count_N.shape, self.image_wh_px_N2.shape)
        framed = self.frame_NKF.shape[:2] == (count, padded)
        if shapes != ((count, padded, 2), (count,), (count, 2)) or not framed:
            raise ValueError(f"local features of {count} images have arrays of shapes {shapes}.")
        if np.any(self.count_N > padded) or np.any(self.count_N < 0):
            raise ValueError(f"local features count from 0 to {padded} keypoints an image.")

    def __len__(self) -> int:
        return len(self.count_N)

    def take(self, index_M: np.ndarray) -> LocalFeatures:
        """The images at these positions, in that order."""
        return LocalFeatures(
            self.keypoints_NK2[index_M],
            self.descriptors_NKL[index_M],
            self.count_N[index_M],
            self.image_wh_px_N2[index_M],
            self.frame_NKF[index_M],
        )


@dataclass(frozen=True)
class RetrievalSide:
    """The images on one side of a retrieval (the queries, or the gallery), in the table's order.

    Codes are shared by both sides of one retrieval: equal code, equal thing.
    """

    image_ids: tuple[str, ...]
    position_N: np.ndarray
    """int64: the image's place in the table. The same place on both sides is the same image;
    the smaller place wins a tie."""
    identity_N: np.ndarray
    """int32 code of the identity, never negative: unknown identities are left out before."""
    encounter_N: np.ndarray
    """int32 code of the encounter, -1 where unknown (then nothing is excluded by it)."""

    def __post_init__(self) -> None:
        lengths = {
            len(self.image_ids),
            len(self.position_N),
            len(self.identity_N),
            len(self.encounter_N),
        }
        if len(lengths) != 1:
            raise ValueError(f"a retrieval side needs equally long columns, not {lengths}.")
        if np.any(np.diff(self.position_N) <= 0):
            raise ValueError("a retrieval side must stand in the table's order, without repeats.")
        if np.any(self.identity_N < 0):
            raise ValueError("a retrieval side needs a known identity for each image.")

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def by_id(self) -> np.ndarray:
        """int64: the indices of the images in the order of their ids. What is drawn at random is
        drawn in this order, so that it does not depend on the order of the table's rows."""
        return np.argsort(np.array(self.image_ids, dtype=object), kind="stable")

    def take(self, index_M: np.ndarray) -> RetrievalSide:
        """The images at these rising indices."""
        return RetrievalSide(
            tuple(self.image_ids[i] for i in index_M),
            self.position_N[index_M],
            self.identity_N[index_M],
            self.encounter_N[index_M],
        )


@dataclass(frozen=True)
class Ranking:
    """Per query: the best candidates in order, and the exact rank of every positive.

    A positive is a gallery image of the query's identity that is not excluded. Ranks count
    from 1 among the candidates, which are the gallery images that are not excluded for this
    query. The positives of query q are the entries ``positive_offset_Q1[q]`` up to (not
    including) ``positive_offset_Q1[q + 1]`` of the ``positive_*_P`` arrays, by rising rank.
    """

    candidate_index_QK: np.ndarray
    """int32 gallery indices, best first; -1 where a query has fewer candidates than K."""
    candidate_score_QK: np.ndarray
    """float32; NaN where ``candidate_index_QK`` is -1."""
    candidate_count_Q: np.ndarray
    """int64: how many candidates the query has at all, kept or not."""
    positive_offset_Q1: np.ndarray
    """int64, of length Q + 1, from 0 to P."""
    positive_index_P: np.ndarray
    """int32 gallery indices."""
    positive_rank_P: np.ndarray
    """int64, from 1."""
    positive_score_P: np.ndarray
    """float32."""
    identity_rank_Q: np.ndarray
    """int64: the rank of the query's identity among the identities of its candidates, each
    identity standing where its best image stands; 0 without a positive."""

    @property
    def query_count(self) -> int:
        """The number of queries, Q."""
        return len(self.candidate_count_Q)


Json = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None
"""What a JSON file can hold."""
Counts = dict[str, int | float | str | dict[str, int]]
"""How many of what, by name; texts say by which rule."""


QualityLevel = Literal["good", "usable", "poor", "unknown"]


@dataclass(frozen=True)
class GalleryQuality:
    """How well a gallery tells its own animals apart: its photographs answered as queries, never
    by their own encounter, once as they are and once with their animal left out. Shares are
    fractions; None where nothing was measured."""

    level: QualityLevel
    """By `exreid.openset.quality.FLOORS`; ``unknown``: no animal has photographs of two
    encounters to answer with."""
    recognised: float | None = None
    """Of known animals, the mean share of their photographs that were called known and named
    rightly."""
    top_1: float | None = None
    """Share of photographs of known animals whose first answer was right."""
    new_auroc: float | None = None
    """The chance that a known animal's probability is higher than a new one's."""
    passed: float | None = None
    """Of new animals, the mean share of their photographs that passed for known ones."""
    false_match_rate: float | None = None
    """The share of new animals' photographs that the decisions promise to let pass, at most; None
    where they promise none."""
    known_animals: int = 0
    """Animals that were answered by another encounter."""
    encounters_known: bool = False
    """False: some photographs have no encounter, so that these numbers are too good."""
    no_rate: str = ""
    """Why no false-match rate is promised; empty where one is, or none was asked for."""


@dataclass(frozen=True)
class Result:
    """What a run found: ``result.json`` without the run's own housekeeping. Metrics are
    fractions; ``intervals`` holds the [low, high] ends of each metric's 95% interval."""

    method: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    counts: Counts
    timings_s: dict[str, float] = field(default_factory=dict)
    leaks: dict[str, int | str] = field(default_factory=dict)
    """What the leak checks counted before."""
    quality: GalleryQuality | None = None
    """Of the gallery that answered, where it decides between known and new."""


@dataclass(frozen=True)
class PairEvidence:
    """What the matcher found for each of P pairs, in their order."""

    match_count_P: np.ndarray
    """int32: matches with a confidence over the threshold."""
    confidence_sum_P: np.ndarray
    """float64: the sum of all matches' confidences."""
    inlier_count_P: np.ndarray
    """int32: matches that agree on one geometry; -1 where that was not asked for."""

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, name)) for name in self.__dataclass_fields__}
        if len(lengths) != 1:
            raise ValueError(f"evidence of pairs needs equally long columns, not {lengths}.")

    def __len__(self) -> int:
        return len(self.match_count_P)


@dataclass(frozen=True)
class PairMatches:
    """The matches of one pair, by falling confidence."""

    query_X: np.ndarray
    """int32: keypoints of the query."""
    gallery_X: np.ndarray
    """int32: the gallery image's keypoint for each."""
    confidence_X: np.ndarray
    """float32."""
    inlier_X: np.ndarray
    """bool: whether it agrees with the others on one geometry; all False where none was asked."""
