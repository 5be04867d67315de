"""Why the embeddings of a query and its first candidate agree, as a picture."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.config.probe import ProbeConfig
from exreid.data.images import Preprocessing, prepare_image, prepare_matte
from exreid.explain.canvas import save_png
from exreid.explain.embedding import explain_similarity
from exreid.explain.similarity_picture import draw_similarity
from exreid.models.backbones import Backbone, build_backbone
from exreid.pipeline.inputs import preprocessing_for
from exreid.records import ImageTable
from exreid.storage.urls import read_bytes


class SimilarityPictures:
    """Pictures of the images of one run, by the backbone that made its shortlist."""

    def __init__(self, table: ImageTable, config: ProbeConfig) -> None:
        self.table, self.config = table, config
        self.place = pd.Series(np.arange(len(table)), index=table.rows["image_id"])

    @cached_property
    def backbone(self) -> Backbone:
        """Built for the first picture."""
        model = self.config.model
        return build_backbone(
            model.type, checkpoint=model.checkpoint, image_size=self.config.dataset.image_size
        )

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What the backbone is given of a photograph."""
        return preprocessing_for(self.config, self.backbone)

    def draw(self, file: Path, image_ids: tuple[str, str], titles: tuple[str, str]) -> None:
        """The picture of a query and a gallery image, into a PNG file."""
        (query, query_mask), (gallery, gallery_mask) = map(self._seen, image_ids)
        similarity = explain_similarity(self.backbone, query, gallery)
        overlay = draw_similarity(
            query,
            gallery,
            similarity,
            query_mask=query_mask,
            gallery_mask=gallery_mask,
            titles=titles,
            with_caption=True,
        )
        save_png(file, overlay.image_rgb)

    def _seen(self, image_id: str) -> tuple[np.ndarray, np.ndarray | None]:
        """The photograph as the backbone sees it, and where the animal is, where that is known."""
        row = self.table.rows.iloc[self.place[image_id]]
        data, mask = read_bytes(self.table.root, row["path"]), row["mask"] or None
        image = prepare_image(data, mask, self.preprocessing)
        return image, None if mask is None else prepare_matte(data, mask, self.preprocessing) >= 128
