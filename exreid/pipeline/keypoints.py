"""Local features of a table's images: from a gallery, from the cache, or extracted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from exreid.config.probe import ProbeConfig
from exreid.data.metadata import left_out_text
from exreid.distributed.placement import Placement
from exreid.errors import ConfigError, RunError
from exreid.features.extraction import ExtractionReport
from exreid.features.fill_cache import fill_cache, fill_in_process
from exreid.features.keys import stage_folder
from exreid.features.local import LocalExtractor, find_extractor
from exreid.features.local_extraction import (
    ExtractLocal,
    LocalArguments,
    LocalFeatureStore,
    LocalPreprocessing,
    local_description,
)
from exreid.models.adapted import Adapted, adapted_matcher, read_adapted
from exreid.models.lightglue import lightglue_fingerprint
from exreid.models.lightglue_weights import lightglue_weights
from exreid.pipeline.embed import Features, StoredFeatures, works_alone
from exreid.pipeline.inputs import cache_folder, methods_of, with_local
from exreid.progress import RunLog
from exreid.records import ImageTable, Json
from exreid.storage.feature_store import SignatureMemo
from exreid.storage.urls import is_remote

FEW_TO_MATCH = 16
"""Up to this many images are matched in this process; see `works_alone`."""
EVIDENCE_VERSION = 1
"""Raise it when the code of the matching changes its evidence."""


@dataclass(frozen=True)
class LocalImages:
    """Images whose local features are in the cache."""

    name: str
    """Of the extractor."""
    keys: tuple[str, ...]
    """The key of each image, in the table's order."""
    store: LocalFeatureStore
    description: Mapping[str, Json]
    """What the features depend on besides the images."""
    weights: str
    """The fingerprint of LightGlue's, for features of this kind; "" where it is not used."""
    adapted: Adapted | None = None
    """LightGlue's weights where they are not the published ones."""
    segments: Path | None = None
    """The folder with the gallery's own segments of the index."""

    def at(self, position_N: np.ndarray) -> LocalImages:
        """The images at these positions."""
        return replace(self, keys=tuple(self.keys[i] for i in position_N))


def matching_placement(
    config: ProbeConfig, stack: ExitStack, *, images: int, verbose: bool
) -> Placement | None:
    """The actors that find keypoints and match, for this many images; Ray is up as long as
    ``stack`` is open. None where the work is done in this process, or nothing is matched."""
    if not methods_of(config)[1] or works_alone(config, images, FEW_TO_MATCH):
        return None
    from exreid.distributed.placement import place_actors
    from exreid.distributed.session import ray_session

    stack.enter_context(ray_session(config.ray, verbose=verbose))
    return place_actors(config.ray)


def find_keypoints(
    features: Features,
    config: ProbeConfig,
    placement: Placement | None,
    log: RunLog,
    *,
    stored: StoredFeatures | None = None,
) -> Features:
    """The features with each kind of local features that the benchmark's method needs; RunError
    where no image is left. The first images are those of ``stored``, and not read."""
    for name in methods_of(config)[1]:
        with log.timed("keypoints"):
            local_config = with_local(config, name)
            features = _with_keypoints(features, local_config, placement, log, stored=stored)
    if len(features.table) == 0:
        left_out = left_out_text(list(features.rejected))
        raise RunError(f"{features.table.source}: no image is left. {left_out}")
    return features


def _with_keypoints(
    features: Features,
    config: ProbeConfig,
    placement: Placement | None,
    log: RunLog,
    *,
    stored: StoredFeatures | None,
) -> Features:
    name, stored_count = config.benchmark.local_features, 0 if stored is None else len(stored)
    new = (
        features.table.take(np.arange(stored_count, len(features.table)))
        if stored_count
        else features.table
    )
    bar = log.progress("Finding keypoints", len(new))
    first = features.table.rows["bbox"].iloc[: stored_count or None]  # a gallery's own decide
    boxed = bool(first.notna().any())
    images, position_N, report = extract_local_images(new, config, placement, bar, boxed=boxed)
    matcher: dict[str, Json] = {
        "weights": images.weights,
        "stage_version": EVIDENCE_VERSION,
    }
    description = {"features": images.description, "matcher": matcher}
    if stored is not None:
        stored.check_features(f"local-{name}", description)
        position_N = np.concatenate([np.arange(stored_count), stored_count + position_N])
        folder = images.store.store.folder
        store = LocalFeatureStore(
            folder, name, config.benchmark.local_top_k, stored.local_folder(name)
        )
        images = replace(
            images,
            keys=(*stored.keys, *images.keys),
            store=store,
            segments=stored.index_folder(name),
        )
    features = features.at(position_N, report, "keypoints")
    return replace(
        features,
        local=(*features.local, images),
        descriptions={**features.descriptions, f"local-{name}": description},
    )


