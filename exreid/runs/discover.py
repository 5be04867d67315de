"""Grouping photographs of unknown animals into animals, told from top to bottom."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from exreid.config.methods import GateConfig
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import codes, left_out_text
from exreid.errors import CalibrationError, ConfigError, MetadataError
from exreid.gallery.folder import StoredGallery
from exreid.gallery.images_table import join_tables
from exreid.gallery.photo_table import PhotoOptions
from exreid.gallery.stored import stored_fusion
from exreid.gallery.unknown import read_unknown
from exreid.models.published import downloads
from exreid.openset.fit_grouping import VisitGrouping, fit_visit_grouping
from exreid.pipeline.calibrate import FittedFusion
from exreid.pipeline.discover import ScoredVisits, named_pairs, score_visits, scored_by
from exreid.pipeline.ending import recording_failure
from exreid.pipeline.fit_and_retrieve import fit_methods
from exreid.pipeline.forecast import tell_forecast
from exreid.pipeline.inputs import methods_of, output_root
from exreid.pipeline.methods import GallerySearch, side_of_all
from exreid.pipeline.prepare_scoring import images_scored
from exreid.progress import Progress, RunLog, counted, no_progress
from exreid.records import Counts, Json, Result
from exreid.runs.discover_tables import DISCOVERY_FILE, Discovery, GroupingSource, write_grouped
from exreid.storage.run_folder import RunFolder, new_run_id, write_rejected

SHIPPED = Path(__file__).parent.parent / "openset" / "visit_grouping.json"
"""Made by benchmarks/discover.py --ship."""
MEASURED = "The probabilities were measured on"
EVEN_ODDS = 0.5
"""The cut where a curve alone is known."""
DISCOVER_KEYS = (
    "dataset.",
    "output.",
    "ray.",
    "benchmark.cache",
    "benchmark.exclude",
    "benchmark.open_set.",
    "seed",
)
"""With a gallery, what may be said anew; all else is the gallery's."""


@dataclass(frozen=True)
class Evidence:
    """Where the probabilities come from: one of the two, or neither."""

    gallery: StoredGallery | None = None
    calibration: Path | None = None
    """``discovery.json`` of another run, or ``fusion.json`` with method=wildfusion."""


def discover_config(config: ProbeConfig) -> ProbeConfig:
    """The config with what grouping needs: pairs from shortlists, no decisions, and no gate, which
    a gallery may have for its answers."""
    benchmark = config.benchmark
    update: dict[str, object] = {
        "gate": GateConfig(),
        "open_set": benchmark.open_set.model_copy(update={"enabled": False}),
    }
    if benchmark.matches_pairs and benchmark.candidate_k is None:
        update["candidate_k"] = max(benchmark.open_set.group_nearest, 1)
    return config.model_copy(update={"benchmark": benchmark.model_copy(update=update)})


def run_discover(
    config: ProbeConfig,
    options: PhotoOptions,
    evidence: Evidence = Evidence(),
    *,
    download: bool = False,
    progress: Progress = no_progress,
    verbose: bool = False,
) -> tuple[Path, Discovery]:
    """Group the photographs of ``dataset.root`` and write the run's folder; a failed run keeps its
    folder, with the error. Interrupted, the same command goes on from the caches."""
    if config.benchmark.method == "classifier":
        raise ConfigError(
            "benchmark.method=classifier needs animals with names, and exreid discover has none: "
            "set another method."
        )
    if evidence.gallery is None and config.benchmark.gate.enabled:
        raise ConfigError("exreid discover has no gate: leave benchmark.gate out.")
    config = discover_config(config)
    method = config.benchmark.method
    backbones, local = methods_of(config)
    run_id = config.output.run_id or new_run_id(
        f"discover-{method}", config.model.type if backbones else local[0]
    )
    folder = RunFolder(
        output_root(config) / "discoveries",
        run_id,
        config,
        method,
        results_table="discoveries.csv",
        kind="discover",
    )
    log = RunLog(progress, verbose)
    with recording_failure(folder), downloads(allowed=download):
        found = _discover(config, options, evidence, folder.path, log)
        result = Result(method, found.metrics, found.intervals, found.counts, log.timings_s)
        folder.finish(result)
    return folder.path, found


