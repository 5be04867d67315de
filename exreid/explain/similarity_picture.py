"""Drawing why two embeddings agree."""

from __future__ import annotations

import math

import cv2
import numpy as np

from exreid.explain.canvas import INK, PAPER, Overlay, write
from exreid.explain.heatmap import blend
from exreid.explain.pair_layout import ImagePair, PairLayout, draw_dot
from exreid.explain.similarity import SimilarityMap, share_on_animal


def similarity_density(map_HW: np.ndarray, image_wh_px: tuple[int, int]) -> np.ndarray:
    """The map's positive part, smooth over the image: float32 (H, W) from 0 to 1."""
    positive = np.maximum(np.asarray(map_HW, np.float32), 0.0)
    smooth = np.maximum(cv2.resize(positive, image_wh_px, interpolation=cv2.INTER_CUBIC), 0.0)
    peak = float(smooth.max(initial=0.0))
    return np.asarray(smooth / peak if peak > 0 else smooth, np.float32)


def draw_similarity(
    pair: ImagePair, similarity: SimilarityMap, *, width_px: int = 1200, with_caption: bool = False
) -> Overlay:
    """The two images as the backbone saw them: plain above, below with what carries their cosine.

    Equal numbers mark places whose features are each other's nearest, by falling weight. With
    masks the caption says how much lies on the animal.
    """
    maps = (similarity.query_HW, similarity.gallery_HW)
    hot = [
        blend(image, similarity_density(map_HW, image.shape[1::-1]))
        for image, map_HW in zip(pair.images, maps, strict=True)
    ]
    layout = PairLayout.of(pair, width_px)
    marked = layout.place(*hot)
    layout.outline(marked)
    places = (similarity.pairs.query_xy_R2, similarity.pairs.gallery_xy_R2)
    for side, xy_R2 in enumerate(places):
        for number, point_2 in enumerate(layout.points(xy_R2, side), start=1):
            _number(marked, point_2, number, layout.size_px)
    return layout.picture(
        [marked], similarity_caption(similarity, *pair.masks), written=with_caption
    )


def similarity_caption(
    similarity: SimilarityMap,
    query_mask: np.ndarray | None = None,
    gallery_mask: np.ndarray | None = None,
) -> str:
    """The method, the marked pairs' part of the cosine, and the share on the animals."""
    pairs = similarity.pairs
    sentences = [f"Cosine {similarity.score:.3f}. Bright: {similarity.method}."]
    if len(pairs):
        weight = float(pairs.weight_R.sum())
        carries = (
            f"; together they make {weight:.3f} of the cosine" if similarity.sums_to_score else ""
        )
        sentences.append(
            f"Equal numbers mark the places most alike in both (each other's nearest){carries}."
        )
    masks = (query_mask, gallery_mask)
    maps = (similarity.query_HW, similarity.gallery_HW)
    shares = [
        f"{100 * share_on_animal(map_HW, mask):.0f}% on the animal in the {name}, which takes "
        f"{100 * float(np.mean(mask)):.0f}% of the image"
        for map_HW, mask, name in zip(maps, masks, ("query", "candidate"), strict=True)
        if mask is not None and not math.isnan(share_on_animal(map_HW, mask))
    ]
    if shares:
        sentences.append(f"Of what speaks for the cosine, {'; '.join(shares)}.")
    sentences.append("A place's feature also sees what surrounds it.")
    return " ".join(sentences)


def _number(panel: np.ndarray, point_2: np.ndarray, number: int, size_px: int) -> None:
    draw_dot(panel, point_2, PAPER, 0.75 * size_px)
    x, y = (float(value) for value in point_2)
    write(panel, (x, y), str(number), size_px=size_px, colour=INK, bold=True, anchor="mm")
