"""Making a gallery of a data set, told from top to bottom."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from exreid.calibration.identity_curve import fit_identity_curve
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import line_text, retrieval_sides, select_split
from exreid.distributed.session import one_ray
from exreid.errors import CalibrationError, ConfigError, GalleryError
from exreid.features.extraction import content_hashes
from exreid.gallery.edits import Edit
from exreid.gallery.folder import StoredGallery
from exreid.gallery.layout import DECISIONS, MANIFEST, PAIRS
from exreid.gallery.opening import open_gallery
from exreid.gallery.removed import Removed, removed_from
from exreid.gallery.stored import stored_fusion
from exreid.gallery.swap import new_folder, put_back
from exreid.gallery.write import GalleryContent, GalleryFit
from exreid.matching.plausibility_gate import gate_figures
from exreid.openset.decide import fit_decider
from exreid.openset.quality import gallery_quality, quality_without_fit
from exreid.pipeline.answers import grouping_figures, open_set_content
from exreid.pipeline.calibrate import FittedFusion
from exreid.pipeline.embed import embed
from exreid.pipeline.fit_and_retrieve import (
    Fitted,
    answer_calibration_queries,
    fit_methods,
    grouper_of,
)
from exreid.pipeline.forecast import tell_forecast
from exreid.pipeline.inputs import cache_folder, read_images, settled
from exreid.pipeline.keypoints import find_keypoints, matching_placement
from exreid.pipeline.methods import GallerySearch
from exreid.pipeline.plausibility_gate import gate_of
from exreid.pipeline.prepare_scoring import Scoring, scoring_of
from exreid.pipeline.rank import search_of
from exreid.progress import Progress, RunLog, counted, no_progress
from exreid.records import Counts, ImageTable, Rejected, RetrievalSide
from exreid.storage.feature_store import SignatureMemo

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """How a gallery was made or added to."""

    gallery: StoredGallery
    added: int
    """Photographs that were not in it before."""
    already: int
    """Photographs of the data set that it held already."""
    extracted: int
    """Photographs that features were made of now, summed over the kinds of features."""
    pairs_matched: int
    """Pairs that were matched now."""
    rejected: list[Rejected]
    timings_s: dict[str, float]
    gate_figures: Counts = field(default_factory=dict)
    """What benchmark.gate costs and spares on the gallery; empty without one."""


def build_gallery(
    config: ProbeConfig,
    out: Path,
    *,
    split: str | None = None,
    thumbnail_px: int = 512,
    progress: Progress = no_progress,
    verbose: bool = False,
) -> Built:
    """A gallery of all images of the data set, or of those of one split.

    A gallery that is at ``out`` already is replaced once the new one is whole.
    """
    if config.benchmark.method == "classifier":
        raise ConfigError(
            "benchmark.method=classifier is a baseline for probes: it knows no new animal, and "
            "each photograph that is added would need another fit. Set another method."
        )
    config = settled(config)
    put_back(out.expanduser().absolute())
    if out.exists() and not (out / MANIFEST).is_file():
        raise ConfigError(f"--out: {out} exists and is not a gallery. Name another folder.")
    if (out / DECISIONS).exists():
        log.warning(
            "%s had edits (%s), and the new gallery has the data set's names and photographs.",
            out,
            DECISIONS,
        )
    table, rejected = read_images(config, with_split=split is not None, only_split=split)
    if split is not None:
        table = table.take(select_split(table, split, rejected))
    return make_gallery(
        config,
        table,
        rejected,
        out=out,
        old=None,
        already=0,
        thumbnail_px=thumbnail_px,
        log=RunLog(progress, verbose),
    )


def make_gallery(
    config: ProbeConfig,
    table: ImageTable,
    rejected: list[Rejected],
    *,
    out: Path,
    old: StoredGallery | None,
    already: int,
    thumbnail_px: int,
    log: RunLog,
    edits: Sequence[Edit] = (),
    removed: Removed | None = None,
) -> Built:
    """Features, fits, files; the first images of the table are those of the ``old`` gallery.
    ``removed``: photographs of its folder that stay in the files, and answer nothing.

    GalleryError if another process has changed the old gallery since it was opened.
    """
    gate_of(table, config)  # what it lacks is an error before anything takes time
    tell_forecast(config, images=len(table), queries=0, gallery=len(table))
    with new_folder(out, _opened_whole) as folder, ExitStack() as stack:
        if old is not None and old.is_replaced():
            raise GalleryError(f"{out}: another process has changed it. Run the command again.")
        stack.enter_context(one_ray())
        features = embed(table, config, log, stored=old, describe=True)
        images = len(features.table)
        placement = matching_placement(config, stack, images=images, verbose=log.verbose)
        features = find_keypoints(features, config, placement, log, stored=old)
        contents = _contents(features.table, config, old)
        _refuse_two_identities(features.table, contents, config)
        scoring = scoring_of(
            features,
            config,
            placement,
            folder=folder,
            log=log,
            stack=stack,
            known_pairs=None if old is None else old.folder / PAIRS,
            note_pairs=True,
        )
        every = np.arange(len(features.table))
        _, known = retrieval_sides(features.table, every, every)
        search = search_of(scoring, known)
        fit = _fit(scoring, known, search, old, folder)
        rejected = [*rejected, *features.rejected]
        segments = None if search.index is None else search.index.segments
        content = GalleryContent(
            scoring, contents, fit, rejected, old, thumbnail_px, edits, removed, segments
        )
        content.write(folder)
    extracted = (features.counts.get(f"{kind}_extracted", 0) for kind in ("images", "keypoints"))
    return Built(
        open_gallery(out),
        len(features.table) - (0 if old is None else len(old)),
        already,
        sum(extracted),
        sum(scoring.matching.pairs.values()) - scoring.matching.pairs_known,
        rejected,
        log.timings_s,
        {} if scoring.gate is None else gate_figures(scoring.gate, known),
    )


def _fit(
    scoring: Scoring,
    gallery: RetrievalSide,
    search: GallerySearch,
    old: StoredGallery | None,
    folder: Path,
) -> GalleryFit:
    """What is fitted on all images together. A fusion that was loaded stays."""
    config = scoring.config
    if old is not None and old.manifest["calibration"] == "loaded":
        fitted = Fitted(stored_fusion(old, scoring, search, folder))
    else:
        fitted = fit_methods(scoring, gallery, search, folder)
    fusion = None if fitted.fusion is None else fitted.fusion.fusion
    if not config.benchmark.open_set.enabled:
        return GalleryFit(fusion)
    return _fit_decisions(scoring, gallery, search, fitted.fusion)


def _fit_decisions(
    scoring: Scoring,
    gallery: RetrievalSide,
    search: GallerySearch,
    fusion: FittedFusion | None,
) -> GalleryFit:
    """The decision known/new, the probabilities of identities, and the groups of new ones; the
    quality of the gallery alone, where there is nothing to fit them on."""
    benchmark, seed = scoring.config.benchmark, scoring.config.seed
    calibration = answer_calibration_queries(scoring, gallery, search, fusion)
    fitted = None if fusion is None else fusion.fusion
    try:
        decider, answers = fit_decider(calibration, gallery, benchmark.open_set, seed)
    except CalibrationError:
        return GalleryFit(fitted, quality=quality_without_fit(calibration, gallery))
    curve = fit_identity_curve(
        calibration.ranking,
        calibration.queries,
        gallery,
        new_share=benchmark.open_set.new_share,
        how=benchmark.identity_score,
        top=benchmark.identity_top_n,
        kind=benchmark.calibration.kind,
    )
    quality = gallery_quality(answers, decider, gallery, benchmark.open_set)
    content, grouping = open_set_content([decider], answers, benchmark.open_set), None
    if benchmark.open_set.group_nearest > 0 and quality.level != "poor":
        grouping = grouper_of(scoring, search, fusion).fit(gallery, seed)
        content["new_animals"] = grouping_figures(grouping)
    return GalleryFit(fitted, decider, content, curve, grouping, quality)


def _contents(table: ImageTable, config: ProbeConfig, old: StoredGallery | None) -> list[str]:
    """The hash of each photograph's file."""
    memo = SignatureMemo(cache_folder(config) / "signatures")
    known = [] if old is None else old.content_G
    return [*known, *content_hashes(table.take(np.arange(len(known), len(table))), memo)]


