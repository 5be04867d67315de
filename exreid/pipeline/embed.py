"""The stages of a probe that make features: of which images all of them could be made."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from exreid.config.benchmark import ModelConfig
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import left_out_text
from exreid.distributed.session import Placement
from exreid.errors import RunError
from exreid.features.extraction import ExtractionReport
from exreid.pipeline.inputs import embed_images
from exreid.pipeline.match import LocalImages, extract_local_images, placement_for
from exreid.pipeline.methods import methods_of, with_local
from exreid.progress import Progress, timed
from exreid.records import Embeddings, ImageTable, Rejected

if TYPE_CHECKING:
    from exreid.models.backbones import Backbone


class FeatureStages:
    """Global features and local ones of a table, as the benchmark's method asks for them."""

    def __init__(
        self,
        config: ProbeConfig,
        progress: Progress,
        verbose: bool,
        timings_s: dict[str, float],
    ) -> None:
        self.config, self.progress = config, progress
        self.verbose, self.timings_s = verbose, timings_s
        self.rejected: list[Rejected] = []
        self.counts: dict[str, Any] = {}
        self.embeddings: list[Embeddings] = []
        self.images: list[LocalImages] = []
        self.placement: Placement | None = None

    def extract(self, table: ImageTable, stack: ExitStack) -> ImageTable:
        """The images whose features could all be made; actors stay up as long as the stack."""
        models, local_names = methods_of(self.config)
        for model in models:
            table = self._embed(table, model)
        if local_names:
            self.placement = placement_for(
                self.config, stack, images=len(table), verbose=self.verbose
            )
            with timed(self.timings_s, "keypoints"):
                for name in local_names:
                    table = self._find_keypoints(table, name)
        if len(table) == 0:
            raise RunError(f"{table.source}: no image is left. {left_out_text(self.rejected)}")
        return table

    def _embed(self, table: ImageTable, model: ModelConfig) -> ImageTable:
        config = self.config.model_copy(update={"model": model})
        with timed(self.timings_s, "model"):
            from exreid.models.backbones import build_backbone

            backbone = build_backbone(
                model.type, checkpoint=model.checkpoint, image_size=config.dataset.image_size
            )
        with timed(self.timings_s, "embeddings"):
            embeddings, positions, report = self._embeddings(table, config, backbone)
        self._add({"images_cached": report.cached, "images_extracted": report.extracted})
        self.rejected.extend(report.rejected)
        self._keep(positions)
        self.embeddings.append(embeddings)
        return table.take(positions)

    def _find_keypoints(self, table: ImageTable, name: str) -> ImageTable:
        images = self._local_images(table, with_local(self.config, name))
        report = images.report
        self._add({"keypoints_cached": report.cached, "keypoints_extracted": report.extracted})
        self.rejected.extend(report.rejected)
        self._keep(images.positions)
        self.images.append(images)
        return table.take(images.positions)

    def _embeddings(
        self, table: ImageTable, config: ProbeConfig, backbone: Backbone
    ) -> tuple[Embeddings, np.ndarray, ExtractionReport]:
        bar = self.progress("Extracting features", len(table))
        return embed_images(table, config, backbone, verbose=self.verbose, on_progress=bar)

    def _local_images(self, table: ImageTable, config: ProbeConfig) -> LocalImages:
        bar = self.progress("Finding keypoints", len(table))
        return extract_local_images(table, config, self.placement, bar)

    def _keep(self, positions: np.ndarray) -> None:
        """Of what earlier stages made, only the images that this one could read as well."""
        self.embeddings = [
            Embeddings(tuple(one.image_ids[i] for i in positions), one.vectors_ND[positions])
            for one in self.embeddings
        ]
        self.images = [replace(one, keys=[one.keys[i] for i in positions]) for one in self.images]

    def _add(self, counts: dict[str, Any]) -> None:
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
