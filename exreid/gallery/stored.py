"""A gallery's fits for a run: the fusion, the decision and the grouping from its build."""

from __future__ import annotations

from pathlib import Path

from exreid.gallery.folder import StoredGallery
from exreid.pipeline.calibrate import FUSION_FILE, FittedFusion
from exreid.pipeline.fit_and_retrieve import Fitted
from exreid.pipeline.methods import GallerySearch, fused_methods
from exreid.pipeline.prepare_scoring import Scoring
from exreid.storage.run_folder import write_text


def stored_fusion(
    gallery: StoredGallery, scoring: Scoring, search: GallerySearch, folder: Path
) -> FittedFusion:
    """The gallery's fusion and budget rule; the run's folder gets a copy."""
    methods = fused_methods(scoring.features, scoring.config, scoring.local, search)
    text = gallery.file(FUSION_FILE).read_text(encoding="utf-8")
    write_text(folder / FUSION_FILE, text)
    return FittedFusion(methods, gallery.fusion(), gallery.budget_rule())


def stored_fit(
    gallery: StoredGallery, scoring: Scoring, search: GallerySearch, folder: Path
) -> Fitted:
    """The gallery's fits; nothing is fitted again."""
    fusion = None
    if scoring.config.benchmark.method == "wildfusion":
        fusion = stored_fusion(gallery, scoring, search, folder)
    grouping = gallery.grouping() if gallery.decides else None
    return Fitted(fusion, gallery.decider(), grouping=grouping, quality=gallery.quality)