def _refuse_two_identities(table: ImageTable, contents: list[str], config: ProbeConfig) -> None:
    """GalleryError where one photograph stands under two animals, and neither boxes nor masks tell
    them apart."""
    dataset = config.dataset
    apart_N = table.rows["bbox"].notna() & (dataset.cropped == "auto") | dataset.needs_region
    first: dict[tuple[str, str | None], int] = {}
    clashes = []
    for i, (content, region) in enumerate(zip(contents, table.regions, strict=True)):
        before = table.rows.iloc[first.setdefault((content, region if apart_N[i] else None), i)]
        row = table.rows.iloc[i]
        if content and before["identity"] != row["identity"]:
            clashes.append(
                f"{line_text(row['row'])}{row['image_id']} shows {row['identity']}; the same "
                f"photograph is {before['image_id']} and shows {before['identity']}"
            )
    if clashes:
        are = counted(len(clashes), "photograph is", "photographs are")
        raise GalleryError(
            f"{table.source}: {are} under two animals:\n{shown_clashes(clashes)}\n"
            "Delete the wrong rows; where both animals are in the picture, give each its box "
            "(dataset.bbox_cols), or a mask and set dataset.crop=mask."
        )


def shown_clashes(clashes: list[str]) -> str:
    """The first of these texts, a line each."""
    more = [f"  and {len(clashes) - 5} more."] if len(clashes) > 5 else []
    return "\n".join([*(f"  {clash}." for clash in clashes[:5]), *more])


def _opened_whole(folder: Path) -> None:
    """GalleryError unless the gallery and all its vectors can be read."""
    gallery = open_gallery(folder)
    removed_from(gallery)
    for file in folder.glob("global-*.npy"):
        gallery.vectors(int(file.stem.removeprefix("global-")))