def _discover(
    config: ProbeConfig, options: PhotoOptions, evidence: Evidence, folder: Path, log: RunLog
) -> Discovery:
    """Group the photographs; all files but ``result.json``."""
    gallery, saved = evidence.gallery, _saved_grouping(config, evidence)
    with log.timed("photographs"):
        taken = set() if gallery is None else set(gallery.table.rows["image_id"])
        unknown = read_unknown(config, options, taken=taken, progress=log.progress)
    table, known = unknown.table, 0 if gallery is None else len(gallery)
    if len(table) < 2:
        raise MetadataError(
            f"{table.source}: {counted(len(table), 'photograph')} to group, and it takes two. "
            f"{left_out_text(unknown.rejected)}"
        )
    tell_forecast(config, images=len(table), queries=len(table), gallery=len(table))
    with ExitStack() as stack:
        joined = table if gallery is None else join_tables(gallery.table, table)
        scoring = images_scored(joined, config, stack, folder=folder, log=log, stored=gallery)
        features = scoring.features

        def fusion_of(search: GallerySearch) -> FittedFusion | None:
            if gallery is not None and config.benchmark.method == "wildfusion":
                return stored_fusion(gallery, scoring, search, folder)
            return fit_methods(scoring, side_of_all(features.table), search, folder).fusion

        of_gallery = None
        if gallery is not None:
            of_gallery = score_visits(scoring, np.arange(known), fusion_of)
        scored = score_visits(scoring, np.arange(known, len(features.table)), fusion_of)
        counts: Counts = {
            **features.counts,
            **(scoring.matching.counts() if features.local else {}),
        }
        source = saved or _fitted_grouping(evidence, of_gallery, scored.fusion, config)
    found = features.table.take(np.arange(known, len(features.table)))
    with log.timed("grouping"):
        discovery = write_grouped(found, scored, source, config, folder)
    rejected = [*unknown.rejected, *features.rejected]
    write_rejected(folder / "rejected.csv", rejected)
    counts |= {"images_left_out": len(rejected), "other_files": unknown.others}
    return replace(discovery, counts={**discovery.counts, **counts})


def _saved_grouping(config: ProbeConfig, evidence: Evidence) -> GroupingSource | None:
    """The curve and the cut of a file, or those that come with the install; None where they are
    fitted on a gallery, or belong to a fusion."""
    benchmark, file = config.benchmark, evidence.calibration
    if evidence.gallery is not None or benchmark.calibration.load is not None:
        return None
    if file is not None:
        grouping = _read_grouping(file, scored_by(config))
        return GroupingSource(grouping, "discovery", f"{MEASURED} the animals of {file}.")
    if benchmark.method == "wildfusion":
        raise CalibrationError(
            "benchmark.method=wildfusion needs a fusion: give --calibration with fusion.json of a "
            "probe, or --gallery."
        )
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))
    own = scored_by(config)
    for name in ("method", "local_features"):
        if own.get(name) != shipped["scored_by"][name]:
            raise CalibrationError(
                f"benchmark.{name}={own.get(name)}: no probabilities come with the install for it, "
                f"only for {shipped['scored_by'][name]}. Give --gallery, or --calibration."
            )
    grouping = VisitGrouping.from_json(shipped["practice"])
    names = " and ".join(known.name for known in grouping.sets)
    others = _differences(own, shipped["scored_by"])
    words = (
        f"{MEASURED} other animals ({names}){f' and with {others}' if others else ''}, so that "
        "they may be wrong for yours. To measure them on your species, give --gallery, or "
        "--calibration with discovery.json of a run on photographs of named animals."
    )
    return GroupingSource(grouping, "other animals", words)


def _read_grouping(file: Path, own: Mapping[str, Json]) -> VisitGrouping:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        measured_by, saved = dict(content["scored_by"]), content["practice"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(
            f"{file}: neither {DISCOVERY_FILE} of a run of exreid discover, nor fusion.json of a "
            f"probe with benchmark.method=wildfusion, which this run would need too ({error!r})."
        ) from error
    others = _differences(own, measured_by)
    if others:
        raise CalibrationError(
            f"{file}: measured with {others}, and this run has other settings. Take those of that "
            "run: --config with its config.snapshot.yaml."
        )
    if saved is None:
        raise CalibrationError(
            f"{file}: no animals had names there, so nothing was measured. Take a run on "
            "photographs of named animals."
        )
    return VisitGrouping.from_json(saved)


def _differences(own: Mapping[str, Json], other: Mapping[str, Json]) -> str:
    """What the other settings are, where they differ."""
    names = [name for name in {**other, **own} if own.get(name) != other.get(name)]
    return ", ".join(f"{name}={other.get(name)}" for name in names)


def _fitted_grouping(
    evidence: Evidence,
    of_gallery: ScoredVisits | None,
    fusion: FittedFusion | None,
    config: ProbeConfig,
) -> GroupingSource:
    """The curve and the cut of a gallery's animals, or of a loaded fusion."""
    if evidence.gallery is None or of_gallery is None:
        assert fusion is not None, "one is loaded"
        words = f"The probabilities are those of {config.benchmark.calibration.load}."
        return GroupingSource(VisitGrouping(fusion.fusion.answer, EVEN_ODDS, ()), "fusion", words)
    folder = evidence.gallery.folder
    identity_G, _ = codes(evidence.gallery.table.rows["identity"].tolist(), [])
    pairs = named_pairs(of_gallery, identity_G, f"the gallery {folder.name}")
    try:
        grouping = fit_visit_grouping([pairs], config.seed)
    except CalibrationError as error:
        raise CalibrationError(
            f"{folder}: its animals give no probabilities ({error}) Leave --gallery out to take "
            "those that were measured on other animals."
        ) from error
    return GroupingSource(grouping, "gallery", f"{MEASURED} the animals of {folder}.")
