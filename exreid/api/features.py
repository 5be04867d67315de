"""Features and matches of photographs that no table describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from exreid.api.photographs import Image, Images, MaskLike, as_list, file_of, named, regions_of
from exreid.api.settings import Keys, overrides_of
from exreid.api.watching import progress_here
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.errors import ConfigError

if TYPE_CHECKING:
    from exreid.records import LocalFeatures


@dataclass(frozen=True)
class Keypoints:
    """The local features of one photograph, the best first; K keypoints, descriptors of L
    numbers."""

    keypoints_K2: np.ndarray
    """float32: pixels (x, y) of the displayed photograph, pixel centres at whole numbers."""
    descriptors_KL: np.ndarray
    """float16."""
    scores_K: np.ndarray
    """float32, falling: the detector's score, comparable only within one detector."""
    image_wh_px: tuple[int, int]
    """Width and height of the displayed photograph."""

    def __len__(self) -> int:
        """The number of keypoints."""
        return len(self.keypoints_K2)


def embed(
    images: Images, keys: Keys | None = None, *, masks: MaskLike | Sequence[MaskLike] = None
) -> np.ndarray:
    """The vectors of photographs: float32 (N, D), not normalised, the same as by ``exreid
    extract``.

    ``keys`` are those of a probe (``model.*``, ``dataset.image_size``, ...). ``masks`` are one for
    each photograph, for ``dataset.crop`` and ``dataset.no_background``. ImageError for an
    unreadable photograph, MaskError for a mask that does not fit, with the photograph's name.

    >>> import numpy as np
    >>> embed([np.zeros((40, 60, 3), np.uint8)], {"dataset.image_size": 32}).shape
    (1, 1280)
    """
    from exreid.data.images import prepare_image
    from exreid.features.embedding import Embedder
    from exreid.models.backbones import build_backbone
    from exreid.pipeline.embed import preprocessing_for

    config, given = _of_images(keys), as_list(images)
    regions = regions_of(masks, len(given))
    model, size = config.model, config.dataset.image_size
    backbone = build_backbone(model.type, checkpoint=model.checkpoint, image_size=size)
    preprocessing = preprocessing_for(config, backbone)
    embedder = Embedder(
        backbone,
        batch_size=model.batch_size,
        dtype=model.dtype,
        device=_device(),
        deterministic=config.deterministic,
        flip=model.flip_augmentation,
    )
    count = progress_here()("Embedding photographs", len(given))
    parts = []
    for start in range(0, len(given), model.batch_size):
        rows = []
        for place in range(start, min(start + model.batch_size, len(given))):
            with named(given[place], place):
                data = file_of(given[place], place)
                rows.append(prepare_image(data, regions[place], preprocessing))
        parts.append(embedder(np.stack(rows)))
        count(len(rows))
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def local_features(
    images: Images, keys: Keys | None = None, *, masks: MaskLike | Sequence[MaskLike] = None
) -> list[Keypoints]:
    """The keypoints of each photograph, with descriptors and scores; at most
    ``benchmark.local_top_k`` of each.

    ``keys`` are those of a probe (``benchmark.local_features``, ``local_top_k``, ``local_size``,
    ...). ``masks`` are one for each photograph: then only keypoints on the animal are taken.
    ImageError for an unreadable photograph, MaskError for a mask that does not fit, with the
    photograph's name.
    """
    config, given = _of_images(keys), as_list(images)
    detect = _Detector(config)
    count = progress_here()("Finding keypoints", len(given))
    keypoints = []
    for place, (image, region) in enumerate(zip(given, regions_of(masks, len(given)), strict=True)):
        keypoints.append(detect(image, place, region).keypoints)
        count(1)
    return keypoints


