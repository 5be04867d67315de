"""Embeddings of every image of a data set, for use elsewhere."""

from __future__ import annotations

from pathlib import Path

from exreid.config.probe import ProbeConfig
from exreid.errors import ConfigError
from exreid.features.extraction import ExtractionReport
from exreid.models.backbones import build_backbone
from exreid.pipeline.embed import embed_images
from exreid.pipeline.inputs import read_images
from exreid.progress import Progress, no_progress
from exreid.storage import mirror
from exreid.storage.run_folder import write_embeddings, write_rejected


def run_extract(
    config: ProbeConfig,
    out: Path,
    *,
    progress: Progress = no_progress,
    verbose: bool = False,
) -> ExtractionReport:
    """Write ``out`` (image_id, vector), whatever the split and even where the identity is unknown;
    to its URL too, where it has one.

    Images left out are listed beside it, in ``<out>.rejected.csv``.
    """
    if out.suffix != ".parquet":
        raise ConfigError(f"--out: {mirror.shown(out)} should end in .parquet.")
    table, rejected = read_images(config, with_split=False, require_identity=False)
    backbone = build_backbone(
        config.model.type,
        checkpoint=config.model.checkpoint,
        image_size=config.dataset.image_size,
    )
    embeddings, _, report = embed_images(
        table,
        config,
        backbone,
        verbose=verbose,
        on_progress=progress("Extracting features", len(table)),
    )
    report.rejected = [*rejected, *report.rejected]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_embeddings(out, embeddings)
    write_rejected(out.with_suffix(".rejected.csv"), report.rejected)
    for file in (out.with_suffix(".rejected.csv"), out):
        mirror.put(file)
    return report