def extract_local_images(
    table: ImageTable,
    config: ProbeConfig,
    placement: Placement | None,
    on_progress: Callable[[int], object],
    *,
    boxed: bool,
) -> tuple[LocalImages, np.ndarray, ExtractionReport]:
    """The local features of the table's readable images, from the cache or extracted; their
    positions, and a report. ``boxed`` as `preprocessing_of` has it."""
    # Missing weights should be an error now, not after all keypoints are found.
    matcher = lightglue_name(config) if config.benchmark.uses_lightglue else None
    adapted = None
    if matcher is not None:
        lightglue_weights(matcher)
        adapted = adapted_for(config)
    benchmark, preprocessing = config.benchmark, preprocessing_of(config, boxed=boxed)
    name, device = benchmark.local_features, placement.device if placement else "cpu"
    extractor = LocalExtractor(name, keypoints=benchmark.local_top_k)
    description = local_description(extractor, preprocessing, device)
    cache = cache_folder(config)
    folder = stage_folder(cache, "local", description)
    root = table.root if is_remote(table.root) else os.path.abspath(table.root)  # noqa: PTH100
    arguments: LocalArguments = {
        "root": root,
        "preprocessing": preprocessing,
        "folder": folder,
        "extractor": name,
        "keypoints": benchmark.local_top_k,
    }

    def over_actors(table: ImageTable, positions: np.ndarray) -> Iterable[dict[str, np.ndarray]]:
        from exreid.distributed.extract import extract_local_over_actors

        assert placement is not None
        return extract_local_over_actors(table, positions, arguments=arguments, placement=placement)

    def in_process(table: ImageTable, positions: np.ndarray) -> Iterable[dict[str, np.ndarray]]:
        return fill_in_process(table, positions, keep=ExtractLocal(**arguments))

    position_N, keys, report = fill_cache(
        table,
        over_actors if placement else in_process,
        folder=folder,
        memo=SignatureMemo(cache / "signatures"),
        on_error=config.dataset.on_error,
        on_progress=on_progress,
    )
    store = LocalFeatureStore(folder, name, benchmark.local_top_k)
    weights = "" if matcher is None else lightglue_fingerprint(matcher)
    weights = adapted.fingerprint if adapted else weights
    images = LocalImages(name, tuple(keys), store, description, weights, adapted)
    return images, position_N, report


def lightglue_name(config: ProbeConfig) -> str:
    """The features that the config's LightGlue is trained for."""
    name = config.benchmark.local_features
    matcher = find_extractor(name)[0].matcher
    if matcher is None:
        raise ConfigError(f"benchmark.local_features: no LightGlue is trained for {name}.")
    return matcher


def adapted_for(config: ProbeConfig) -> Adapted | None:
    """The weights of ``benchmark.matcher_checkpoint``, where they are for the config's local
    features; ConfigError where they are for none of the benchmark's."""
    checkpoint, name = config.benchmark.matcher_checkpoint, config.benchmark.local_features
    if checkpoint is None:
        return None
    extractor, _ = read_adapted(checkpoint)
    matched = methods_of(config)[1]
    if extractor not in {name, *matched}:
        raise ConfigError(
            f"benchmark.matcher_checkpoint: {checkpoint} was trained for the local features "
            f"{extractor}, not for {', '.join(matched)}. Set benchmark.local_features={extractor}."
        )
    return adapted_matcher(checkpoint, lightglue_name(config)) if extractor == name else None


def preprocessing_of(config: ProbeConfig, *, boxed: bool) -> LocalPreprocessing:
    """The preparation of the extractor's input by the config; ``boxed``: the data set has boxes,
    which take the part of masks where ``dataset.mask_col`` is null."""
    dataset, benchmark = config.dataset, config.benchmark
    located = dataset.mask_col is not None or boxed
    return LocalPreprocessing(
        longer_side_px=benchmark.local_size,
        square=benchmark.local_square,
        mask_use=benchmark.local_masks if located else "none",
        crop=dataset.cropped,
        crop_margin=dataset.crop_margin,
        reduced_decode=dataset.reduced_decode,
        no_mask="whole" if dataset.no_mask == "whole" else "raise",
    )