def match(
    first: Image,
    second: Image,
    keys: Keys | None = None,
    *,
    masks: Sequence[MaskLike] = (None, None),
) -> pd.DataFrame:
    """The keypoints that LightGlue matches between two photographs, the most certain first.

    Columns ``first_x, first_y, second_x, second_y`` in pixels of the displayed photographs, and
    ``confidence``. A probe's score is the number of matches over ``benchmark.match_threshold``
    (0.5). ``keys`` are those of a probe (``benchmark.local_*``); with the two ``masks``, only
    keypoints on the animals are matched.
    """
    from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
    from exreid.models.lightglue import load_lightglue
    from exreid.pipeline.keypoints import adapted_for, lightglue_name

    config = _of_images(keys)
    adapted = adapted_for(config)
    network = adapted.network() if adapted else load_lightglue(lightglue_name(config))
    threshold = config.benchmark.match_threshold
    matcher = LightGlueMatcher(network, MatchSettings(match_threshold=threshold))
    detect = _Detector(config)
    regions = regions_of(masks, 2)
    first_found, second_found = detect(first, 0, regions[0]), detect(second, 1, regions[1])
    (matches,) = matcher.details(first_found.features, second_found.features, np.array([[0, 0]]))
    first_X2 = first_found.keypoints.keypoints_K2[matches.query_X]
    second_X2 = second_found.keypoints.keypoints_K2[matches.gallery_X]
    return pd.DataFrame(
        {
            "first_x": first_X2[:, 0],
            "first_y": first_X2[:, 1],
            "second_x": second_X2[:, 0],
            "second_y": second_X2[:, 1],
            "confidence": matches.confidence_X,
        }
    )


def rank(
    queries_QD: np.ndarray, gallery_GD: np.ndarray | None = None, *, keep: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """The gallery's vectors that are nearest to each query by the cosine, the nearest first.

    Vectors need not be normalised. Without a gallery, each query is compared with the others.
    Returns the rows of the gallery, int32 (Q, K), and the cosines, float32 (Q, K), where K is
    ``keep`` or the gallery's size if that is smaller; -1 and NaN where a query has fewer answers.
    Equal cosines are in the gallery's order. ValueError for a vector that is zero or not finite.

    >>> vectors = np.array([[1, 0], [0, 3], [2, 2]], dtype=np.float32)
    >>> rank(vectors[:1], vectors[1:])[0].tolist(), rank(vectors, keep=1)[0].tolist()
    ([[1, 0]], [[2], [2], [0]])
    """
    from exreid.matching.cosine import rank_by_cosine
    from exreid.records import RetrievalSide

    def side(vectors_ND: np.ndarray, start: int) -> RetrievalSide:
        count = len(vectors_ND)
        ids = tuple(f"{'gallery' if start == 0 else 'query'} {i}" for i in range(count))
        nothing = np.zeros(count, np.int32)
        return RetrievalSide(ids, start + np.arange(count), nothing, nothing - 1)

    queries_QD = np.asarray(queries_QD)
    gallery = queries_QD if gallery_GD is None else np.asarray(gallery_GD)
    start = 0 if gallery_GD is None else len(gallery)
    ranking = rank_by_cosine(
        queries_QD, gallery, side(queries_QD, start), side(gallery, 0), keep=keep
    )
    return ranking.candidate_index_QK, ranking.candidate_score_QK


@dataclass(frozen=True)
class _Found:
    keypoints: Keypoints
    features: LocalFeatures
    """In pixels of the image that the extractor gets, as a matcher needs them."""


class _Detector:
    """Finds the keypoints of single photographs."""

    def __init__(self, config: ProbeConfig) -> None:
        from exreid.features.local import LocalExtractor
        from exreid.pipeline.keypoints import preprocessing_of

        benchmark = config.benchmark
        if config.dataset.cropped in ("box", "mask"):
            raise ConfigError(
                f"dataset.crop={config.dataset.cropped}: keypoints are looked for in the whole "
                "photograph here. Crop the arrays yourself, or give masks alone."
            )
        self.preprocessing = preprocessing_of(config, boxed=False)
        self.extractor = LocalExtractor(benchmark.local_features, keypoints=benchmark.local_top_k)

    def __call__(self, image: Image, place: int, region: str | None) -> _Found:
        from exreid.data.image_files import displayed_wh_px

        with named(image, place):
            data = file_of(image, place)
            pixels_HWC, animal_HW = self.preprocessing.prepare(data, region)
            width, height = displayed_wh_px(data)[0]
        mask_BHW = None if animal_HW is None else animal_HW[None]
        features, scores_NK = self.extractor.scored(pixels_HWC[None], mask_BHW)
        real = slice(features.count_N[0])
        scale_2 = (np.array((width, height)) / features.image_wh_px_N2[0]).astype(np.float32)
        keypoints = Keypoints(
            features.keypoints_NK2[0, real] * scale_2,
            features.descriptors_NKL[0, real],
            scores_NK[0, real],
            (width, height),
        )
        return _Found(keypoints, features)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _of_images(keys: Keys | None) -> ProbeConfig:
    """The config for photographs that no table describes."""
    return load_config(ProbeConfig, None, overrides_of(keys))
