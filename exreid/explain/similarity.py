"""Why two embeddings agree: which places of the two images carry their cosine.

Letters: H, W the grid of the last feature map, L its places, R pairs of regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from exreid.explain.regions import RegionReader, Regions
from exreid.models.backbones import Backbone

MOST_PAIRS = 8

EXACT = "what each place contributes to the cosine; the contributions add up to it exactly"
BY_GRADIENT = (
    "the gradient of the cosine times each place's feature, normalisations held still; this "
    "network's pooling is no sum over places, so that these are shares and do not add up to it"
)


@dataclass(frozen=True)
class RegionPairs:
    """Places of the two images that are each other's most alike, the weightiest first."""

    query_xy_R2: np.ndarray
    """float32: middles of the places, in pixels of the backbone's input images."""
    gallery_xy_R2: np.ndarray
    similarity_R: np.ndarray
    """float32: the cosine of the two places' features."""
    weight_R: np.ndarray
    """float32: the pair's contribution to the cosine of the images, where contributions sum to it;
    otherwise the geometric mean of its two places' shares."""

    def __len__(self) -> int:
        return len(self.weight_R)


@dataclass(frozen=True)
class SimilarityMap:
    """Where the cosine of two images comes from."""

    query_HW: np.ndarray
    """float32, the grid of the query's places. Negative places speak against."""
    gallery_HW: np.ndarray
    score: float
    """The cosine of the two embeddings."""
    method: str
    """In words, for captions."""
    sums_to_score: bool
    """Whether each map sums to the score; otherwise each sums to 1, or less where places speak
    against it."""
    pairs: RegionPairs


def explain_similarity(
    backbone: Backbone,
    query_image: np.ndarray,
    gallery_image: np.ndarray,
    *,
    most_pairs: int = MOST_PAIRS,
) -> SimilarityMap:
    """Where the cosine of two images' embeddings comes from.

    The images are the backbone's inputs: uint8 RGB (H, W, 3) of `prepare_image`.

    Where an embedding is a sum of parts, one of each place (see `exreid.explain.regions`), the
    contribution of a place is its part times the other image's embedding over both lengths; they
    sum to the cosine, as those of all pairs of places do. Otherwise it is the gradient times the
    feature, both maps scaled so that their positive parts sum to 1. Raises
    ExplanationError for a network whose places cannot be told apart.
    """
    reader = RegionReader(backbone)
    query, gallery = reader.read(query_image), reader.read(gallery_image)
    lengths = query.embedding_D.norm() * gallery.embedding_D.norm()
    score = float((query.embedding_D.double() @ gallery.embedding_D.double()) / lengths.double())
    exact = query.part_LD is not None and gallery.part_LD is not None
    if query.part_LD is not None and gallery.part_LD is not None:
        first_L = query.part_LD @ gallery.embedding_D / lengths
        second_L = gallery.part_LD @ query.embedding_D / lengths
        pair_LL = query.part_LD @ gallery.part_LD.T / lengths
    else:
        first_L = _shares(reader.gradient(query_image, gallery.embedding_D))
        second_L = _shares(reader.gradient(gallery_image, query.embedding_D))
        pair_LL = (first_L.clamp(min=0)[:, None] * second_L.clamp(min=0)).sqrt()
    return SimilarityMap(
        _grid(first_L, query),
        _grid(second_L, gallery),
        score,
        EXACT if exact else BY_GRADIENT,
        exact,
        _region_pairs(query, gallery, pair_LL, (query_image, gallery_image), most_pairs),
    )


def share_on_animal(map_HW: np.ndarray, matte_HW: np.ndarray) -> float:
    """The share of a map's positive part that is on the animal.

    ``matte_HW`` is bool of any size, the backbone's input image; a place counts by how much of it
    is animal. NaN where no place is positive.

    >>> share_on_animal(np.array([[3.0, 1.0]]), np.array([[True, True, True, False]]))
    0.875
    """
    import cv2

    weight_HW = np.maximum(np.asarray(map_HW, np.float64), 0.0)
    size = (map_HW.shape[1], map_HW.shape[0])
    matte = np.asarray(matte_HW, np.float64)
    covered_HW = np.asarray(cv2.resize(matte, size, interpolation=cv2.INTER_AREA))
    total = weight_HW.sum()
    return float((weight_HW * covered_HW).sum() / total) if total > 0 else float("nan")


def _shares(value_L: torch.Tensor) -> torch.Tensor:
    total = value_L.clamp(min=0).sum()
    return value_L / total if total > 0 else torch.zeros_like(value_L)


def _grid(value_L: torch.Tensor, regions: Regions) -> np.ndarray:
    return np.asarray(value_L.cpu().reshape(regions.grid_hw).numpy(), np.float32)


def _region_pairs(
    query: Regions,
    gallery: Regions,
    pair_LL: torch.Tensor,
    images: tuple[np.ndarray, np.ndarray],
    most: int,
) -> RegionPairs:
    """Mutually nearest places by the cosine of their features."""
    unit = torch.nn.functional.normalize
    alike_LL = unit(query.feature_LC, dim=1) @ unit(gallery.feature_LC, dim=1).T
    best_L, back_L = alike_LL.argmax(dim=1), alike_LL.argmax(dim=0)
    own_L = torch.arange(len(best_L), device=best_L.device)
    first_R = own_L[back_L[best_L] == own_L]
    second_R = best_L[first_R]
    weight_R = pair_LL[first_R, second_R]
    order_R = torch.argsort(-weight_R, stable=True)[:most]
    order_R = order_R[weight_R[order_R] > 0]
    first_R, second_R = first_R[order_R], second_R[order_R]
    return RegionPairs(
        _middles(first_R, query.grid_hw, images[0]),
        _middles(second_R, gallery.grid_hw, images[1]),
        alike_LL[first_R, second_R].cpu().numpy(),
        weight_R[order_R].cpu().numpy(),
    )


def _middles(place_R: torch.Tensor, grid_hw: tuple[int, int], image: np.ndarray) -> np.ndarray:
    row_R, column_R = np.divmod(place_R.cpu().numpy(), grid_hw[1])
    height, width = image.shape[:2]
    x_R, y_R = (column_R + 0.5) * width / grid_hw[1], (row_R + 0.5) * height / grid_hw[0]
    return np.stack([x_R - 0.5, y_R - 0.5], axis=1).astype(np.float32)
